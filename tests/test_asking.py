"""The models that stand before the model: sweeps of the decoding, and self-checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.asking import CHECK_TOKENS, SelfChecking, Sweeping, label, points, says_yes
from brittle_eval.evaluation.conditions import WITHHELD
from brittle_eval.evaluation.lm import Turns, load_lm
from brittle_eval.evaluation.sweeping import sweep_values
from tests.scripted import save_scripted


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
    tokenizer: Any = None
    answers: Any = None

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
        assert new == CHECK_TOKENS


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
def test_what_the_models_own_check_forbids_is_withheld(when: Literal["before", "after"]) -> None:
    questions: list[str] = []

    def yes_to_bad(prompts: Sequence[str], sampling: Any) -> list[str]:
        questions.extend(prompts)
        return ["Yes." if "bad" in prompt else "No, yes" for prompt in prompts]

    model = Plain(prefills={"A": "Sure: "}, answers=yes_to_bad)
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
