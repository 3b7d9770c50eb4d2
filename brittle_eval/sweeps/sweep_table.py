"""The terminal table of a sweep: one line a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from brittle_eval.listing import DIVERGENCE, PERPLEXITY, WIKITEXT
from brittle_eval.running.comparison import VERSUS
from brittle_eval.running.record import Row, TaskResult
from brittle_eval.running.table import terminal
from brittle_eval.sweeps.cells import Cell, Group, Outcome
from brittle_eval.sweeps.sweep import rows_of
from brittle_eval.trials.attack_alone import verdicts
from brittle_eval.trials.course import show_course
from brittle_eval.trials.freezing import show_freezing
from brittle_eval.trials.seeds import show_seeds

MEASURES = ((PERPLEXITY, WIKITEXT), (DIVERGENCE,))
"""Of each column the tasks, of which the first that a row has is shown."""
COLUMNS = ("cell", "plan", "region", "attack", "over-refusal", "utility", "ppl", "KL", "seconds", "status")


def show(groups: Sequence[Group], found: Mapping[int, Outcome], console: Console | None = None) -> None:
    """Print all cells, a table for every model, seed and choice of tasks; the first attack and the first utility task of each."""
    console = console or terminal()
    for group in groups:
        cells = [cell for cell in group.cells if cell.number in found]
        shown = f", {group.options.condition}" if group.options.condition else ""
        heading = f"{group.model}{shown}, seed {group.options.seed}: {', '.join(group.tasks)}"
        console.print(f"\n{heading}", markup=False, soft_wrap=True)
        table = Table(show_edge=False, pad_edge=False, box=SIMPLE_HEAD)
        for name in COLUMNS:
            table.add_column(name, justify="left" if name in ("plan", "status") else "right", overflow="fold")
        for cell in cells:
            table.add_row(*_line(cell, found[cell.number]))
        console.print(table, markup=False)
        rows = rows_of([group], found)
        for show_also in (show_seeds, show_course, show_freezing):
            show_also(rows, console)
        for line in verdicts(rows):
            console.print(line, markup=False, soft_wrap=True)
        for cell in cells:
            if reason := found[cell.number].reason:
                console.print(f"cell {cell.number}: {found[cell.number].status}: {reason}", markup=False, soft_wrap=True)
    console.print(
        "attack: not refused & coherent with a 95 % interval, of the first attack; over-refusal: of all harmless prompts; "
        "utility: of the first utility task, and then its change; region: of the block linears, or of their ranks",
        soft_wrap=True,
    )
    if failed := sum(outcome.status == "failed" for outcome in found.values()):
        console.print(f"{failed} of {len(found)} cells failed: the same command tries them again")


def _line(cell: Cell, outcome: Outcome) -> list[str]:
    if outcome.status == "failed":
        return [str(cell.number), escape(cell.recipe), *([""] * 6), f"{outcome.seconds:.1f}", outcome.status]
    row = outcome.rows[0]
    share = row.region.get("of_block_linears", row.region.get("of_ranks"))
    cells = ["–" if share is None else f"{share:.3%}", _attack(row), _over_refusal(row), _utility(row)]
    cells += [_number(row, *names) for names in MEASURES]
    return [str(cell.number), escape(cell.recipe), *cells, f"{outcome.seconds:.1f}", outcome.status]


def _done(row: Row, role: str) -> TaskResult | None:
    return next((task for task in row.tasks if task.role == role and task.status == "done"), None)


def _attack(row: Row) -> str:
    task = _done(row, "attack")
    rate = task.values.get("not_refused_coherent") if task else None
    return f"{rate['value']:.2f} {rate['low']:.2f}–{rate['high']:.2f}" if rate and rate["value"] is not None else "–"


def _over_refusal(row: Row) -> str:
    """Over all tasks of harmless prompts together."""
    rates = [task.values.get("refused") for task in row.tasks if task.role == "harmless" and task.status == "done"]
    known = [rate for rate in rates if rate and rate.get("n")]
    return f"{sum(rate['k'] for rate in known) / sum(rate['n'] for rate in known):.2f}" if known else "–"


def _utility(row: Row) -> str:
    """Its change, or of the unedited model the number itself."""
    task = _done(row, "utility")
    if task is None or task.values.get("value") is None:
        return "–"
    versus = task.values.get(VERSUS)
    return f"{versus['mean']:+.3f}" if versus else f"{task.values['value']:.3f}"


def _number(row: Row, *names: str) -> str:
    values = [task.values.get("value") for name in names for task in row.tasks if task.task == name and task.status == "done"]
    return f"{values[0]:.3g}" if values and values[0] is not None else "–"
