"""A training after so many of its steps: the same course, gone on with, and what the rows of its steps say together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from brittle_eval.cli import main
from brittle_eval.errors import BrittleError
from brittle_eval.recipe import Component, build
from brittle_eval.reporting.report_source import read_source
from brittle_eval.reporting.training_charts import training_charts
from brittle_eval.running.comparison import against_unedited
from brittle_eval.running.record import Row
from brittle_eval.trials.course import INSIDE, courses, show_course
from brittle_eval.tuning.trained import forget_courses
from brittle_eval.weights import Fingerprint
from brittle_plugins.finetune import Finetune
from tests.models import llama, random_region
from tests.report_sources import unedited, write_run
from tests.test_finetune import FULL, LORA, apply
from tests.test_finetune_run import TRAIN, arguments, checkpoint  # noqa: F401  # fixtures
from tests.test_run import rows
from tests.trained_rows import FROZEN, trained


@pytest.mark.parametrize("settings", [FULL, LORA])
def test_a_training_goes_on_where_a_shorter_one_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Finetune
) -> None:
    """Stops at 2, 5 and the end make the nine steps of one course, and the bytes that each alone would give."""
    import brittle_plugins.finetune as module

    region, steps = random_region(llama(), 0.4), list[int]()
    train = module.fine_tune

    def counted(model: Any, data: Any, own: Any, pad: Any, on_step: Any, *rest: Any) -> list[float]:
        return train(model, data, own, pad, lambda number, *_: steps.append(number), *rest)

    monkeypatch.setattr(module, "fine_tune", counted)
    chain, found = replace(settings, region="freeze"), {}
    for stop in (2, 5, 0):
        model = llama()
        with apply(model, region, tmp_path / "on", replace(chain, stop=stop)):
            found[stop] = str(Fingerprint(model))
    assert steps == list(range(1, 10)) and len(set(found.values())) == 3
    assert not list((tmp_path / "on").glob("*.checkpoint")), "the end of the course leaves no checkpoint"
    for stop, expected in found.items():
        model = llama()
        with apply(model, region, tmp_path / str(stop), replace(chain, stop=stop)):
            assert str(Fingerprint(model)) == expected
    steps.clear()
    with apply(llama(), region, tmp_path / "5", replace(chain, stop=2)):
        assert steps == [1, 2], "what stopped later is no beginning"
    forget_courses(tmp_path / "5")
    assert [file.suffix for file in (tmp_path / "5").iterdir()] == [".safetensors"] * 2


def test_a_stop_behind_the_end_is_refused() -> None:
    with pytest.raises(BrittleError, match="stop=31, and n=100, batch=10, epochs=3 are 30 steps"):
        build(Component("modification", "finetune", {"stop": "31", "epochs": "3"}), Finetune)


def after(step: int, answered: int, seed: int = 0, inside: float | None = 0.0) -> Row:
    noted = {"finetune": {"steps": step, "inside": inside}}
    return trained(f"held:stop={step},seed={seed}", answered, replace(FROZEN, stop=step), seed=seed, noted=noted, kl=step / 10)


def test_rows_of_one_plan_are_put_in_the_order_of_their_steps() -> None:
    found = [after(50, 60, inside=0.25), after(10, 20), after(10, 30, 1, inside=0.5)]
    (course,) = courses(against_unedited([unedited(5), *found, trained("other", 60)]))
    assert course.plan == "held" and [(one.step, one.seeds) for one in course.steps] == [(0, 1), (10, 2), (50, 1)]
    assert [one.values["attack"] for one in course.steps] == [5 / 64, 25 / 64, 60 / 64]
    assert [one.values["KL"] for one in course.steps] == [0.0, 1.0, 5.0]
    assert [one.values[INSIDE] for one in course.steps] == [None, 0.25, 0.25]
    assert [one.values["over-refusal"] for one in course.steps] == [4 / 64] * 3
    assert courses([unedited(5), after(10, 20)]) == []


def test_the_table_and_the_charts_have_the_course(tmp_path: Path) -> None:
    found = against_unedited([unedited(5), after(10, 20), after(50, 60)])
    file = tmp_path / "table.txt"
    with file.open("w", encoding="utf-8") as raw:
        show_course(found, Console(file=raw, width=120))
    assert [line.split()[:2] for line in file.read_text(encoding="utf-8").splitlines()[4:7]] == [
        ["0", "0.0781"],
        ["10", "0.312"],
        ["50", "0.938"],
    ]
    rates, kl = training_charts(read_source(write_run(tmp_path / "run", found)).rows)
    assert [one.name for one in rates.series] == ["attack", "over-refusal", "utility", INSIDE]  # type: ignore[union-attr]
    assert [point.x for point in kl.series[0].points] == [0, 10, 50]  # type: ignore[union-attr]


def test_a_run_over_steps_is_one_training(
    arguments: list[str],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = f"magnitude+top+finetune:q=0.3,region=train-only,stop=1|3|0,{TRAIN}"
    assert main([*arguments, "--controls", "none", "--modify", plan]) == 0
    found = list(rows(tmp_path / "run").values())[1:]
    assert [row["training"]["noted"]["finetune"]["steps"] for row in found] == [1, 3, 4]
    assert [row["training"]["noted"]["finetune"]["inside"] for row in found] == pytest.approx([1, 1, 1], abs=0.1)
    (course,) = json.loads((tmp_path / "run" / "results.json").read_text())["courses"]
    assert [one["step"] for one in course["steps"]] == [0, 1, 3, 4]
    assert "the course of the training" in capsys.readouterr().out
    assert {file.suffix for file in (tmp_path / "run" / "deltas").iterdir()} == {".safetensors"}
