"""Instruction data as prompts and responses, whatever its columns are called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brittle_eval.behaviour.calibration import Pair
from brittle_eval.errors import BrittleError
from brittle_eval.tables import read_rows

PROMPTS, INPUTS, RESPONSES = ("prompt", "instruction", "goal"), ("input", "context"), ("response", "output")
"""Names of the columns, the first that a file has counts; an input is what the instruction is about."""


def read_instructions(path: Path) -> list[Pair]:
    """One pair a row of a csv, json or jsonl file, or a line of a .txt file, its response empty where there is none.

    BrittleError: no rows, no prompt column, or a value that is no text.
    """
    rows = read_rows(path)
    if not rows:
        raise BrittleError(
            f"{path} has no rows: expected prompts in a column {' or '.join(PROMPTS)}, or one a line in a .txt file"
        )
    return [_instruction(row, f"{path}, row {number}") for number, row in enumerate(rows, 1)]


def _instruction(row: Mapping[str, Any], where: str) -> Pair:
    prompt = _first(row, PROMPTS, where)
    if prompt is None:
        raise BrittleError(f"{where}: expected a column {' or '.join(PROMPTS)}, got {', '.join(map(str, row)) or 'none'}")
    asked = "\n\n".join(part for part in (prompt, _first(row, INPUTS, where)) if part)
    return Pair(asked, _first(row, RESPONSES, where) or "")


def _first(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> str | None:
    """The stripped text of the first of these columns that the row has; null counts as empty."""
    name = next((name for name in names if name in row), None)
    if name is None:
        return None
    value = "" if row[name] is None else row[name]
    if not isinstance(value, str):
        raise BrittleError(f"{where}: {name} must be a text, got {type(value).__name__}")
    return value.strip()
