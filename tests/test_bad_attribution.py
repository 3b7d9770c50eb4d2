"""What stops an attribution is one line with exit status 2, and what was finished before is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from brittle_eval.cli import main
from brittle_eval.engine import region_finder
from brittle_eval.engine.isolate import find_regions
from brittle_eval.errors import BrittleError
from brittle_eval.running.record import write_lines
from brittle_eval.store import load_region
from tests.models import save_checkpoint
from tests.test_bad_input import calibration, checkpoint, refused
from tests.test_kept import full_disk

__all__ = ["checkpoint"]  # a fixture

KILLED = """
import os, signal
from pathlib import Path
import torch
from brittle_eval import Attribution, hookimpl
class Killed(Attribution):
    needs = frozenset({"inputs"})
    def start(self, weight):
        return torch.zeros(1)
    def finish(self, state, weight):
        log = Path(__file__).with_suffix(".log")
        if weight.block == 1 and not log.exists():
            log.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if log.exists():
            log.write_text(log.read_text() + weight.name + "\\n")
        return weight.value.abs()
@hookimpl
def brittle_attributions():
    return {"killed": Killed}
"""


@pytest.mark.parametrize(
    ("rank", "said"),
    [
        (
            "64",
            "64 ranks of model.layers.0.self_attn.q_proj.weight were asked for, expected a whole number up to min(out, in) = 32",
        ),
        ("2.5", "2.5 ranks of model.layers.0.self_attn.q_proj.weight were asked for"),
        ("20", "response tokens have only"),
    ],
)
def test_ranks_that_are_not_there(
    rank: str, said: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = calibration(tmp_path / "pairs.jsonl", "well", "no")[2:]
    assert said in refused(capsys, tmp_path, checkpoint, *given, "--modify", f"actsvd+top-ranks+ablate:r={rank}")


@pytest.mark.parametrize("plan", ["wanda-top", "snip-top:order=parallel", "actsvd-top"])
def test_activations_beyond_float16(plan: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(5e4)
    model.save_pretrained(tmp_path / "hot")
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path / "hot")
    given = calibration(tmp_path / "pairs.jsonl", "well", "no")[2:]
    half = ["--model_args", f"pretrained={tmp_path / 'hot'},dtype=float16"]
    assert "use dtype=float32 or bfloat16" in refused(capsys, tmp_path, checkpoint, *given, *half, "--modify", plan)


def test_results_and_regions_of_another_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, plan = tmp_path / "model", ("--modify", "magnitude+top+ablate:q=0.1")
    save_checkpoint(folder)
    common = ["--model_args", f"pretrained={folder},dtype=float32", "--device", "cpu", "--batch_size", "4"]
    rest = ["--tasks", "embedded_choice", "--limit", "2", "--controls", "none", "--output_path", str(tmp_path / "run")]
    assert main(["--model", "hf", *common, *rest, *plan]) == 0
    (tmp_path / "run" / "rows.jsonl").unlink()
    save_checkpoint(folder, seed=1)
    assert "run holds results of another model (fingerprint " in refused(capsys, tmp_path, folder, *plan)
    (tmp_path / "run" / "unedited" / "model.json").unlink()
    assert "was found on another model (fingerprint " in refused(capsys, tmp_path, folder, *plan)


def test_a_disk_that_fills_up_during_an_attribution(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_room(*given: Any, **named: Any) -> Any:
        with full_disk(700):
            yield from find_regions(*given, **named)

    monkeypatch.setattr(region_finder, "find_regions", without_room)
    given = calibration(tmp_path / "pairs.jsonl", "well", "no")[2:]
    assert "free some space" in refused(capsys, tmp_path, checkpoint, *given, "--modify", "wanda-diff:q=0.3")
    assert not list((tmp_path / "run" / "regions").rglob("*.safetensors*"))


def test_a_disk_that_is_full_from_the_start(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with full_disk(10):
        said = refused(capsys, tmp_path, checkpoint, "--modify", "none")
    assert "cannot write" in said and "File too large; free some space" in said
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_folder_that_is_a_file(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").write_text("mine")
    status = main(["--model", "hf", "--model_args", f"pretrained={checkpoint}", "--output_path", str(tmp_path / "run")])
    assert status == 2 and "give another --output_path" in capsys.readouterr().err


def test_what_was_written_before_stays_when_the_disk_is_full(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", [{"n": 1}])
    with full_disk(10), pytest.raises(BrittleError, match="free some space"):
        write_lines(file, [{"n": n} for n in range(99)])
    assert file.read_text() == '{"n": 1}\n' and list(tmp_path.iterdir()) == [file]


def test_a_killed_attribution_goes_on_at_the_next_group_of_blocks(checkpoint: Path, tmp_path: Path) -> None:
    """Killed with SIGKILL at the first weight of the second block: that block alone is attributed by the second start."""
    plugin, run = tmp_path / "killed_plugin.py", tmp_path / "run"
    plugin.write_text(KILLED)
    line = [
        *("--model", "hf", "--model_args", f"pretrained={checkpoint},dtype=float32", "--device", "cpu", "--batch_size", "4"),
        *("--tasks", "embedded_choice", "--limit", "2", "--controls", "none", "--memory", "0", "--output_path", str(run)),
        *(*calibration(tmp_path / "pairs.jsonl", "well", "no")[2:], "--plugin", str(plugin)),
        *("--modify", "killed+top+ablate:q=0.1"),
    ]
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "brittle_eval", *line], capture_output=True, text=True, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    (kept,) = (run / "regions").rglob("*.safetensors")
    first = load_region(kept)[0].masks()
    assert first and all(".layers.0." in name for name in first)
    assert main(line) == 0
    again = plugin.with_suffix(".log").read_text().splitlines()
    assert len(again) == 7 and all(".layers.1." in name for name in again)
    (file,) = (run / "regions").rglob("*.safetensors")
    found = load_region(file)[0].masks()
    assert len(found) == 14 and {name: found[name] for name in first} == first
