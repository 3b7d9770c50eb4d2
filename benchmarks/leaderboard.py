"""How long a leaderboard of 10,000 rows takes: 2,000 runs with controls are read, ranked, printed, and written as a page.

Rows are made here, as many items to a task as the embedded tasks have; nothing of their numbers means anything.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from results import Targets, keep, verdicts
from rich.console import Console

from brittle_eval.leaderboard.board import boards
from brittle_eval.leaderboard.board_page import page
from brittle_eval.leaderboard.board_table import show
from brittle_eval.leaderboard.gather import gather
from brittle_eval.running.comparison import against_unedited
from brittle_eval.running.record import Row, TaskResult
from brittle_eval.stats import Rate

KEY = "leaderboard_10k_seconds"
TARGETS: Targets = {KEY: (2.0, "at most"), "leaderboard_10k_megabytes": (5.0, "at most")}
ROWS = ("unedited", "plan", "plan.random-0", "plan.random-1", "plan.magnitude-0")
ATTACKED, CHOICES = 64, 200


def leaderboard_10k(runs: int = 2000) -> dict[str, float]:
    """Seconds from the files of five rows a run to the printed table and the page, and the page's size in megabytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(runs):
            file = folder / f"{number:04}" / "rows.jsonl"
            file.parent.mkdir()
            file.write_text("".join(json.dumps(asdict(row)) + "\n" for row in _run(number)), encoding="utf-8")
        started = time.perf_counter()
        made = boards(gather([folder], print))
        with (folder / "table.txt").open("w", encoding="utf-8") as raw:
            show(made, Console(file=raw, width=120))
        (folder / "board.html").write_text(page(made), encoding="utf-8")
        seconds = time.perf_counter() - started
        return {KEY: seconds, "leaderboard_10k_megabytes": (folder / "board.html").stat().st_size / 1e6}


def _run(number: int) -> list[Row]:
    """A run of one plan; every one of its options is another."""
    generator = random.Random(number)
    plan = f"wanda-diff:p={generator.random():.3f},q={generator.random():.3f}"
    command = f"brittle-eval run --model hf --tasks embedded --controls random:2,magnitude:1 --seed 0 --modify {plan}"
    rows = []
    for name in ROWS:
        generator = random.Random(f"{0 if name == 'unedited' else number} {name}")
        kind = "unedited" if name == "unedited" else "control" if "." in name else "edited"
        chance = generator.random() if name == "plan" else 0.1
        made = Row(
            name, kind, "none" if kind == "unedited" else plan, plan, "embedded", f"{name if name == 'unedited' else number}"
        )  # type: ignore[arg-type]
        made.tasks = [_answers("embedded_harmful", "not_refused_coherent", chance, generator), _choices(generator)]
        made.tasks.append(_answers("embedded_harmless", "refused", 0.1, generator))
        made.tasks += [_measure(measure, generator) for measure in ("embedded_perplexity", "embedded_kl")]
        made.config, made.command = f"{number:016x}", command
        made.region = (
            {} if kind == "unedited" else {"count": 1, "of_block_linears": chance / 20, "of_all_parameters": chance / 30}
        )
        rows.append(made)
    return against_unedited(rows)


def _answers(task: str, key: str, chance: float, generator: random.Random) -> TaskResult:
    items = [float(generator.random() < chance) for _ in range(ATTACKED)]
    found = Rate.of(int(sum(items)), len(items))
    values = {key: asdict(found) | {"value": found.value}, "attempts": ATTACKED, "degenerate": 3, "unscored": 1}
    return TaskResult(task, "attack" if key != "refused" else "harmless", n=ATTACKED, values=values, items=items)


def _choices(generator: random.Random) -> TaskResult:
    items = [float(generator.random() < 0.9) for _ in range(CHOICES)]
    found = Rate.of(int(sum(items)), len(items))
    values = {"metric": "acc", "value": found.value, "low": found.low, "high": found.high}
    return TaskResult("embedded_choice", "utility", n=CHOICES, values=values, items=items)


def _measure(task: str, generator: random.Random) -> TaskResult:
    items = [generator.random() for _ in range(ATTACKED)]
    return TaskResult(task, "measure", n=ATTACKED, values={"value": sum(items) / len(items)}, items=items)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    parser.add_argument("--runs", type=int, default=2000)
    given = parser.parse_args()
    found: Mapping[str, float] = leaderboard_10k(given.runs)
    Console().print(verdicts(found, TARGETS, f"{given.runs} runs, {given.runs * len(ROWS)} rows"))
    keep(given.output, found)


if __name__ == "__main__":
    main()
