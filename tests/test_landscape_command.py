"""The command `landscape`, whole, on a tiny model: its points against runs, its scores against the curve, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from brittle_eval.cli import main
from brittle_eval.errors import BrittleError
from brittle_eval.landscapes.landscape import Wanted, places, scored, steps
from brittle_eval.reporting.charts import Chart, Heat
from brittle_eval.reporting.report import drawings
from brittle_eval.reporting.report_source import read_source
from tests.models import save_checkpoint, untied
from tests.test_run import arguments, checkpoint, rows, task

__all__ = ["arguments", "checkpoint"]  # fixtures

ONE = "random+top:q=0.5"


def asked(arguments: Sequence[str], *options: str) -> list[str]:
    """A landscape of one task, without the run's controls."""
    tasks, controls = arguments.index("--tasks"), arguments.index("--controls")
    own = [word for at, word in enumerate(arguments) if at not in (tasks, tasks + 1, controls, controls + 1)]
    return ["landscape", *own, "--tasks", "embedded_harmful", *options]


def found_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "landscape.json").read_text())
    return found


def test_a_curve_in_a_region_and_outside_of_it(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = asked(
        arguments, "--points", "5", "--region", ONE, "--where", "region", "--where", "complement", "--controls", "random:1"
    )
    assert main(line) == 0
    found, known = found_in(tmp_path / "run"), rows(tmp_path / "run")
    curves = ["region, direction 0", "region, direction 0, random-0"]
    assert list(found["points"]) == [*curves, *(name.replace("region", "complement") for name in curves)]
    assert sum(row["kind"] == "edited" for row in known.values()) == 2 * 4, "the model itself is no edit"
    for name, of in found["points"].items():
        assert [one["alpha"] for one in of] == found["steps"] == [-0.5, -0.25, 0, 0.25, 0.5]
        for one in of:
            row = known[one["row"]]
            assert one["rate"] == task(row, "embedded_harmful")["values"]["judge_refusal"]["value"]
            if one["alpha"]:
                where, control = name.partition(",")[0], name.endswith("random-0")
                assert f"perturb.alpha={one['alpha']:g},perturb.beta=0,perturb.where={where}," in row["recipe"]
                assert row["kind"] == ("control" if control else "edited")
            else:
                assert one["row"] == "unedited"
        rates = [1 - one["rate"] for one in of]
        below = [rate for rate in rates if rate > 0]
        assert found["scores"][name]["stated"] == pytest.approx(sum(below) / len(below) if below else 0)
        assert found["scores"][name]["area"] == pytest.approx(sum((one + two) / 2 for one, two in pairwise(rates)) / 4)
    said = capsys.readouterr().out
    assert "positive by the judge refusal" in said and "VISAGE as coded is" in said and "Unverified: directions a score" in said
    assert main([*line, "--count", "wei2024"]) == 0, "another count reads the finished rows"
    assert found_in(tmp_path / "run")["points"]["region, direction 0"][2]["rate"] == pytest.approx(
        task(known["unedited"], "embedded_harmful")["values"]["judge_wei2024"]["value"]
    )


def test_the_plane_and_its_report(arguments: list[str], tmp_path: Path) -> None:
    assert main(asked(arguments, "--points", "3", "--plane", "--count", "not-refused-coherent")) == 0
    found = found_in(tmp_path / "run")
    ((name, of),) = found["points"].items()
    assert [(one["beta"], one["alpha"]) for one in of] == [(b, a) for b in (-0.5, 0, 0.5) for a in (-0.5, 0, 0.5)]
    assert len({rows(tmp_path / "run")[one["row"]]["fingerprint"] for one in of}) == 9
    assert found["scores"][name]["coded"] is None and "this is a plane" in found["scores"][name]["undefined"]["coded"]
    (heat,) = [one for one in drawings(read_source(tmp_path / "run")) if one.key.startswith("landscape")]
    assert isinstance(heat, Heat) and [value for line in heat.values for value in line] == [one["rate"] for one in of]
    assert main(["report", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "report of a landscape" in page and "Safety landscape: all block weights, direction 0" in page
    assert "VISAGE as coded is not defined: it is a score of a line" in page


def test_two_directions_have_a_mean(arguments: list[str], tmp_path: Path) -> None:
    assert main(asked(arguments, "--points", "3", "--directions", "2")) == 0
    found = found_in(tmp_path / "run")
    one, two = found["scores"].values()
    assert found["mean"]["region"]["stated"] == pytest.approx((one["stated"] + two["stated"]) / 2)
    (chart,) = [one for one in drawings(read_source(tmp_path / "run")) if one.key == "landscape"]
    assert isinstance(chart, Chart) and [series.name for series in chart.series] == list(found["points"])


def test_from_a_model_to_another(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path / "donor", seed=4)
    assert main(asked(arguments, "--points", "3", "--donor", str(tmp_path / "donor"))) == 0
    found, known = found_in(tmp_path / "run"), rows(tmp_path / "run")
    (of,) = found["points"].values()
    assert [one["alpha"] for one in of] == [0, 0.5, 1] and of[0]["row"] == "unedited"
    assert [known[one["row"]]["unverified"] for one in of[1:]] == [["merge.t=0.5"], ["merge.t=1.0"]]
    scores = found["scores"]["all block weights"]
    assert scores["stated"] is None and "do not lie evenly around the model" in scores["undefined"]["stated"]
    assert scores["area"] is not None and "towards the donor" in capsys.readouterr().out
    untied(layers=1).save_pretrained(tmp_path / "short")
    other = [*asked(arguments, "--points", "3", "--donor", str(tmp_path / "short")), "--output_path", str(tmp_path / "other")]
    assert main(other) == 2
    assert "has no weight model.layers.1.self_attn.q_proj.weight" in capsys.readouterr().err


def test_a_point_costs_an_evaluation() -> None:
    path = places(Wanted(), merging=False)
    assert len(path) == 21 and len({place.plan for place in path if place.plan}) == 20
    assert [place.alpha for place in path] == [round(-0.5 + 0.05 * n, 9) for n in range(21)]
    assert steps(Wanted(points=4), merging=True) == [0.0, 0.333333, 0.666667, 1.0]


def test_a_path_that_is_not_centred_has_no_visage() -> None:
    found = scored([{"alpha": alpha, "rate": 0.5} for alpha in (-0.1, 0, 0.3)], plane=False)
    assert found["coded"] is None and found["stated"] is None and found["area"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("wanted", "merging", "said"),
    [
        (Wanted(points=20), False, "expected an odd number from 3 on"),
        (Wanted(lowest=0.2, highest=0.1), False, "expected a path with lowest < highest"),
        (Wanted(lowest=float("nan")), False, "expected a path with lowest < highest"),
        (Wanted(plane=True), True, "leave out --plane and --directions"),
        (Wanted(directions=2), True, "leave out --plane and --directions"),
        (Wanted(where=("complement",)), False, "--where complement is of a region"),
        (Wanted(region="wanda"), False, "expected ATTRIBUTION+ISOLATION"),
    ],
)
def test_paths_that_are_none(wanted: Wanted, merging: bool, said: str) -> None:
    with pytest.raises(BrittleError, match=said.replace("+", r"\+")):
        places(wanted, merging)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--count", "gcgs"], "unknown number of --count 'gcgs'"),
        (["--region", "wandas+top"], "did you mean wanda"),
        (["--attack", "nothing"], "expected an attack among the run's tasks"),
        (["--tasks", "embedded_perplexity"], "expected an attack among the run's tasks, which has none"),
    ],
)
def test_mistakes_end_before_the_first_point(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(asked(arguments, "--points", "3", *options)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "rows.jsonl").exists()
