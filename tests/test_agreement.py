"""Agreement of judges against its definition, answer by answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brittle_eval.judgement.agreement import agreed, pooled
from brittle_eval.stats import kappa

VERDICT = st.sampled_from([True, False, None])
PAIRS = st.lists(st.tuples(VERDICT, VERDICT), max_size=40)


def by_definition(pairs: list[tuple[bool | None, bool | None]]) -> float | None:
    """Cohen's kappa from lists of verdicts, category by category."""
    scored = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not scored:
        return None
    observed = sum(a == b for a, b in scored) / len(scored)
    first, second = [a for a, _ in scored], [b for _, b in scored]
    chance = sum(first.count(label) * second.count(label) for label in (True, False)) / len(scored) ** 2
    return None if chance == 1 else (observed - chance) / (1 - chance)


@given(st.lists(PAIRS, max_size=4))
def test_counts_of_tasks_add_up_to_the_kappa_of_all_answers(tasks: list[list[tuple[bool | None, bool | None]]]) -> None:
    together = [pair for task in tasks for pair in task]
    found = pooled({"a|b": agreed(task)} for task in tasks)
    if not tasks:
        assert found == []
        return
    (agreement,) = found
    assert agreement.judges == ("a", "b")
    assert agreement.n + agreement.unscored == len(together)
    assert agreement.unscored == sum(None in pair for pair in together)
    expected = by_definition(together)
    assert agreement.kappa == (None if expected is None else pytest.approx(expected, abs=1e-12))


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_kappa_is_symmetric_and_at_most_one(both: int, first: int, second: int, neither: int) -> None:
    found = kappa(both, first, second, neither)
    assert found == kappa(both, second, first, neither)
    if found is not None:
        assert found <= 1
        assert (found == 1) == (first + second == 0)
        flipped = kappa(neither, second, first, both)
        assert flipped == pytest.approx(found)


def test_kappa_of_judges_that_cannot_disagree_is_not_defined() -> None:
    assert kappa(0, 0, 0, 0) is None
    assert kappa(7, 0, 0, 0) is None
    assert kappa(0, 0, 0, 7) is None
    assert kappa(0, 0, 3, 3) == 0
