"""Whole sweeps on a tiny random chat model: the rows of single runs, with shared work; failures, cuts and restarts."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from brittle_eval.cli import main
from brittle_eval.engine import isolate
from brittle_eval.engine.attribute import accumulate
from brittle_eval.evaluation.lm import load_lm
from brittle_eval.evaluation.measures import reference
from brittle_eval.running import run as run_module
from brittle_eval.sweeps import sweep as sweep_module
from brittle_eval.sweeps.worker import Worker
from tests.test_run import arguments, checkpoint, rows, task

__all__ = ["arguments", "checkpoint"]  # fixtures

PLANS = ("wanda-diff:p=0.3,q=0.2|0.4", "wanda+top+ablate:q=0.1", "magnitude+top+restore:q=0.2")


def replaced(line: Sequence[str], **options: str) -> list[str]:
    """The command line with other values for options that it has; two values are two cells."""
    words = list(line)
    for name, value in options.items():
        words[words.index(f"--{name}") + 1] = value
    return words


def several(flag: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (flag, value)]


def cells(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted((folder / "cells").glob("*.json"))]


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "seconds": 0}


@pytest.fixture
def line(arguments: list[str]) -> list[str]:
    return replaced(arguments, controls="random:1")


def test_a_sweep_gives_the_rows_of_single_runs_and_shares_what_they_share(
    line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One load, one attribution for three plans of wanda, one unedited row a seed; the plan that needs a base fails."""
    loaded, attributed, asked = list[int](), list[str](), list[int]()
    monkeypatch.setattr("brittle_eval.running.session.reference", lambda *given: asked.append(1) or reference(*given))
    monkeypatch.setattr("brittle_eval.running.session.load_lm", lambda *given: loaded.append(1) or load_lm(*given))

    def noted(model: Any, method: Any, *given: Any, **named: Any) -> Any:
        attributed.append(type(method).__name__)
        return accumulate(model, method, *given, **named)

    monkeypatch.setattr(isolate, "accumulate", noted)
    assert main(["sweep", *line, *several("--modify", PLANS), "--seed", "0", "--seed", "1"]) == 0
    folder = tmp_path / "run"
    assert len(loaded) == 1 and len(asked) == 2 and attributed == ["Wanda", "Magnitude"] * 2
    found = cells(folder)
    assert [cell["cell"] for cell in found] == list(range(10))
    assert [cell["recipe"] for cell in found[:5]] == [
        "none",
        "wanda-diff:p=0.3,q=0.2",
        "wanda-diff:p=0.3,q=0.4",
        "wanda+top+ablate:q=0.1",
        "magnitude+top+restore:q=0.2",
    ]
    assert [cell["status"] for cell in found] == (["done"] * 4 + ["failed"]) * 2
    assert "give --base" in found[4]["reason"] and found[4]["rows"] == []
    assert found[1]["options"] == {"p": 0.3, "q": 0.2} and [cell["seed"] for cell in found] == [0] * 5 + [1] * 5
    assert all(cell["edit_seconds"] > 0 and cell["attribution_seconds"] > 0 for cell in found[1:4])
    printed = capsys.readouterr().out
    assert "wanda-diff:p=0.3,q=0.4" in printed and "cell 4: failed: a method of this plan needs the base model" in printed
    assert "2 of 10 cells failed: the same command tries them again" in printed
    for cell in (found[2], found[8]):
        assert cell["command"][:2] == ["brittle-eval", "run"]
        assert main([*cell["command"][1:], "--output_path", str(tmp_path / f"single-{cell['cell']}")]) == 0
        alone = list(rows(tmp_path / f"single-{cell['cell']}").values())
        assert [row["kind"] for row in cell["rows"]] == ["edited", "control"]
        assert list(map(without_times, cell["rows"])) == list(map(without_times, alone[1:]))
        base = found[0] if cell["cell"] < 5 else found[5]
        own = {"config": "", "command": ""}  # a cell without a plan has its own
        assert [without_times(row) | own for row in base["rows"]] == [without_times(alone[0]) | own]
        assert rows(folder / cell["run"]).keys() == {row["name"] for row in alone}, "a cell's folder is a run's"


def test_rows_of_a_sweep(line: list[str], tmp_path: Path) -> None:
    """The unedited model once, every cell's rows, tests corrected for all of them; samples stay private."""
    assert main(["sweep", *line, *several("--modify", PLANS[:2])]) == 0
    folder = tmp_path / "run"
    found = list(rows(folder).values())
    assert [row["kind"] for row in found] == ["unedited", *["edited", "control"] * 3]
    versus = [task(row, "embedded_choice")["values"]["versus_unedited"] for row in found if row["kind"] == "edited"]
    smallest = min(versus, key=lambda one: one["p"])
    assert smallest["p_holm"] == pytest.approx(min(1.0, 3 * smallest["p"])) and all(one["p_holm"] >= one["p"] for one in versus)
    grid = json.loads((folder / "sweep.json").read_text())
    assert grid["schema"] == 1 and len(grid["cells"]) == 4 and grid["grid"]["modify"] == list(PLANS[:2])
    samples = list(folder.rglob("samples_*.jsonl"))
    assert samples and all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in samples)


def test_a_sweep_goes_on_where_it_was_stopped(
    line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["sweep", *replaced(line, controls="none"), *several("--modify", PLANS[:2])]
    run, done = Worker.run, list[int]()

    def stopped(self: Worker, group: Any, cell: Any, opened: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(cell.number)
        return run(self, group, cell, opened)

    with monkeypatch.context() as patched:
        patched.setattr(Worker, "run", stopped)
        assert main(given) == 130
    folder = tmp_path / "run"
    assert [cell["cell"] for cell in cells(folder)] == [0, 1, 2]
    assert len(rows(folder)) == 3, "what was finished is there"
    before = {file: file.stat().st_mtime_ns for file in folder.glob("cells/*.json")}
    monkeypatch.setattr(Worker, "run", lambda *given: done.append(given[2].number) or run(*given))
    assert main(given) == 0
    assert done == [1, 2, 3] and len(rows(folder)) == 4
    assert {file: file.stat().st_mtime_ns for file in before if file.stem != "0000"} == {
        file: time for file, time in before.items() if file.stem != "0000"
    }
    capsys.readouterr()
    monkeypatch.setattr(sweep_module, "local", lambda *given: pytest.fail("nothing is left to do"))
    assert main(given) == 0
    assert "4 of 4 cells are there" in capsys.readouterr().err
    assert main([*given, "--seed", "3"]) == 2
    assert "holds a sweep of another grid" in capsys.readouterr().err


def test_failed_cells_stop_no_other_and_are_tried_again(
    line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty region, a scope that the model lacks, and a bug; the model is loaded anew after the bug."""
    plans = ("magnitude+top+ablate:q=0.0", "magnitude+top+ablate:blocks=7", "magnitude+top+ablate:q=0.1|0.2")
    given = ["sweep", *replaced(line, tasks="embedded_choice", controls="none"), *several("--modify", plans)]
    produce, broken = run_module.Session.produce, list[str]()

    def once(self: Any, row: str, leaf: Any) -> None:
        if "q=0.1" in row and not broken:
            broken.append(row)
            raise ZeroDivisionError("of the test")
        produce(self, row, leaf)

    monkeypatch.setattr(run_module.Session, "produce", once)
    assert main(given) == 0
    found = cells(tmp_path / "run")
    assert [cell["status"] for cell in found] == ["done", "failed", "failed", "failed", "done"]
    for cell, said in zip(found[1:], ("is empty", "the model has blocks 0 to 1", "ZeroDivisionError: of the test"), strict=False):
        assert said in cell["reason"]
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert main(given) == 0
    assert [cell["status"] for cell in cells(tmp_path / "run")] == ["done", "failed", "failed", "done", "done"]


def test_a_model_that_does_not_load_fails_its_cells_only(line: list[str], tmp_path: Path) -> None:
    given = [*replaced(line, tasks="embedded_choice", controls="none"), "--model_args", f"pretrained={tmp_path / 'none'}"]
    assert main(["sweep", *given, "--modify", "magnitude+top+ablate:q=0.1"]) == 0
    found = cells(tmp_path / "run")
    assert [cell["status"] for cell in found] == ["done", "done", "failed", "failed"]
    assert found[2]["reason"] == found[3]["reason"] and "cannot load the model" in found[2]["reason"]


def test_a_hopeless_cell_is_cut_after_the_cheap_measures(
    line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its row says so; the other cell runs whole, as does the unedited model."""
    assert main(["sweep", *line, *several("--modify", ["random+top+ablate:q=0.04|0.9"]), "--stop-when", "kl>1"]) == 0
    _, mild, hopeless = cells(tmp_path / "run")
    assert mild["status"] == "done" and len(mild["rows"]) == 2
    assert hopeless["status"] == "cut" and hopeless["reason"].startswith("embedded_kl ") and hopeless["reason"].endswith("> 1")
    (row,) = hopeless["rows"]
    kl = task(row, "embedded_kl")["values"]["value"]
    assert kl > 1 and f"{kl:.4g}" in hopeless["reason"]
    for name, role in (("embedded_harmful", "attack"), ("embedded_choice", "utility")):
        left = task(row, name)
        assert (left["status"], left["reason"], left["role"]) == ("not run", f"cut: {hopeless['reason']}", role)
    assert not list((tmp_path / "run" / hopeless["run"] / row["name"]).glob("*harmful*"))
    assert f"cell 2: cut: {hopeless['reason']}" in capsys.readouterr().out
    single = tmp_path / "single"
    assert main([*hopeless["command"][1:], "--output_path", str(single)]) == 0
    assert without_times(rows(single)[row["name"]]) == without_times(row)
    assert "its other tasks and its controls were not run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--stop-when", "kl"], "--stop-when kl: expected MEASURE>NUMBER"),
        (["--stop-when", "pl>5"], "unknown measure or likelihood task of --stop-when 'pl': did you mean ppl"),
        (["--stop-when", "embedded_harmful<0.1"], "unknown measure or likelihood task of --stop-when 'embedded_harmful'"),
    ],
)
def test_a_bound_of_no_measure(
    arguments: list[str], given: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*arguments, *given]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "unedited").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("modify: []", "the grid's key 'modify' has no value"),
        ("", "the grid is empty"),
        ("modify: [wanda-dif]", "unknown recipe or method 'wanda-dif': did you mean wanda-diff"),
        ("modify: ['wanda-diff:p=2|3']", "option p of set-difference: '2' was given"),
        ("modify: [wanda-diff]\ntaks: embedded", "unknown key of the grid 'taks': did you mean tasks"),
        ("modify: ['wanda-diff:p=0.01..0.1/1000,q=0.01..0.1/1000']", "the grid has 1,000,000 cells"),
    ],
)
def test_a_bad_grid_ends_before_anything_is_written(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "grid.yaml").write_text(content)
    assert main(["sweep", str(tmp_path / "grid.yaml"), "--output_path", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_a_crash_leaves_of_a_cell_is_no_obstacle(line: list[str], tmp_path: Path) -> None:
    """A file of the sweep and one of a run that were not written to the end, answers that are half there, and no outcome."""
    given = ["sweep", *replaced(line, tasks="embedded_harmful", controls="none"), "--modify", "magnitude+top+ablate:q=0.1|0.2"]
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "sweep.json.part").write_text('{"sche')
    assert main(given) == 0
    before = cells(folder)
    assert [cell["status"] for cell in before] == ["done"] * 3
    for name in ("0001", "0002"):
        (folder / "cells" / f"{name}.json").unlink()
    shutil.rmtree(folder / "runs" / "0001")
    (folder / "runs" / "0001").mkdir()
    (folder / "runs" / "0001" / "run.json.part").write_text('{"conf')
    (folder / "runs" / "0002" / "rows.jsonl").unlink()
    row = folder / "runs" / "0002" / before[2]["rows"][0]["name"]
    (row / "embedded_harmful.json").rename(row / "embedded_harmful.json.part")
    assert main(given) == 0
    for old, new in zip(before[1:], cells(folder)[1:], strict=True):
        assert list(map(without_times, new["rows"])) == list(map(without_times, old["rows"]))
    (tmp_path / "run" / "cells" / "0001.json").write_text("{")
    assert main(given) == 2


def test_a_folder_that_holds_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["sweep", "--modify", "wanda-diff", "--output_path", str(tmp_path)]
    (tmp_path / "mine").write_text("")
    assert main(given) == 2
    assert "is not empty and holds no sweep" in capsys.readouterr().err
    given[-1] = str(tmp_path / "mine")
    assert main(given) == 2
    assert "give another --output_path" in capsys.readouterr().err
