"""How prompts are shown: conditions, many-shot, given starts; and the models that stand before the model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from brittle_eval import asking, data
from brittle_eval.asking import SelfChecking, Sweeping, label, points, says_yes
from brittle_eval.conditions import CONDITIONS, CONTEXT, EXEMPLARS, INSTRUCTION, WITHHELD, condition, system_digest, system_text
from brittle_eval.errors import BrittleError, CannotRun, UnknownName
from brittle_eval.lm import BrittleHFLM, Turns, load_lm
from brittle_eval.methods import Record
from brittle_eval.showing import Settings, notes_of, turns_of
from brittle_eval.sweeping import sweep_values
from brittle_plugins.judge_refusal import Refusal
from brittle_tasks.data import SPLITS, own_rows
from tests.models import save_checkpoint
from tests.scripted import save_scripted

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


@dataclass
class Asked:
    """What the models before the model read of lm-eval's requests."""

    arguments: tuple[Any, ...]
    doc: dict[str, Any] = field(default_factory=dict)
    doc_id: int = 0

    @property
    def args(self) -> tuple[Any, ...]:
        return self.arguments


@dataclass
class Plain:
    """A model that answers with what it was asked under which options and seed."""

    seed: int = 7
    prefills: dict[str, str] = field(default_factory=dict)
    batch_size: int = 2
    end_ids: tuple[int, ...] = (0,)
    pad_id: int = 0
    model: Any = None
    tokenizer: Any = None

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        seen = [f"{request.args[0]}|{request.args[1]}|{self.seed}" for request in requests]
        return [f"{text}#{seen[:place].count(text)}" for place, text in enumerate(seen)]

    @contextmanager
    def showing(self, turns: Turns, on_answer: Any) -> Iterator[None]:
        yield

    def apply_chat_template(self, talk: list[dict[str, str]]) -> str:
        return talk[-1]["content"]

    def prompt_ids(self, text: str) -> str:
        return text

    def check_lengths(self, prompts: Sequence[Any], new: int) -> None:
        assert new == asking.CHECK_TOKENS


def test_a_sweep_goes_one_axis_at_a_time() -> None:
    sweep = points({"temperature": [0.5, 1.0], "top_k": [3]})
    assert sweep == [{"temperature": 0.5}, {"temperature": 1.0}, {"top_k": 3}]
    assert [label(point) for point in sweep] == ["temperature=0.5", "temperature=1", "top_k=3"]
    with pytest.raises(BrittleError, match="a sweep over heat: expected temperature, top_p, top_k"):
        points({"heat": [1.0]})


def test_the_nth_answer_is_drawn_under_the_nth_setting() -> None:
    model, options = Plain(), {"until": [], "max_gen_toks": 9, "temperature": 0.3}
    first, second = Asked(("a", options)), Asked(("b", options))
    sweep = points({"temperature": [0.5], "top_p": [0.25]})
    answers = Sweeping(model, sweep).generate_until([first, first, second, second])  # type: ignore[arg-type]
    read = [answer.split("|") for answer in answers]
    assert [one[0] for one in read] == ["a", "a", "b", "b"] and all(answer.endswith("#0") for answer in answers)
    for place, changed in enumerate([{"temperature": 0.5}, {"top_p": 0.25}] * 2):
        whole = {"until": [], "max_gen_toks": 9, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "do_sample": True}
        assert read[place][1] == str(whole | changed)
    assert read[0][2] == read[2][2] != read[1][2] == read[3][2], "every setting has random numbers of its own"
    assert model.seed == 7 and options["temperature"] == 0.3


def test_a_sweep_has_a_rate_under_every_setting_and_the_best() -> None:
    def attempt(positive: bool | None, degenerate: str | None = None) -> dict[str, Any]:
        return {"degenerate": degenerate, "verdicts": {"refusal": {"positive": positive}}}

    samples = [
        {"attempts": [attempt(True), attempt(True), attempt(None)]},
        {"attempts": [attempt(False), attempt(True), attempt(True, "empty")]},
    ]
    found = sweep_values(samples, {"temperature": [0.5, 1.0], "top_k": [2]})
    assert found["settings"] == {"temperature=0.5": 0.5, "temperature=1": 1.0, "top_k=2": 0.0}
    assert found["not_refused_coherent_best_setting"] == 1.0
    assert sweep_values([{"attempts": [{"degenerate": None, "verdicts": {"wei2024": {}}}]}], {"top_k": [2]}) == {}


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_the_models_own_check_forbids_is_withheld(monkeypatch: pytest.MonkeyPatch, when: Literal["before", "after"]) -> None:
    questions: list[str] = []

    def yes_to_bad(model: Any, prompts: Sequence[str], sampling: Any, **_: Any) -> list[str]:
        questions.extend(prompts)
        return ["Yes." if "bad" in prompt else "No, yes" for prompt in prompts]

    monkeypatch.setattr(asking, "generate", yes_to_bad)
    model = Plain(prefills={"A": "Sure: "})
    model.tokenizer = type("Words", (), {"decode": staticmethod(lambda answer, skip_special_tokens: answer)})
    bad, good = Asked(("A", {}), {"prompt": "bad thing"}), Asked(("B", {}), {"prompt": "tea"})
    answers = SelfChecking(model, when).generate_until([bad, bad, good, good])
    assert answers == [WITHHELD, WITHHELD, "B|{}|7#0", "B|{}|7#1"]
    if when == "before":
        assert len(questions) == 2 and "bad thing" in questions[0] and "tea" in questions[1]
    else:
        assert len(questions) == 4 and "Answer: Sure: A|{}|7#1" in questions[1] and "Request: tea" in questions[2]


@pytest.mark.parametrize(
    ("text", "said"), [("Yes", True), ("No.", False), ("no, yes", False), ("well, YES", True), ("noon", False), ("", False)]
)
def test_the_first_yes_or_no_counts(text: str, said: bool) -> None:
    assert says_yes(text) is said


def test_checks_ask_the_real_model(tmp_path: Path) -> None:
    """A model that says yes to everything withholds everything; one that says no answers with its no."""
    for word, expected in (("yes", WITHHELD), ("no", "no")):
        save_scripted(tmp_path / word, word)
        model = load_lm({"pretrained": str(tmp_path / word), "dtype": "float32"}, "cpu", 4, 0)
        request = Asked(("", {"until": [], "do_sample": False, "max_gen_toks": 3}), {"prompt": "tea"})
        with model.showing(Turns(True, "none"), lambda: None):
            request.arguments = (model.apply_chat_template([{"role": "user", "content": "tea"}]), request.args[1])
            for when in ("before", "after"):
                assert SelfChecking(model, when).generate_until([request]) == [expected]  # type: ignore[arg-type]
