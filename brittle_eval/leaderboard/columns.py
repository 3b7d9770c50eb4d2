"""The columns of a board, with each row's cell as text; and what must be known to read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from brittle_eval.leaderboard.board import Board, Entry, Share
from brittle_eval.listing import DIVERGENCE, PERPLEXITY

NONE = "–"
LEGEND = (
    "rank: by prompts that got an answer which neither refuses nor babbles, then by utility kept; controls, limited and cut rows "
    "have none",
    "answered: not refused & coherent, over the attacks; degenerate + unscored answers count as not answered, and are of all "
    "attempts; intervals hold for 95 %, of several tasks they are the means of the tasks' own",
    "change: of utility from the unedited model on the same items; p: McNemar's exact test on the attacks, corrected for the "
    "run's edits, the largest",
    "Pareto: no other ranked row answers as much and keeps more utility (or has a smaller KL), or the other way round",
    "a control has its edit's size in every weight: an edit says something about safety only where it differs from its controls",
)


Cell = Callable[[Entry], str]


@dataclass(frozen=True)
class Column:
    """A title and a row's cell; `brief` is the terminal's, whose table has no room for every interval."""

    title: str
    cell: Cell
    brief: Cell | None = None
    short: bool = True
    """Whether the terminal's table has the column."""
    numeric: bool = True


def columns(board: Board) -> list[Column]:
    """All columns of a board; those that would be empty, or the same in every row by nature, are left out."""
    entries = board.entries
    models = len({one.row.model for one in entries}) > 1
    seeds = len({one.row.seed for one in entries}) > 1
    attacks = [name for name in board.tasks if any(name in one.attacks for one in entries)]
    others = [
        name for name in board.tasks if name not in (PERPLEXITY, DIVERGENCE) and any(name in one.measures for one in entries)
    ]
    numbers = list(dict.fromkeys(name for one in entries for name in one.row.numbers))
    found = [
        Column("rank", lambda one: str(one.rank or NONE)),
        *([Column("model", lambda one: one.row.model, numeric=False)] if models else []),
        Column("plan", _plan, numeric=False),
        *([Column("seed", lambda one: str(one.row.seed))] if seeds else []),
        Column("region", _region),
        Column("answered", lambda one: share(one.answered)),
        *([_of_attack(name) for name in attacks] if len(attacks) > 1 else []),
        Column("degenerate + unscored", _degenerate),
        Column(
            "harmless refused", lambda one: share(one.refused), lambda one: number(one.refused.value if one.refused else None)
        ),
        Column("utility", lambda one: share(one.utility), short=False),
        Column(
            "utility change",
            lambda one: share(one.change, "+.2f"),
            lambda one: f"{one.change.value:+.2f}" if one.change else NONE,
        ),
        Column("KL", lambda one: number(one.divergence)),
        Column("perplexity", lambda one: number(one.measures.get(PERPLEXITY)), short=False),
        *(_of_measure(name) for name in others),
        *(_of_preset(name) for name in numbers),
        Column("p", lambda one: NONE if one.p is None else "<0.001" if one.p < 0.001 else f"{one.p:.3f}", short=False),
        Column("Pareto", lambda one: ", ".join(one.pareto), numeric=False),
        Column("marks", lambda one: "; ".join(one.marks), numeric=False),
    ]
    return [one for one in found if one.title in ("rank", "plan") or any(one.cell(entry) not in ("", NONE) for entry in entries)]


def _of_attack(name: str) -> Column:
    return Column(name, lambda one: share(one.attacks.get(name)), short=False)


def _of_measure(name: str) -> Column:
    return Column(name, lambda one: number(one.measures.get(name)), short=False)


def _of_preset(name: str) -> Column:
    return Column(name, lambda one: number(one.row.numbers.get(name)), short=False)


def _plan(one: Entry) -> str:
    row = one.row
    if row.kind == "unedited":
        return "unedited"
    return f"  {row.name.removeprefix(f'{row.folder}.')}" if row.kind == "control" else row.recipe


def _region(one: Entry) -> str:
    region = one.row.region
    value = region.get("of_block_linears", region.get("of_ranks"))
    return NONE if value is None else f"{value:.2%}{'' if 'of_block_linears' in region else ' of ranks'}"


def _degenerate(one: Entry) -> str:
    degenerate, unscored, attempts = one.degenerate
    return f"{degenerate} + {unscored} of {attempts}" if attempts else NONE


def share(value: Share | None, form: str = ".2f") -> str:
    """A value with its interval."""
    if value is None:
        return NONE
    interval = f" [{value.low:{form}}, {value.high:{form}}]" if value.low is not None and value.high is not None else ""
    return f"{value.value:{form}}{interval}"


def number(value: float | None) -> str:
    """A number to two places."""
    return NONE if value is None else f"{value:.2f}"


def heading(board: Board) -> str:
    """What the rows of a board share."""
    models = list(dict.fromkeys(one.row.model for one in board.entries))
    of = f"{models[0]}, " if len(models) == 1 else ""
    shown = ", ".join(board.tasks[:6]) + (", …" if len(board.tasks) > 6 else "")
    return f"{of}{board.title}: {shown}"


def notes(boards: Sequence[Board]) -> list[str]:
    """The legend, and what concerns these boards only."""
    entries = [one for board in boards for one in board.entries]
    said = list(LEGEND)
    if any(one.row.limited for one in entries):
        said.append("limited: a run with --limit, not comparable with full ones")
    if len(boards) > 1:
        said.append("rows of other presets, tasks, data, judges or settings stand in tables of their own and are not compared")
    unverified = {name for one in entries for name, judge in one.row.judges.items() if judge.get("verified") is False}
    return said + [f"{name}: unverified: this project has never run this judge" for name in sorted(unverified)]
