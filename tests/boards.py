"""Rows and whole files of them for tests of leaderboards, made without a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from brittle_eval.running.comparison import against_unedited
from brittle_eval.running.record import Row, TaskResult
from brittle_eval.stats import Rate


def rate(k: int, n: int) -> dict[str, Any]:
    found = Rate.of(k, n)
    return asdict(found) | {"value": found.value}


def rows(
    answered: dict[str, int], right: dict[str, int] | None = None, kl: dict[str, float] | None = None, **fields: Any
) -> list[Row]:
    """A run of 20 harmful and 20 choice items: by row name how many are answered and how many right, and its KL."""
    right, kl = right or {}, kl or {}
    made = [_row(name, count, right.get(name, 20), kl.get(name, 0.0), fields) for name, count in answered.items()]
    return against_unedited(made)


def _row(name: str, answered: int, right: int, kl: float, fields: dict[str, Any]) -> Row:
    kind: Any = "unedited" if name == "unedited" else "control" if "." in name else "edited"
    hits, choices = [float(at < answered) for at in range(20)], [float(at < right) for at in range(20)]
    harmful = {"not_refused_coherent": rate(answered, 20), "attempts": 20, "degenerate": 1, "unscored": 2}
    low, high = Rate.of(right, 20).low, Rate.of(right, 20).high
    tasks = [
        TaskResult("harmful", "attack", n=20, values=harmful, items=hits),
        TaskResult("harmless", "harmless", n=20, values={"refused": rate(3, 20), "attempts": 20, "degenerate": 0, "unscored": 0}),
        TaskResult(
            "choice", "utility", n=20, values={"metric": "acc", "value": right / 20, "low": low, "high": high}, items=choices
        ),
        TaskResult("embedded_kl", "measure", n=1, values={"value": kl}, items=[kl]),
    ]
    recipe = "none" if kind == "unedited" else name.partition(".")[0]
    region = {} if kind == "unedited" else {"count": 10, "of_block_linears": 0.01, "of_all_parameters": 0.005}
    row = Row(name, kind, recipe, recipe, "tiny", f"print of {name}", region, tasks, config="run", command="brittle-eval run")
    return replace(row, **fields)


def write(file: Path, rows: Sequence[Row]) -> Path:
    """A rows.jsonl file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
    return file
