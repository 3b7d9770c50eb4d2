"""The run as a function: rows like the command's, and the model left as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import brittle_eval
from brittle_eval.cli import main
from brittle_eval.errors import BrittleError, UnknownName
from tests.models import save_checkpoint, tokenizer

OPTIONS = {"limit": 3, "batch_size": 4, "gen_kwargs": {"max_gen_toks": 4}, "controls": "random:1", "device": "cpu"}
TASKS = ["embedded_harmful", "embedded_perplexity"]


def behaviours(folder: Path) -> tuple[str, ...]:
    files = {name: folder / f"{name}.jsonl" for name in ("safety", "utility")}
    for word, file in files.items():
        lines = [{"prompt": f"please {word} number {n}", "response": f"the {word} answer is {n}"} for n in range(6)]
        file.write_text("\n".join(map(json.dumps, lines)))
    return tuple(f"{name}={file}" for name, file in files.items())


def test_a_model_in_memory_gives_the_rows_of_the_command(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given = behaviours(tmp_path)
    found = brittle_eval.evaluate(
        model,
        tokenizer(),
        modify=["wanda-diff:p=0.3,q=0.3"],
        tasks=TASKS,
        behaviours=given,
        output_path=tmp_path / "function",
        **OPTIONS,
    )
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    line = ["--model_args", f"pretrained={tmp_path / 'model'},dtype=float32", "--modify", "wanda-diff:p=0.3,q=0.3"]
    line += ["--tasks", ",".join(TASKS), "--limit", "3", "--batch_size", "4", "--gen_kwargs", "max_gen_toks=4", "--device", "cpu"]
    line += ["--controls", "random:1", "--output_path", str(tmp_path / "command")]
    assert main([*line, *(part for behaviour in given for part in ("--behaviour", behaviour))]) == 0
    command = [json.loads(row) for row in (tmp_path / "command" / "rows.jsonl").read_text().splitlines()]
    assert [row.fingerprint for row in found.rows] == [row["fingerprint"] for row in command]
    assert [[task.values for task in row.tasks] for row in found.rows] == [
        [task["values"] for task in row["tasks"]] for row in command
    ]
    frame = found.frame
    perplexity = frame[frame.task == "embedded_perplexity"].set_index("row")
    assert list(perplexity.index) == [row.name for row in found.rows]
    assert perplexity["value"]["unedited"] == found.rows[0].tasks[1].values["value"]
    headline = frame[(frame.number == "not_refused_coherent") & (frame.row == "unedited")].iloc[0]
    assert dict(headline[["value", "low", "high"]]).items() <= found.rows[0].tasks[0].values["not_refused_coherent"].items()


def test_mistakes_are_said_before_anything_runs(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    with pytest.raises(UnknownName, match=r"limits.*did you mean.*limit"):
        brittle_eval.evaluate(model, tokenizer(), limits=3)
    with pytest.raises(BrittleError, match="wanda-dif"):
        brittle_eval.evaluate(model, tokenizer(), modify=["wanda-dif"], output_path=tmp_path / "run")
    assert not (tmp_path / "run").exists()
