"""Charts as data: what is drawn on a page or for paper, with its text alternative and its table of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Tone = Literal["unedited", "edited", "random", "magnitude", "other"]
"""What a series is; its colour, its marker and its dashes follow."""


@dataclass(frozen=True)
class Axis:
    """A title and a range; `share` is written in percent, although it is a fraction."""

    title: str
    low: float
    high: float
    log: bool = False
    share: bool = False


@dataclass(frozen=True)
class Point:
    """A place with the interval of its y."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one name, in the order of x where they are joined by a `line`; without `dots` they are the line only."""

    name: str
    tone: Tone
    points: Sequence[Point]
    line: bool = True
    dots: bool = True


@dataclass(frozen=True)
class Mark:
    """A line across the chart at a value of one axis, with what it means and perhaps its interval."""

    axis: Literal["x", "y"]
    at: float
    text: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Table:
    """Numbers as text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Chart:
    """Series over two axes. `key` names files; `alternative` says in words what one sees."""

    key: str
    title: str
    caption: str
    alternative: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    marks: Sequence[Mark] = ()

    def table(self) -> Table:
        """Every point."""
        head = ["series", "point", self.x.title, self.y.title, "95 % interval"]
        rows = [
            [one.name, point.label, number(point.x, self.x.share), number(point.y, self.y.share), _interval(point)]
            for one in self.series
            if one.dots
            for point in one.points
        ]
        kept = [place for place in range(len(head)) if place in (2, 3) or any(row[place] for row in rows)]
        return Table([head[place] for place in kept], [[row[place] for place in kept] for row in rows])


@dataclass(frozen=True)
class Heat:
    """A value in every cell of rows and columns; None is a cell without one. `top` is the value of the strongest colour."""

    key: str
    title: str
    caption: str
    alternative: str
    row_title: str
    column_title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    top: float
    value_title: str
    share: bool = False

    def table(self) -> Table:
        """Every cell."""
        head = [f"{self.row_title} \\ {self.column_title}", *self.columns]
        rows = [
            [name, *("–" if value is None else number(value, self.share) for value in values)]
            for name, values in zip(self.rows, self.values, strict=True)
        ]
        return Table(head, rows)


Drawing = Chart | Heat


def number(value: float, share: bool = False) -> str:
    """Three significant digits; a share in percent."""
    if share:
        return f"{value * 100:.3g} %"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _interval(point: Point) -> str:
    return "" if point.low is None or point.high is None else f"[{point.low:.3g}, {point.high:.3g}]"


def toned(kind: str, name: str) -> Tone:
    """What a row's series is, by its kind and the name of a control."""
    if kind == "unedited":
        return "unedited"
    if kind == "edited":
        return "edited"
    return "magnitude" if name.rpartition(".")[2].startswith("magnitude") else "random"
