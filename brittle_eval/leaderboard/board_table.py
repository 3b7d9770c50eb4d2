"""Boards in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from brittle_eval.leaderboard.board import Board, Entry
from brittle_eval.leaderboard.columns import columns, heading, notes
from brittle_eval.running.table import terminal

TOP = 20


def show(boards: Sequence[Board], console: Console | None = None, top: int = TOP) -> None:
    """Print the `top` edits of every board, each with its controls, below the unedited models; 0: all of them."""
    console = console or terminal()
    for board in boards:
        edits = board.edits[: top or None]
        console.print(f"\n[bold]{escape(heading(board))}[/bold]", highlight=False)
        models = {one.row.model for one in edits or board.unedited}
        unedited = [one for one in board.unedited if one.row.model in models]
        shown = [*unedited[: top or None], *(one for edit in edits for one in (edit, *edit.controls))]
        shown += board.alone if len(edits) == len(board.edits) else []
        console.print(_table(board, shown))
        if left := len(board.edits) - len(edits):
            console.print(f"and {left:,} further edits: --top 0 prints all, --output FILE writes them", highlight=False)
    for line in notes(boards):
        console.print(line, highlight=False, markup=False)


def _table(board: Board, shown: Sequence[Entry]) -> Table:
    table = Table(show_edge=False, pad_edge=False, box=SIMPLE_HEAD)
    chosen = [column for column in columns(board) if column.short]
    for column in chosen:
        title = column.title.replace(" ", "\n", 1)
        table.add_column(title, justify="right" if column.numeric else "left", overflow="fold", no_wrap=column.numeric)
    for one in shown:
        table.add_row(
            *(escape((column.brief or column.cell)(one)) for column in chosen), style=None if one.row.kind != "control" else "dim"
        )
    return table
