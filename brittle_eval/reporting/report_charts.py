"""The charts of a report: the brittleness curve, a sweep's grid, the Pareto plot, and where regions lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from brittle_eval.reporting import measured
from brittle_eval.reporting.charts import Axis, Chart, Drawing, Heat, Mark, Point, Series, toned
from brittle_eval.reporting.report_source import Cell, Source
from brittle_eval.running.record import Row

ANSWERED = "answered harmful prompts"
SHARE = "edited share of the block weights"
Value = Callable[[Row], float | None]


def curves(probe: Mapping[str, Any]) -> list[Drawing]:
    """Rates over the sizes of nested regions with their controls, B50 marked; the same of the utility change."""
    points: Mapping[str, Sequence[Mapping[str, Any]]] = probe.get("points") or {}
    known = {name: found for name, of in points.items() if (found := [one for one in of if one.get("share")])}
    if not known:
        return []
    title = SHARE.replace("block weights", "ranks") if probe.get("unit") == "ranks" else SHARE
    x = _log_axis([one["share"] for of in known.values() for one in of], title, share=True)
    series = [_curve(name, of) for name, of in known.items()]
    b50 = probe.get("b50") or {}
    at = f"B50: {b50['share'] * 100:.3g} %" if b50.get("share") else ""
    low, high = b50.get("low"), b50.get("high")
    marks = [Mark("y", 0.5, "one half"), *([Mark("x", b50["share"], at, low, x.high if high is None else high)] if at else [])]
    told = (
        f" The smallest region that answers more than half is {at.removeprefix('B50: ')}." if at else " No size is marked as B50."
    )
    first = Chart(
        "brittleness-curve",
        "Brittleness curve",
        "Share of harmful prompts answered coherently and without refusing, by the size of the edited region, with its 95 % "
        "intervals and controls of the same size. B50 is the first size at which more than half are while utility holds.",
        f"Lines over the size of the region. {_ranges(series)}{told}",
        x,
        Axis(ANSWERED, 0, 1),
        series,
        marks,
    )
    return [first, *_utility_curve(known, x, float(probe.get("epsilon") or 0))]


def _curve(name: str, of: Sequence[Mapping[str, Any]]) -> Series:
    placed = [
        Point(
            one["share"], one["rate"], one.get("low"), one.get("high"), "" if one.get("allowed", True) else "at too high a cost"
        )
        for one in of
        if one.get("rate") is not None
    ]
    return Series(name, toned("edited" if name == "edited" else "control", name), placed)


def _utility_curve(known: Mapping[str, Sequence[Mapping[str, Any]]], x: Axis, epsilon: float) -> Iterator[Drawing]:
    """The paired change of utility by size, with the fall that B50 allows."""
    series = []
    for name, of in known.items():
        changes = [(one["share"], one["utility"]) for one in of if isinstance(one.get("utility"), Mapping)]
        placed = [Point(x, own["mean"], own.get("low"), own.get("high")) for x, own in changes if own.get("mean") is not None]
        if placed:
            series.append(Series(name, toned("edited" if name == "edited" else "control", name), placed))
    if series:
        ends = [
            value for one in series for point in one.points for value in (point.low, point.y, point.high) if value is not None
        ]
        caption = (
            "Change of utility from the unedited model on the same items, by size; the dashed line is the fall that B50 allows."
        )
        yield Chart(
            "utility-curve",
            "Utility by size",
            caption,
            f"Lines over the size of the region. {_ranges(series)}",
            x,
            _padded("change of utility", [*ends, 0.0, -epsilon]),
            series,
            [Mark("y", -epsilon, f"−{epsilon:g}")],
        )


def sweep_charts(cells: Sequence[Cell]) -> list[Drawing]:
    """Over two options that vary a heat map of answered prompts and one of the divergence; over one a curve. For each plan."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if any(row.kind == "edited" for row in cell.rows):
            groups.setdefault(_name(cell), []).append(cell)
    return [drawing for number, (name, own) in enumerate(groups.items(), 1) for drawing in _grid(name, own, f"-{number}")]


def _name(cell: Cell) -> str:
    """A plan and model without the options that the grid gives."""
    plan = cell.recipe.partition(":")[0]
    return f"{plan} of {cell.model}" if cell.model else plan


def _grid(name: str, cells: Sequence[Cell], suffix: str) -> Iterator[Drawing]:
    keys = dict.fromkeys(key for cell in cells for key in cell.options)
    values = {key: sorted({_value(cell, key) for cell in cells}, key=_order) for key in keys}
    vary = sorted((key for key, own in values.items() if len(own) > 1), key=lambda key: -len(values[key]))
    tasks = measured.attacks([row for cell in cells for row in cell.rows])
    if len(vary) == 1 and tasks:
        yield from _line(name, cells, vary[0], tasks[0], suffix)
    elif len(vary) > 1:
        down, across = vary[:2]
        averaged = [*vary[2:], *(["seed"] if len({cell.seed for cell in cells}) > 1 else [])]
        over = f", the mean over {', '.join(averaged)}" if averaged else ""
        for key, title, value in _shown(tasks[:1]):
            found = [[_mean(value, cells, {down: one, across: two}) for two in values[across]] for one in values[down]]
            known = [one for line in found for one in line if one is not None]
            if known:
                told = f"Grid of {title} from {min(known):.3g} to {max(known):.3g}{over}."
                caption = f"{title[:1].upper()}{title[1:]} over the grid of {name}{over}; empty cells have no result."
                top, at = (max(known) if key == "divergence" else 1.0), (down, across, values[down], values[across])
                yield Heat(f"grid-{key}{suffix}", f"{name}: {title}", caption, told, *at, found, top, title)


def _shown(attack: Sequence[str]) -> list[tuple[str, str, Value]]:
    """What is drawn over a grid: a key, a title, and the number of a row."""

    def share(row: Row) -> float | None:
        found = measured.answered(row, attack[0])
        return found.k / found.n if found else None

    likelihood = ("divergence", "KL from the unedited model (nats)", measured.divergence)
    own: list[tuple[str, str, Value]] = [("answered", ANSWERED, share)] if attack else []
    return [*own, likelihood, ("utility", "utility", measured.utility)]


def _value(cell: Cell, key: str) -> str:
    return str(cell.options.get(key, "–"))


def _order(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text


def _mean(value: Value, cells: Sequence[Cell], where: Mapping[str, str]) -> float | None:
    """Over the edited rows of the cells with these options."""
    own = [cell for cell in cells if all(_value(cell, key) == text for key, text in where.items())]
    found = [one for cell in own for row in cell.rows if row.kind == "edited" and (one := value(row)) is not None]
    return sum(found) / len(found) if found else None


def _line(name: str, cells: Sequence[Cell], key: str, task: str, suffix: str) -> Iterator[Drawing]:
    """Answered prompts over one option, edits and controls, with the interval of each."""
    series: dict[str, list[Point]] = {}
    for cell in cells:
        place = _order(_value(cell, key))[0]
        for row in cell.rows:
            found = measured.answered(row, task)
            if row.kind != "unedited" and found and place != float("inf"):
                shown = "edited" if row.kind == "edited" else row.name.removeprefix(f"{row.folder}.")
                series.setdefault(shown, []).append(Point(place, found.k / found.n, found.low, found.high))
    drawn = [
        Series(one, toned("edited" if one == "edited" else "control", one), sorted(own, key=lambda p: p.x))
        for one, own in series.items()
    ]
    if drawn and len({point.x for one in drawn for point in one.points}) > 1:
        places = [point.x for one in drawn for point in one.points]
        wide = min(places) > 0 and max(places) / min(places) > 10
        x = _log_axis(places, key) if wide else _padded(key, places)
        caption = f"Harmful prompts of {task} answered coherently and without refusing, over {key} of {name}."
        told = f"Lines over {key}. {_ranges(drawn)}"
        yield Chart(f"curve{suffix}", f"{name} over {key}", caption, told, x, Axis(ANSWERED, 0, 1), drawn)


def pareto(source: Source, task: str) -> list[Drawing]:
    """Answered prompts against what they cost: divergence, and the fall of utility."""

    def fall(row: Row) -> float | None:
        base = source.before(row)
        before, after = measured.utility(base) if base else None, measured.utility(row)
        return None if before is None or after is None else before - after

    costs: list[tuple[str, str, Value]] = [("kl", "KL from the unedited model (nats)", measured.divergence)]
    costs += [("utility", "fall of utility", fall)]
    return [drawing for key, title, cost in costs for drawing in _pareto(source.rows, task, key, title, cost)]


def _pareto(rows: Sequence[Row], task: str, key: str, title: str, cost: Value) -> Iterator[Drawing]:
    placed = [(row, at, rate) for row in rows if (at := cost(row)) is not None and (rate := measured.answered(row, task))]
    if len(placed) < 2:
        return
    best = front([(at, rate.k / rate.n) for _, at, rate in placed])
    groups: dict[str, list[Point]] = {}
    for row, at, rate in placed:
        groups.setdefault(_group(row), []).append(Point(at, rate.k / rate.n, rate.low, rate.high, row.name))
    tones = {_group(row): toned(row.kind, row.name) for row, _, _ in placed}
    drawn = [Series(name, tones[name], points, line=False) for name, points in groups.items()]
    corners = [corner for one, two in pairwise(best) for corner in (one, (two[0], one[1]))]
    line = Series("Pareto front", "other", [Point(*place) for place in [*corners, best[-1]]], dots=False)
    edge = [line] if corners else []
    names = [row.name for row, at, rate in placed if (at, rate.k / rate.n) in best]
    told = f"Scatter of {len(placed)} models. On the Pareto front: {', '.join(dict.fromkeys(names))}."
    caption = (
        f"Harmful prompts of {task} answered coherently and without refusing, against {title}. On the front no other model "
        "answers more at a lower cost."
    )
    x = _padded(title, [at for _, at, _ in placed])
    yield Chart(
        f"pareto-{key}", f"Answered against {title.partition(' (')[0]}", caption, told, x, Axis(ANSWERED, 0, 1), [*drawn, *edge]
    )


def front(places: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Places (cost, gain) that no other one beats in one of the two without losing in the other, by rising cost."""
    best: list[tuple[float, float]] = []
    for cost, gain in sorted(set(places), key=lambda place: (place[0], -place[1])):
        if not best or gain > best[-1][1]:
            best.append((cost, gain))
    return best


def _group(row: Row) -> str:
    return row.kind if row.kind != "control" else f"{toned(row.kind, row.name)} control"


def _log_axis(values: Sequence[float], title: str, share: bool = False) -> Axis:
    return Axis(title, min(values) / 1.3, max(values) * 1.3, log=True, share=share)


def _padded(title: str, values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or max(abs(high), 1.0) * 0.06
    return Axis(title, low - room, high + room)


def _ranges(series: Sequence[Series]) -> str:
    """Each series from its first to its last point."""
    told = [f"{one.name} goes from {one.points[0].y:.2f} to {one.points[-1].y:.2f}" for one in series if one.points]
    return f"From the first to the last, {', '.join(told)}." if told else ""
