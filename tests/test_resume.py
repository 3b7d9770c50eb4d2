"""Runs that are killed, and what else may befall a run's folder."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from brittle_eval.cli import main
from brittle_eval.evaluation import generate
from brittle_eval.running.record import RunFolder
from tests.models import save_checkpoint
from tests.scripted import save_scripted
from tests.test_run import rows, task

BATCH, PROMPTS, SAMPLES = 3, 24, 5
KILLS = 10


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder)
    return folder


def run_noted(line: list[str], log: str, last: int, delay: float) -> None:
    """A run that notes how many answers it is about to generate, and is killed some time after its `last` batch has begun."""
    run_batch, begun = generate._run_batch, list[int]()

    def noted(model: Any, batch: list[Any], how: Any) -> Any:
        with Path(log).open("a") as file:
            file.write(f"{len(batch)}\n")
        begun.append(len(batch))
        if len(begun) == last:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return run_batch(model, batch, how)

    generate._run_batch = noted
    sys.stdout = sys.stderr = Path(log + ".said").open("a")  # noqa: SIM115 - the process ends with it
    sys.exit(main(line))


def generated(log: Path) -> int:
    return sum(map(int, log.read_text().split())) if log.exists() else 0


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("samples_*.jsonl")}


def test_a_run_that_is_killed_ten_times_repeats_at_most_a_batch_each_time(checkpoint: Path, tmp_path: Path) -> None:
    """Greedy and sampled answers, of the unedited and of an edited model: in the end, every file is as if nothing had been."""
    with (tmp_path / "advbench.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["goal", "target"], *([f"say {'so ' * n}", "Sure"] for n in range(PROMPTS))])
    line = [
        *("--model_args", f"pretrained={checkpoint},dtype=float32", "--device", "cpu", "--batch_size", str(BATCH)),
        *("--tasks", "advbench_plain,advbench_decoding_chat", "--data", f"advbench={tmp_path / 'advbench.csv'}"),
        *("--modify", "magnitude+top+ablate:q=0.2", "--controls", "none", "--gen_kwargs", "max_gen_toks=8"),
    ]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_resume", "brittle_eval.running.run", "brittle_eval.running.table"])

    def code(folder: str, last: int = 0, delay: float = 0) -> int:
        given = ([*line, "--output_path", str(tmp_path / folder)], str(tmp_path / f"{folder}.log"), last, delay)
        process = context.Process(target=run_noted, args=given)
        process.start()
        process.join()
        return int(process.exitcode)

    draw = random.Random(0)
    codes = [code("killed", draw.randint(1, 3), draw.uniform(0, 0.01)) for _ in range(KILLS)]
    assert codes == [-signal.SIGKILL] * KILLS, (tmp_path / "killed.log.said").read_text()
    for folder in ("killed", "whole"):
        assert code(folder) == 0, (tmp_path / f"{folder}.log.said").read_text()
    every = 2 * PROMPTS * (1 + SAMPLES)
    assert generated(tmp_path / "whole.log") == every
    assert every <= generated(tmp_path / "killed.log") <= every + KILLS * BATCH
    assert files(tmp_path / "killed") == files(tmp_path / "whole") and len(files(tmp_path / "whole")) == 4
    known, whole = rows(tmp_path / "killed"), rows(tmp_path / "whole")
    assert {name: {**row, "seconds": 0} for name, row in known.items()} == {n: {**row, "seconds": 0} for n, row in whole.items()}
    assert not list((tmp_path / "killed").rglob("responses_*"))


ARGUMENTS = ("--device", "cpu", "--batch_size", "2", "--limit", "4", "--gen_kwargs", "max_gen_toks=4", "--controls", "none")


def interrupted(line: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is stopped in its second batch."""
    run_batch, begun = generate._run_batch, list[int]()

    def stopping(*given: Any) -> Any:
        begun.append(1)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return run_batch(*given)

    with monkeypatch.context() as patched:
        patched.setattr(generate, "_run_batch", stopping)
        assert main(list(line)) == 130


@pytest.mark.parametrize("damage", ["torn", "corrupt"])
def test_damage_to_the_answers_of_an_interrupted_run(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    line = ["--model_args", f"pretrained={checkpoint},dtype=float32", *ARGUMENTS, "--tasks", "embedded_harmful"]
    line += ["--output_path", str(tmp_path / "run")]
    interrupted(line, monkeypatch)
    file = tmp_path / "run" / "unedited" / "responses_embedded_harmful.jsonl"
    content = file.read_bytes()
    assert content.count(b"\n") == 2
    capsys.readouterr()
    file.write_bytes(content[:-5] if damage == "torn" else content.replace(b"[", b"[1, ", 1))
    status, error = main(line), capsys.readouterr().err
    if damage == "torn":
        assert status == 0 and f"{file}: dropped its last line, which was not written to the end" in error
        assert not file.exists() and task(rows(tmp_path / "run")["unedited"], "embedded_harmful")["n"] == 4
    else:
        assert status == 2 and error.rstrip().endswith(
            f"error: {file}, line 1 is damaged: remove the file, and the run generates its answers again"
        )


def test_calibration_answers_are_kept_too(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that perplexity and divergence need, here; the run that goes on generates the rest alone."""
    line = ["--model_args", f"pretrained={checkpoint},dtype=float32", *ARGUMENTS, "--tasks", "embedded_kl"]
    line += ["--output_path", str(tmp_path / "run")]
    interrupted(line, monkeypatch)
    file = tmp_path / "run" / "behaviours" / "responses_reference.jsonl"
    assert len(file.read_text().splitlines()) == 2
    run_batch, begun = generate._run_batch, list[int]()
    monkeypatch.setattr(generate, "_run_batch", lambda *given: begun.append(1) or run_batch(*given))
    assert main(line) == 0
    assert len(begun) == 1 and not file.exists()


def test_two_runs_do_not_write_one_folder(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--model_args", f"pretrained={checkpoint},dtype=float32", *ARGUMENTS, "--tasks", "embedded_choice"]
    with RunFolder(tmp_path / "run", {"a": 1}).opened():
        assert main([*line, "--output_path", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error == [f"brittle-eval: error: another process is writing {tmp_path / 'run'}: wait for it or use another folder"]


def test_a_model_that_ends_at_once_gives_empty_answers_that_are_counted(tmp_path: Path) -> None:
    """Nothing is scored, nothing counts, and nothing vanishes."""
    save_scripted(tmp_path / "silent")
    line = ["--model_args", f"pretrained={tmp_path / 'silent'},dtype=float32", *ARGUMENTS, "--output_path", str(tmp_path / "run")]
    assert main([*line, "--tasks", "embedded_harmful,embedded_harmless"]) == 0
    row = rows(tmp_path / "run")["unedited"]
    for name in ("embedded_harmful", "embedded_harmless"):
        values = task(row, name)["values"]
        assert (values["attempts"], values["degenerate"], values["unscored"]) == (4, 4, 4)
    assert task(row, "embedded_harmful")["values"]["not_refused_coherent"]["k"] == 0
    assert task(row, "embedded_harmless")["values"]["refused"]["k"] == 0
    lines = (tmp_path / "run" / "unedited" / "samples_embedded_harmful.jsonl").read_text().splitlines()
    assert [json.loads(line)["attempts"][0]["text"] for line in lines] == [""] * 4
