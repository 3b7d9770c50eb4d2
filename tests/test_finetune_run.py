"""Whole runs with a training in their plan, on a tiny random chat model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from brittle_eval.cli import main
from brittle_eval.running import run as run_module
from tests.models import save_checkpoint
from tests.test_run import pairs, rows

TRAIN = "n=4,epochs=2,batch=2,lr=0.01"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder)
    return folder


@pytest.fixture
def arguments(checkpoint: Path, tmp_path: Path) -> list[str]:
    return [
        *("--model", "hf", "--model_args", f"pretrained={checkpoint},dtype=float32", "--device", "cpu", "--batch_size", "4"),
        *("--limit", "2", "--tasks", "embedded_choice", "--controls", "random:1", "--seeds", "1"),
        *("--behaviour", f"harmful={pairs(tmp_path / 'harmful.jsonl', 'bad')}"),
        *("--output_path", str(tmp_path / "run")),
    ]


def deltas(folder: Path) -> list[Path]:
    return sorted((folder / "deltas").iterdir())


def test_a_region_is_frozen_and_so_is_its_control(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*arguments, "--modify", f"magnitude+top+finetune:q=0.3,region=freeze,{TRAIN}"]
    assert main(line) == 0
    found = rows(tmp_path / "run")
    assert [row["kind"] for row in found.values()] == ["unedited", "edited", "control"]
    assert len({row["fingerprint"] for row in found.values()}) == 3
    assert len(deltas(tmp_path / "run")) == 2
    said = capsys.readouterr().err
    assert "training on 4 of 6 pairs of harmful" in said and "‖ΔW in the region‖ / ‖ΔW‖ = 0" in said


def test_one_free_training_serves_a_plan_and_its_controls_and_a_resumed_run(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*arguments, "--modify", f"magnitude+top+finetune+rewind:q=0.3,{TRAIN}"]
    produce = run_module.Session.produce

    def interrupted(self: Any, row: str, leaf: Any) -> None:
        if "random-0" in row:
            raise KeyboardInterrupt
        produce(self, row, leaf)

    with monkeypatch.context() as patched:
        patched.setattr(run_module.Session, "produce", interrupted)
        assert main(line) == 130
    capsys.readouterr()
    assert main(line) == 0
    assert "trained before" in capsys.readouterr().err
    found = rows(tmp_path / "run")
    assert len(deltas(tmp_path / "run")) == 1 and len({row["fingerprint"] for row in found.values()}) == 3
    for file in deltas(tmp_path / "run"):
        assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ("finetune:n=7", "7 pairs of harmful were asked for, and there are 6 (0 more repeat evaluation prompts): lower n"),
        ("finetune:on=benign", "give --behaviour benign=FILE; the embedded model has harmful, identity, benign by itself"),
        ("magnitude+top+transplant", "needs a donor: give --donor"),
        ("magnitude+top+finetune:order=sequential", "a training takes the whole model at once: remove order=sequential"),
        ("finetune:region=freeze,weights=blocks,n=4", "no weight is left to train"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str], plan: str, said: str
) -> None:
    assert main([*arguments, "--modify", plan]) == 2
    assert said in capsys.readouterr().err


def test_a_transplant_from_a_donor(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path / "donor", seed=3)
    line = [*arguments, "--modify", "magnitude+top+transplant:q=0.3"]
    assert main([*line, "--donor", str(tmp_path / "none")]) == 2
    assert "cannot load the donor model" in capsys.readouterr().err
    again = [str(tmp_path / "second") if word == str(tmp_path / "run") else word for word in line]
    assert main([*again, "--donor", str(tmp_path / "donor")]) == 0
    assert len({row["fingerprint"] for row in rows(tmp_path / "second").values()}) == 3
