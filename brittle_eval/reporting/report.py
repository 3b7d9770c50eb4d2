"""A run, a sweep, a probe or a landscape as one HTML file that asks no network and holds no generated text unless asked."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from brittle_eval import __version__
from brittle_eval.errors import BrittleError
from brittle_eval.reporting import report_charts
from brittle_eval.reporting.charts import Chart, Drawing, Series, Table
from brittle_eval.reporting.figures import check_figures, write_figures
from brittle_eval.reporting.headline import headline
from brittle_eval.reporting.landscape_charts import landscape_charts
from brittle_eval.reporting.region_charts import Places, places
from brittle_eval.reporting.report_samples import Samples
from brittle_eval.reporting.report_source import Source, read_source
from brittle_eval.reporting.report_table import main_table
from brittle_eval.reporting.report_text import command, digests, limits
from brittle_eval.reporting.safety_chart import safety_chart
from brittle_eval.reporting.svg import SHAPES, svg
from brittle_eval.reporting.training_charts import training_charts
from brittle_eval.reporting.visible import visible
from brittle_eval.running.record import Row, agreement_of, write_text
from brittle_eval.running.table import lines_of, notes, sections
from brittle_eval.trials import seeds

PAGE, PRIVATE = "report.html", "report-with-samples.html"
"""Names in the source's folder: a page with generated text is not taken for one without."""

POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'"
"""Nothing is fetched, and nothing runs but the style and the script whose digests are added."""


@dataclass(frozen=True)
class Asked:
    """What the user asked for."""

    path: Path
    output: Path | None = None
    figures: Path | None = None
    with_samples: bool = False


def report(asked: Asked) -> list[Path]:
    """Write the page, and the figures if asked for; gives the files. BrittleError for what cannot be read or written."""
    if asked.figures is not None:
        check_figures(asked.figures)
    output = asked.output or asked.path / (PRIVATE if asked.with_samples else PAGE)
    if output.is_dir():
        raise BrittleError(f"--output {output}: expected a file, and this is a folder")
    source = read_source(asked.path)
    samples = Samples(source) if asked.with_samples else None
    drawn, where = drawings(source), places(source)
    page = _environment().get_template("report.html").generate(_content(source, drawn, where, samples))
    files = [write_text(output, page, private=asked.with_samples)]
    return files + (write_figures([*drawn, *where.maps, *where.agreement], asked.figures) if asked.figures is not None else [])


def drawings(source: Source) -> list[Drawing]:
    """The charts of the results, without those of regions."""
    drawn = report_charts.curves(source.probe) if source.probe is not None else []
    drawn += landscape_charts(source.landscape) if source.landscape is not None else []
    drawn += training_charts(source.rows)
    drawn += report_charts.sweep_charts(source.cells)
    if source.attack is None:
        return drawn
    return drawn + report_charts.pareto(source, source.attack) + safety_chart(source.rows, source.attack)


def _content(source: Source, drawn: Sequence[Drawing], where: Places, samples: Samples | None) -> Mapping[str, Any]:
    """What the template shows."""
    style, script = _asset("report.css"), _asset("report.js")
    return {
        "source": source,
        "models": list(dict.fromkeys(row.model for row in source.rows)),
        "headline": headline(source),
        "table": main_table(source),
        "numbers": _numbers(source),
        "notes": list(notes(source.rows)),
        "seeds": Table(seeds.HEAD, list(seeds.lines(seeds.summaries(source.rows)))),
        "seeds_legend": seeds.LEGEND,
        "drawings": drawn,
        "places": where,
        "agreement": agreement_of(source.rows),
        "judges": {name: judge for row in source.rows for name, judge in row.judges.items()},
        "failed": [cell for cell in source.cells if cell.status not in ("", "done")],
        "command": command(source),
        "config": json.dumps(source.config, indent=1, ensure_ascii=False),
        "digests": digests(source),
        "limits": limits(source),
        "samples": samples,
        "version": __version__,
        "style": style,
        "script": script,
        "policy": f"{POLICY}; style-src '{_hash(style)}'; script-src '{_hash(script)}'",
    }


def _numbers(source: Source) -> list[tuple[str, list[str], list[tuple[str, list[list[str]]]]]]:
    """Of each plan of a run the numbers that the terminal shows: its models, and the lines of each section."""
    if source.kind != "run":
        return []
    first, found = source.rows[0], []
    for recipe in dict.fromkeys(row.recipe for row in source.rows[1:]):
        rows: list[Row] = [first, *(row for row in source.rows[1:] if row.recipe == recipe)]
        shown = [(title, list(lines_of(rows, role, cells))) for title, role, cells in sections(first)]
        found.append((recipe, [row.name for row in rows], [(title, lines) for title, lines in shown if lines]))
    return found


def _environment() -> Environment:
    """Everything that is not marked as safe is escaped, and hidden characters are shown."""
    loader = PackageLoader("brittle_eval.reporting", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, finalize=visible, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"svg": svg, "legend": _legend}
    return environment


def _legend(drawing: Drawing) -> list[tuple[int, Series, str]]:
    """Every series with its number and marker; nothing for a heat map."""
    series = drawing.series if isinstance(drawing, Chart) else ()
    return [(number, one, SHAPES[one.tone] if one.dots else "") for number, one in enumerate(series)]


def _asset(name: str) -> Markup:
    return Markup(resources.files("brittle_eval.reporting").joinpath("templates", name).read_text(encoding="utf-8"))


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
