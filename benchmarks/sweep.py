"""What a sweep costs beside its attribution, edits and evaluations: `make bench ONLY=sweep`.

A sweep of 25 (p, q) cells against one of a single cell, both on the embedded model from its load on. `sweep_overhead` is what the
large one takes beyond the small one's opening (load, unedited model, one attribution) and its own edits and evaluations, as a
share of one attribution and these. `edit_restore_seconds` is what a cell takes to be isolated, edited and undone. The evaluation
is short, so that an overhead shows. Results go into one flat JSON file beside those of other benchmarks.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from results import keep, verdicts
from rich.console import Console

from brittle_eval.evaluation.evaluate import parse_arguments
from brittle_eval.running.prepare import Options
from brittle_eval.sweeps.cells import Outcome
from brittle_eval.sweeps.sweep import local, plan_sweep, sweep

CONSOLE = Console(width=120)
TARGETS = {"sweep_overhead": (0.05, "at most"), "edit_restore_seconds": (1.0, "at most")}
RECIPE = "wanda-diff"


@dataclass(frozen=True)
class Took:
    """What a sweep took, in seconds."""

    wall: float
    cells: Mapping[int, Outcome]
    attribution: float
    """Until the last region was on disk, with all isolations."""

    @property
    def edited(self) -> list[Outcome]:
        return [outcome for number, outcome in self.cells.items() if number]

    @property
    def evaluation(self) -> float:
        """Edits and evaluations of all cells, as their rows have it."""
        return sum(row.seconds for outcome in self.edited for row in outcome.rows)


def swept(plans: Sequence[str], given: argparse.Namespace, folder: Path) -> Took:
    """A sweep of these plans in a folder of its own."""
    options = Options(
        model_args=parse_arguments(given.model_args) if given.model_args else None,
        modify=tuple(plans),
        tasks=tuple(given.tasks.split(",")),
        controls="none",
        batch_size=given.batch_size,
        limit=given.limit,
        behaviours=tuple(given.behaviour),
    )
    started = time.monotonic()
    cells = sweep(plan_sweep([(options, [])]), {}, folder, local, lambda line: CONSOLE.print(line, markup=False))
    wall = time.monotonic() - started
    if failed := [outcome.reason for outcome in cells.values() if outcome.status != "done"]:
        raise SystemExit(f"{len(failed)} cells failed: {failed[0]}")
    return Took(wall, cells, max(json.loads((folder / "runs" / "0000" / "attributions.json").read_text()).values()))


def measure(given: argparse.Namespace) -> dict[str, float]:
    """This benchmark's keys of the result file."""
    values = [round(0.01 * (step + 1), 2) for step in range(given.side)]
    plans = [f"{RECIPE}:p={p},q={round(0.05 + q, 2)}" for p in values for q in values]
    with tempfile.TemporaryDirectory() as name:
        one, many = swept(plans[:1], given, Path(name, "one")), swept(plans, given, Path(name, "many"))
    opening = one.cells[0].seconds
    least = one.attribution + many.evaluation
    isolation = max(0.0, many.attribution - one.attribution) / (len(plans) - 1)
    edit = sum(outcome.edit_seconds for outcome in many.edited) / len(many.edited)
    CONSOLE.print(
        f"{len(plans)} cells in {many.wall:.1f} s: opening {opening:.1f} s (attribution {one.attribution:.1f} s), edits and "
        f"evaluations {many.evaluation:.1f} s; a cell: isolation {isolation:.2f} s, edit and undo {edit:.2f} s; "
        f"{torch.get_num_threads()} threads"
    )
    return {"sweep_overhead": (many.wall - opening - many.evaluation) / least, "edit_restore_seconds": isolation + edit}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("bench.json"), help="other benchmarks' keys in it are kept")
    parser.add_argument("--model-args", help="in place of the embedded model")
    parser.add_argument("--side", type=int, default=5, help="values of p and of q")
    parser.add_argument("--tasks", default="embedded_choice,embedded_perplexity,embedded_kl")
    parser.add_argument("--limit", type=float, default=32)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--behaviour", action="append", default=[], help="NAME=FILE, as in run")
    given = parser.parse_args(arguments)
    found = measure(given)
    CONSOLE.print(verdicts(found, TARGETS, "targets"))
    keep(given.output, found)


if __name__ == "__main__":
    main(sys.argv[1:])
