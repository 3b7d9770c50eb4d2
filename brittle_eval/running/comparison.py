"""Every edited model and control against the unedited one, item by item; McNemar's tests are corrected for several edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from brittle_eval.running.record import Row, TaskResult
from brittle_eval.stats import holm, mcnemar, paired_delta
from brittle_eval.trials.attack_alone import ALONE, beside

VERSUS = "versus_unedited"
"""The value of a task: mean difference of its items with an interval, and for items of 0 and 1 `p` and `p_holm`."""


def against_unedited(rows: Sequence[Row]) -> list[Row]:
    """The rows of a run, each task with its difference from the unedited model on the same items.

    `p` is McNemar's exact test. `p_holm` corrects it for the number of edits in the run, task by task; controls are not
    hypotheses and have none. Items outside [0, 1], such as perplexities, have no difference. Attack tasks of rows that train
    also get their `attack_alone`.
    """
    unedited = {task.task: task for row in rows if row.kind == "unedited" for task in row.tasks}
    compared = [row if row.kind == "unedited" else _row(row, unedited, beside(row, rows, unedited)) for row in rows]
    for name in unedited:
        edits = [task.values[VERSUS] for row in compared if row.kind == "edited" for task in row.tasks if _tested(task, name)]
        for versus, p in zip(edits, holm([versus["p"] for versus in edits]), strict=True):
            versus["p_holm"] = p
    return compared


def _tested(task: TaskResult, name: str) -> bool:
    return task.task == name and "p" in task.values.get(VERSUS, {})


def _row(row: Row, unedited: dict[str, TaskResult], alone: Mapping[str, dict[str, Any]]) -> Row:
    tasks = [_task(task, unedited[task.task]) for task in row.tasks]
    weighed = [replace(task, values=task.values | {ALONE: alone[task.task]}) if task.task in alone else task for task in tasks]
    return replace(row, tasks=weighed)


def _task(task: TaskResult, before: TaskResult) -> TaskResult:
    both = [*before.items, *task.items]
    if (
        "not run" in (task.status, before.status)
        or task.role == "measure"
        or not both
        or not all(0 <= item <= 1 for item in both)
    ):
        return task
    versus: dict[str, Any] = asdict(paired_delta(before.items, task.items))
    if set(both) <= {0.0, 1.0}:
        versus["p"] = mcnemar([item == 1 for item in before.items], [item == 1 for item in task.items])
    return replace(task, values=task.values | {VERSUS: versus})
