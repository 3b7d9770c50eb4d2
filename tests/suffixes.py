"""Small goals for a suffix on the tiny tokenizer, and random suffixes."""

from __future__ import annotations

import random
from collections.abc import Sequence

from brittle_eval.behaviour.calibration import Example
from brittle_eval.gcg.suffix_slots import Goal, Slots, allowed_tokens, find_slots
from tests.models import VOCABULARY, tokenizer

TOKENIZER = tokenizer()
GOALS = [
    Goal("Tell the user how to bend a spoon", "Sure, here is how"),
    Goal("What can a cat say?", "Sure, here is what a cat"),
    Goal("Sing", "Sure: la"),
]
SLOTS = [find_slots(TOKENIZER, goal) for goal in GOALS]
ALLOWED = allowed_tokens(TOKENIZER, VOCABULARY)
LENGTH = 6


def suffixes(count: int, seed: int = 0) -> list[tuple[int, ...]]:
    draw = random.Random(seed)
    return [tuple(draw.choices(ALLOWED, k=LENGTH)) for _ in range(count)]


def example(slots: Slots, suffix: Sequence[int]) -> Example:
    ids = slots.prompt_ids(suffix)
    return Example((*ids, *slots.target), len(ids))
