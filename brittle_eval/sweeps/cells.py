"""Cells and what is kept of them: `cells/<number>.json`, whole or not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from brittle_eval.recipe import NONE
from brittle_eval.running.prepare import Options
from brittle_eval.running.record import Row, RunFolder, TaskResult, write_json

SCHEMA = 1
Status = Literal["done", "cut", "failed"]


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: the unedited model (plan `none`), or one plan with its controls."""

    number: int
    recipe: str
    """The plan as the grid has it."""
    plan: str
    """The plan written out."""
    command: tuple[str, ...]
    """What gives the same rows after `brittle-eval run`."""

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.number:04d}"

    @property
    def options(self) -> dict[str, float | str]:
        """The options of the plan that the grid has, as numbers where they are."""
        items = (item.partition("=") for item in self.recipe.partition(":")[2].split(",") if item)
        return {key.strip(): _number(value) for key, _, value in items}


@dataclass(frozen=True)
class Group:
    """Cells that differ in their plan only; the first of them is the unedited model."""

    options: Options
    """`modify` has all plans."""
    model: str
    tasks: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def base(self) -> Cell:
        return self.cells[0]


@dataclass
class Outcome:
    """What became of a cell."""

    cell: int
    status: Status
    reason: str = ""
    rows: list[Row] = field(default_factory=list)
    attribution_seconds: float = 0.0
    """Of the attribution that its region comes from, which other cells may share."""
    edit_seconds: float = 0.0
    """Of the edit and undoing it."""
    seconds: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether a further start of the sweep leaves it alone; failed cells are tried again."""
        return self.status != "failed"


def as_group(
    options: Options, model: str, tasks: Sequence[str], plans: Mapping[str, str], command: Sequence[str], first: int
) -> Group:
    """The cells of all plans (canonical text by recipe) behind that of the unedited model, numbered from `first`."""
    every = {NONE: NONE} | dict(plans)
    cells = [
        Cell(first + place, recipe, plan, (*command, "--modify", recipe)) for place, (recipe, plan) in enumerate(every.items())
    ]
    return Group(options, model, tuple(tasks), tuple(cells))


def described(group: Group, cell: Cell) -> dict[str, Any]:
    """What a cell is, for a file."""
    return {
        "cell": cell.number,
        "model": group.model,
        "plan": cell.plan,
        "recipe": cell.recipe,
        "options": cell.options,
        "seed": group.options.seed,
        "tasks": list(group.tasks),
        "command": ["brittle-eval", "run", *cell.command],
        "run": f"runs/{cell.name}",
    }


def keep(folder: Path, group: Group, cell: Cell, outcome: Outcome) -> None:
    """Write a cell's file."""
    write_json(folder / "cells" / f"{cell.name}.json", {"schema": SCHEMA} | described(group, cell) | asdict(outcome))


def kept(folder: Path, cell: Cell) -> Outcome | None:
    """What became of a cell, or None if it is not finished; BrittleError for a damaged file."""
    known = RunFolder(folder, {}).read_json(f"cells/{cell.name}.json")
    if known is None:
        return None
    rows = [Row(**(row | {"tasks": [TaskResult(**task) for task in row["tasks"]]})) for row in known["rows"]]
    own = {key: known[key] for key in ("cell", "status", "reason", "attribution_seconds", "edit_seconds", "seconds")}
    return Outcome(**own, rows=rows)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text.strip()
