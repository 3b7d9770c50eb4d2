"""Boards as Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from brittle_eval.leaderboard.board import Board, Entry, Share
from brittle_eval.leaderboard.columns import columns, heading, notes

LATEX = {
    **{mark: rf"\{mark}" for mark in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "–": "--",
    "…": r"\dots{}",
    "≤": r"$\leq$",
    "×": r"$\times$",
    "|": r"\textbar{}",
}


def markdown(boards: Sequence[Board]) -> str:
    """A table a board, and the legend."""
    parts = []
    for board in boards:
        shown = columns(board)
        lines = [[column.title for column in shown], ["---:" if column.numeric else "---" for column in shown]]
        lines += [[column.cell(one).replace("  ", "↳ ", 1) for column in shown] for one in board.entries]
        table = "\n".join("| " + " | ".join(map(_in_markdown, line)) + " |" for line in lines)
        parts.append(f"### {_in_markdown(heading(board))}\n\n{table}\n")
    return "\n".join([*parts, *(f"- {_in_markdown(line)}" for line in notes(boards)), ""])


def _in_markdown(text: str) -> str:
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))


def latex(boards: Sequence[Board]) -> str:
    """A `table` with a `tabular` a board; needs no package."""
    return "\n".join(_tabular(board) for board in boards) + "\n".join(f"% {line}" for line in notes(boards)) + "\n"


def _tabular(board: Board) -> str:
    shown = columns(board)
    lines = [rf"\begin{{tabular}}{{{''.join('r' if column.numeric else 'l' for column in shown)}}}", r"\hline"]
    lines += [" & ".join(_in_latex(column.title) for column in shown) + r" \\", r"\hline"]
    for one in board.entries:
        indent = r"\quad " if one.row.kind == "control" else ""
        cells = [(indent if column.title == "plan" else "") + _in_latex(column.cell(one).strip()) for column in shown]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\hline", r"\end{tabular}"]
    return "\n".join([r"\begin{table}", r"\centering", *lines, rf"\caption{{{_in_latex(heading(board))}}}", r"\end{table}", ""])


def _in_latex(text: str) -> str:
    return "".join(LATEX.get(mark, mark) for mark in " ".join(text.split()))


def as_csv(boards: Sequence[Board]) -> str:
    """A line a row with plain numbers, intervals in columns of their own."""
    lines = list(_flat(boards))
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _flat(boards: Sequence[Board]) -> Iterator[dict[str, Any]]:
    for number, board in enumerate(boards, 1):
        for one in board.entries:
            yield {"board": number, **{key: value for item in described(one).items() for key, value in _columns(*item)}}


def _columns(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What is inside others with dotted names; an interval beside its value."""
    if isinstance(value, dict) and set(value) == {"value", "low", "high"}:
        yield from ((key, value["value"]), (f"{key}_low", value["low"]), (f"{key}_high", value["high"]))
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _columns(f"{key}.{name}", inner)
    else:
        yield key, "; ".join(value) if isinstance(value, list) else value


def as_json(boards: Sequence[Board]) -> str:
    """Everything: boards with their rows, and the notes."""
    content = {
        "boards": [
            {"title": board.title, "tasks": board.tasks, "rows": [described(one) for one in board.entries]} for board in boards
        ],
        "notes": notes(boards),
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def described(one: Entry) -> dict[str, Any]:
    """A row's numbers by name."""
    row = one.row
    known = {
        key: getattr(row, key) for key in ("model", "kind", "recipe", "name", "plan", "seed", "preset", "condition", "limited")
    }
    degenerate, unscored, attempts = one.degenerate
    return {
        "rank": one.rank,
        "pareto": list(one.pareto),
        **known,
        "region": row.region,
        "answered": _as_dict(one.answered),
        "attacks": {name: asdict(value) for name, value in one.attacks.items()},
        "attempts": attempts,
        "degenerate": degenerate,
        "unscored": unscored,
        "refused": _as_dict(one.refused),
        "utility": _as_dict(one.utility),
        "utility_change": _as_dict(one.change),
        "measures": one.measures,
        "numbers": row.numbers,
        "p": one.p,
        "marks": one.marks,
        "fingerprint": row.fingerprint,
        "config": row.config,
        "command": row.command,
        "versions": row.versions,
    }


def _as_dict(value: Share | None) -> dict[str, Any] | None:
    return asdict(value) if value else None
