"""The course of a training: what a model does after so many steps, and how far the change lies in the region."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from brittle_eval.listing import DIVERGENCE
from brittle_eval.running.row import Role, Row
from brittle_eval.trials.seeds import control_of, value_of, without

INSIDE = "‖ΔW in region‖ / ‖ΔW‖"
ROLES: Mapping[str, Role] = {"attack": "attack", "over-refusal": "harmless", "utility": "utility"}
"""What is followed, and the role of the tasks whose mean it is."""
NUMBERS = (*ROLES, "KL", INSIDE)


@dataclass(frozen=True)
class Step:
    """Means over the seeds after so many steps, by name; None for what was not measured. Step 0 is the unedited model."""

    step: int
    seeds: int
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class Course:
    """Of one plan, or of one of its controls, what it is after its steps."""

    plan: str
    kind: str
    steps: Sequence[Step]


def courses(rows: Sequence[Row]) -> list[Course]:
    """A course for every plan of which several steps are among the rows (its option `stop`), from the unedited model on."""
    groups: dict[tuple[str, ...], dict[int, list[Row]]] = {}
    for row in rows:
        if (at := steps_of(row)) is not None:
            key = (row.model, without(row.plan, "seed", "stop"), row.kind, control_of(row))
            groups.setdefault(key, {}).setdefault(at, []).append(row)
    return [_course(by_step, rows) for by_step in groups.values() if len(by_step) > 1]


def steps_of(row: Row) -> int | None:
    """How many steps a row's training took."""
    return next((int(one["steps"]) for one in row.training.get("noted", {}).values() if "steps" in one), None)


def _course(by_step: Mapping[int, Sequence[Row]], rows: Sequence[Row]) -> Course:
    first = next(iter(by_step.values()))[0]
    before = [row for row in rows if row.kind == "unedited" and row.model == first.model][:1]
    name = without(first.recipe, "seed", "stop") + (f" ({control_of(first)})" if first.kind == "control" else "")
    start = [Step(0, 1, _means(before))] if before else []
    return Course(name, first.kind, [*start, *(Step(at, len(own), _means(own)) for at, own in sorted(by_step.items()))])


def _means(rows: Sequence[Row]) -> dict[str, float | None]:
    found: dict[str, list[float]] = {name: [] for name in NUMBERS}
    for row in rows:
        for name, role in ROLES.items():
            known = [value for task in row.tasks if task.role == role and (value := value_of(task)) is not None]
            found[name] += [sum(known) / len(known)] if known else []
        found["KL"] += [value for task in row.tasks if task.task == DIVERGENCE and (value := value_of(task)) is not None]
        inside = [one["inside"] for one in row.training.get("noted", {}).values() if one.get("inside") is not None]
        found[INSIDE] += inside[:1]
    return {name: sum(values) / len(values) if values else None for name, values in found.items()}


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What results.json has."""
    return [asdict(one) for one in courses(rows)]


def lines(found: Course) -> Iterator[list[str]]:
    """A line a step."""
    for one in found.steps:
        yield [str(one.step), *("–" if value is None else f"{value:.3g}" for value in one.values.values())]


def show_course(rows: Sequence[Row], console: Console) -> None:
    """Print every course."""
    for one in courses(rows):
        table = Table(show_edge=False, pad_edge=False, box=SIMPLE_HEAD)
        for title in ("step", *NUMBERS):
            table.add_column(title, justify="right", overflow="fold")
        for line in lines(one):
            table.add_row(*line)
        console.print(f"\n{one.plan}: the course of the training, mean over the seeds of each step", markup=False, soft_wrap=True)
        console.print(table, markup=False)
