"""Compared regions as a picture: the overlap of every pair by block."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from brittle_eval.comparing.compare import EVERY, Agreement, Comparison, spreads
from brittle_eval.errors import BrittleError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")
MOST = 10
"""Pairs that are named in the legend."""
LONGEST = 32
"""Characters of a region's name in the legend: longer ones lose their start, or they would leave the axes no room."""


def check_plot(path: Path) -> None:
    """BrittleError where the picture could not be drawn, before there is work to lose."""
    if path.suffix not in FORMATS:
        raise BrittleError(f"--plot {path}: expected a file named {' or '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise BrittleError(f"--plot {path}: its folder does not exist; make it first")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise BrittleError("--plot needs matplotlib, which is not installed: pip install 'brittle-eval[plots]'") from None


def plot(comparison: Comparison, path: Path) -> None:
    """Draw the comparison into a file, .svg or .png."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "brittle-eval"}):
        draw(comparison).savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def draw(comparison: Comparison) -> Figure:
    """A line a pair over the blocks, dashed what chance gives it; with several pairs, the mean and the range of each group."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots()
    for pair in comparison.pairs:
        _line(axes, pair, comparison)
    for group, pairs in comparison.groups().items():
        if len(pairs) > 1:
            _band(axes, group, pairs, comparison)
    axes.set(xlabel="block", ylabel=comparison.pairs[0].total.measure, ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(title="dashed: random regions\nwith the same counts", fontsize="small", loc="outside right upper")
    return figure


def _line(axes: Axes, pair: Agreement, comparison: Comparison) -> None:
    found = [
        (int(key), one.value, one.chance)
        for key, one in pair.by(comparison.blocks).items()
        if key.isdecimal() and one.value is not None and one.chance is not None
    ]
    blocks = [block for block, _, _ in found]
    label = f"{_short(pair.a.label)} and {_short(pair.b.label)}" if len(comparison.pairs) <= MOST else None
    (line,) = axes.plot(blocks, [value for _, value, _ in found], marker=".", linewidth=1, label=label)
    axes.plot(blocks, [chance for _, _, chance in found], linestyle="--", linewidth=0.7, color=line.get_color())


def _band(axes: Axes, group: str, pairs: list[Agreement], comparison: Comparison) -> None:
    found = {int(key): one for key, one in spreads(pairs, comparison.blocks).items() if key.isdecimal() and one is not None}
    colour = "black" if group == EVERY else None
    label = f"{_short(group)}: mean and range of {len(pairs)} pairs"
    (line,) = axes.plot(list(found), [one.mean for one in found.values()], linewidth=2.5, color=colour, label=label)
    low, high = [one.low for one in found.values()], [one.high for one in found.values()]
    axes.fill_between(list(found), low, high, alpha=0.12, color=line.get_color())


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"
