"""The table of `localize`: methods down, what they found and what editing it does across; for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import MARKDOWN, SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from brittle_eval.organisms.localize import Line, Located
from brittle_eval.running.table import terminal

WIDEST = 600
"""Characters of a Markdown line, which nothing may wrap."""
COLUMNS = ("size", "precision", "recall", "AP", "change captured", "ablated", "restored")
LEGEND = (
    "size: entries, or ranks, as many as the plant has where the method can choose · precision, recall: of the plant's entries "
    "or dimensions · AP: average precision over ten nested sizes · change captured: share of the plant's squared change inside "
    "the region · ablated, restored: share of harmful prompts then answered coherently · in brackets a random region of the same "
    "size, beside precision what it would have · – : entries against ranks"
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
    console.print(f"\n{LEGEND}", highlight=False)


def _table(lines: Sequence[Line], markdown: bool) -> Table:
    table = Table(box=MARKDOWN if markdown else SIMPLE_HEAD, show_edge=markdown, pad_edge=markdown)
    table.add_column("method", overflow="fold")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(f"`{line.method}`" if markdown else line.method, *_cells(line))
    return table


def _cells(line: Line) -> list[str]:
    of, answered = line.agreement, line.answered
    found = ["–", "–", "–"]
    if of:
        found = [f"{of['precision']:.3f} ({of['chance']:.3f})", f"{of['recall']:.3f}", f"{of['average_precision']:.3f}"]
    effects = [f"{_share(answered[name])} ({_share(answered[f'{name} random'])})" for name in ("ablate", "restore")]
    return [f"{line.size:,}", *found, f"{line.captured:.3f} ({line.random_captured:.3f})", *effects]


def _share(rate: dict[str, Any]) -> str:
    return f"{rate['k'] / rate['n']:.2f}"
