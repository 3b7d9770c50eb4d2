"""The terminal table of a run: models across, numbers down."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from brittle_eval.evaluation.assess import HEADLINE
from brittle_eval.running.comparison import VERSUS
from brittle_eval.running.record import Row, TaskResult, agreement_of
from brittle_eval.trials.attack_alone import ALONE, short, verdicts

WIDTH = 120
"""Characters of a table that goes to no terminal."""
ACROSS = 5
"""Models side by side; more go into a further table, beside the unedited one."""
CELL = 17
SIZES = {
    "region: share of block linears": "of_block_linears",
    "region: share of parameters": "of_all_parameters",
    "region: share of ranks": "of_ranks",
}
"""Lines for what a region takes: entries, of the linear weights and of everything; ranks, of the linear weights' min(out, in)."""
Cell = Callable[[TaskResult, TaskResult | None], str]
Section = tuple[str, str, dict[str, Cell]]
"""A title, the role of its tasks, and the lines of each task: the first is its own, the others come if they say something."""


def terminal() -> Console:
    """Where tables go."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def show(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print the rows of one run, which share their tasks: a table a plan, each beside the unedited model."""
    console = console or terminal()
    first = rows[0]
    for recipe in dict.fromkeys(row.recipe for row in rows[1:]) or [first.recipe]:
        others = [row for row in rows[1:] if row.recipe == recipe]
        for start in range(0, max(len(others), 1), ACROSS - 1):
            limited = " (limited run)" if first.limited else ""
            console.print(f"\n[bold]{escape(recipe)}[/bold]{limited}", highlight=False)
            _print(console, [first, *others[start : start + ACROSS - 1]])
    for line in [*_agreements(rows), *notes(rows)]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _print(console: Console, rows: Sequence[Row]) -> None:
    """Sections one below the other with the same columns."""
    names = [f"  {task.task}" for task in rows[0].tasks if task.status == "done"]
    width = max(map(len, [*names, *SIZES, *(f"    {line}" for _, _, lines in sections(rows[0]) for line in lines)]))

    def grid() -> Table:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column(width=width, no_wrap=True)
        for _ in rows:
            table.add_column(width=CELL, justify="right", no_wrap=True)
        return table

    head = grid()
    head.add_row("", *(row.kind if row.kind != "control" else row.name.removeprefix(f"{row.folder}.") for row in rows))
    for title, key in SIZES.items():
        if any(key in row.region for row in rows):
            head.add_row(title, *(f"{row.region[key]:.2%}" if key in row.region else "–" for row in rows))
    console.print(head)
    for title, role, lines in sections(rows[0]):
        section = grid()
        for cells in lines_of(rows, role, lines):
            section.add_row(*cells)
        if section.row_count:
            console.print(f"[bold]{escape(title)}[/bold]", highlight=False)
            console.print(section)


def lines_of(rows: Sequence[Row], role: str, lines: dict[str, Cell]) -> Iterator[list[str]]:
    """The lines of a section: a name, and a cell for every row."""
    own, *further = lines.items()
    for name in [task.task for task in rows[0].tasks if task.role == role and task.status == "done" and own[1](task, None)]:
        results = [next(task for task in row.tasks if task.task == name) for row in rows]
        for number, (title, cell) in enumerate([own, *further]):
            none = "–" if number == 0 else ""
            cells = [
                cell(result, results[0] if index else None) if result.status == "done" else none
                for index, result in enumerate(results)
            ]
            if number == 0 or any(cells):
                yield [f"  {name}" if number == 0 else f"    {title}", *cells]


def notes(rows: Sequence[Row]) -> Iterator[str]:
    """What must be known to read the tables."""
    first = rows[0]
    for task in first.tasks:
        if task.status == "not run":
            yield f"{task.task}: not run: {task.reason}"
    for row in rows[1:]:
        if cut := next((task.reason for task in row.tasks if task.reason.startswith("cut: ")), None):
            yield f"{row.name}: {cut}; its other tasks and its controls were not run"
    yield from verdicts(rows)
    done = [task for row in rows for task in row.tasks if task.status == "done"]
    if any("attempts" in task.values for task in done):
        yield "Degenerate and unscored answers count as not positive in every denominator; where no line has them there are none."
    if any("p_holm" in task.values.get(VERSUS, {}) for task in done):
        edits = sum(row.kind == "edited" for row in rows)
        holm = f", Holm-corrected for {edits} edits (controls are not)" if edits > 1 else ""
        yield f"Change: from the unedited model on the same items; p: McNemar's exact test{holm}."
    for name in [name for name, judge in first.judges.items() if judge.get("verified") is False]:
        yield f"{name}: unverified: this project has never run this judge"
    if first.backend:
        own = "; unverified: this project has never run it" if "unverified" in first.backend else ""
        yield f"Answers and likelihoods by {first.backend.partition(' ')[0]} on a checkpoint of each model{own}"
    if first.limited:
        yield "limited run (--limit): not comparable with full ones"


def _agreements(rows: Sequence[Row]) -> Iterator[str]:
    for pair in agreement_of(rows):
        kappa = "–" if pair.kappa is None else f"{pair.kappa:.2f}"
        same = "–" if pair.share is None else f"{pair.share:.0%}"
        unscored = f"; {pair.unscored} unscored by one" if pair.unscored else ""
        yield f"Agreement of {' and '.join(pair.judges)}: Cohen's κ {kappa}, same verdict on {same} of n = {pair.n}{unscored}"


def _interval(rate: dict[str, Any]) -> str:
    if rate.get("value") is None:
        return "–"
    return f"{rate['value']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]"


def _rate(key: str) -> Cell:
    return lambda result, unedited: _interval(result.values[key]) if key in result.values else ""


def _number(key: str) -> Cell:
    return lambda result, unedited: f"{result.values[key]:.2f}" if key in result.values else ""


def _uncounted(result: TaskResult, unedited: TaskResult | None) -> str:
    values = result.values
    if not (values["degenerate"] or values["unscored"]):
        return ""
    return f"{values['degenerate']} + {values['unscored']} of {values['attempts']}"


def _unscored(key: str) -> Cell:
    def cell(result: TaskResult, unedited: TaskResult | None) -> str:
        number = result.values[key].get("unscored", 0)
        return f"{number} of {result.values['attempts']}" if number else ""

    return cell


def _change(result: TaskResult, unedited: TaskResult | None) -> str:
    versus = result.values.get(VERSUS)
    if not versus or versus["mean"] is None:
        return ""
    p = versus.get("p_holm", versus["p"])
    return f"{versus['mean']:+.2f} " + ("p<0.001" if p < 0.001 else f"p={p:.3f}")


def _alone(result: TaskResult, unedited: TaskResult | None) -> str:
    return short(result.values.get(ALONE))


def _change_interval(result: TaskResult, unedited: TaskResult | None) -> str:
    versus = result.values.get(VERSUS)
    return f"[{versus['low']:+.2f}, {versus['high']:+.2f}]" if versus else ""


def _delta(result: TaskResult, unedited: TaskResult | None) -> str:
    value = result.values.get("value")
    if value is None:
        return "–"
    if unedited is None or unedited.values.get("value") is None:
        return f"{value:.3f}"
    return f"{value:.3f} ({value - unedited.values['value']:+.3f})"


def sections(row: Row) -> list[Section]:
    """What a run's tables have, the other judges in the order in which they were asked."""
    uncounted = {"degenerate + unscored": _uncounted}
    others = [name for name in row.judges if name != HEADLINE]
    return [
        (
            "attacks: not refused & coherent",
            "attack",
            {"": _rate("not_refused_coherent"), **uncounted, "change, p": _change, "unfrozen attack": _alone},
        ),
        ("attacks: mean over attempts", "attack", {"": _rate("not_refused_coherent_mean")}),
        ("attacks: best suffix, template or language", "attack", {"": _number("not_refused_coherent_best_variant")}),
        ("attacks: best decoding setting", "attack", {"": _number("not_refused_coherent_best_setting")}),
        *(_judged(name, row.judges[name]["counts"]) for name in others),
        ("harmless prompts: refused", "harmless", {"": _rate("refused"), **uncounted, "change, p": _change}),
        ("utility", "utility", {"": _delta, "95 % of change": _change_interval}),
        ("measures (perplexity, KL in nats)", "measure", {"": _delta}),
    ]


def _judged(name: str, counts: str) -> Section:
    title = counts if name in counts else f"{counts} ({name})"
    return f"attacks: {title}", "attack", {"": _rate(f"judge_{name}"), "unscored": _unscored(f"judge_{name}")}
