"""Plans of several seeds taken together: mean, interval between seeds, interval over prompts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from brittle_eval.running.row import Role, Row, TaskResult
from brittle_eval.stats import cluster_bootstrap, t_interval
from brittle_eval.trials.attack_alone import ANSWERED

KEYS: dict[Role, str] = {"attack": ANSWERED, "harmless": "refused", "utility": "value", "measure": "value"}
"""By the role of a task, the number that is summed up."""


@dataclass(frozen=True)
class Summary:
    """One number of one task over the rows of one plan that differ in their seed.

    `low` to `high` is the 95 % t interval of the mean over the seeds, cut to [0, 1] for rates and scores: what other seeds
    would change, the prompts being the same. `prompts_low` to `prompts_high` is the 95 % bootstrap interval over whole
    prompts: what other prompts would change, the seeds being the same; None where items are not 0 or 1.
    """

    plan: str
    kind: str
    rows: tuple[str, ...]
    seeds: tuple[int, ...]
    task: str
    number: str
    values: tuple[float, ...]
    mean: float
    low: float
    high: float
    prompts_low: float | None
    prompts_high: float | None


def summaries(rows: Sequence[Row]) -> list[Summary]:
    """Of every plan, and of each of its controls, with two seeds or more; rows of another model or size are not among them."""
    return [one for own in together(rows) if len(own) > 1 for one in _of(own)]


def together(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of trainings by model, plan and control, those of one list differing in nothing but their seeds, by seed."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.training:
            groups.setdefault((row.model, without(row.plan, "seed"), row.kind, control_of(row)), []).append(row)
    return [sorted(own, key=seed_of) for own in groups.values()]


def control_of(row: Row) -> str:
    """`random-0`; nothing for an edit."""
    return row.name.rpartition(".")[2] if row.kind == "control" else ""


def without(plan: str, *options: str) -> str:
    """A plan without these options of its components: written out, equal for plans that differ in nothing else."""
    return re.sub(rf"(?<=[:,])(?:[^:,=]+\.)?(?:{'|'.join(options)})=[^,]*(?:,|$)", "", plan).rstrip(":,")


def seed_of(row: Row) -> int:
    """The seed of a row's training."""
    return next((int(options["seed"]) for options in row.training["options"].values() if "seed" in options), 0)


def _of(rows: Sequence[Row]) -> Iterator[Summary]:
    first = rows[0]
    about = without(first.recipe, "seed") + (f" ({control_of(first)})" if first.kind == "control" else "")
    for name, role in {task.task: task.role for task in rows[0].tasks}.items():
        tasks = [next((task for task in row.tasks if task.task == name), None) for row in rows]
        known = [(row, task, value) for row, task in zip(rows, tasks, strict=True) if (value := value_of(task)) is not None]
        interval = t_interval(values := [value for _, _, value in known])
        if interval is None:
            continue
        low, high = interval if role == "measure" else (max(0.0, interval[0]), min(1.0, interval[1]))
        within = _prompts([task for _, task, _ in known if task])
        own = [row for row, _, _ in known]
        names, seeds = tuple(row.name for row in own), tuple(map(seed_of, own))
        mean = sum(values) / len(values)
        yield Summary(about, first.kind, names, seeds, name, KEYS[role], tuple(values), mean, low, high, *within)


def value_of(task: TaskResult | None) -> float | None:
    """The number of a task that is summed up; None where it was not run or has none."""
    if task is None or task.status != "done" or task.role not in KEYS:
        return None
    found = task.values.get(KEYS[task.role])
    value = found.get("value") if isinstance(found, dict) else found
    return float(value) if isinstance(value, int | float) else None


def _prompts(tasks: Sequence[TaskResult]) -> tuple[float | None, float | None]:
    items = [task.items for task in tasks]
    if len({len(own) for own in items}) != 1 or not items[0] or not {one for own in items for one in own} <= {0.0, 1.0}:
        return None, None
    found = cluster_bootstrap([[bool(one) for one in own] for own in zip(*items, strict=True)])
    return found.low, found.high


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What results.json has."""
    return [asdict(one) for one in summaries(rows)]


def lines(found: Sequence[Summary]) -> Iterator[list[str]]:
    """The summary as text: plan, seeds, task, every value, mean, interval between seeds, interval over prompts."""
    for one in found:
        within = f"[{one.prompts_low:.2f}, {one.prompts_high:.2f}]" if one.prompts_low is not None else "–"
        shown = " ".join(f"{value:.2f}" for value in one.values)
        yield [one.plan, str(len(one.seeds)), one.task, shown, f"{one.mean:.2f}", f"[{one.low:.2f}, {one.high:.2f}]", within]


HEAD = ("plan", "seeds", "task", "each seed", "mean", "between seeds", "over prompts")
LEGEND = (
    "between seeds: 95 % t interval of the mean over seeds, on these prompts; over prompts: 95 % bootstrap over whole prompts, "
    "with these seeds"
)


def show_seeds(rows: Sequence[Row], console: Console) -> None:
    """Print the summary of all plans with several seeds; nothing where there are none."""
    if not (found := summaries(rows)):
        return
    table = Table(show_edge=False, pad_edge=False, box=SIMPLE_HEAD)
    for title in HEAD:
        table.add_column(title, justify="left" if title in ("plan", "task") else "right", overflow="fold")
    before = ""
    for line in lines(found):
        table.add_row("" if line[0] == before else line[0], *line[1:])
        before = line[0]
    console.print()
    console.print(table, markup=False)
    console.print(LEGEND, markup=False, soft_wrap=True)
