"""Unmodified, the wrapped model gives the scores of lm-eval's own `hf`, to the last digit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import save_checkpoint

TASK = """
task: parity_choice
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
---
task: parity_generate
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
test_split: train
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8, do_sample: false}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
NAMES = ("parity_choice", "parity_generate")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "model")
    items = [
        {"question": f"the {a} {b} is", "choices": [a, b, f"{b} {a}"], "answer": i % 3}
        for i, (a, b) in enumerate((x, y) for x in ("cat", "dog", "red hat", "one") for y in ("sat", "ran far", "two"))
    ]
    (tmp_path / "tasks").mkdir()
    data = tmp_path / "items.json"
    data.write_text(json.dumps(items))
    for name, text in zip(NAMES, TASK.format(data=data).split("---"), strict=True):
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text)
    return tmp_path


def command(*arguments: str, home: Path) -> None:
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


def test_same_scores_as_lm_eval(folder: Path) -> None:
    shared = [
        *("--model", "hf", "--model_args", f"pretrained={folder / 'model'},dtype=float32", "--tasks", ",".join(NAMES)),
        *("--include_path", str(folder / "tasks"), "--batch_size", "4", "--device", "cpu"),
    ]
    command("lm_eval", *shared, "--output_path", str(folder / "theirs"), home=folder / "home")
    command("brittle_eval", *shared, "--modify", "none", "--output_path", str(folder / "ours"), home=folder / "home")
    (file,) = (folder / "theirs").rglob("results_*.json")
    theirs = json.loads(file.read_text())["results"]
    ours = json.loads((folder / "ours" / "results.json").read_text())["results"]
    for name in NAMES:
        expected = {key: value for key, value in theirs[name].items() if key not in ("alias", "name", "sample_len")}
        assert expected
        assert {key: ours[f"{name}.unedited"][key] for key in expected} == expected
