"""The terminal table of a run with the default controls, where it goes to no terminal."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from brittle_eval.record import Row, TaskResult
from brittle_eval.table import WIDTH, show

RATE = {"value": 0.17, "low": 0.1, "high": 0.28}


def row(name: str, kind: Any) -> Row:
    values = {"not_refused_coherent": RATE, "judge_wei2024": RATE, "degenerate": 100, "unscored": 100, "attempts": 520}
    tasks = [
        TaskResult("embedded_harmful", "attack", n=64, values=values),
        TaskResult(
            "embedded_harmless", "harmless", n=64, values={"refused": RATE, "degenerate": 1, "unscored": 0, "attempts": 64}
        ),
        TaskResult("embedded_perplexity", "measure", n=64, values={"value": 113.67}),
    ]
    return Row(name, kind, "wanda-diff", "plan", "embedded", "digest", region={"of_block_linears": 0.0147}, tasks=tasks)


def test_no_number_is_cut() -> None:
    names = ["wanda-diff", *(f"wanda-diff.random-{n}" for n in range(3)), "wanda-diff.magnitude-0"]
    rows = [row("unedited", "unedited"), *(row(name, "control" if "." in name else "edited") for name in names)]
    page = io.StringIO()
    show(rows, Console(file=page, width=WIDTH))
    said = page.getvalue()
    assert said.count("0.17 [0.10, 0.28]") == 3 * (4 + 3)
    assert "…" not in said
    assert all(name.removeprefix("wanda-diff.") in said for name in names[1:])
