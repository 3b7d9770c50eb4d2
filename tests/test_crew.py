"""Runs in two processes, for real: the rows of one process, and what happens when one of the two cannot go on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brittle_eval.cli import main
from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.crew import processes, shared
from brittle_eval.evaluation.generate import Sampling, generate, run_part
from brittle_eval.evaluation.responses import Responses
from brittle_eval.evaluation.stopping import Stopping
from brittle_eval.running.api import evaluate
from tests.models import PAD, examples, save_checkpoint, tokenizer, untied
from tests.test_run import rows, task

PLAN = "magnitude+top+ablate_q=0.4"
ANSWERED = ("embedded_harmful", "embedded_decoding")
TASKS = (*ANSWERED, "embedded_choice", "embedded_kl")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder)
    return folder


def line(checkpoint: Path, out: Path, tokens: int = 8) -> list[str]:
    """Greedy and sampled answers in several batches, likelihoods and a measure, of three models."""
    loaded = ["--model_args", f"pretrained={checkpoint},dtype=float32", "--device", "cpu", "--batch_size", "3"]
    tasks = ["--tasks", ",".join(TASKS), "--limit", "4", "--gen_kwargs", f"max_gen_toks={tokens}"]
    return [*loaded, *tasks, "--modify", "magnitude+top+ablate:q=0.4", "--controls", "random:1", "--output_path", str(out)]


def launched(*program: str) -> subprocess.CompletedProcess[str]:
    """A program in two processes, by the launcher that `accelerate launch` uses for several devices."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    given = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run([*launcher, *program], env=given, capture_output=True, text=True, timeout=900, check=False)


def texts(out: Path, row: str, name: str) -> list[list[str]]:
    lines = [json.loads(text) for text in (out / row / f"samples_{name}.jsonl").read_text().splitlines()]
    return [[attempt["text"] for attempt in line["attempts"]] for line in lines]


def test_two_processes_give_the_rows_of_one(checkpoint: Path, tmp_path: Path) -> None:
    """Also of the edited model and of its control, which only the first process made; and only that one speaks."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(line(checkpoint, one)) == 0
    done = launched("-m", "brittle_eval", *line(checkpoint, two))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("results: ") == 1
    alone, shared_out = rows(one), rows(two)
    assert list(alone) == list(shared_out) == ["unedited", PLAN, f"{PLAN}.random-0"]
    assert len({row["fingerprint"] for row in alone.values()}) == 3
    for name, row in alone.items():
        for key in ("fingerprint", "config", "region", "data", "judges", "batch_size"):
            assert row[key] == shared_out[name][key]
        assert [task(row, each) for each in TASKS] == [task(shared_out[name], each) for each in TASKS]
        assert [texts(one, name, each) for each in ANSWERED] == [texts(two, name, each) for each in ANSWERED]
    assert texts(one, PLAN, ANSWERED[0]) != texts(one, "unedited", ANSWERED[0])
    refused = launched("-m", "brittle_eval", *line(checkpoint, two, tokens=9))
    assert refused.returncode != 0 and "holds a run with another configuration (gen_kwargs differ)" in refused.stderr


PROGRAM = """
import sys
import torch
from torch import nn
from brittle_eval.evaluation.crew import Helpers, dismiss, help_out, join
from brittle_eval.weights import Fingerprint

torch.manual_seed(0)
model, number = nn.Linear(3, 2).to(torch.bfloat16), join()
if number:
    if sys.argv[1] == "another":
        model.bias.data += 1
    help_out(model, {"read": lambda part: (part, model.weight.tolist()), "break": lambda part: 1 / 0})
else:
    fingerprint = Fingerprint(model)
    helpers = Helpers(model, fingerprint)
    try:
        for value in (5.0, 7.0):
            model.weight.data[1] = value
            fingerprint.refresh(["weight"])
            with helpers.working("read", ["a part"]) as found:
                pass
            assert found == [("a part", model.weight.tolist())], found
        with helpers.working("read", []) as found:
            pass
        assert found == []
        with helpers.working("break", ["a part"]):
            pass
    finally:
        dismiss()
"""


@pytest.mark.parametrize(
    ("how", "said"),
    [("broken", "process 1 of the run failed: ZeroDivisionError"), ("another", "its model is not the first process's")],
)
def test_a_helper_has_the_first_process_weights_and_says_what_went_wrong(tmp_path: Path, how: str, said: str) -> None:
    """What is `broken` breaks once the weights have followed twice; `another` has another bias, which never follows."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = launched(str(program), how)
    assert done.returncode != 0 and said in done.stderr and "AssertionError" not in done.stderr


class Twice:
    """Helpers in this very process."""

    def __init__(self, count: int, work: Any) -> None:
        self.count, self.work, self.parts = count, work, list[Any]()

    @contextmanager
    def working(self, kind: str, parts: Sequence[Any]) -> Iterator[list[Any]]:
        results: list[Any] = []
        yield results
        self.parts += parts
        results += [self.work(part) for part in parts]


@given(st.lists(st.text("ab", max_size=4), max_size=12), st.integers(1, 4))
def test_shares_come_back_in_order_and_equal_keys_stay_together(items: list[str], count: int) -> None:
    def own(part: Sequence[str]) -> list[str]:
        return [f"{text} done" for text in part]

    helpers: Any = Twice(count, own)
    assert shared(helpers, "any", items, own, key=lambda text: text) == own(items) == shared(None, "any", items, own, key=str)
    assert not items or len(helpers.parts) == count
    for part in helpers.parts:
        assert all(part.count(text) == items.count(text) for text in part)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_answers_are_those_of_one_process_and_are_kept(tmp_path: Path, count: int) -> None:
    """Sampled answers in five batches, some of which a `stop` cuts; a further start reads all of them."""
    model, prompts = untied(), [list(example.ids) for example in examples([(n, 0) for n in (5, 1, 12, 7, 20, 7, 3, 9, 15, 2)])]
    stop = Stopping(lambda tokens: " ".join(map(str, tokens)), lambda text: "7" in text, "seven")
    helpers: Any = Twice(count, lambda part: run_part(model, part, stop))
    given: dict[str, Any] = {"batch_size": 2, "end_ids": [17], "pad_id": PAD, "stop": stop}
    expected = generate(model, prompts, Sampling(12, 1.0), **given)
    kept = Responses(tmp_path / "kept.jsonl", "fingerprint", print)
    found = generate(model, prompts, Sampling(12, 1.0), **given, helpers=helpers, kept=kept)
    assert found == expected and [answer.cut for answer in found] == [answer.cut for answer in expected]
    assert len({answer.cut for answer in found}) == 2 and len(helpers.parts) == 5 - -(-5 // (count + 1))
    helpers.parts.clear()
    again = Responses(tmp_path / "kept.jsonl", "fingerprint", print)
    assert generate(model, prompts, Sampling(12, 1.0), **given, helpers=helpers, kept=again) == expected and not helpers.parts


def test_a_model_in_memory_works_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BrittleError, match="started in 2 processes"):
        evaluate(untied(), tokenizer(), tasks=["embedded_harmful"], device="cpu")


def test_an_empty_world_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "")
    assert processes() == 1
