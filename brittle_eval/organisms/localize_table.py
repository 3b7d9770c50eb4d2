"""The table of `localize`: methods down, what they found and what editing it does across; for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.box import MARKDOWN, SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from brittle_eval.organisms.localize import Line, Located
from brittle_eval.running.table import terminal

WIDEST = 600
"""Characters of a Markdown line, which nothing may wrap."""
COLUMNS = ("size", "precision", "recall", "IoU", "AP", "change captured", "ablated", "restored")
LEGEND = (
    "size: entries, or ranks, as many as the plant has where the method can choose · precision, recall, IoU: with the plant's "
    "entries or dimensions · AP: average precision over ten nested sizes · change captured: share of the plant's squared change "
    "inside the region · ablated, restored: share of harmful prompts then answered coherently · in brackets a random region of "
    "the same size, beside precision what it would have · – : not defined, for the reason below the table"
)


def show(found: Sequence[Located], console: Console | None = None, *, markdown: bool = False) -> None:
    """Print one table a plant."""
    console = console or (Console(width=WIDEST) if markdown else terminal())
    for plant in found:
        answered = {name: _share(rate) for name, rate in plant.answered.items()}
        console.print(f"\n[bold]plant {plant.plant}[/bold]" if not markdown else f"\n### `{plant.plant}`\n", highlight=False)
        console.print(
            f"Harmful prompts answered: {answered['planted']} by the planted model; with the plant restored "
            f"{answered['restore plant']} (a random region {answered['restore random']}), ablated {answered['ablate plant']} "
            f"({answered['ablate random']}).\n",
            highlight=False,
        )
        console.print(_table(plant.lines, markdown))
        for line in _reasons(plant.lines, markdown):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"\n{LEGEND}", highlight=False)


def _table(lines: Sequence[Line], markdown: bool) -> Table:
    table = Table(box=MARKDOWN if markdown else SIMPLE_HEAD, show_edge=markdown, pad_edge=markdown)
    table.add_column("method", overflow="fold")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(f"`{line.method}`" if markdown else line.method, *_cells(line))
    return table


def _reasons(lines: Sequence[Line], markdown: bool) -> Iterator[str]:
    """Why figures are not there, a line for those that share figures and reason."""
    together: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        for what, why in line.undefined.items():
            together.setdefault((what, why), []).append(f"`{line.method}`" if markdown else line.method)
    if together:
        yield ""
    for (what, why), methods in together.items():
        yield f"{'- ' if markdown else ''}{', '.join(methods)}: {'no region' if what == 'all' else f'no {what}'}: {why}"


def _cells(line: Line) -> list[str]:
    of = line.agreement or {}
    effects = [
        _beside(_share(line.answered.get(name)), _share(line.answered.get(f"{name} random"))) for name in ("ablate", "restore")
    ]
    return [
        "–" if line.size is None else f"{line.size:,}",
        _beside(_number(of.get("precision")), _number(of.get("chance"))),
        *(_number(of.get(key)) for key in ("recall", "iou", "average_precision")),
        _beside(_number(line.captured), _number(line.random_captured)),
        *effects,
    ]


def _beside(own: str, random: str) -> str:
    return own if random == "–" else f"{own} ({random})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _share(rate: dict[str, Any] | None) -> str:
    return "–" if rate is None else f"{rate['k'] / rate['n']:.2f}"
