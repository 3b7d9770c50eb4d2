"""The charts of trainings: what an attack reaches by the share that is held, and what a model is after so many steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from brittle_eval.reporting.charts import Axis, Chart, Drawing, Point, Series, Tone, toned
from brittle_eval.reporting.report_charts import ANSWERED
from brittle_eval.running.record import Row
from brittle_eval.trials.attack_alone import verdicts
from brittle_eval.trials.course import Course, courses
from brittle_eval.trials.freezing import LEGEND, NOTHING, REGION, Freezing, freezing

TONES: dict[str, Tone] = {"attack": "edited", "over-refusal": "random", "utility": "magnitude"}


def training_charts(rows: Sequence[Row]) -> list[Drawing]:
    """Freezing curves and courses; nothing for rows without trainings."""
    warning = " ".join(f"{line}." for line in verdicts(rows))
    several = [one for one in freezing(rows) if len({spot.of_block_linears for spot in one.spots}) > 1]
    frozen = [_frozen(one, number, warning) for number, one in enumerate(several, 1)]
    return [*frozen, *(chart for number, one in enumerate(courses(rows), 1) for chart in _course(one, number))]


def _frozen(found: Freezing, number: int, warning: str) -> Drawing:
    series = []
    for n in found.numbers:
        own = [spot for spot in found.spots if spot.n == n]
        for what in dict.fromkeys(spot.what for spot in own if spot.what != NOTHING):
            spots = sorted((spot for spot in own if spot.what in (what, NOTHING)), key=lambda spot: spot.of_block_linears)
            points = [Point(spot.of_block_linears, spot.rate, spot.low, spot.high, spot.text) for spot in spots]
            tone = toned("edited" if what == REGION else "control", f".{what}")
            series.append(Series(f"n = {n}, {what}", tone, points))
    told = ", ".join(f"{one.name} from {one.points[0].y:.2f} to {one.points[-1].y:.2f}" for one in series)
    legend = LEGEND.format(task=found.task)
    caption = f"{legend[:1].upper()}{legend[1:]}, by the share of the block linears that {found.title} holds. {warning}".strip()
    x = Axis("share of the block linears that is held", 0, max(spot.of_block_linears for spot in found.spots) * 1.05, share=True)
    title = f"{found.title}: what the attack still reaches"
    return Chart(f"freezing-{number}", title, caption, f"Lines over the share held: {told}.", x, Axis(ANSWERED, 0, 1), series)


def _course(found: Course, number: int) -> Iterator[Drawing]:
    x = Axis("steps of the training", 0, max(one.step for one in found.steps))
    names = dict.fromkeys(name for one in found.steps for name, value in one.values.items() if value is not None)
    shares = [name for name in names if name != "KL"]
    charts = [
        ("rates", shares, "share", 1.0),
        ("kl", [name for name in names if name == "KL"], "KL from the unedited model (nats)", 0.0),
    ]
    for key, kept, title, top in charts:
        series = [Series(name, TONES.get(name, "other"), _points(found, name)) for name in kept]
        if not series:
            continue
        told = ", ".join(f"{one.name} from {one.points[0].y:.2f} to {one.points[-1].y:.2f}" for one in series)
        y = Axis(title, 0, top or max(max(point.y for one in series for point in one.points) * 1.06, 1e-3))
        caption = f"{found.plan} after so many steps, the mean over its seeds; step 0 is the unedited model."
        yield Chart(f"course-{key}-{number}", f"{found.plan} over its steps", caption, f"Lines over steps: {told}.", x, y, series)


def _points(found: Course, name: str) -> list[Point]:
    return [Point(one.step, value) for one in found.steps if (value := one.values[name]) is not None]
