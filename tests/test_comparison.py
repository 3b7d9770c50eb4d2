"""Edited models against the unedited one: pairs, exact tests, and the correction for several edits."""

from __future__ import annotations

import math
from typing import Any

import pytest

from brittle_eval.running.comparison import VERSUS, against_unedited
from brittle_eval.running.record import Row, TaskResult
from brittle_eval.stats import paired_delta


def task(name: str, items: list[float], role: Any = "attack") -> TaskResult:
    return TaskResult(name, role, n=len(items), items=items)


def row(name: str, kind: Any, *tasks: TaskResult) -> Row:
    return Row(name, kind, "none" if kind == "unedited" else "plan", "plan", "tiny", name, tasks=list(tasks))


def sign_test(gained: int, lost: int) -> float:
    """Twice the smaller tail of the binomial, at most 1."""
    n = gained + lost
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(min(gained, lost) + 1)) / 2**n)


BEFORE = [0.0] * 8 + [1.0] * 4


def after(gained: int, lost: int) -> list[float]:
    """`BEFORE` with so many zeros turned to one, and so many ones to zero."""
    return [1.0] * gained + [0.0] * (8 - gained) + [0.0] * lost + [1.0] * (4 - lost)


def found(rows: list[Row], name: str) -> dict[str, Any]:
    (one,) = (row for row in rows if row.name == name)
    value: dict[str, Any] = one.tasks[0].values[VERSUS]
    return value


def test_every_edit_is_tested_on_the_same_items_and_corrected_for_their_number() -> None:
    changes = {"a": (8, 0), "b": (5, 1), "c": (2, 2)}
    edits = [row(name, "edited", task("t", after(*change))) for name, change in changes.items()]
    control = row("a.random-0", "control", task("t", after(6, 0)))
    rows = against_unedited([row("unedited", "unedited", task("t", BEFORE)), *edits, control])
    p = {name: sign_test(*change) for name, change in changes.items()}
    for name in changes:
        assert found(rows, name)["p"] == pytest.approx(p[name])
    a, b, c = p["a"], p["b"], p["c"]
    assert a < b < c
    expected = {"a": min(1, 3 * a), "b": max(3 * a, min(1, 2 * b)), "c": max(3 * a, min(1, 2 * b), c)}
    assert {name: found(rows, name)["p_holm"] for name in changes} == pytest.approx(expected)
    assert found(rows, "a.random-0")["p"] == pytest.approx(sign_test(6, 0))
    assert "p_holm" not in found(rows, "a.random-0")
    assert VERSUS not in rows[0].tasks[0].values


def test_the_difference_is_paired_and_has_its_interval() -> None:
    rows = against_unedited(
        [row("unedited", "unedited", task("t", BEFORE, "utility")), row("a", "edited", task("t", after(1, 3), "utility"))]
    )
    delta = paired_delta(BEFORE, after(1, 3))
    assert found(rows, "a")["mean"] == pytest.approx(-2 / 12) == delta.mean
    assert (found(rows, "a")["low"], found(rows, "a")["high"]) == (delta.low, delta.high)
    assert found(rows, "a")["p_holm"] == found(rows, "a")["p"] == pytest.approx(sign_test(1, 3))


def test_shares_have_a_difference_but_no_test_and_measures_neither() -> None:
    def both(items: list[float], role: str, other: list[float]) -> dict[str, Any]:
        rows = [row("unedited", "unedited", task("t", items, role)), row("a", "edited", task("t", other, role))]
        return against_unedited(rows)[1].tasks[0].values

    assert set(both([0.5, 1.0], "utility", [0.25, 1.0])[VERSUS]) == {"mean", "n", "low", "high"}
    assert both([3.2, 5.0], "utility", [3.0, 6.0]) == {}
    assert both([0.0, 1.0], "measure", [0.0, 1.0]) == {}
    assert both([], "attack", []) == {}
