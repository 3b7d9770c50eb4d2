"""Sweeps on a real Ray cluster of two workers, one of which is killed; and what is said where there is no Ray."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from brittle_eval.cli import main
from brittle_eval.recipe import NONE
from brittle_eval.sweeps.cells import Outcome
from brittle_eval.sweeps.ray_cluster import Ran, overhead
from tests.models import save_checkpoint

DEADLY = '''
"""Ablation by a process that dies of it: once, or every time."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from brittle_eval import Modification, hookimpl


@dataclass(frozen=True)
class Die(Modification):
    marker: str = ""

    def edit(self, weight, part, context):
        if not self.marker or not Path(self.marker).exists():
            if self.marker:
                Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        value = weight.value.float()
        return value - part.apply(value)


@hookimpl
def brittle_modifications():
    return {"die": Die}
'''
PLANS = ("magnitude+top+ablate:q=0.1|0.2|0.3|0.4", "random+top+ablate:q=0.1|0.3")


def swept(tmp_path: Path, folder: str, *given: str) -> tuple[dict[str, dict[str, Any]], str]:
    """The cells of a sweep in a process of its own, by plan, and what it said."""
    line = [sys.executable, "-m", "brittle_eval", "sweep", "--model_args", f"pretrained={tmp_path / 'model'},dtype=float32"]
    line += ["--device", "cpu", "--batch_size", "4", "--limit", "4", "--tasks", "embedded_harmful,embedded_choice,embedded_kl"]
    line += ["--gen_kwargs", "max_gen_toks=4", "--controls", "random:1", "--plugin", str(tmp_path / "deadly.py")]
    line += ["--output_path", str(tmp_path / folder)]
    slow = {"RAY_raylet_start_wait_time_s": "240", "RAY_worker_register_timeout_seconds": "240"}
    once = [*PLANS, f"magnitude+top+die:q=0.2,marker={tmp_path / 'marker'}"]
    words = [*line, *(word for plan in once for word in ("--modify", plan)), *given]
    ended = subprocess.run(words, capture_output=True, text=True, env=os.environ | slow | {"OMP_NUM_THREADS": "1"}, timeout=900)
    assert ended.returncode == 0, ended.stderr[-4000:]
    found = [json.loads(file.read_text()) for file in sorted((tmp_path / folder / "cells").iterdir())]
    return {cell["recipe"].partition(",marker")[0]: cell for cell in found}, ended.stdout + ended.stderr


def same(cell: dict[str, Any]) -> dict[str, Any]:
    """What of a cell must be the same wherever it ran."""
    rows = [{**row, "seconds": 0} for row in cell["rows"]]
    return {key: cell[key] for key in ("cell", "plan", "status", "reason", "seed", "tasks")} | {"rows": rows}


@pytest.mark.ray
def test_two_workers_give_the_rows_of_one_process_although_one_is_killed(tmp_path: Path) -> None:
    """A worker that dies once has its cell done by another; a cell whose worker dies every time fails, and the others go on."""
    save_checkpoint(tmp_path / "model")
    (tmp_path / "deadly.py").write_text(DEADLY)
    ray = ("--executor", "ray", "--cell-cpus", "1", "--modify", "magnitude+top+die:q=0.3")
    on_ray, said = swept(tmp_path, "ray", *ray)
    assert (tmp_path / "marker").exists(), "a worker was killed"
    lost = on_ray.pop("magnitude+top+die:q=0.3")
    assert lost["status"] == "failed" and lost["reason"].startswith("its worker died 2 times (")
    alone, _ = swept(tmp_path, "local")
    assert len(alone) == 8 and list(alone) == list(on_ray) and all(cell["status"] == "done" for cell in alone.values())
    assert {name: same(cell) for name, cell in on_ray.items()} == {name: same(cell) for name, cell in alone.items()}
    assert "s between one cell and the next" in said
    assert len((tmp_path / "ray" / "rows.jsonl").read_text().splitlines()) == 1 + 2 * 7


@pytest.mark.ray
def test_a_cluster_that_does_not_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing listens there: said before Ray, which would end the program, is asked."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        line = ["sweep", "--modify", "wanda-diff", "--executor", "ray", "--address", address]
        assert main([*line, "--output_path", str(tmp_path / "run")]) == 2
    assert f"no Ray cluster answers at {address} (" in capsys.readouterr().err.strip().splitlines()[-1]


def test_ray_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", "--modify", NONE, "--executor", "ray", "--output_path", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.strip().endswith("pip install 'brittle-eval[ray]'")
    assert main(["sweep", "--modify", NONE, "--address", "here:6379", "--output_path", str(tmp_path / "run")]) == 2
    assert "--address here:6379 is for --executor ray" in capsys.readouterr().err


def test_the_overhead_is_what_lies_between_cells_of_one_process() -> None:
    ran = [
        Ran(Outcome(number, "done"), ("node", process), began, ended)
        for number, process, began, ended in [(0, 1, 0.0, 4.0), (1, 1, 4.5, 6.0), (2, 2, 4.1, 5.0), (3, 1, 6.25, 7.0)]
    ]
    assert overhead(ran) == "ray: 4 cells in 2 processes, 0.38 s between one cell and the next"
    assert overhead(ran[:1]) == "ray: 1 cells in 1 processes, one cell each"
