"""What a row says, as the numbers that sentences, tables and charts need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from brittle_eval.listing import DIVERGENCE
from brittle_eval.running.record import Role, Row, TaskResult
from brittle_eval.stats import Delta, Rate, paired_delta

ANSWERED = "not_refused_coherent"


def done(row: Row, *roles: Role) -> list[TaskResult]:
    """The tasks of these roles that were run."""
    return [task for task in row.tasks if task.status == "done" and task.role in roles]


def attacks(rows: Sequence[Row]) -> list[str]:
    """Attack tasks that have the headline's number, in the order of the run."""
    return list(dict.fromkeys(task.task for row in rows for task in done(row, "attack") if ANSWERED in task.values))


def result(row: Row, name: str) -> TaskResult | None:
    """A task's result, if it was run."""
    return next((task for task in row.tasks if task.task == name and task.status == "done"), None)


def rate(values: Mapping[str, Any] | None) -> Rate | None:
    """A stored rate; None for one of no prompts."""
    if not values or not values.get("n") or values.get("k") is None:
        return None
    return Rate(int(values["k"]), int(values["n"]), float(values["low"]), float(values["high"]))


def answered(row: Row, name: str) -> Rate | None:
    """The share of an attack's prompts with an answer that is not refused and coherent."""
    found = result(row, name)
    return rate(found.values.get(ANSWERED)) if found else None


def degenerate(row: Row, name: str) -> tuple[int, int]:
    """Degenerate answers to a task, and all answers to it."""
    found = result(row, name)
    return (int(found.values.get("degenerate", 0)), int(found.values.get("attempts", 0))) if found else (0, 0)


def refused(row: Row) -> Rate | None:
    """Harmless prompts that were refused, over all tasks of them together."""
    rates = [found for task in done(row, "harmless") if (found := rate(task.values.get("refused")))]
    return Rate.of(sum(one.k for one in rates), sum(one.n for one in rates)) if rates else None


def utility(row: Row) -> float | None:
    """The mean over the utility tasks."""
    values = [float(task.values["value"]) for task in done(row, "utility") if task.values.get("value") is not None]
    return sum(values) / len(values) if values else None


def measure(row: Row, name: str) -> float | None:
    """A measure's value."""
    found = result(row, name)
    value = found.values.get("value") if found else None
    return None if value is None else float(value)


def divergence(row: Row) -> float | None:
    """KL from the unedited model, in nats."""
    return measure(row, DIVERGENCE)


def perplexity(row: Row) -> float | None:
    """The first measure of perplexity that was run."""
    found = [task for task in done(row, "measure") if task.task != DIVERGENCE]
    return measure(row, found[0].task) if found else None


def difference(before: Row, after: Row, tasks: Sequence[str]) -> Delta | None:
    """The mean paired change over the items of these tasks together; None where items cannot be paired."""
    old: list[float] = []
    new: list[float] = []
    for name in tasks:
        one, two = result(before, name), result(after, name)
        if one is None or two is None or not one.items or len(one.items) != len(two.items):
            return None
        old, new = [*old, *one.items], [*new, *two.items]
    if not old or not all(0 <= item <= 1 for item in [*old, *new]):
        return None
    return paired_delta(old, new)


def utility_change(before: Row, after: Row) -> Delta | None:
    """The mean paired change over all items of the utility tasks."""
    return difference(before, after, [task.task for task in done(after, "utility")])


def short(row: Row) -> str:
    """A control's name without its plan's, and a plan as it was typed."""
    if row.kind == "control":
        return row.name.removeprefix(f"{row.folder}.")
    return row.recipe if row.name == row.folder else row.name


def size(row: Row) -> str:
    """How much of the model was edited, in words."""
    found = row.region
    if found.get("of_block_linears") is not None:
        return f"{found['of_block_linears'] * 100:.2g} % of the block weights"
    if found.get("of_ranks") is not None:
        return f"{found['of_ranks'] * 100:.2g} % of the ranks of the block weights"
    if found.get("directions") is not None:
        return f"directions at {found['directions']:g} places of the residual stream"
    return "the weights that the plan touches"
