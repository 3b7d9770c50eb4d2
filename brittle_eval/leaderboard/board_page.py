"""Boards as one HTML file that opens offline: no request, sorted by the keyboard or the mouse, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from brittle_eval import __version__
from brittle_eval.leaderboard.board import Board, Entry
from brittle_eval.leaderboard.columns import columns, heading, notes

TEMPLATES = Path(__file__).parent / "templates"


def page(boards: Sequence[Board]) -> str:
    """The page. Whatever rows say is escaped; each command stands there once, and its rows lead to it."""
    numbers: dict[str, int] = {}
    for board in boards:
        for one in board.entries:
            if one.row.command:
                numbers.setdefault(one.row.command, len(numbers) + 1)
    tables = [_table(board, numbers) for board in boards]
    parts = {name: Markup((TEMPLATES / f"leaderboard.{name}").read_text(encoding="utf-8")) for name in ("css", "js")}
    rows = sum(len(board.entries) for board in boards)
    return _template().render(tables=tables, commands=list(numbers), notes=notes(boards), rows=rows, version=__version__, **parts)


def _table(board: Board, numbers: dict[str, int]) -> dict[str, object]:
    shown = columns(board)
    rows = [(_kind(one), [column.cell(one) for column in shown], numbers.get(one.row.command, 0)) for one in board.entries]
    return {"heading": heading(board), "columns": shown, "rows": rows}


def _kind(one: Entry) -> str:
    return {"unedited": "u", "edited": "p" if one.pareto else "e", "control": "c"}[one.row.kind]


@cache
def _template() -> Template:
    loader = FileSystemLoader(TEMPLATES)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("leaderboard.html")
