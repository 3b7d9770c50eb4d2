"""`brittle-eval verify`: a row holds, and each thing that was changed under it is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from brittle_eval.cli import main
from brittle_eval.running.record import RunFolder, write_lines
from tests.models import save_checkpoint
from tests.stored_runs import BROKEN, GIVEN, REFUSED, make_run
from tests.test_run import pairs

BEFORE = {"embedded_harmful": [[REFUSED]] * 3 + [[GIVEN, BROKEN]], "embedded_harmless": [[GIVEN], [REFUSED]]}
AFTER = {"embedded_harmful": [[GIVEN]] * 4, "embedded_harmless": [[GIVEN], [""]]}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    data = tmp_path / "advbench.csv"
    data.write_text("goal,target\nx,y\n")
    config = {"model": "hf", "modify": ["plan"], "data": [f"advbench={data}"]}
    made = make_run(tmp_path / "run", {"unedited": BEFORE, "plan": AFTER, "plan.random-0": BEFORE}, config=config)
    rows = made.rows()
    assert rows is not None
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    made.write_rows([replace(row, data={"advbench": digest}) for row in rows])
    for row in rows:
        made.write_json(f"{row.name}/model.json", row.fingerprint)
    return made


def verified(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    """The exit status and the differences that were printed."""
    status = main(["verify", *arguments])
    printed = capsys.readouterr()
    assert not printed.err, printed.err
    return status, [line.strip() for line in printed.out.splitlines() if line.startswith("  differs: ")]


def test_a_run_holds_row_by_row(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(capsys, str(run.path)) == (0, [])
    assert verified(capsys, f"{run.path}:plan", f"{run.path / 'rows.jsonl'}:3") == (0, [])
    main(["verify", f"{run.path}:plan"])
    assert f"{run.path / 'rows.jsonl'}: plan: verified" in capsys.readouterr().out


def change_row(run: RunFolder, change: Callable[[dict[str, Any]], object], number: int = 1) -> None:
    lines = [json.loads(line) for line in (run.path / "rows.jsonl").read_text().splitlines()]
    change(lines[number])
    write_lines(run.path / "rows.jsonl", lines)


def values(row: dict[str, Any], task: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = row["tasks"][task]["values"]
    return found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: values(row)["not_refused_coherent"].update(k=3), "embedded_harmful.values.not_refused_coherent.k"),
        (lambda row: values(row)["judge_wei2024"].update(high=0.9), "embedded_harmful.values.judge_wei2024.high"),
        (lambda row: values(row)["versus_unedited"].update(p=0.01), "embedded_harmful.values.versus_unedited.p"),
        (lambda row: values(row)["versus_unedited"].update(p_holm=0.01), "embedded_harmful.values.versus_unedited.p_holm"),
        (lambda row: values(row)["versus_unedited"].update(low=0.7), "embedded_harmful.values.versus_unedited.low"),
        (lambda row: values(row, 1).update(degenerate=7), "embedded_harmless.values.degenerate"),
        (
            lambda row: values(row)["agreement"]["wei2024|refusal"].update(both=0),
            "embedded_harmful.values.agreement.wei2024|refusal",
        ),
        (
            lambda row: row["tasks"][0]["items"].reverse() or row["tasks"][0].update(items=[0.0, 1.0, 1.0, 1.0]),
            "harmful.items[0]",
        ),
        (lambda row: row["tasks"][0].update(n=9), "embedded_harmful.n: the row says 9, now it is 4"),
        (lambda row: row.update(fingerprint="other"), "fingerprint: the row says other"),
        (lambda row: row.update(config="feed"), "configuration: the row's digest is feed"),
    ],
)
def test_every_changed_number_of_a_row_is_named(
    run: RunFolder, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], object], said: str
) -> None:
    change_row(run, change)
    status, different = verified(capsys, f"{run.path}:plan")
    assert status == 1 and any(said in line for line in different), different


def test_a_changed_sample_is_named_by_its_digest_and_by_what_it_changes(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run.path / "plan" / "samples_embedded_harmful.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["attempts"][0]["verdicts"]["refusal"]["positive"] = False
    write_lines(file, lines)
    status, different = verified(capsys, f"{run.path}:plan")
    assert status == 1
    assert any("file plan/samples_embedded_harmful.jsonl: sha256 was" in line for line in different)
    assert any("not_refused_coherent.k: the row says 4, now it is 3" in line for line in different)
    file.unlink()
    status, different = verified(capsys, f"{run.path}:plan")
    assert status == 1 and any("is gone" in line for line in different) and any("cannot be read" in line for line in different)


def test_a_changed_data_file_is_named_with_both_digests(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(run.config["data"][0].partition("=")[2])
    old = hashlib.sha256(data.read_bytes()).hexdigest()
    data.write_text("goal,target\nx,z\n")
    new = hashlib.sha256(data.read_bytes()).hexdigest()
    status, (line,) = verified(capsys, f"{run.path}:plan")
    assert status == 1 and "data set advbench: sha256 was " + old in line and new in line
    data.unlink()
    assert verified(capsys, f"{run.path}:plan") == (0, [])
    main(["verify", f"{run.path}:plan"])
    assert "not checked: data set advbench: is not on this machine" in capsys.readouterr().out


def test_a_row_of_a_collection_needs_its_run(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "all" / "rows.jsonl"
    assert main(["leaderboard", str(run.path), "--add", str(file)]) == 0
    capsys.readouterr()
    assert main(["verify", f"{file}:plan"]) == 2
    assert "give the run's folder with --run FOLDER, or --rerun" in capsys.readouterr().err
    assert verified(capsys, f"{file}:plan", "--run", str(run.path)) == (0, [])


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("nowhere", "nowhere is not there"),
        ("{run}:plann", "did you mean plan"),
        ("{run}/rows.jsonl:9", "has 3 rows, and no row 9"),
        ("{run}/run.json", "run.json, line 1 is damaged"),
    ],
)
def test_mistakes(run: RunFolder, capsys: pytest.CaptureFixture[str], place: str, said: str) -> None:
    assert main(["verify", place.format(run=run.path)]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command on a tiny model."""
    folder = tmp_path_factory.mktemp("whole")
    save_checkpoint(folder / "model")
    arguments = [
        *("--model_args", f"pretrained={folder / 'model'},dtype=float32", "--device", "cpu", "--batch_size", "4", "--limit", "3"),
        *("--gen_kwargs", "max_gen_toks=4", "--tasks", "embedded_harmful,embedded_choice,embedded_kl", "--controls", "random:1"),
        *("--behaviour", f"safety={pairs(folder / 'safety.jsonl', 'bad')}", "--modify", "wanda+top+ablate:q=0.2"),
    ]
    assert main(["run", *arguments, "--output_path", str(folder / "run")]) == 0
    return folder / "run"


def test_a_real_run_holds_with_its_region_and_its_files(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert verified(capsys, str(whole)) == (0, [])
    main(["verify", str(whole)])
    assert "not checked" not in capsys.readouterr().out


def test_a_wrong_region_size_and_a_changed_region_are_named(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder.stored(whole)
    kept = (whole / "rows.jsonl").read_bytes()
    change_row(folder, lambda row: row["region"].update(count=1))
    status, (line,) = verified(capsys, f"{whole}/rows.jsonl:2")
    assert status == 1 and "region.count: the row says 1" in line
    (whole / "rows.jsonl").write_bytes(kept)
    (file,) = (whole / "regions").glob("*.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        status, different = verified(capsys, f"{whole}/rows.jsonl:2")
        assert status == 1 and any("its content does not fit its digest" in line for line in different)
        assert any("file regions/" in line for line in different)
    finally:
        file.write_bytes(content)


def test_a_row_is_run_again_by_its_command_and_held_against(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", f"{whole}/rows.jsonl:2", "--rerun"]) == 0
    assert ": verified" in capsys.readouterr().out
    kept = (whole / "rows.jsonl").read_bytes()
    change_row(RunFolder.stored(whole), lambda row: values(row, 1).update(value=0.123))
    status = main(["verify", f"{whole}/rows.jsonl:2", "--rerun"])
    assert status == 1 and "differs: embedded_choice.values.value: the row says 0.123" in capsys.readouterr().out
    (whole / "rows.jsonl").write_bytes(kept)


@pytest.mark.parametrize("command", ["rm -rf /", "brittle-eval suffix", ""])
def test_only_runs_are_run_again(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    row = json.loads((whole / "rows.jsonl").read_text().splitlines()[1]) | {"command": command}
    write_lines(tmp_path / "rows.jsonl", [row])
    assert main(["verify", str(tmp_path / "rows.jsonl"), "--rerun"]) == 2
    assert ("is no `brittle-eval run`" if command else "has no command") in capsys.readouterr().err
