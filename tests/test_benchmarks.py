"""The benchmark runs, and its opponents compute what the engine computes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from brittle_eval.weights import find_weights
from brittle_plugins.snip import Snip
from brittle_plugins.wanda import Wanda
from tests.models import attribute, examples, llama, save_checkpoint

FOLDER = Path(__file__).parents[1] / "benchmarks"
SAFETY = examples([(7, 5), (3, 9), (12, 4), (5, 5)])
KEYS = {
    "wanda_over_forward",
    "snip_over_forward_backward",
    "actsvd_over_forward",
    "sequential_over_parallel",
    "wanda_speedup",
    "snip_speedup",
    "actsvd_speedup",
    "attribution_peak_over_model",
    "naive_wanda_over_forward",
    "naive_snip_over_forward_backward",
    "naive_actsvd_over_forward",
}


def module(name: str) -> ModuleType:
    """A script of the folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def naive() -> ModuleType:
    return module("naive")


def test_the_naive_loops_find_the_same_scores(naive: ModuleType) -> None:
    model = llama()
    addresses = find_weights(model)[0]
    wanda, snip = attribute(model, Wanda(), SAFETY), attribute(model, Snip(), SAFETY)
    slow = naive.wanda(model, addresses, SAFETY)
    slow_snip = naive.snip(model, addresses, SAFETY, 0) | naive.snip(model, addresses, SAFETY, 1)
    for address in addresses:
        torch.testing.assert_close(slow[address.name], wanda[address.name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(slow_snip[address.name], snip[address.name], rtol=1e-3, atol=1e-6)


def test_the_naive_directions_carry_the_energy_of_the_outputs(naive: ModuleType) -> None:
    """The strongest direction carries no less of the outputs' energy than any other unit vector."""
    model = llama()
    addresses = find_weights(model)[0]
    (name, vectors), *_ = naive.actsvd(model, addresses, SAFETY, 1).items()
    caught: list[torch.Tensor] = []
    module = model.get_submodule(name.removesuffix(".weight"))
    handle = module.register_forward_hook(lambda module, args, output: caught.append(output[0].detach()))
    for example in SAFETY:
        model(input_ids=torch.tensor([example.ids]))
        caught[-1] = caught[-1][example.start :]
    handle.remove()
    outputs = torch.cat(caught)
    energy = (outputs @ vectors).square().sum(0)
    assert bool((energy.diff() <= 1e-3).all())
    others = torch.nn.functional.normalize(torch.randn(outputs.shape[1], 50, generator=torch.Generator().manual_seed(0)), dim=0)
    assert float((outputs @ others).square().sum(0).max()) <= float(energy[0]) * (1 + 1e-5)


def test_the_benchmark_of_the_report_makes_both_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few samples: whether it runs; no number of it means anything."""
    monkeypatch.syspath_prepend(str(FOLDER))
    found = module("report").report_100k(tmp_path / "run", samples=40)
    assert found.keys() == {"report_100k_seconds", "report_100k_gib", "report_100k_plain_seconds"}
    assert all(value > 0 for value in found.values())
    assert (tmp_path / "run/report.html").exists() and (tmp_path / "run/report-with-samples.html").exists()


def test_the_benchmark_runs_and_keeps_other_keys(tmp_path: Path) -> None:
    """A tiny model: whether it runs, and what it writes; no number of it means anything."""
    output = tmp_path / "bench.json"
    output.write_text('{"other": 1}')
    command = [sys.executable, str(FOLDER / "attribution.py"), "--smoke", f"--output={output}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert found.pop("other") == 1
    assert found.keys() >= KEYS and all(isinstance(value, float) and value > 0 for value in found.values())
    assert ("actsvd_speedup" in found) != ("actsvd is left out" in done.stdout)
    assert "naive snip: 1 pairs and 1 of 6 blocks measured, times 24" in done.stdout
    assert all(name in done.stdout for name in ("wanda_speedup", "median", "spread", "wanda sequential isolation"))


def test_the_benchmark_of_attacks_runs_and_sees_what_lm_eval_sees(tmp_path: Path) -> None:
    """A tiny model and an "edited" one of its shape, on the project's own prompts; only the verdicts mean anything."""
    output = tmp_path / "bench.json"
    output.write_text('{"other": 1}')
    for seed in (0, 1):
        save_checkpoint(tmp_path / str(seed), seed)
    sizes = ["--prompts=3", "--edited-prompts=2", "--tokens=24", "--batch-size=4"]
    chosen = [f"--model={tmp_path / '0'}", f"--edited={tmp_path / '1'}", f"--output={output}"]
    environment = {key: value for key, value in os.environ.items() if key != "BRITTLE_EVAL_DATA"} | {
        "XDG_CACHE_HOME": str(tmp_path)
    }
    command = [sys.executable, str(FOLDER / "evaluation.py"), *sizes, *chosen]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    speedups = {"attacks_speedup_aligned", "attacks_speedup_stopped", "attacks_speedup_edited", "five_samples_over_one"}
    assert found.keys() == speedups | {"other", "verdicts_identical", "texts_equal_over_batches"}
    assert found["verdicts_identical"] == 1 and found["texts_equal_over_batches"] == 1
    assert all(found[key] > 0 for key in speedups)
    assert "the project's own prompts: 3 prompts (edited: 2), 24 tokens, batches of 4" in done.stdout
    assert "advbench_decoding, 15 answers: lm-eval" in done.stdout and "advbench_suffix, 3 answers: stopped" in done.stdout


def test_the_benchmark_of_sweeps_runs(tmp_path: Path) -> None:
    """A tiny model and four cells; no number of it means anything."""
    save_checkpoint(tmp_path / "model")
    for name in ("safety", "utility"):
        lines = [json.dumps({"prompt": f"{name} {number}", "response": "one and two"}) for number in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    command = [sys.executable, str(FOLDER / "sweep.py"), f"--output={tmp_path / 'bench.json'}", "--side=2", "--limit=2"]
    command += [f"--model-args=pretrained={tmp_path / 'model'},dtype=float32", "--tasks=embedded_choice"]
    command += [f"--behaviour={name}={tmp_path / name}.jsonl" for name in ("safety", "utility")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found.keys() == {"sweep_overhead", "edit_restore_seconds"} and found["edit_restore_seconds"] > 0
    assert "4 cells in" in done.stdout and "isolation" in done.stdout


def test_the_benchmark_of_related_systems_runs(tmp_path: Path) -> None:
    """Tiny models, a few tokens, a landscape of three points; no number of it means anything."""
    save_checkpoint(tmp_path / "model")
    command = [sys.executable, str(FOLDER / "related.py"), f"--output={tmp_path / 'bench.json'}", "--smoke", "--rounds=1"]
    command += ["--prompts=3", "--new-tokens=4", "--points=3", "--limit=2", "--tasks=embedded_choice"]
    command += [f"--model-args=pretrained={tmp_path / 'model'},dtype=float32"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "bench.json").read_text()).keys() == {"steering_overhead", "landscape_overhead"}
    assert "3 points in" in done.stdout and "3 prompts, 4 new tokens" in done.stdout


def test_the_benchmark_of_fine_tunes_runs_and_keeps_other_keys(tmp_path: Path) -> None:
    """A tiny model: whether it runs, and what it writes; no number of it means anything."""
    output = tmp_path / "bench.json"
    output.write_text('{"other": 1}')
    command = [sys.executable, str(FOLDER / "finetune.py"), "--smoke", f"--output={output}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    masked = {"masked_finetune_over_plain", "masked_finetune_peak_over_plain", "masked_lora_over_lora"}
    assert found.keys() == masked | {"other", "lora_finetune_seconds"}
    assert all(value > 0 for value in found.values()) and "masked-lora" in done.stdout
