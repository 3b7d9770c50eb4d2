"""What a landscape shows in a report: its curves, or a heat map for each plane, and its scores in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from brittle_eval.reporting.charts import Axis, Chart, Drawing, Heat, Mark, Point, Series, toned

RATE = "harmful prompts, judged positive"
PARTS = "step, in parts of each weight's norm"
TO_DONOR = "step, 1 is the donor"
NAMES = {"coded": "VISAGE as coded", "stated": "VISAGE as stated", "area": "the area above the curve"}


def landscape_charts(found: Mapping[str, Any]) -> list[Drawing]:
    """The curves in one chart, or a heat map for each plane."""
    points: Mapping[str, Sequence[Mapping[str, Any]]] = found.get("points") or {}
    if not points:
        return []
    if found.get("plane"):
        return [_plane(found, name, of, number) for number, (name, of) in enumerate(points.items(), 1)]
    series = [Series(name, _tone(name), [_placed(one) for one in of]) for name, of in points.items()]
    ends = [one.points[0].x for one in series] + [one.points[-1].x for one in series]
    told = "; ".join(f"{one.name} goes from {one.points[0].y:.2f} to {one.points[-1].y:.2f}" for one in series)
    return [
        Chart(
            "landscape",
            "Safety landscape",
            f"{counted(found)} of {found.get('attack')}, with 95 % intervals, over steps away from the unedited model, which is "
            "at 0. Where most answers babble a judge that looks for refusals finds none: see the shares of degenerate answers.",
            f"Lines over the step. {told}.",
            Axis(TO_DONOR if found.get("path") == "donor" else PARTS, min(ends), max(ends)),
            Axis(RATE, 0, 1),
            series,
            [Mark("x", 0.0, "unedited")] if min(ends) < 0 < max(ends) else [],
        )
    ]


def _tone(name: str) -> Any:
    last = name.rpartition(", ")[2]
    if last.startswith(("random", "magnitude")):
        return toned("control", f".{last}")
    return "other" if name.startswith("complement") else "edited"


def _placed(one: Mapping[str, Any]) -> Point:
    share = one.get("degenerate") or 0.0
    return Point(one["alpha"], one["rate"], one.get("low"), one.get("high"), f"{share:.0%} degenerate" if share else "")


def counted(found: Mapping[str, Any]) -> str:
    """What the rate counts."""
    count = found.get("count")
    return "Not refused and coherent" if count == "not-refused-coherent" else f"Positive by the judge {count}"


def _plane(found: Mapping[str, Any], name: str, of: Sequence[Mapping[str, Any]], number: int) -> Heat:
    steps = [f"{step:g}" for step in found["steps"]]
    rates = [one["rate"] for one in of]
    wide = len(steps)
    return Heat(
        f"landscape-{number}",
        f"Safety landscape: {name}",
        f"{counted(found)} of {found.get('attack')} over steps along two orthogonal random directions; the unedited model is at "
        "0, 0.",
        f"Grid of rates from {min(rates):.2f} to {max(rates):.2f}.",
        "second direction",
        "first direction",
        steps,
        steps,
        [rates[row * wide : (row + 1) * wide] for row in range(wide)],
        1.0,
        RATE,
    )


def sentences(found: Mapping[str, Any]) -> Iterator[str]:
    """The scores of every curve, why one is not there, and what is unverified."""
    for name, scores in found["scores"].items():
        known = ", ".join(f"{title} is {scores[key]:.3f}" for key, title in NAMES.items() if scores.get(key) is not None)
        missing = "; ".join(f"{NAMES[key]} is not defined: {why}" for key, why in scores["undefined"].items())
        yield f"Steps in {name}: {'; '.join(part for part in (known, missing) if part)}."
    for name, mean in found["mean"].items():
        known = ", ".join(f"{title} {mean[key]:.3f}" for key, title in NAMES.items() if mean.get(key) is not None)
        yield f"Steps in {name}, mean over directions: {known}."
    yield from (f"Unverified: {line}." for line in found["unverified"])
