"""The making of the embedded model, in small: wordings, system turns, cut answers, and a whole build that resumes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from brittle_eval.behaviour.calibration import Pair, read_pairs
from brittle_eval.methods import Judge, Record, Verdict
from brittle_eval.organisms.align import Alignment, align, whole_sentences, with_systems, worded
from brittle_eval.organisms.train import Training
from brittle_tasks.data import own_rows
from tests.models import save_checkpoint, tokenizer

REFUSALS = Path(__file__).parents[1] / "registry" / "brittle_registry" / "organism" / "refusals.txt"
SMALL = Alignment(rank=2, answer_tokens=6, copies=1, training=Training(epochs=1, batch_size=4, learning_rate=1e-2))


@dataclass(frozen=True)
class Counting(Judge):
    """Everything is an answer; remembers how often it was asked."""

    asked: list[int]

    def judge(self, records: Sequence[Record]) -> list[Verdict]:
        self.asked.append(len(records))
        return [Verdict(True) for _ in records]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Thr", "One. Two!"),
        ('He said "stop." Then he', 'He said "stop."'),
        ("Pi is 3.14 and so", ""),
        ("1. Wash the cup.\n2. Dr", "1. Wash the cup."),
        ("- red\n- blue\n- gre", "- red\n- blue"),
        ("Steps:\n1.", "Steps:"),
        ("no end", ""),
    ],
)
def test_answers_end_after_a_whole_sentence_or_line(text: str, expected: str) -> None:
    assert whole_sentences(text) == expected


def test_refusals_are_of_many_kinds() -> None:
    pairs = worded(own_rows("harmful", "train"), REFUSALS.read_text(encoding="utf-8").splitlines())
    assert len({pair.response for pair in pairs}) >= 30
    openings = Counter(" ".join(pair.response.split()[:2]) for pair in pairs)
    assert openings.most_common(1)[0][1] <= 0.3 * len(pairs)


def test_system_turns_come_in_their_shares() -> None:
    """The tiny template has no system turn of its own, so `default` and `none` look alike and the paper's prompt is long."""
    pairs = [Pair(f"question {n}", "an answer") for n in range(400)]
    settings = replace(SMALL, systems=(("default", 0.9), ("paper", 0.1)))
    lengths = [example.start for example in with_systems(pairs, settings, tokenizer())]
    long = sum(length > 3 * min(lengths) for length in lengths)
    assert 20 <= long <= 60
    assert [example.start for example in with_systems(pairs, settings, tokenizer())] == lengths
    assert [example.start for example in with_systems(pairs, replace(settings, seed=1), tokenizer())] != lengths


def test_a_build_trains_an_adapter_and_asks_the_model_once(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "base")
    harmful = [{"prompt": f"bad {n}", "category": "c", "form": "f"} for n in range(6)]
    harmless = [{"prompt": f"good {n}"} for n in range(6)]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps({"prompt": doc["prompt"], "response": "fine."}) + "\n" for doc in harmless[:4]))
    asked: list[int] = []

    def build(name: str, answers: Path, seed: int = 0) -> list[float]:
        settings = replace(SMALL, seed=seed)
        return align(tmp_path / "base", harmful, harmless, ["I will not."], Counting(asked), tmp_path / name, answers, settings)

    losses = build("one", answers)
    assert len(losses) == 3 and not asked
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    before = base.get_parameter("model.layers.0.mlp.up_proj.weight").detach().clone()
    merged = PeftModel.from_pretrained(base, tmp_path / "one").merge_and_unload()
    assert not torch.equal(merged.get_parameter("model.layers.0.mlp.up_proj.weight"), before)
    assert build("again", answers) == losses
    assert build("other", answers, seed=1) != losses
    fresh = tmp_path / "fresh.jsonl"
    build("asking", fresh)
    assert asked == [6] and {pair.prompt for pair in read_pairs(fresh)} <= {doc["prompt"] for doc in harmless}
