"""The same charts for paper, through matplotlib: an SVG and a PNG each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from brittle_eval.errors import BrittleError
from brittle_eval.reporting.charts import Axis, Chart, Drawing, Heat, Series, Tone

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS: dict[Tone, tuple[str, str, str]] = {
    "unedited": ("#0072b2", "s", "-"),
    "edited": ("#d55e00", "o", "-"),
    "random": ("#6b6b6b", "^", "--"),
    "magnitude": ("#009e73", "D", ":"),
    "other": ("#aa4499", "P", "-."),
}
"""Colour (of Okabe and Ito's, which the colour-blind can tell apart), marker and dashes."""
DPI = 200


def check_figures(folder: Path) -> None:
    """BrittleError where figures could not be drawn, before there is work to lose."""
    if folder.exists() and not folder.is_dir():
        raise BrittleError(f"--figures {folder}: expected a folder, and this is a file")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise BrittleError("--figures needs matplotlib, which is not installed: pip install 'brittle-eval[plots]'") from None


def write_figures(drawings: Sequence[Drawing], folder: Path) -> list[Path]:
    """`KEY.svg` and `KEY.png` of each; BrittleError where they cannot be written."""
    from matplotlib import rc_context

    files: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with rc_context({"svg.hashsalt": "brittle-eval", "text.parse_math": False}):
            for drawing in drawings:
                figure = draw(drawing)
                for ending in ("svg", "png"):
                    files.append(folder / f"{drawing.key}.{ending}")
                    figure.savefig(files[-1], dpi=DPI, metadata={"Date": None} if ending == "svg" else None)
    except OSError as error:
        raise BrittleError(f"cannot write figures to {folder}: {error.strerror or error}; give another --figures") from None
    return files


def draw(drawing: Drawing) -> Figure:
    """One figure, without a title: the caption is the paper's."""
    from matplotlib.figure import Figure

    wide = max(6.4, 1.6 + 0.27 * len(drawing.columns)) if isinstance(drawing, Heat) else 6.4
    high = 1.2 + 0.3 * len(drawing.rows) if isinstance(drawing, Heat) else 3.8
    figure = Figure(figsize=(wide, high), layout="constrained")
    axes = figure.subplots()
    if isinstance(drawing, Heat):
        _heat(figure, axes, drawing)
    else:
        _chart(axes, drawing)
    return figure


def _chart(axes: Axes, chart: Chart) -> None:
    for mark in chart.marks:
        line, span = (axes.axvline, axes.axvspan) if mark.axis == "x" else (axes.axhline, axes.axhspan)
        line(mark.at, color="0.5", linestyle=(0, (2, 2)), linewidth=1, label=mark.text)
        if mark.low is not None and mark.high is not None:
            span(mark.low, mark.high, color="0.5", alpha=0.15, linewidth=0)
    for series in chart.series:
        _series(axes, series)
    _scale(axes, chart.x, "x")
    _scale(axes, chart.y, "y")
    axes.legend(fontsize="x-small", frameon=False)


def _series(axes: Axes, series: Series) -> None:
    colour, marker, dashes = LOOKS[series.tone]
    x, y = [point.x for point in series.points], [point.y for point in series.points]
    known = [point for point in series.points if point.low is not None and point.high is not None]
    low, high = [point.low or 0.0 for point in known], [point.high or 0.0 for point in known]
    (line,) = axes.plot(x, y, color=colour, linestyle=dashes if series.line else "none", markersize=4, label=series.name)
    line.set_marker(marker if series.dots else "")
    if series.line:
        axes.fill_between([point.x for point in known], low, high, color=colour, alpha=0.15, linewidth=0)
    else:
        axes.vlines([point.x for point in known], low, high, color=colour, linewidth=1)


def _scale(axes: Axes, axis: Axis, name: str) -> None:
    from matplotlib.ticker import FuncFormatter

    own = axes.xaxis if name == "x" else axes.yaxis
    axes.set(**{f"{name}label": axis.title, f"{name}scale": "log" if axis.log else "linear", f"{name}lim": (axis.low, axis.high)})
    if axis.share:
        own.set_major_formatter(FuncFormatter(lambda value, place: f"{value * 100:g} %"))


def _heat(figure: Figure, axes: Axes, heat: Heat) -> None:
    values = [[float("nan") if value is None else value for value in row] for row in heat.values]
    image = axes.imshow(values, aspect="auto", cmap="Oranges", vmin=0, vmax=heat.top or 1)
    every = max(1, len(heat.columns) // 30)
    axes.set_xticks(range(0, len(heat.columns), every), heat.columns[::every], fontsize="x-small")
    axes.set_yticks(range(len(heat.rows)), heat.rows, fontsize="x-small")
    axes.set(xlabel=heat.column_title, ylabel=heat.row_title)
    figure.colorbar(image, ax=axes, label=heat.value_title)
