"""A run's results as lm-eval has them, so that its tools read them: a task of a row is one of its tasks, a row its group."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from brittle_eval.running.row import ALONE, Row, TaskResult

NONE = "none"
"""lm-eval's name for no filter, which stands behind the name of a metric."""
BOUNDS = ("low", "high")
BETTER_LOW = {"attack": "not_refused_coherent", "harmless": "refused"}
"""By a task's role, the headline; it is the better, the lower it is."""


def key(row: str, task: str) -> str:
    """What a task of a row is called among lm-eval's tasks, in letters that W&B takes for an artefact's name."""
    return f"{task}.{re.sub(r'[^A-Za-z0-9._-]', '-', row)}"


def numbers(task: TaskResult) -> Iterator[tuple[str, Any, Any, Any]]:
    """Name, value and the ends of the interval of everything that a task's result counts."""
    for name, found in task.values.items():
        if isinstance(found, dict) and "value" in found:
            yield name, found["value"], found.get("low"), found.get("high")
        elif name == "value":
            yield name, found, task.values.get("low"), task.values.get("high")
        elif isinstance(found, int | float) and name not in BOUNDS:
            yield name, found, None, None


def as_lm_eval(rows: Sequence[Row], config: Mapping[str, Any]) -> dict[str, Any]:
    """`results`, `configs`, `versions` and what else lm-eval's loggers and tables ask of an evaluation's results."""
    done = {key(row.name, task.task): (row, task) for row in rows for task in row.tasks if task.status == "done"}
    return {
        "results": {name: _metrics(name, *one) for name, one in done.items()},
        "group_subtasks": {row.name: [name for name, one in done.items() if one[0] is row] for row in rows},
        "configs": {name: _config(name, *one) for name, one in done.items()},
        "versions": {},
        "n-shot": {name: config.get("num_fewshot") or 0 for name in done},
        "higher_is_better": {name: _better(task) for name, (_, task) in done.items()},
        "n-samples": {name: {"original": task.n, "effective": task.n} for name, (_, task) in done.items()},
        "config": dict(config),
        "model_source": "brittle-eval",
        "model_name": config.get("model_name"),
    }


def _metrics(name: str, row: Row, task: TaskResult) -> dict[str, Any]:
    """lm-eval's own metrics of the task, where it has scored it, and ours without their intervals."""
    ours = {f"{_named(task, metric)},{NONE}": value for metric, value, _, _ in numbers(task)}
    return {"name": name, "alias": f"{row.name}: {task.task}", "sample_len": task.n} | ours | task.metrics


def _named(task: TaskResult, metric: str) -> str:
    """A result with one number calls it `value`."""
    return str(task.values.get("metric", task.task)) if metric == "value" else metric


def _config(name: str, row: Row, task: TaskResult) -> dict[str, Any]:
    known = {"role": task.role, "kind": row.kind, "plan": row.plan, "fingerprint": row.fingerprint}
    known |= {ALONE: task.values[ALONE]} if ALONE in task.values else {}
    return {"task": name, "metric_list": [], "metadata": known | ({"group": task.group} if task.group else {})}


def _better(task: TaskResult) -> dict[str, bool]:
    if task.role in BETTER_LOW:
        return {BETTER_LOW[task.role]: False}
    return {_named(task, "value"): task.role != "measure"} if "value" in task.values else {}
