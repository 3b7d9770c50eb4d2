"""The main table of a report, a model a line: rates with intervals and degenerate answers, utility, perplexity, divergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from brittle_eval.listing import DIVERGENCE
from brittle_eval.reporting import measured
from brittle_eval.reporting.charts import Tone, toned
from brittle_eval.reporting.report_source import Source
from brittle_eval.reporting.svg import interval_bar
from brittle_eval.running.comparison import VERSUS
from brittle_eval.running.record import Role, Row, TaskResult
from brittle_eval.stats import Rate
from brittle_eval.trials.attack_alone import verdict


@dataclass(frozen=True)
class Column:
    """A task of the table, and what its number is."""

    task: str
    what: str


@dataclass(frozen=True)
class Cell:
    """A number, what stands below it in small letters, and its interval as a picture."""

    text: str = "–"
    notes: Sequence[str] = ()
    bar: Markup | None = None
    order: float | None = None


@dataclass(frozen=True)
class Line:
    """A model."""

    name: str
    kind: str
    tone: Tone
    note: str
    """What it is and how much was edited."""
    cells: Sequence[Cell]
    model: str = ""
    marks: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True)
class MainTable:
    """Columns in the order attacks, harmless, utility, measures."""

    columns: Sequence[Column]
    lines: Sequence[Line]


WHAT: Mapping[Role, str] = {
    "attack": "answered: not refused and coherent",
    "harmless": "refused",
    "utility": "score",
    "measure": "value",
}


def main_table(source: Source) -> MainTable:
    """Every row of the source; a task that a row lacks is a dash."""
    tasks = {task.task: task for role in WHAT for row in source.rows for task in measured.done(row, role)}
    columns = [Column(name, _what(task)) for name, task in tasks.items()]
    several = len({row.model for row in source.rows}) > 1, len({cell.seed for cell in source.cells}) > 1
    return MainTable(columns, [_line(source, row, columns, several) for row in source.rows])


def _what(task: TaskResult) -> str:
    """The number of a task; for a task without the headline's judge the first judge's."""
    if task.role == "attack" and measured.ANSWERED not in task.values:
        return _key(task).removeprefix("judge_")
    return str(task.values.get("metric", WHAT[task.role]))


def _key(task: TaskResult) -> str:
    known = [key for key in (measured.ANSWERED, "refused") if key in task.values]
    return next(iter([*known, *(key for key in task.values if key.startswith("judge_"))]), "value")


def _line(source: Source, row: Row, columns: Sequence[Column], several: tuple[bool, bool]) -> Line:
    before = source.before(row)
    tone = toned(row.kind, row.name)
    cells = [_cell(row, before, column.task, tone) for column in columns]
    kind = f"control of {row.recipe}, " if row.kind == "control" else ""
    seed = f"seed {source.seed(row)}" if several[1] else ""
    note = ", ".join(filter(None, [seed, "" if row.kind == "unedited" else kind + measured.size(row)]))
    cell = source.cell(row)
    marks = [f"{cell.status}: {cell.reason}"] if cell and cell.status not in ("", "done") else []
    marks += ["limited run"] if row.limited else []
    marks += [verdict(row).partition(":")[0]] if verdict(row) else []
    return Line(measured.short(row), row.kind, tone, note, cells, row.model if several[0] else "", marks)


def _cell(row: Row, before: Row | None, name: str, tone: Tone) -> Cell:
    task = next((task for task in row.tasks if task.task == name), None)
    if task is None or task.status != "done":
        return Cell("–", [task.reason] if task and task.reason else [])
    own = task.values.get(_key(task))
    notes = [*_change(task), *_uncounted(task)]
    if isinstance(own, dict):
        found = measured.rate(own)
        return _rate(found, notes, tone) if found else Cell()
    return _plain(task, before, own, notes, tone) if own is not None else Cell("not a number")


def _rate(found: Rate, notes: Sequence[str], tone: Tone) -> Cell:
    value = found.k / found.n
    counts = f"[{found.low:.2f}, {found.high:.2f}] of {found.n}"
    return Cell(f"{value:.2f}", [counts, *notes], interval_bar(value, found.low, found.high, tone), value)


def _plain(task: TaskResult, before: Row | None, own: float, notes: Sequence[str], tone: Tone) -> Cell:
    low, high = task.values.get("low"), task.values.get("high")
    known = isinstance(low, int | float) and isinstance(high, int | float)
    bar = interval_bar(own, float(low or 0), float(high or 0), tone) if known else None
    interval = [f"[{low:.3f}, {high:.3f}]"] if known else []
    old = measured.measure(before, task.task) if before else None
    change = (
        [f"{own - old:+.3g} from unedited"]
        if old is not None and VERSUS not in task.values and own != old and task.task != DIVERGENCE
        else []
    )
    return Cell(f"{own:.3f}" if known else f"{own:.2f}", [*interval, *notes, *change], bar, float(own))


def _change(task: TaskResult) -> list[str]:
    """The paired difference from the unedited model, and its p."""
    found = task.values.get(VERSUS)
    if not found or found.get("mean") is None:
        return []
    p = found.get("p_holm", found.get("p"))
    tested = "" if p is None else ", p < 0.001" if p < 0.001 else f", p = {p:.3f}"
    return [f"change {found['mean']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]{tested}"]


def _uncounted(task: TaskResult) -> list[str]:
    """Degenerate and unscored answers."""
    attempts = task.values.get("attempts")
    counts = [(task.values.get(key), word) for key, word in (("degenerate", "degenerate"), ("unscored", "unscored"))]
    return [f"{number} of {attempts} {word}" for number, word in counts if number]
