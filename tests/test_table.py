"""The table of a run: what stands beside what, in 120 columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from brittle_eval.running.comparison import VERSUS
from brittle_eval.running.record import Row, TaskResult
from brittle_eval.running.table import WIDTH, show
from tests.stored_runs import BROKEN, GIVEN, REFUSED, make_run


def printed(rows: list[Row], tmp_path: Path) -> list[str]:
    file = tmp_path / "table.txt"
    with file.open("w", encoding="utf-8") as raw:
        show(rows, Console(file=raw, width=WIDTH))
    return file.read_text(encoding="utf-8").splitlines()


def block(lines: list[str], title: str) -> list[str]:
    """A section's lines."""
    start = lines.index(next(line for line in lines if line.strip() == title))
    rest = lines[start + 1 :]
    return rest[: next((at for at, line in enumerate(rest) if not line.startswith("  ")), len(rest))]


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    before = {"advbench_decoding_chat": [[REFUSED]] * 6, "embedded_harmless_train": [[GIVEN]] * 6}
    edit = {"advbench_decoding_chat": [[GIVEN]] * 4 + [[BROKEN], [""]], "embedded_harmless_train": [[GIVEN]] * 6}
    found = make_run(tmp_path / "run", {"unedited": before, "plan": edit, "plan.random-0": before}).rows()
    assert found is not None
    return found


def test_counts_of_what_was_not_counted_stand_below_each_rate(rows: list[Row], tmp_path: Path) -> None:
    lines = printed(rows, tmp_path)
    headline = block(lines, "attacks: not refused & coherent")
    assert headline[0].split()[0] == "advbench_decoding_chat" and "0.67 [0.30, 0.90]" in headline[0]
    assert headline[1].split() == ["degenerate", "+", "unscored", "2", "+", "1", "of", "6"]
    assert headline[2].split()[:2] == ["change,", "p"] and "+0.67 p=0.125" in headline[2]
    harmless = block(lines, "harmless prompts: refused")
    assert len(harmless) == 2, "no line for what is nowhere, but a note that says so"
    assert any("in every denominator" in line for line in lines)


def test_another_judge_has_its_own_section_and_its_own_unscored(rows: list[Row], tmp_path: Path) -> None:
    lines = printed(rows, tmp_path)
    assert block(lines, "attacks: no refusal phrase (wei2024)")[0].split()[0] == "advbench_decoding_chat"
    rows[1].tasks[0].values["judge_wei2024"]["unscored"] = 3
    assert block(printed(rows, tmp_path), "attacks: no refusal phrase (wei2024)")[1].split() == ["unscored", "3", "of", "6"]
    assert "Agreement of wei2024 and refusal: Cohen's κ 1.00, same verdict on 100% of n = 35; 1 unscored by one" in lines


def test_a_judge_that_was_never_run_here_is_marked(rows: list[Row], tmp_path: Path) -> None:
    rows[0].judges["guard"] = {"counts": "harmful", "verified": False}
    for row in rows:
        row.tasks[0].values["judge_guard"] = {**row.tasks[0].values["judge_wei2024"]}
    lines = printed(rows, tmp_path)
    assert block(lines, "attacks: harmful (guard)")
    assert any(line.startswith("guard: unverified") for line in lines)


def test_five_models_with_long_names_fit_in_120_columns(rows: list[Row], tmp_path: Path) -> None:
    unedited, edited, control = rows
    choice: dict[str, Any] = {"metric": "acc", "value": 0.5}
    versus = {"mean": -0.25, "n": 4, "low": -0.5, "high": 0.123, "p": 0.5}
    for row in rows:
        row.tasks.append(TaskResult("embedded_choice", "utility", values=choice | ({} if row is unedited else {VERSUS: versus})))
        row.region = {"of_block_linears": 0.01, "of_all_parameters": 0.002}
    others = [Row(**(vars(control) | {"name": f"plan.random-{n}"})) for n in range(1, 4)]
    lines = printed([unedited, edited, control, *others], tmp_path)
    assert max(map(len, lines[: lines.index(next(line for line in lines if line.startswith("Degenerate")))])) <= WIDTH
    assert not any("…" in line for line in lines)
    assert [line.split() for line in lines if "random-0" in line] == [["unedited", "edited", "random-0", "random-1", "random-2"]]
    assert "[-0.50, +0.12]" in block(lines, "utility")[1]


def test_a_limited_run_says_so_at_every_table(rows: list[Row], tmp_path: Path) -> None:
    assert not any("limited run" in line for line in printed(rows, tmp_path))
    rows[0].limited = True
    lines = printed(rows, tmp_path)
    assert "plan (limited run)" in lines and lines[-1] == "limited run (--limit): not comparable with full ones"
