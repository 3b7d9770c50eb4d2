"""Charts as SVG within the page: colours by class, for the style sheet to say; every mark can be focused and read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from brittle_eval.reporting.charts import Axis, Chart, Drawing, Heat, Mark, Point, Series, Tone, number
from brittle_eval.reporting.visible import visible

WIDTH, HEIGHT = 680, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 14, 46
SHAPES: dict[Tone, str] = {
    "unedited": "M-4.5-4.5h9v9h-9z",
    "edited": "M5 0A5 5 0 1 1-5 0A5 5 0 1 1 5 0z",
    "random": "M0-5.5L5.2 4H-5.2z",
    "magnitude": "M0-6L6 0L0 6L-6 0z",
    "other": "M-5-1.7h3.3v-3.3h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3z",
}
Scale = Callable[[float], float]


def svg(drawing: Drawing) -> Markup:
    """The whole element; text goes through escaping."""
    return _heat(drawing) if isinstance(drawing, Heat) else _chart(drawing)


def _frame(drawing: Drawing, width: float, height: float, content: Iterable[Markup], columns: int = 1) -> Markup:
    start = Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="group" aria-roledescription="chart" aria-label="{}" data-columns="{}">'
    )
    return (
        start.format(round(width), round(height), visible(drawing.alternative), columns)
        + Markup("\n").join(content)
        + Markup("</svg>")
    )


def _text(x: float, y: float, text: str, kind: str = "", turn: bool = False) -> Markup:
    turned = Markup(' transform="rotate(-90 {:.1f} {:.1f})"').format(x, y) if turn else Markup("")
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}"{}>{}</text>').format(x, y, kind, turned, visible(text))


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(x1, y1, x2, y2, kind)


def scaled(axis: Axis, start: float, end: float) -> Scale:
    """From values of the axis to places between `start` and `end`; what lies outside is put on the edge."""
    turn: Scale = math.log10 if axis.log else float
    low, high = turn(axis.low), turn(axis.high)

    def place(value: float) -> float:
        share = (turn(min(max(value, axis.low), axis.high)) - low) / (high - low)
        return start + share * (end - start)

    return place


def ticks(axis: Axis) -> list[float]:
    """Round values within the axis: about five, or the powers of ten of a logarithmic one, with 2 and 5 if those are few."""
    if not axis.log:
        rough = (axis.high - axis.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= rough * 0.8)
        return [round(n * step, 12) for n in range(math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9) + 1)]
    powers = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    steps = (1,) if len(powers) > 4 else (1, 2, 5) if len(powers) > 2 else (1, 2, 3, 5, 7)
    every = [step * 10.0**power for power in powers for step in steps]
    return [value for value in every if axis.low * 0.999 <= value <= axis.high * 1.001]


@dataclass(frozen=True)
class _Plane:
    """The two scales of a chart."""

    chart: Chart
    x: Scale
    y: Scale

    def at(self, point: Point) -> tuple[float, float]:
        return self.x(point.x), self.y(point.y)


def _chart(chart: Chart) -> Markup:
    plane = _Plane(chart, scaled(chart.x, LEFT, WIDTH - RIGHT), scaled(chart.y, HEIGHT - BOTTOM, TOP))
    drawn = [part for index, one in enumerate(chart.series) for part in _series(plane, one, index)]
    return _frame(chart, WIDTH, HEIGHT, [*_axes(plane), *(part for mark in chart.marks for part in _mark(plane, mark)), *drawn])


def _axes(plane: _Plane) -> list[Markup]:
    chart, bottom, right = plane.chart, HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in ticks(chart.y):
        parts.append(_line(LEFT, plane.y(value), right, plane.y(value), "grid"))
        parts.append(_text(LEFT - 7, plane.y(value) + 4, number(value, chart.y.share), "tick end"))
    for value in ticks(chart.x):
        parts.append(_line(plane.x(value), bottom, plane.x(value), bottom + 5, "axis"))
        parts.append(_text(plane.x(value), bottom + 18, number(value, chart.x.share), "tick middle"))
    parts += [_line(LEFT, bottom, right, bottom, "axis"), _text((LEFT + right) / 2, HEIGHT - 8, chart.x.title, "title middle")]
    return [*parts, _text(14, (TOP + bottom) / 2, chart.y.title, "title middle", turn=True)]


def _mark(plane: _Plane, mark: Mark) -> list[Markup]:
    """A dashed line with its text, and a band where it has an interval."""
    scale, bottom, right = plane.x if mark.axis == "x" else plane.y, HEIGHT - BOTTOM, WIDTH - RIGHT
    parts, at = [], scale(mark.at)
    box = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="markband"/>')
    if mark.low is not None and mark.high is not None:
        first, last = sorted((scale(mark.low), scale(mark.high)))
        across = (first, TOP, last - first, bottom - TOP) if mark.axis == "x" else (LEFT, first, right - LEFT, last - first)
        parts.append(box.format(*across))
    if mark.axis == "x":
        late = at > (LEFT + right) / 2
        text = _text(at + (-5 if late else 5), TOP + 10, mark.text, "marktext end" if late else "marktext")
        return [*parts, _line(at, TOP, at, bottom, "mark"), text]
    return [*parts, _line(LEFT, at, right, at, "mark"), _text(right - 2, at - 5, mark.text, "marktext end")]


def _series(plane: _Plane, series: Series, index: int) -> list[Markup]:
    """A group that the legend's button hides: band, line, and a mark for every point."""
    parts = [Markup('<g class="series tone-{}" data-series="{}">').format(series.tone, index)]
    banded = [point for point in series.points if point.low is not None and point.high is not None]
    if series.line and len(banded) > 1:
        upper = [(plane.x(point.x), plane.y(point.high or 0.0)) for point in banded]
        lower = [(plane.x(point.x), plane.y(point.low or 0.0)) for point in reversed(banded)]
        parts.append(Markup('<polygon points="{}" class="band"/>').format(_joined([*upper, *lower])))
    if series.line and len(series.points) > 1:
        parts.append(Markup('<polyline points="{}" class="line"/>').format(_joined(map(plane.at, series.points))))
    parts += [_point(plane, series, point) for point in series.points if series.dots]
    return [*parts, Markup("</g>")]


def _point(plane: _Plane, series: Series, point: Point) -> Markup:
    x, y = plane.at(point)
    bars = Markup("")
    if not series.line and point.low is not None and point.high is not None:
        bars = _line(x, plane.y(point.low), x, plane.y(point.high), "bar")
    start = Markup('<g class="point" tabindex="-1" role="img" aria-label="{}">').format(visible(said(plane.chart, series, point)))
    shape = Markup('<path d="{}" transform="translate({:.1f} {:.1f})"/></g>').format(SHAPES[series.tone], x, y)
    return start + bars + shape


def said(chart: Chart, series: Series, point: Point) -> str:
    """A point in words, as it is read out and shown."""
    interval = "" if point.low is None or point.high is None else f" [{point.low:.3g}, {point.high:.3g}]"
    name = f"{series.name}, {point.label}" if point.label and point.label != series.name else series.name
    x, y = number(point.x, chart.x.share), number(point.y, chart.y.share)
    return f"{name}: {chart.x.title} {x}; {chart.y.title} {y}{interval}"


def _joined(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _heat(heat: Heat) -> Markup:
    left = 38 + 7 * max(map(len, heat.rows), default=1)
    wide, high = min(90.0, max(17.0, (WIDTH - left - RIGHT) / len(heat.columns))), 24.0
    written = wide >= 44
    width, bottom = max(float(WIDTH), left + wide * len(heat.columns) + RIGHT), TOP + high * len(heat.rows)
    parts = [_text(left - 7, TOP + high * (row + 0.5) + 4, name, "tick end") for row, name in enumerate(heat.rows)]
    every = max(1, math.ceil(7 * max(map(len, heat.columns), default=1) / wide))
    for column, name in enumerate(heat.columns):
        if column % every == 0:
            parts.append(_text(left + wide * (column + 0.5), bottom + 16, name, "tick middle"))
    for row, values in enumerate(heat.values):
        for column, value in enumerate(values):
            place = (left + wide * column, TOP + high * row, wide - 1, high - 1)
            parts.append(_cell(heat, row, column, value, place, written))
    parts.append(_text(left + wide * len(heat.columns) / 2, bottom + 36, heat.column_title, "title middle"))
    parts.append(_text(12, (TOP + bottom) / 2, heat.row_title, "title middle", turn=True))
    return _frame(heat, width, bottom + 44, parts, len(heat.columns))


def _cell(heat: Heat, row: int, column: int, value: float | None, place: Sequence[float], written: bool) -> Markup:
    strength = 0.0 if value is None or heat.top <= 0 else min(max(value / heat.top, 0.0), 1.0)
    shown = "–" if value is None else number(value, heat.share)
    where = f"{heat.row_title} {heat.rows[row]}, {heat.column_title} {heat.columns[column]}: {heat.value_title} {shown}"
    start = Markup('<g class="point" tabindex="-1" role="img" aria-label="{}">').format(visible(where))
    x, y, wide, high = place
    box = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="cell" fill-opacity="{:.3f}"/>')
    inside = _text(x + wide / 2, y + high / 2 + 4, shown, "value") if written else Markup("")
    ground = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="ground"/>').format(x, y, wide, high)
    return start + ground + box.format(x, y, wide, high, strength) + inside + Markup("</g>")


def interval_bar(value: float, low: float, high: float, tone: Tone) -> Markup:
    """A rate in a table's cell: its interval as a line over [0, 1] and its value as a marker; the numbers stand beside it."""
    start = Markup('<svg class="spark tone-{}" viewBox="0 0 100 14" aria-hidden="true">').format(tone)
    parts = [
        _line(4, 7, 96, 7, "rail"),
        _line(4 + 92 * low, 7, 4 + 92 * high, 7, "bar"),
        Markup('<path d="{}" transform="translate({:.1f} 7) scale(.8)"/>').format(SHAPES[tone], 4 + 92 * value),
    ]
    return start + Markup("").join(parts) + Markup("</svg>")
