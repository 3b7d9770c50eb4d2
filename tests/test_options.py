"""Options: fields of a method read from what users type, and described to them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from annotated_types import Interval
from hypothesis import given
from hypothesis import strategies as st

from brittle_eval import Attribution, BrittleError, Isolation, Modification, Share
from brittle_eval.options import options_of, type_in_words
from brittle_eval.recipe import Component, build


@dataclass(frozen=True)
class Scorer(Attribution):
    n_samples: int = 8


class Ranker(Attribution):
    """A method without options."""


@dataclass(frozen=True)
class Highest(Isolation):
    q: Share = 0.05
    compare: Literal["row", "weight"] = "row"


@dataclass(frozen=True)
class Push(Modification):
    alpha: Annotated[float, Interval(gt=0)]
    often: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.often and self.alpha > 10:
            raise ValueError("often needs alpha up to 10")


def test_build_reads_the_values() -> None:
    assert build(Component("isolation", "high", {"q": "0.25", "compare": "weight"}), Highest) == Highest(0.25, "weight")
    assert build(Component("modification", "push-on", {"alpha": "1e-3", "often": "yes"}), Push) == Push(0.001, True)
    assert build(Component("modification", "push-on", {"alpha": "2", "limit": "7"}), Push) == Push(2.0, limit=7)
    assert isinstance(build(Component("attribution", "rank"), Ranker), Ranker)


@pytest.mark.parametrize("value", ["1.5", "-0.1", "nan", "inf", "five", "", "5%"])
def test_a_share_is_a_fraction(value: str) -> None:
    with pytest.raises(BrittleError, match=r"option q of high: '.*' was given, expected fraction in \[0, 1\]") as caught:
        build(Component("isolation", "high", {"q": value}), Highest)
    assert "\n" not in str(caught.value)


@given(st.floats(0, 1))
def test_every_fraction_is_read_exactly(value: float) -> None:
    assert build(Component("isolation", "high", {"q": repr(value)}), Highest).q == value


@pytest.mark.parametrize(
    ("name", "options", "cls", "said"),
    [
        ("score", {"n_samples": "3.5"}, Scorer, "option n-samples of score: '3.5' was given, expected integer"),
        ("high", {"compare": "rows"}, Highest, "'rows' was given, expected row | weight"),
        ("push-on", {}, Push, "push-on needs the option alpha: write push-on.alpha=..."),
        ("push-on", {"alpha": "0"}, Push, "expected number > 0"),
        ("push-on", {"alpha": "1", "often": "maybe"}, Push, "expected true or false"),
        ("push-on", {"alpha": "11", "often": "true"}, Push, "do not fit: often needs alpha up to 10"),
        ("rank", {"q": "1"}, Ranker, "unknown option of rank 'q'"),
    ],
)
def test_what_build_refuses(name: str, options: dict[str, str], cls: type, said: str) -> None:
    with pytest.raises(BrittleError) as caught:
        build(Component("modification", name, options), cls)
    assert said in str(caught.value)


def test_types_in_words() -> None:
    kinds = [Share, Literal["a", "b"], int | None, Annotated[int, Interval(ge=1, lt=9)], float, list, Annotated[int, "a year"]]
    expected = ["fraction in [0, 1]", "a | b", "integer | none", "integer >= 1 and < 9", "number", "list", "a year"]
    assert [type_in_words(kind) for kind in kinds] == expected


def test_options_have_the_defaults_of_the_fields() -> None:
    @dataclass(frozen=True)
    class Made(Modification):
        seen: list = field(default_factory=list)  # type: ignore[type-arg]  # only the default matters here
        hidden: int = field(default=1, init=False)
        far: float = math.pi

    found = options_of(Made)
    assert {name: option.default for name, option in found.items()} == {"seen": [], "far": math.pi}
    assert options_of(Push)["alpha"].required and not found["far"].required


def test_types_that_cannot_be_resolved_are_the_plugins_fault() -> None:
    @dataclass(frozen=True)
    class Odd(Modification):
        size: Missing = 1  # type: ignore[name-defined]  # noqa: F821  # the mistake under test

    with pytest.raises(BrittleError, match=r"option types of .*Odd cannot be read: name 'Missing'"):
        options_of(Odd)
