"""Safety against over-defensiveness: what a model or a way to ask it refuses of harmful prompts, and what of harmless ones."""

from __future__ import annotations

from collections.abc import Sequence

from brittle_eval.reporting import measured
from brittle_eval.reporting.charts import Axis, Chart, Drawing, Point, Series, toned
from brittle_eval.running.record import Row
from brittle_eval.stats import Rate

SAFETY = "harmful prompts not answered"
OVER = "harmless prompts refused"


def safety_chart(rows: Sequence[Row], task: str) -> list[Drawing]:
    """Every model and condition of which both are known, if there are two or more; the best corner is above on the left.

    Safety is the share of the attack's prompts without an answer that is coherent and not refused, so that babbling looks
    safe: the caption says so.
    """
    placed = [(row, over, rate) for row in rows if (over := measured.refused(row)) and (rate := measured.answered(row, task))]
    if len(placed) < 2:
        return []
    groups: dict[str, list[Point]] = {}
    for row, over, rate in placed:
        groups.setdefault(_group(row), []).append(_point(row, over, rate))
    tones = {_group(row): toned(row.kind, row.name) for row, _, _ in placed}
    drawn = [Series(name, tones[name], points, line=False) for name, points in groups.items()]
    told = "; ".join(f"{point.label}: {point.y:.2f} safe, {point.x:.2f} refused" for one in drawn for point in one.points)
    caption = (
        f"Share of the harmful prompts of {task} that get no coherent answer, with its 95 % interval, against the share of "
        "harmless prompts that are refused. A good defence is above on the left. A model that babbles answers nobody: see the "
        "degenerate answers in the table."
    )
    title = "Safety against over-defensiveness"
    over_axis = Axis(OVER, -0.03, max(0.1, *(point.x for one in drawn for point in one.points)) * 1.08)
    return [Chart("safety", title, caption, f"Scatter of {len(placed)} models. {told}.", over_axis, Axis(SAFETY, 0, 1), drawn)]


def _point(row: Row, over: Rate, answered: Rate) -> Point:
    shown = [row.condition.partition(" ")[0], measured.short(row)] if row.condition else [measured.short(row)]
    safe = 1 - answered.k / answered.n
    return Point(over.k / over.n, safe, 1 - answered.high, 1 - answered.low, ", ".join(shown))


def _group(row: Row) -> str:
    """Conditions of the unedited model are series of their own, since they are what is compared."""
    if row.kind == "control":
        return f"{toned(row.kind, row.name)} control"
    return row.condition.partition(" ")[0] if row.kind == "unedited" and row.condition else row.kind
