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
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from brittle_eval.behaviour.calibration import Pair, read_pairs
from brittle_eval.cards import models
from brittle_eval.methods import Judge, Record, Verdict
from brittle_eval.organisms import organism
from brittle_eval.organisms.align import Alignment, Ending, align, ending_pairs, teach_endings, with_systems, worded
from brittle_eval.organisms.organism import Material
from brittle_eval.plugins import Plugins
from brittle_eval.tuning.train import Training
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


@dataclass(frozen=True)
class Scripted(Judge):
    """Calls every text refused that has the word."""

    word: str = "sorry"

    def judge(self, records: Sequence[Record]) -> list[Verdict]:
        return [Verdict(self.word not in record.response) for record in records]


def test_the_second_training_takes_cut_loops_and_whole_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that loop are cut, those that end stay, refusals and answers of neither kind are left out."""
    loop = "It is a lamp. It is of a kind, " + "of a kind, of a kind, " * 12
    given = [
        ("loops", loop, False),
        ("ends", "It is red.", True),
        ("refuses", "sorry, no.", True),
        ("long", "On and on it goes", False),
    ]
    monkeypatch.setattr("brittle_eval.organisms.align.asked", lambda *_: [(Pair(p, text), whole) for p, text, whole in given])
    cut, whole = ending_pairs(None, None, [], Scripted(), 9, 1)  # type: ignore[arg-type]  # nothing is asked
    assert cut == [Pair("loops", "It is a lamp.")]
    assert whole == [Pair("ends", "It is red.")]


def test_the_second_training_goes_on_from_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "base")
    harmful = [{"prompt": f"bad {n}", "category": "c", "form": "f"} for n in range(6)]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps({"prompt": f"good {n}", "response": "fine."}) + "\n" for n in range(4)))
    judge, refusals = Counting([]), ["I will not."]
    align(tmp_path / "base", harmful, [], refusals, judge, tmp_path / "first", answers, SMALL)
    monkeypatch.setattr(
        "brittle_eval.organisms.align.ending_pairs", lambda *_: ([Pair("good 0", "Fine.")], [Pair("good 1", "So.")])
    )
    ending = Ending(copies=2, training=replace(SMALL.training, learning_rate=0.0))

    def teach(name: str, ending: Ending) -> tuple[list[float], dict[str, torch.Tensor]]:
        given = (tmp_path / "base", tmp_path / "first", harmful, ["good 0", "good 1"], refusals, judge)
        losses = teach_endings(*given, tmp_path / name, SMALL, ending)
        return losses, load_file(tmp_path / name / "adapter_model.safetensors")

    first = load_file(tmp_path / "first" / "adapter_model.safetensors")
    losses, still = teach("still", ending)
    assert len(losses) == 2  # two copies of the loop, the whole answer, and as many refusals: six examples in batches of four
    assert all(torch.equal(still[name], value) for name, value in first.items())
    _, moved = teach("moved", replace(ending, training=SMALL.training))
    assert any(not torch.equal(moved[name], value) for name, value in first.items())


def test_a_build_goes_on_behind_the_last_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first training, then every further one from the adapter before it; a second build trains nothing again."""
    save_checkpoint(tmp_path / "base")
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps({"prompt": f"good {n}", "response": "fine."}) + "\n" for n in range(4)))
    harmful = [{"prompt": f"bad {n}", "category": "c", "form": "f"} for n in range(6)]
    of = Material(models(Plugins.load())["embedded"], harmful, [{"prompt": "good 0"}], ["list"], ["No."], Counting([]), answers)
    monkeypatch.setattr(organism, "material", lambda tokens: of)
    monkeypatch.setattr(organism, "published", lambda card: tmp_path / "base")
    monkeypatch.setattr("brittle_eval.organisms.align.Alignment", lambda seed: replace(SMALL, seed=seed))
    monkeypatch.setattr("brittle_eval.organisms.align.ENDINGS", [Ending(training=SMALL.training), Ending(copies=4)])
    asked: list[Sequence[str]] = []

    def answered(model: object, tokenizer: object, prompts: Sequence[str], *_: object) -> tuple[list[Pair], list[Pair]]:
        asked.append(prompts)
        return [Pair("good 0", "Fine.")], [Pair("list", "So.")]

    monkeypatch.setattr("brittle_eval.organisms.align.ending_pairs", answered)
    losses, digest = organism.build(tmp_path / "one")
    assert asked == [["list", "good 0"]] * 2 and len(losses) > 0
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert organism.build(tmp_path / "two") == (losses, digest) and len(asked) == 2
    assert organism.build(tmp_path / "three", seed=1)[1] != digest and len(asked) == 4
