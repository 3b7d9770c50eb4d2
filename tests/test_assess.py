"""Rates of answers: what is counted, what is not, and how sure one can be with several answers to a prompt."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brittle_eval.evaluation.assess import Attempt, attack_values, harmless_values
from brittle_eval.methods import Verdict
from brittle_eval.stats import cluster_bootstrap

JUDGES = ["wei2024", "refusal"]


def attempt(refusal: bool | None, other: bool | None = False, degenerate: str | None = None) -> Attempt:
    return Attempt("text", None, degenerate, {"wei2024": Verdict(other), "refusal": Verdict(refusal)})


SAID = st.sampled_from([True, False, None])
ROWS = st.integers(2, 4).flatmap(
    lambda n: st.lists(st.lists(st.tuples(SAID, SAID), min_size=n, max_size=n), min_size=1, max_size=6)
)


@given(ROWS)
def test_any_of_k_is_the_mean_over_every_choice_of_k_attempts(said: list[list[tuple[bool | None, bool | None]]]) -> None:
    values = attack_values([[attempt(*one) for one in row] for row in said], JUDGES)
    n = len(said[0])
    for k in range(1, n + 1):
        chosen = [any(one is True for one, _ in some) for row in said for some in itertools.combinations(row, k)]
        assert values["not_refused_coherent_any_of_k"][str(k)] == pytest.approx(sum(chosen) / len(chosen))
    assert values["not_refused_coherent_any_of_k"][str(n)] == pytest.approx(values["not_refused_coherent"]["value"])
    assert values["not_refused_coherent_any_of_k"]["1"] == pytest.approx(values["not_refused_coherent_mean"]["value"])


@given(ROWS)
def test_the_mean_over_attempts_has_an_interval_from_a_bootstrap_over_prompts(
    said: list[list[tuple[bool | None, bool | None]]],
) -> None:
    values = attack_values([[attempt(*one) for one in row] for row in said], JUDGES)
    expected = cluster_bootstrap([[other is True for _, other in row] for row in said])
    mean = values["judge_wei2024_mean"]
    assert (mean["k"], mean["n"], mean["low"], mean["high"]) == (expected.k, expected.n, expected.low, expected.high)
    assert mean["n"] == sum(map(len, said)), "what could not be scored stays in the denominator"


@given(st.lists(st.tuples(SAID, SAID, st.sampled_from([None, "repetition"])), min_size=1, max_size=12))
def test_what_cannot_be_counted_stays_in_the_denominator_and_is_counted_beside(said: list[tuple[Any, Any, Any]]) -> None:
    rows = [[attempt(*one)] for one in said]
    values = attack_values(rows, JUDGES)
    assert values["not_refused_coherent"]["n"] == values["judge_wei2024"]["n"] == values["attempts"] == len(said)
    assert values["judge_refusal"]["unscored"] == values["unscored"] == sum(one[0] is None for one in said)
    assert values["judge_wei2024"]["unscored"] == sum(one[1] is None for one in said)
    assert values["degenerate"] == sum(one[2] is not None for one in said)
    assert values["not_refused_coherent"]["k"] == sum(one[0] is True and one[2] is None for one in said)
    assert "not_refused_coherent_mean" not in values
    assert sum(values["agreement"]["wei2024|refusal"].values()) == len(said)
    harmless = harmless_values(rows, JUDGES)
    assert harmless["refused"]["k"] == sum(one[0] is False and one[2] is None for one in said)
    assert harmless["refused"]["n"] == harmless["attempts"] == len(said)


def test_prompts_with_different_numbers_of_attempts_have_a_mean_but_no_any_of_k() -> None:
    values = attack_values([[attempt(True)], [attempt(False), attempt(True)]], JUDGES)
    assert values["not_refused_coherent_mean"]["k"] == 2 and values["not_refused_coherent_mean"]["n"] == 3
    assert "not_refused_coherent_any_of_k" not in values


def test_one_judge_alone_agrees_with_nobody() -> None:
    assert "agreement" not in attack_values([[attempt(True)]], ["refusal"])


def test_an_attempt_comes_back_from_its_line() -> None:
    one = Attempt("text", 2.5, "empty", {"refusal": Verdict(None, "why")}, cut=True)
    assert Attempt.read(one.line()) == one
