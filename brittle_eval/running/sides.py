"""Both sides of safety: what is answered of unsafe prompts, and what is refused of safe ones, always beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from brittle_eval.running.record import Row, TaskResult
from brittle_eval.stats import Rate


@dataclass(frozen=True)
class Sides:
    """One attack's rate with the refusals of the harmless prompts that stand beside it."""

    unsafe: str
    answered: Rate
    """Prompts with an answer that is not refused and coherent."""
    safe: tuple[str, ...]
    """Tasks of harmless prompts: those of the attack's own group, else all of the row; none if the run has none."""
    refused: Rate
    """Their prompts that were refused, taken together."""


def sides(row: Row) -> list[Sides]:
    """Varshney et al. 2024 (arXiv 2401.00287): every attack of a row beside the refusals of harmless prompts."""
    done = [task for task in row.tasks if task.status == "done"]
    harmless = [task for task in done if task.role == "harmless" and "refused" in task.values]
    found = []
    for task in done:
        if task.role == "attack" and "not_refused_coherent" in task.values:
            own = [other for other in harmless if task.group is not None and other.group == task.group] or harmless
            rates = [_rate(other, "refused") for other in own]
            refused = Rate.of(sum(rate.k for rate in rates), sum(rate.n for rate in rates))
            found.append(Sides(task.task, _rate(task, "not_refused_coherent"), tuple(other.task for other in own), refused))
    return found


def _rate(task: TaskResult, key: str) -> Rate:
    return Rate.of(int(task.values[key]["k"]), int(task.values[key]["n"]))


def show_sides(rows: Sequence[Row], console: Console) -> None:
    """Print the pairs of every row; a run of attacks alone says that over-refusal was not measured."""
    pairs = [(row, pair) for row in rows for pair in sides(row)]
    if not pairs:
        return
    table = Table(show_edge=False, pad_edge=False, box=SIMPLE_HEAD)
    for title in ("both sides", "unsafe prompts: not refused & coherent", "safe prompts: refused"):
        table.add_column(title, justify="left" if title == "both sides" else "right", no_wrap=True)
    for row, pair in pairs:
        safe = f"{_cell(pair.refused)} {', '.join(pair.safe)}" if pair.safe else "not measured"
        table.add_row(row.name, f"{_cell(pair.answered)} {pair.unsafe}", safe)
    console.print()
    console.print(table)
    if not all(pair.safe for _, pair in pairs):
        console.print("over-refusal was not measured: add a task of harmless prompts, such as embedded_twins or oktest")


def _cell(rate: Rate) -> str:
    return f"{rate.value:.2f} of {rate.n}" if rate.value is not None else "–"
