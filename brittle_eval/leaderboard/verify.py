"""Rows checked against what they rest on: every statistic counted anew from the stored samples, every digest taken again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.conclude import count, plain_values
from brittle_eval.evaluation.sweeping import SWEEP, setting_values
from brittle_eval.judgement.rejudge import finished, stored_answers
from brittle_eval.leaderboard.provenance import changed_files, changed_sources, region_sizes
from brittle_eval.listing import WIKITEXT
from brittle_eval.running.comparison import VERSUS, against_unedited
from brittle_eval.running.record import Row, RunFolder, TaskResult, read_lines
from brittle_eval.trials.attack_alone import ALONE

CLOSE = 1e-9
"""Numbers that differ by less than this share of themselves are the same: sums may be in another order."""


@dataclass
class Verdict:
    """What was found of one row."""

    row: Row
    differences: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    """What the row says and nothing here can tell."""


def verify(row: Row, folder: RunFolder) -> Verdict:
    """Hold a row against its run's folder: rates, intervals, tests, changes, region sizes, and the digests of all files.

    BrittleError where the folder has no finished run, or no such row.
    """
    verdict = Verdict(row)
    rows = finished(folder)
    if row.name not in [one.name for one in rows]:
        raise BrittleError(f"{folder.path} has no row {row.name}: it has {', '.join(one.name for one in rows)}")
    counted, broken = _counted(folder, rows)
    verdict.differences += broken.pop(row.name, [])
    for name, others in broken.items():
        verdict.unchecked += [f"the comparison with {name}: {said}" for said in others]
    again = next(one for one in counted if one.name == row.name)
    lacking = {task.task for task in row.tasks} ^ {task.task for task in again.tasks}
    verdict.differences += [f"task {name} is in the row or in the folder only" for name in sorted(lacking)]
    for before, after in _pairs(row, again):
        more = [key for key in after.values if key not in before.values]
        verdict.unchecked += [f"{before.task}: the row has no {', '.join(more)}"] if more else []
        known = replace(after, values={key: value for key, value in after.values.items() if key in before.values})
        verdict.differences += differences(_numbers(before), _numbers(known), before.task)
    changed_files(row, folder, verdict.differences, verdict.unchecked)
    changed_sources(row, folder.config, again.tasks, verdict.differences, verdict.unchecked)
    sizes = region_sizes(row, rows, folder, verdict.differences, verdict.unchecked)
    if sizes is not None:
        verdict.differences += differences(row.region, sizes, "region")
    return verdict


def same(row: Row, other: Row) -> Verdict:
    """Hold a row against the same row made anew; time, files and machine may differ."""
    verdict = Verdict(row)
    for key in ("plan", "fingerprint", "region", "data", "judges", "numbers", "condition", "preset", "seed"):
        verdict.differences += differences(getattr(row, key), getattr(other, key), key)
    for before, after in _pairs(row, other):
        verdict.differences += differences(_numbers(before), _numbers(after), before.task)
    versions = differences(row.versions, other.versions, "versions") if row.versions else ["versions: the row has none"]
    verdict.unchecked += versions
    return verdict


def _pairs(row: Row, other: Row) -> Iterator[tuple[TaskResult, TaskResult]]:
    by_name = {task.task: task for task in other.tasks}
    return ((task, by_name[task.task]) for task in row.tasks if task.task in by_name)


def _numbers(task: TaskResult) -> dict[str, Any]:
    return {"status": task.status, "n": task.n, "items": task.items, "values": task.values}


def differences(before: Any, after: Any, where: str) -> list[str]:
    """What differs, each place by its name: what the row says, and what comes out now."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = [*before, *(key for key in after if key not in before)]
        return [said for key in keys for said in differences(before.get(key), after.get(key), f"{where}.{key}")]
    if isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            return [f"{where}: the row has {len(before)}, now there are {len(after)}"]
        wrong = [at for at, pair in enumerate(zip(before, after, strict=True)) if not _alike(*pair)]
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        return [f"{where}[{wrong[0]}]{more}: the row says {before[wrong[0]]}, now it is {after[wrong[0]]}"] if wrong else []
    return [] if _alike(before, after) else [f"{where}: the row says {before}, now it is {after}"]


def _alike(before: Any, after: Any) -> bool:
    if isinstance(before, int | float) and isinstance(after, int | float):
        if not (math.isfinite(before) and math.isfinite(after)):
            return str(before) == str(after)
        return math.isclose(before, after, rel_tol=CLOSE, abs_tol=1e-12)
    return bool(before == after) or {str(before), str(after)} == {"None", "nan"}  # null is how a file writes NaN


def _counted(folder: RunFolder, rows: Sequence[Row]) -> tuple[list[Row], dict[str, list[str]]]:
    """The rows with every number counted anew and compared with the unedited model; why some could not be, by row."""
    broken: dict[str, list[str]] = {}
    counted = []
    for row in rows:
        tasks = {task.task: task for task in row.tasks}
        for task in row.tasks:
            try:
                tasks[task.task] = _task(folder, row, task)
            except BrittleError as error:
                broken.setdefault(row.name, []).append(str(error))
        counted.append(replace(row, tasks=list(tasks.values())))
    return against_unedited(counted), broken


def _task(folder: RunFolder, row: Row, task: TaskResult) -> TaskResult:
    own = {key: value for key, value in task.values.items() if key not in (VERSUS, ALONE)}
    if task.status != "done":
        return task
    if task.role == "measure":
        return replace(task, n=len(task.items), values=own | {"value": _measured(task)})
    if "attempts" in task.values:
        (answers,) = stored_answers(folder, replace(row, tasks=[task]))
        said = [set(attempt.verdicts) for line in answers.attempts for attempt in line]
        names = [name for name in (answers.attempts[0][0].verdicts if said else ()) if all(name in one for one in said)]
        values = {key: value for key, value in own.items() if key not in SWEEP}
        found = count(replace(task, values=values), answers.lines, answers.attempts, names)
        if "settings" in task.values:
            found.values |= setting_values(answers.lines, list(task.values["settings"]))
        return found
    file = folder.path / row.name / f"samples_{task.task}.jsonl"
    try:
        samples = read_lines(file)
    except (OSError, ValueError) as error:
        raise BrittleError(f"{file} cannot be read ({error}): nothing of {task.task} can be counted") from None
    items, interval = plain_values(samples, str(task.values["metric"]))
    value = sum(items) / len(items) if interval else task.values["value"]
    return replace(task, n=len(samples), items=items, values=own | interval | {"value": value})


def _measured(task: TaskResult) -> float | None:
    """A measure's value from its items: perplexities of equal pieces have a geometric mean, the others a plain one."""
    items = [math.nan if item is None else item for item in task.items]
    if not items or any(math.isnan(item) for item in items):
        return None
    if task.task == WIKITEXT:
        return math.exp(sum(map(math.log, items)) / len(items)) if min(items) > 0 else None
    return sum(items) / len(items)


Again = Callable[[Row, Path], Sequence[Row]]
"""Makes the rows of a row's command in a folder."""


def run_again(row: Row, folder: Path, again: Again) -> Verdict:
    """The whole run of a row made anew in a folder, and the row held against it; BrittleError without a command."""
    if not row.command:
        raise BrittleError(f"row {row.name} has no command that makes it again: it is of an older schema and has no run.json")
    made = [one for one in again(row, folder) if one.name == row.name]
    if not made:
        raise BrittleError(f"the command of row {row.name} makes no row of that name: {json.dumps(row.command)}")
    return same(row, made[0])
