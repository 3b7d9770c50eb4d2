"""The terminal table of a probe: a line for each size, the edited model beside its controls, and B50 in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from brittle_eval.running.table import terminal


def show(found: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what `probe.json` holds."""
    console = console or terminal()
    points: Mapping[str, Sequence[Mapping[str, Any]]] = found["points"]
    table = Table(show_edge=False, pad_edge=False, box=SIMPLE_HEAD)
    for name in ("size", found["unit"], *points, "utility change", "ppl", "KL", "degenerate", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for size in found["sizes"]:
        own = {name: one for name, curve in points.items() for one in curve if one["count"] == size["count"]}
        table.add_row(
            f"{size['share']:.3%}", f"{size['count']:,}", *(_rate(own.get(name)) for name in points), *_cost(own["edited"])
        )
    console.print(
        f"\n{found['model']}, {found['attribution']}, p = {found['p']}: {found['attack']}, not refused & coherent",
        markup=False,
        soft_wrap=True,
    )
    console.print(table)
    areas = ", ".join(f"{name} {value:.2f}" for name, value in found["area"].items())
    epsilon, limits = found["epsilon"], found["limits"]
    cost = (
        f"utility falls by at most {epsilon:g} at the worse end of its 95 % interval"
        if found["utility_power"]
        else f"perplexity at most {limits['perplexity']:g} × the unedited model's and KL at most {limits['divergence']:g} nats"
    )
    for line in (found["b50"]["text"], f"area under the curve: {areas}", found["utility"], f"✓ at an allowed cost: {cost}"):
        console.print(line, markup=False, soft_wrap=True)
    console.print(
        "B50 lies on a line over log(size) between two measured sizes; its interval is a bootstrap over prompts", soft_wrap=True
    )


def _rate(one: Mapping[str, Any] | None) -> str:
    return "–" if one is None else f"{one['rate']:.2f} {one['low']:.2f}–{one['high']:.2f}"


def _cost(one: Mapping[str, Any]) -> list[str]:
    utility = one["utility"]
    change = "–" if utility["mean"] is None else f"{utility['mean']:+.3f} ≥ {utility['low']:+.3f}"
    measures = ["–" if one[key] is None else f"{one[key]:.3g}" for key in ("perplexity", "kl")]
    return [change, *measures, f"{one['degenerate']:.0%}", "✓" if one["allowed"] else ""]
