"""What answers in the model's place: the same scores from a checkpoint, and what such a run cannot do."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from brittle_eval.cli import main
from brittle_eval.errors import BrittleError, CannotRun
from brittle_eval.evaluation.backends import BACKENDS, divided
from brittle_eval.evaluation.delegate import Elsewhere, delegated
from brittle_eval.evaluation.lm import Turns, load_lm
from tests.models import save_checkpoint

TASKS = "embedded_harmful,embedded_choice"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder)
    return folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where checkpoints are written to."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def ran(checkpoint: Path, out: Path, model: str, *more: str) -> int:
    loaded = ("--model_args", f"pretrained={checkpoint},dtype=float32", "--device", "cpu", "--batch_size", "4")
    small = ("--limit", "3", "--gen_kwargs", "max_gen_toks=6", "--controls", "random:1")
    return main(["--model", model, *loaded, *small, "--output_path", str(out), *more])


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def texts(out: Path, row: str) -> list[str]:
    lines = (out / row / "samples_embedded_harmful.jsonl").read_text().splitlines()
    return [attempt["text"] for line in lines for attempt in json.loads(line)["attempts"]]


def test_a_checkpoint_gives_the_scores_of_the_model_itself(
    checkpoint: Path, tmp_path: Path, temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = ("--tasks", TASKS, "--modify", "magnitude+top+ablate:q=0.4")
    assert ran(checkpoint, tmp_path / "memory", "hf", *plan) == 0
    assert ran(checkpoint, tmp_path / "checkpoint", "hf-checkpoint", *plan) == 0
    ours, theirs = rows(tmp_path / "memory"), rows(tmp_path / "checkpoint")
    assert len(ours) == 3 and len({row["fingerprint"] for row in ours}) == 3
    for one, other in zip(ours, theirs, strict=True):
        assert (one["backend"], other["backend"]) == ("", "hf-checkpoint")
        assert (one["fingerprint"], one["name"]) == (other["fingerprint"], other["name"])
        assert one["tasks"] == other["tasks"]
        assert texts(tmp_path / "memory", one["name"]) == texts(tmp_path / "checkpoint", one["name"])
    assert len({str(texts(tmp_path / "memory", row["name"])) for row in ours}) > 1
    assert list(temporary.iterdir()) == []
    assert "by hf-checkpoint on a checkpoint of each model" in " ".join(capsys.readouterr().out.split())


def test_measures_of_logits_are_not_run(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(checkpoint, tmp_path / "out", "hf-checkpoint", "--tasks", "embedded_kl,embedded_choice") == 2
    assert "embedded_kl reads the model's own logits, which hf-checkpoint does not give" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [
        ("vlm", (), "unknown model type 'vlm': did you mean vllm"),
        ("vllm", (), "the package vllm is not installed here"),
        ("sglang", (), "the package sglang is not installed here"),
        ("hf-checkpoint", ("--stop-when-decided", "--judge", "wei2024"), "--stop-when-decided stops answers of the model itself"),
        ("hf-checkpoint", ("--condition", "check-before"), "--condition check-before asks the model itself"),
    ],
)
def test_what_cannot_be_is_said_before_a_model_is_loaded(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    more: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.setattr("brittle_eval.evaluation.backends.find_spec", lambda package: None)
    assert ran(tmp_path / "missing", tmp_path / "out", model, *more) == 2
    assert said in capsys.readouterr().err


def test_what_works_in_one_process_says_so(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ran(checkpoint, tmp_path / "out", "hf-checkpoint") == 2
    assert "started in 2 processes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["suffix", "--model_args", f"pretrained={checkpoint}", "--output_path", str(tmp_path / "out")]) == 2
    assert "only `run` with --model hf shares its requests out" in capsys.readouterr().err


def test_the_checkpoint_is_removed_when_a_backend_does_not_load(checkpoint: Path, temporary: Path) -> None:
    lm = load_lm({"pretrained": str(checkpoint), "dtype": "float32"}, "cpu", 4, 0)
    with (
        pytest.raises(BrittleError, match=r"model type hf does not load the edited model: .*no_such_option"),
        delegated(lm, BACKENDS["hf-checkpoint"], {"no_such_option": 1}),
    ):
        pass
    assert list(temporary.iterdir()) == []


def test_a_model_with_an_adapter_is_no_checkpoint(checkpoint: Path) -> None:
    lm = SimpleNamespace(model=torch.nn.Linear(2, 2))
    with pytest.raises(BrittleError, match="this one is a Linear"), delegated(lm, BACKENDS["vllm"], {}):  # type: ignore[arg-type]
        pass


def test_a_backend_that_would_read_other_tokens_is_found_out(checkpoint: Path) -> None:
    lm = load_lm({"pretrained": str(checkpoint), "dtype": "float32"}, "cpu", 4, 0)
    other = SimpleNamespace(tok_encode=lambda text: [1, *lm.prompt_ids(text)])
    request: Any = SimpleNamespace(args=("good day", {"max_gen_toks": 2}))
    with lm.showing(Turns(True), lambda: None), pytest.raises(CannotRun, match="other tokens"):
        Elsewhere(lm, other).generate_until([request])


def test_arguments_go_to_the_model_that_is_edited_to_the_backend_or_to_both() -> None:
    given = {"pretrained": "x", "revision": "y", "dtype": "float32", "gpu_memory_utilization": 0.5}
    assert divided(given) == (
        {"pretrained": "x", "revision": "y", "dtype": "float32"},
        {"dtype": "float32", "gpu_memory_utilization": 0.5},
    )


@pytest.mark.parametrize(("name", "status"), [("hf-checkpoint", "verified"), ("vllm", "unverified"), ("sglang", "unverified")])
def test_what_was_never_run_says_so(name: str, status: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", name, "--json"]) == 0
    assert f'"{status}"' in capsys.readouterr().out
    assert ("unverified" in BACKENDS[name].title) == (status == "unverified")
