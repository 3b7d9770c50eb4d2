"""The terminal table of a landscape: a line for each step or a grid for each plane, and the scores in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from brittle_eval.reporting.landscape_charts import counted, sentences
from brittle_eval.running.table import terminal

Points = Mapping[str, Sequence[Mapping[str, Any]]]


def show(found: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what `landscape.json` holds."""
    console = console or terminal()
    where = f"in {found['region']}" if found["region"] else "in all block weights"
    way = "towards the donor" if found["path"] == "donor" else "along random directions, in parts of each weight's norm"
    console.print(
        f"\n{found['model']}, steps {where} {way}: {found['attack']}, {counted(found).lower()}", markup=False, soft_wrap=True
    )
    points: Points = found["points"]
    if found["plane"]:
        for name, of in points.items():
            console.print(f"\n{name}: the second direction down, the first across", markup=False, soft_wrap=True)
            console.print(_grid(of, found["steps"]))
    else:
        console.print(_lines(points, found["steps"]))
    for line in sentences(found):
        console.print(line, markup=False, soft_wrap=True)


def _lines(points: Points, steps: Sequence[float]) -> Table:
    table = Table(show_edge=False, pad_edge=False, box=SIMPLE_HEAD)
    for name in ("step", *points, "degenerate", "ppl", "KL"):
        table.add_column(name, justify="right", overflow="fold")
    first = next(iter(points.values()))
    for at, step in enumerate(steps):
        rates = (f"{of[at]['rate']:.2f} {of[at]['low']:.2f}–{of[at]['high']:.2f}" for of in points.values())
        measures = ("–" if first[at][key] is None else f"{first[at][key]:.3g}" for key in ("perplexity", "kl"))
        table.add_row(f"{step:g}", *rates, f"{first[at]['degenerate']:.0%}", *measures)
    return table


def _grid(of: Sequence[Mapping[str, Any]], steps: Sequence[float]) -> Table:
    table = Table(show_edge=False, pad_edge=False, box=SIMPLE_HEAD)
    for name in ("", *(f"{step:g}" for step in steps)):
        table.add_column(name, justify="right")
    for row, step in enumerate(steps):
        rates = (f"{one['rate']:.2f}" for one in of[row * len(steps) : (row + 1) * len(steps)])
        table.add_row(f"{step:g}", *rates)
    return table
