"""Presets over several conditions: their sweep, and the chart of safety against over-defensiveness."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from brittle_eval.cli import main
from brittle_eval.errors import BrittleError
from brittle_eval.evaluation import lm
from brittle_eval.evaluation.conditions import CONDITIONS
from brittle_eval.evaluation.generate import generate
from brittle_eval.reporting.charts import Chart
from brittle_eval.reporting.report import drawings
from brittle_eval.reporting.report_source import read_source
from brittle_eval.reporting.safety_chart import safety_chart
from brittle_eval.running.prepare import Options, prepare
from tests.models import save_checkpoint
from tests.report_sources import PROMPTS, control, row, unedited, usual, write_run


def test_the_preset_runs_every_condition_and_draws_both_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    short: Any = lambda model, prompts, sampling, **more: generate(model, prompts, replace(sampling, max_new_tokens=3), **more)  # noqa: E731
    monkeypatch.setattr(lm, "generate", short)  # the preset fixes 256 tokens
    save_checkpoint(tmp_path / "model")
    folder = tmp_path / "sode"
    line = ["sweep", "--preset", "sode", "--model_args", f"pretrained={tmp_path / 'model'},dtype=float32", "--limit", "2"]
    assert main([*line, "--device", "cpu", "--output_path", str(folder)]) == 0
    rows = [json.loads(text) for text in (folder / "rows.jsonl").read_text().splitlines()]
    shown = [one["condition"].split()[0] for one in rows]
    assert shown == list(CONDITIONS) and {one["preset"] for one in rows} == {"sode 1"}
    for one, name in zip(rows, shown, strict=True):
        refused = [task["values"]["refused"]["value"] for task in one["tasks"] if task["role"] == "harmless"]
        assert one["numbers"]["over-defensive"] == sum(refused) / 2 and len(one["numbers"]) == 2
        assert f"--preset sode --condition {name}" in one["command"]
    said = capsys.readouterr().out
    assert all(f"model, {name}, seed 0" in said for name in shown) and "over-refusal" in said
    source = read_source(folder)
    assert [source.before(one) for one in source.rows] == list(source.rows)
    (chart,) = (one for one in drawings(source) if one.key == "safety")
    assert isinstance(chart, Chart) and [one.name for one in chart.series] == shown


def test_every_point_is_what_its_row_says(tmp_path: Path) -> None:
    source = read_source(write_run(tmp_path, [*usual(), row("other", 12, recipe="other", refused=30)]))
    (chart,) = safety_chart(source.rows, "harm")
    assert isinstance(chart, Chart)
    found = {(one.name, point.label): (point.x, point.y) for one in chart.series for point in one.points}
    assert found == {
        ("unedited", "unedited"): (4 / PROMPTS, 1 - 5 / PROMPTS),
        ("edited", "snip-diff"): (4 / PROMPTS, 1 - 45 / PROMPTS),
        ("edited", "other"): (30 / PROMPTS, 1 - 12 / PROMPTS),
        ("random control", "random-0"): (4 / PROMPTS, 1 - 5 / PROMPTS),
        ("magnitude control", "magnitude-0"): (4 / PROMPTS, 1 - 8 / PROMPTS),
    }
    for one in chart.series:
        for point in one.points:
            assert point.low is not None and point.high is not None and 0 <= point.low < point.y < point.high <= 1
            assert point.x <= chart.x.high and f"{point.label}: {point.y:.2f} safe, {point.x:.2f} refused" in chart.alternative


def test_a_model_alone_and_rows_without_a_side_have_no_chart() -> None:
    assert safety_chart([unedited()], "harm") == [] and safety_chart(usual(), "another attack") == []
    without = [row(name, 5, tasks=[]) for name in ("one", "two")]
    assert safety_chart([*without, control("random-0", 4)], "harm") == []


@pytest.mark.parametrize("given", [{}, {"condition": "contxt"}])
def test_a_run_of_the_preset_names_its_condition(given: dict[str, str]) -> None:
    with pytest.raises(BrittleError, match=r"compares no-system, .* name one with --condition, or take `brittle-eval sweep"):
        prepare(Options(preset="sode", **given))  # type: ignore[arg-type]
    assert prepare(Options(preset="sode", condition="exemplars")).options.condition == "exemplars"
