"""Compared regions on the terminal: a matrix, tables by block and kind of weight, and the stability of each group."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from brittle_eval.comparing.compare import Agreement, Comparison, Spread, spread, spreads
from brittle_eval.comparing.overlaps import Overlap
from brittle_eval.regions import Region
from brittle_eval.running.table import WIDTH

Item = TypeVar("Item")
ACROSS, RANGES = 6, 3
"""Columns side by side; more go into a further table."""
TITLES = {"block": "by block", "kind": "by kind of weight"}


def show(comparison: Comparison, console: Console | None = None) -> None:
    """Print the comparison; in brackets is what random regions with the same count in every weight would give."""
    console = console or Console(width=None if sys.stdout.isatty() else WIDTH)
    number = {region.label: str(place) for place, region in enumerate(comparison.regions, 1)}
    _print(console, "regions", _regions(comparison, number))
    measure = ", ".join(dict.fromkeys(pair.total.measure for pair in comparison.pairs))
    for across in batched(number.values()):
        _print(console, f"{measure} (in brackets: of random regions with the same counts)", _matrix(comparison, number, across))
    for name, keys in comparison.keys.items():
        for pairs in batched(comparison.pairs):
            _print(console, f"{measure} {TITLES[name]}", _by(pairs, keys, number))
        for groups in batched(comparison.groups().items(), RANGES):
            _print(console, f"stability {TITLES[name]}: mean [lowest, highest] over pairs", _stability(groups, keys))


def batched(items: Iterable[Item], size: int = ACROSS) -> Iterator[list[Item]]:
    """The items, as many at a time as fit side by side."""
    found = list(items)
    return (found[start : start + size] for start in range(0, len(found), size))


def _print(console: Console, title: str, table: Table) -> None:
    console.print(f"\n{title}", style="bold", highlight=False, markup=False)
    console.print(table)


def _table(first: str, columns: Sequence[str]) -> Table:
    table = Table(show_edge=False, pad_edge=False, box=SIMPLE_HEAD)
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _regions(comparison: Comparison, number: Mapping[str, str]) -> Table:
    table = _table("", [])
    table.add_column("region", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("plan", overflow="fold")
    for region in comparison.regions:
        plan = escape(str(region.header.get("plan", "–")))
        table.add_row(number[region.label], escape(region.label), _size(region.region), plan)
    return table


def _matrix(comparison: Comparison, number: Mapping[str, str], across: Sequence[str]) -> Table:
    table = _table("", across)
    cells = {frozenset((number[pair.a.label], number[pair.b.label])): overlap(pair.total) for pair in comparison.pairs}
    for place in number.values():
        table.add_row(place, *(cells.get(frozenset((place, other)), "·") for other in across))
    return table


def _by(pairs: Sequence[Agreement], keys: Mapping[str, str], number: Mapping[str, str]) -> Table:
    table = _table("", [f"{number[pair.a.label]}–{number[pair.b.label]}" for pair in pairs])
    parts = [pair.by(keys) for pair in pairs]
    for key in dict.fromkeys(keys.values()):
        table.add_row(key, *(overlap(part[key]) if key in part else "–" for part in parts))
    table.add_row("all", *(overlap(pair.total) for pair in pairs))
    return table


def _stability(groups: Sequence[tuple[str, list[Agreement]]], keys: Mapping[str, str]) -> Table:
    table = _table("", [escape(f"{name}: {len(pairs)} pair{'s' * (len(pairs) > 1)}") for name, pairs in groups])
    columns = [spreads(pairs, keys) | {"all": spread(pair.total for pair in pairs)} for _, pairs in groups]
    for key in columns[0]:
        table.add_row(key, *(_range(column[key]) for column in columns))
    return table


def overlap(found: Overlap) -> str:
    """`0.312 (0.026)`."""
    return "–" if found.value is None else f"{found.value:.3f} ({found.chance:.3f})"


def _range(found: Spread | None) -> str:
    return "–" if found is None else f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}] ({found.chance:.3f})"


def _size(region: Region) -> str:
    return f"{region.ranks:,} ranks" if region.ranks else f"{region.count:,}"
