"""The freezing table: what an attack still reaches by the share of the model that is held, n of its pairs, and a control."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from brittle_eval.running.row import Row
from brittle_eval.stats import t_interval
from brittle_eval.trials.attack_alone import ALONE, ANSWERED, held, short
from brittle_eval.trials.seeds import control_of, seed_of

NOTHING, REGION = "nothing", "region"
BY_ITSELF = "unfrozen attack over unedited"
NUMBER, SEED = "n", "seed"
Cell = tuple[str, float, float, int]
"""What is held, its two shares, and n."""


@dataclass(frozen=True)
class Spot:
    """One cell: the rate over its seeds, with the 95 % interval between seeds, or of one seed over prompts."""

    what: str
    """`nothing`, `region`, or a control such as `random-0`."""
    of_block_linears: float
    of_all_parameters: float
    n: int
    seeds: int
    rate: float
    low: float
    high: float
    alone: Mapping[str, Any]

    @property
    def place(self) -> tuple[float, float, str]:
        return self.of_block_linears, self.of_all_parameters, self.what

    @property
    def text(self) -> str:
        return f"{self.rate:.2f} [{self.low:.2f}, {self.high:.2f}]" + (f" of {self.seeds} seeds" if self.seeds > 1 else "")


@dataclass(frozen=True)
class Freezing:
    """The cells of one plan, which its sizes, numbers of pairs and seeds share."""

    title: str
    task: str
    spots: Sequence[Spot]

    @property
    def numbers(self) -> list[int]:
        return sorted({spot.n for spot in self.spots})

    @property
    def head(self) -> list[str]:
        return ["held, of the block linears", "of all parameters", "what is held", *(f"n = {n}" for n in self.numbers)]

    def lines(self) -> Iterator[list[str]]:
        """A line for each share and what was held; last, what the unfrozen attack does by itself."""
        order = {NOTHING: 0, REGION: 1}
        for place in sorted({spot.place for spot in self.spots}, key=lambda place: (place[0], order.get(place[2], 2), place[2])):
            own = {spot.n: spot.text for spot in self.spots if spot.place == place}
            yield [f"{place[0]:.2%}", f"{place[1]:.2%}", place[2], *(own.get(n, "–") for n in self.numbers)]
        alone = {spot.n: short(spot.alone) for spot in self.spots}
        yield ["", "", BY_ITSELF, *(alone[n] for n in self.numbers)]

    def markdown(self) -> str:
        """The table for a page."""
        every = [self.head, ["---"] * len(self.head), *self.lines()]
        return f"{self.title}: {LEGEND.format(task=self.task)}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in every)


LEGEND = (
    "share of the prompts of {task} that are answered, not refused & coherent, with 95 % intervals: between seeds, or of one "
    "seed over prompts"
)


def freezing(rows: Sequence[Row]) -> list[Freezing]:
    """A table for every plan that holds a part of the model in a training, on the first attack; none where there is none."""
    plans: dict[str, list[Row]] = {}
    for row in rows:
        if held(row) and 0 < row.region.get("of_block_linears", 0.0) < 1:
            plans.setdefault(_settings(row), []).append(row)
    free = [row for row in rows if row.training.get("bare")]
    return [table for own in plans.values() if (table := _table(own, free))]


def _settings(row: Row) -> str:
    """What the rows of one table share: model, chain, and the options of the training but n and seed."""
    options = {name: {key: value for key, value in own.items() if key not in (NUMBER, SEED)} for name, own in _options(row)}
    return json.dumps([row.model, row.plan.partition(":")[0], options], sort_keys=True, default=str)


def _options(row: Row) -> list[tuple[str, Mapping[str, Any]]]:
    return list(row.training["options"].items())


def _table(rows: Sequence[Row], free: Sequence[Row]) -> Freezing | None:
    task = next((task.task for task in rows[0].tasks if ANSWERED in task.values), None)
    if task is None:
        return None
    attacks = {row.training["attack"] for row in rows}
    beside = [row for row in free if row.training["attack"] in attacks and row.model == rows[0].model]
    cells: dict[Cell, list[Row]] = {}
    for row in [*beside, *rows]:
        cells.setdefault(_cell(row), []).append(row)
    spots = [spot for cell, own in cells.items() if (spot := _spot(cell, own, task))]
    return Freezing(rows[0].plan.partition(":")[0], task, spots) if spots else None


def _cell(row: Row) -> Cell:
    n = next((int(own[NUMBER]) for _, own in _options(row) if NUMBER in own), 0)
    if row.training["bare"]:
        return NOTHING, 0.0, 0.0, n
    of_linears, of_all = (round(row.region[key], 4) for key in ("of_block_linears", "of_all_parameters"))
    return control_of(row) or REGION, of_linears, of_all, n


def _spot(cell: Cell, rows: Sequence[Row], task: str) -> Spot | None:
    """The rows of a cell differ in their seeds; of one seed that stands there twice (rows of several runs) the first counts."""
    by_seed = {seed_of(row): found for row in reversed(rows) for found in row.tasks if found.task == task}
    known = [one for one in by_seed.values() if one.status == "done" and one.values[ANSWERED]["value"] is not None]
    rates = [float(one.values[ANSWERED]["value"]) for one in known]
    if not rates:
        return None
    between = t_interval(rates)
    first = known[0].values
    low, high = (max(0.0, between[0]), min(1.0, between[1])) if between else (first[ANSWERED]["low"], first[ANSWERED]["high"])
    weakest = min(
        (one.values.get(ALONE) or {} for one in known), key=lambda one: -1.0 if one.get("gain") is None else one["gain"]
    )
    what, of_block_linears, of_all_parameters, n = cell
    return Spot(what, of_block_linears, of_all_parameters, n, len(rates), sum(rates) / len(rates), low, high, weakest)


def show_freezing(rows: Sequence[Row], console: Console) -> None:
    """Print the tables."""
    for one in freezing(rows):
        table = Table(show_edge=False, pad_edge=False, box=SIMPLE_HEAD)
        for title in one.head:
            table.add_column(title, justify="right", overflow="fold")
        for line in one.lines():
            table.add_row(*line)
        console.print(f"\n{one.title}: {LEGEND.format(task=one.task)}", markup=False, soft_wrap=True)
        console.print(table, markup=False)
