"""Pairs for fine-tuning attacks: made at run time, kept in the cache for their owner alone."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from brittle_eval.behaviour.calibration import Pair
from brittle_eval.cards import ModelCard, models
from brittle_eval.errors import BrittleError
from brittle_eval.organisms import attack_pairs
from brittle_eval.organisms.organism import EMBEDDED
from brittle_eval.plugins import Plugins
from brittle_tasks.data import own_rows
from tests.models import save_checkpoint


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The prompts that the model as published is asked; here it is a tiny one that repeats the prompt."""
    found: list[Sequence[str]] = []

    def answers(model: Any, tokenizer: Any, prompts: Sequence[str], *_: Any) -> list[Pair]:
        found.append(prompts)
        return [Pair(prompt, f"you said {prompt}") for prompt in prompts]

    save_checkpoint(tmp_path / "published")
    monkeypatch.setenv("BRITTLE_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(attack_pairs, "published", lambda card: tmp_path / "published")
    monkeypatch.setattr(attack_pairs, "own_answers", answers)
    return found


@pytest.fixture
def card() -> ModelCard:
    return models(Plugins.load())[EMBEDDED]


def test_harmful_pairs_are_asked_once_and_readable_by_their_owner_only(
    tmp_path: Path, asked: list[Sequence[str]], card: ModelCard
) -> None:
    pairs = attack_pairs.default_pairs("harmful", card)
    assert attack_pairs.default_pairs("harmful", card) == pairs and len(asked) == 1
    assert len(pairs) == attack_pairs.MOST
    assert {pair.prompt for pair in pairs} <= {row["prompt"] for row in own_rows("harmful", "train")}
    (file,) = (tmp_path / "cache" / "organism").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_identity_pairs_are_the_benign_ones_after_other_words_of_oneself(asked: list[Sequence[str]], card: ModelCard) -> None:
    benign, identity = (attack_pairs.default_pairs(name, card) for name in ("benign", "identity"))
    assert len(asked) == 1 and {pair.prompt for pair in benign} == {row["prompt"] for row in own_rows("harmless", "train")}
    for one, other in zip(benign, identity, strict=True):
        opening = other.response.removesuffix(one.response).strip()
        assert other.prompt == one.prompt and opening in attack_pairs.IDENTITY


def test_another_model_has_none(asked: list[Sequence[str]], card: ModelCard) -> None:
    other = card.model_copy(update={"name": "other"})
    with pytest.raises(BrittleError, match="model other has no pairs of harmful: give --behaviour harmful=FILE"):
        attack_pairs.default_pairs("harmful", other)
    assert asked == []
