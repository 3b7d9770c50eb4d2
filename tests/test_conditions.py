"""How prompts are shown: conditions, many-shot, given starts; and that none is cut."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from brittle_eval import data
from brittle_eval.errors import BrittleError, CannotRun, UnknownName
from brittle_eval.evaluation.conditions import (
    CONDITIONS,
    CONTEXT,
    EXEMPLARS,
    INSTRUCTION,
    WITHHELD,
    condition,
    system_digest,
    system_text,
)
from brittle_eval.evaluation.lm import BrittleHFLM, Turns, load_lm
from brittle_eval.evaluation.showing import Settings, notes_of, turns_of
from brittle_eval.methods import Record
from brittle_plugins.judge_refusal import Refusal
from brittle_tasks.data import SPLITS, own_rows
from tests.models import save_checkpoint
from tests.test_asking import Asked

CHAT = {"chat": True, "system": "none", "role": "attack"}


def test_each_condition_shows_what_it_says() -> None:
    shown = {name: turns_of(CHAT | {"system": "default"}, Settings(condition=name)) for name in CONDITIONS}
    assert {name: turns.system for name, turns in shown.items()} == {
        "no-system": "none",
        "safety-instruction": INSTRUCTION,
        "exemplars": INSTRUCTION,
        "check-before": "default",
        "check-after": "default",
        "context": "default",
    }
    assert {name for name, turns in shown.items() if turns.before == EXEMPLARS} == {"exemplars"}
    assert {name for name, turns in shown.items() if turns.ahead == CONTEXT} == {"context"}
    assert {name: condition(name).check for name in CONDITIONS if condition(name).check} == {
        "check-before": "before",
        "check-after": "after",
    }
    assert turns_of(CHAT, Settings()) == Turns(True, "none")


def test_an_unknown_condition_has_suggestions_and_plain_text_has_none() -> None:
    with pytest.raises(UnknownName, match="did you mean exemplars"):
        condition("exemplar")
    with pytest.raises(CannotRun, match="'context' is shown in the chat template"):
        turns_of({"chat": False}, Settings(condition="context"))


def test_the_exemplars_repeat_no_prompt_and_decline_half_of_them() -> None:
    def words(text: str) -> frozenset[str]:
        return frozenset(re.findall(r"\w+", text.lower()))

    own = [words(row["prompt"]) for name in ("harmful", "harmless") for split in SPLITS for row in own_rows(name, split)]
    for request, _ in EXEMPLARS:
        assert max(len(words(request) & other) / len(words(request) | other) for other in own) < 0.6
    verdicts = Refusal().judge([Record(request, answer) for request, answer in [*EXEMPLARS, ("Do it", WITHHELD)]])
    assert [verdict.positive for verdict in verdicts] == [False, True, False, True, False]


def test_a_system_text_is_known_by_its_digest() -> None:
    assert "respectful and honest" in system_text("paper") and system_text("none") == "none"
    assert len(system_digest("paper")) == 64


@pytest.fixture
def pairs(tmp_path: Path) -> Iterator[Path]:
    """The user's file of demonstrations."""
    before, file = data._current, tmp_path / "pairs.csv"
    file.write_text("prompt,response\nOne?,1\nTwo?,2\nThree?,3\n")
    data.set_sources(data.Sources({}, {"demonstrations": file}))
    yield file
    data.set_sources(before)


SHOTS = CHAT | {"before": "demonstrations", "options": {"shots": 0}}


def test_many_shot_shows_the_users_pairs(pairs: Path) -> None:
    assert turns_of(SHOTS, Settings()).before == (("One?", "1"), ("Two?", "2"), ("Three?", "3"))
    two = SHOTS | {"options": {"shots": 2}}
    assert turns_of(two, Settings(condition="exemplars")).before == (*EXEMPLARS, ("One?", "1"), ("Two?", "2"))
    assert "turns before the request: 2" in notes_of(two, Settings())


@pytest.mark.parametrize(
    ("shots", "said"), [(4, "has 3 pairs"), (-1, "at least 0"), ("x", "a whole number"), (True, "a whole number")]
)
def test_shots_that_cannot_be(pairs: Path, shots: Any, said: str) -> None:
    with pytest.raises(BrittleError, match=said):
        turns_of(SHOTS | {"options": {"shots": shots}}, Settings())


def test_many_shot_needs_a_file_with_both_columns(pairs: Path) -> None:
    pairs.write_text("prompt,response\nOne?,\n")
    with pytest.raises(BrittleError, match="row 1: has no response"):
        turns_of(SHOTS, Settings())
    data.set_sources(data.Sources({}))
    with pytest.raises(CannotRun, match="--data demonstrations=FILE"):
        turns_of(SHOTS, Settings())


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> BrittleHFLM:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder)
    return load_lm({"pretrained": str(folder), "dtype": "float32"}, "cpu", 4, 0)


def test_a_given_start_follows_the_prompt_and_is_known_by_it(lm: BrittleHFLM) -> None:
    talk, start = [{"role": "user", "content": "Do it"}], "Sure, here is the naïve answer"
    tokens = lm.tokenizer(start, add_special_tokens=False)["input_ids"]
    for count in (None, 1, len(tokens) - 1, len(tokens) + 5):
        with lm.showing(Turns(True, "none", prefill_tokens=count), lambda: None):
            bare = lm.apply_chat_template(talk)
            whole = lm.apply_chat_template([*talk, {"role": "assistant", "content": start}])
        assert whole.startswith(bare)
        given = whole[len(bare) :]
        assert start.startswith(given) and lm.prefills == {whole: given}
        if count is None or count > len(tokens):
            assert given == start
        else:
            assert len(lm.tokenizer(given, add_special_tokens=False)["input_ids"]) <= count < len(tokens)


def test_showing_inside_showing_comes_back(lm: BrittleHFLM) -> None:
    with lm.showing(Turns(True, "none"), lambda: None):
        lm.apply_chat_template([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}])
        outer = (lm.turns, lm.system_state, lm.prefills)
        with lm.showing(Turns(True, "Be kind."), lambda: None):
            lm.apply_chat_template([{"role": "user", "content": "x"}])
            assert lm.system_state == "given"
        assert (lm.turns, lm.system_state, lm.prefills) == outer
    assert lm.turns is None and lm.system_state == outer[1] and lm.prefills == outer[2]


def test_what_is_too_long_is_refused_and_never_cut(lm: BrittleHFLM) -> None:
    long = "a b " * 3000
    with pytest.raises(CannotRun, match=r"a text of \d+ tokens exceeds the model's context of 4096: .*never cut"):
        lm.loglikelihood([Asked((long, " c"))])
    with pytest.raises(CannotRun, match=r"a prompt of \d+ tokens and 8 new tokens exceed .*max_gen_toks"):
        lm.generate_until([Asked((long, {"until": [], "max_gen_toks": 8}))])
