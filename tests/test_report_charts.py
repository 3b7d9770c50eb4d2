"""What the charts of a report show, against the numbers that they are made of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import fmean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brittle_eval.regions import Projector, Region
from brittle_eval.reporting import measured
from brittle_eval.reporting.charts import Axis, Chart, Heat, Point, Series, number, toned
from brittle_eval.reporting.region_charts import places
from brittle_eval.reporting.report import drawings
from brittle_eval.reporting.report_charts import front
from brittle_eval.reporting.report_source import read_source
from brittle_eval.reporting.report_table import main_table
from brittle_eval.reporting.svg import scaled, svg, ticks
from brittle_eval.stats import holm
from brittle_eval.store import load_region, save_region
from tests.report_sources import KINDS, PLAN, control, row, unedited, usual, write_probe, write_region, write_run, write_sweep

PLACES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=20)


@given(PLACES)
def test_the_front_is_what_nothing_beats(found: list[tuple[int, int]]) -> None:
    def beaten(place: tuple[int, int]) -> bool:
        return any(one != place and one[0] <= place[0] and one[1] >= place[1] for one in found)

    assert front(found) == sorted({place for place in found if not beaten(place)})


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_ticks_of_a_linear_axis_are_round_and_within(low: float, size: float) -> None:
    axis = Axis("x", low, low + size)
    found = ticks(axis)
    assert 2 <= len(found) <= 11
    assert all(low - size * 1e-6 <= value <= low + size * (1 + 1e-6) for value in found)


@given(st.floats(1e-6, 1.0), st.floats(1.5, 1e4))
def test_ticks_of_a_logarithmic_axis(low: float, ratio: float) -> None:
    found = ticks(Axis("x", low, low * ratio, log=True))
    assert found == sorted(found) and all(low * 0.99 <= value <= low * ratio * 1.01 for value in found)
    assert len(found) >= 1 or ratio < 2


def test_scales_put_the_ends_on_the_ends() -> None:
    for axis in (Axis("x", 2, 10), Axis("x", 0.001, 0.1, log=True)):
        place = scaled(axis, 100, 300)
        assert (place(axis.low), place(axis.high)) == pytest.approx((100, 300))
        assert place(axis.low - 1e-4) == place(axis.low)
    assert scaled(Axis("x", 0.001, 0.1, log=True), 0, 2)(0.01) == pytest.approx(1)


def test_a_control_is_known_by_its_own_name_not_by_its_plans() -> None:
    names = ["magnitude+top+ablate_q=0.1.random-0", "snip-diff.magnitude-0", "random-0", "magnitude-1"]
    assert [toned("control", name) for name in names] == ["random", "magnitude", "random", "magnitude"]
    assert toned("edited", "magnitude+top") == "edited"


def test_numbers_as_people_write_them() -> None:
    assert [number(0.00246), number(0.00246, share=True), number(12345.6), number(0.5)] == ["0.00246", "0.246 %", "12,346", "0.5"]


def chart(drawn: list[Chart | Heat], key: str) -> Chart | Heat:
    (found,) = (one for one in drawn if one.key == key)
    return found


def test_the_curve_has_every_point_of_the_probe(tmp_path: Path) -> None:
    drawn = drawings(read_source(write_probe(tmp_path)))
    curve, probe = chart(drawn, "brittleness-curve"), json.loads((tmp_path / "probe.json").read_text())
    assert isinstance(curve, Chart)
    for series in curve.series:
        known = [(one["share"], one["rate"], one["low"], one["high"]) for one in probe["points"][series.name]]
        assert [(point.x, point.y, point.low, point.high) for point in series.points] == known
    assert {series.tone for series in curve.series} == {"edited", "random", "magnitude"}
    (half, b50) = curve.marks
    assert half.at == 0.5 and (b50.at, b50.low, b50.high) == tuple(probe["b50"][key] for key in ("share", "low", "high"))
    change = chart(drawn, "utility-curve")
    assert isinstance(change, Chart) and change.marks[0].at == -probe["epsilon"]
    assert len(curve.table().rows) == 18


def test_the_grid_of_a_sweep_has_the_rate_of_each_cell(tmp_path: Path) -> None:
    source = read_source(write_sweep(tmp_path))
    grid = chart(drawings(source), "grid-answered-1")
    assert isinstance(grid, Heat)
    assert (grid.row_title, list(grid.rows), grid.column_title, list(grid.columns)) == (
        "p",
        ["0.01", "0.02", "0.04"],
        "q",
        ["0.01", "0.02"],
    )
    for cell in source.cells[1:-1]:
        (edited,) = (one for one in cell.rows if one.kind == "edited")
        rate = measured.answered(edited, "harm")
        value = grid.values[grid.rows.index(str(cell.options["p"]))][grid.columns.index(str(cell.options["q"]))]
        assert rate is not None and value == rate.k / rate.n


def test_seeds_are_averaged(tmp_path: Path) -> None:
    source = read_source(write_sweep(tmp_path, seeds=(0, 1, 2)))
    grid = chart(drawings(source), "grid-answered-1")
    assert isinstance(grid, Heat) and "the mean over seed" in grid.caption
    for row_, line in zip(grid.rows, grid.values, strict=True):
        for column, value in zip(grid.columns, line, strict=True):
            own = [cell for cell in source.cells if cell.rows and cell.options == {"p": float(row_), "q": float(column)}]
            rates = [measured.answered(cell.rows[0], "harm") for cell in own]
            assert len(rates) == 3 and value == pytest.approx(fmean(rate.k / rate.n for rate in rates if rate))


def test_a_row_of_a_sweep_stands_beside_its_own_unedited_model_and_controls(tmp_path: Path) -> None:
    source = read_source(write_sweep(tmp_path, seeds=(0, 1)))
    for cell in source.cells:
        for one in cell.rows:
            assert source.cell(one) is cell and source.seed(one) == cell.seed
            before = source.before(one)
            assert before is not None and before.kind == "unedited" and source.seed(before) == cell.seed
            assert source.folder(one) == tmp_path / cell.run / one.name
        if cell.rows and cell.recipe != "none":
            assert source.controls(cell.rows[0]) == [cell.rows[1]]


def test_the_tests_of_a_sweep_are_corrected_for_all_its_edits(tmp_path: Path) -> None:
    found = [one.tasks[0].values["versus_unedited"] for one in read_source(write_sweep(tmp_path)).edits()]
    assert [one["p_holm"] for one in found] == pytest.approx(holm([one["p"] for one in found]))


def test_a_region_that_a_sweep_keeps_twice_is_one(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    file = write_region(tmp_path / "runs/0000/regions/a.safetensors", 0)
    (tmp_path / "runs/0001/regions").mkdir(parents=True)
    shutil.copy(file, tmp_path / "runs/0001/regions")
    write_region(tmp_path / "runs/0002/regions/b.safetensors", 1)
    assert [file.parts[-3] for file in read_source(tmp_path).regions] == ["0000", "0002"]


def test_a_sweep_over_one_option_is_a_curve_with_its_controls(tmp_path: Path) -> None:
    source = read_source(write_sweep(tmp_path, ps=(0.01,), qs=(0.01, 0.02, 0.05, 0.2)))
    curve = chart(drawings(source), "curve-1")
    assert isinstance(curve, Chart) and curve.x.log and curve.x.title == "q"
    assert {series.name: [point.x for point in series.points] for series in curve.series} == {
        "edited": [0.01, 0.02, 0.05, 0.2],
        "random-0": [0.01, 0.02, 0.05, 0.2],
    }


def test_the_map_of_a_region_counts_its_entries(tmp_path: Path) -> None:
    file = write_region(write_run(tmp_path) / "regions/a.safetensors", 0, blocks=(0, 2, 10))
    (found,) = places(read_source(tmp_path)).maps
    region = load_region(file)[0].masks()
    assert isinstance(found, Heat) and list(found.columns) == ["0", "2", "10"] and list(found.rows) == ["q_proj", "up_proj"]
    for kind, line in zip(KINDS, found.values, strict=True):
        for block, value in zip(found.columns, line, strict=True):
            assert value == pytest.approx(float(region[f"model.layers.{block}.{kind}.weight"].dense().float().mean()))
    assert found.title == "Where snip-diff lies" and found.top == max(value for line in found.values for value in line if value)


def test_the_map_of_ranks_counts_them(tmp_path: Path) -> None:
    basis = torch.linalg.qr(torch.randn(6, 2, generator=torch.Generator().manual_seed(0)))[0]
    region = Region({"model.layers.0.mlp.up_proj.weight": Projector.onto((6, 9), basis)})
    save_region(write_run(tmp_path) / "regions/a.safetensors", region, {"plan": PLAN, "fingerprint": "one"})
    (found,) = places(read_source(tmp_path)).maps
    assert isinstance(found, Heat) and found.values == [[2 / 6]] and "2 ranks" in found.caption


def test_regions_of_one_plan_have_a_stability_and_two_sides_an_overlap(tmp_path: Path) -> None:
    write_run(tmp_path)
    plans = ["wanda+top+ablate:q=0.1", "wanda+top+ablate:of=utility,q=0.1", "wanda+top+ablate:q=0.1"]
    files = [write_region(tmp_path / f"regions/{seed}.safetensors", seed, plan) for seed, plan in enumerate(plans)]
    found, regions = places(read_source(tmp_path)), [load_region(file)[0] for file in files]
    assert found.sides and found.pairs is not None and found.stability is not None
    assert [line[3].split()[0] for line in found.pairs.rows] == [
        f"{regions[a].iou(regions[b]):.3f}" for a, b in ((0, 1), (0, 2), (1, 2))
    ]
    ((plan, pairs, spread, _),) = found.stability.rows
    assert (plan, pairs) == (plans[0], "1") and spread.startswith(f"{regions[0].iou(regions[2]):.3f} ")
    assert len(found.agreement[0].table().rows) == 3


def test_regions_of_two_models_are_not_compared(tmp_path: Path) -> None:
    write_region(write_run(tmp_path) / "regions/a.safetensors", 0)
    region = load_region(tmp_path / "regions/a.safetensors")[0]
    save_region(tmp_path / "regions/b.safetensors", region, {"plan": "other", "fingerprint": "two"})
    found = places(read_source(tmp_path))
    assert len(found.maps) == 2 and found.pairs is None and found.stability is None


def test_the_table_has_every_row_and_task_in_order(tmp_path: Path) -> None:
    table = main_table(read_source(write_run(tmp_path)))
    assert [column.task for column in table.columns] == ["harm", "fine", "choice", "embedded_perplexity", "embedded_kl"]
    assert [line.name for line in table.lines] == ["unedited", "snip-diff", "random-0", "magnitude-0"]
    assert [line.cells[0].order for line in table.lines] == [5 / 64, 45 / 64, 5 / 64, 8 / 64]
    assert "10 of 64 degenerate" in table.lines[1].cells[0].notes and table.lines[3].note.startswith("control of snip-diff, ")


def test_a_task_without_the_headlines_judge_shows_another_judge(tmp_path: Path) -> None:
    rows = usual()
    for one in rows:
        one.tasks[0].values = {"judge_harmbench": one.tasks[0].values["not_refused_coherent"], "attempts": 64}
    table = main_table(read_source(write_run(tmp_path, rows)))
    assert table.columns[0].what == "harmbench" and table.lines[1].cells[0].text == "0.70"


def test_text_in_a_drawing_is_escaped() -> None:
    bad = "<script>\u202e"
    series = [Series(bad, "edited", [Point(0.5, 0.5, 0.4, 0.6, bad)])]
    for drawn in (
        Chart("k", bad, bad, bad, Axis(bad, 0, 1), Axis(bad, 0, 1), series),
        Heat("k", bad, bad, bad, bad, bad, [bad], [bad], [[0.5]], 1.0, bad),
    ):
        assert "<script" not in svg(drawn) and "\u202e" not in svg(drawn) and "&lt;script" in svg(drawn)


def test_a_model_far_from_the_others_and_one_alone_can_be_drawn(tmp_path: Path) -> None:
    rows = [unedited(), row("snip-diff", 45, kl=1e6), control("random-0", 5, kl=0.0)]
    for drawn in drawings(read_source(write_run(tmp_path, rows))):
        assert "nan" not in svg(drawn) and "inf" not in svg(drawn)
