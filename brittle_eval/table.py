"""The terminal table of a run: models across, numbers down."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from brittle_eval.record import Row, TaskResult

WIDTH = 130
"""Characters of a table that goes to no terminal."""
ACROSS = 4
"""Models side by side; more go into a further table, beside the unedited one."""
JUDGE = "judge_"
SIZES = {
    "region: share of block linears": "of_block_linears",
    "region: share of all parameters": "of_all_parameters",
    "region: share of ranks": "of_ranks",
}
"""Lines for what a region takes: entries, of the linear weights and of everything; ranks, of the linear weights' min(out, in)."""
Cell = Callable[[TaskResult, TaskResult | None], str]


def terminal() -> Console:
    """Where tables go."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def show(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print the rows of one run, which share their tasks: a table a plan, each beside the unedited model."""
    console = console or terminal()
    first = rows[0]
    for recipe in dict.fromkeys(row.recipe for row in rows[1:]) or [first.recipe]:
        others = [row for row in rows[1:] if row.recipe == recipe]
        for start in range(0, max(len(others), 1), ACROSS - 1):
            console.print(f"\n[bold]{escape(recipe)}[/bold]", highlight=False)
            console.print(_table([first, *others[start : start + ACROSS - 1]]))
    for task in first.tasks:
        if task.status == "not run":
            console.print(f"{task.task}: not run: {task.reason}", highlight=False, markup=False)
    if first.limited:
        console.print("limited run (--limit): not comparable with full ones")


def _table(rows: Sequence[Row]) -> Table:
    table = Table(show_edge=False, pad_edge=False, box=SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for row in rows:
        title = row.kind if row.kind != "control" else row.name.removeprefix(f"{row.folder}.")
        table.add_column(title, justify="right", no_wrap=True)
    for title, key in SIZES.items():
        if any(key in row.region for row in rows):
            _line(table, title, [f"{row.region[key]:.2%}" if key in row.region else "–" for row in rows])
    for title, role, cell in SECTIONS:
        names = [task.task for task in rows[0].tasks if task.role == role and task.status == "done" and cell(task, None)]
        if names:
            table.add_row(f"[bold]{title}[/bold]")
        for name in names:
            results = [next(task for task in row.tasks if task.task == name) for row in rows]
            _line(table, f"  {name}", [cell(result, results[0] if index else None) for index, result in enumerate(results)])
    return table


def _line(table: Table, title: str, cells: Sequence[str]) -> None:
    table.add_row(title, *cells)


def _interval(rate: dict[str, Any]) -> str:
    if rate.get("value") is None:
        return "–"
    return f"{rate['value']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]"


def _rate(key: str) -> Cell:
    def cell(result: TaskResult, unedited: TaskResult | None) -> str:
        return _interval(result.values[key]) if key in result.values else ""

    return cell


def _number(key: str) -> Cell:
    def cell(result: TaskResult, unedited: TaskResult | None) -> str:
        return f"{result.values[key]:.2f}" if key in result.values else ""

    return cell


def _uncounted(result: TaskResult, unedited: TaskResult | None) -> str:
    values = result.values
    if "attempts" not in values:
        return ""
    return f"{values['degenerate']} + {values['unscored']} of {values['attempts']}"


def _delta(result: TaskResult, unedited: TaskResult | None) -> str:
    value = result.values.get("value")
    if value is None:
        return "–"
    if unedited is None or unedited.values.get("value") is None:
        return f"{value:.3f}"
    return f"{value:.3f} ({value - unedited.values['value']:+.3f})"


SECTIONS: tuple[tuple[str, str, Cell], ...] = (
    ("attacks: not refused & coherent", "attack", _rate("not_refused_coherent")),
    ("attacks: mean over attempts", "attack", _number("not_refused_coherent_mean")),
    ("attacks: best suffix, template or language", "attack", _number("not_refused_coherent_best_variant")),
    ("attacks: best decoding setting", "attack", _number("not_refused_coherent_best_setting")),
    ("attacks: no refusal phrase (wei2024)", "attack", _rate("judge_wei2024")),
    ("attacks: degenerate + unscored answers", "attack", _uncounted),
    ("harmless prompts: refused", "harmless", _rate("refused")),
    ("harmless prompts: degenerate + unscored answers", "harmless", _uncounted),
    ("utility", "utility", _delta),
    ("measures (perplexity, KL in nats)", "measure", _delta),
)
