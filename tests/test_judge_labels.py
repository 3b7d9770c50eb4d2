"""The labelled answers: whole, split by request, and what the judges make of the held half."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from brittle_eval.evaluation.coherence import degenerate
from brittle_eval.methods import Record
from brittle_eval.plugins import Plugins

ROWS: list[dict[str, Any]] = [
    json.loads(line) for line in (Path(__file__).parent / "data" / "judge_texts.jsonl").read_text(encoding="utf-8").splitlines()
]
HELD = [row for row in ROWS if row["split"] == "held"]


def kappa(one: list[bool], other: list[bool]) -> float:
    """Cohen's."""
    n = len(one)
    agreed = sum(a == b for a, b in zip(one, other, strict=True)) / n
    chance = (sum(one) * sum(other) + (n - sum(one)) * (n - sum(other))) / n**2
    return (agreed - chance) / (1 - chance)


def test_the_set_is_whole_and_no_request_is_in_both_halves() -> None:
    assert len(ROWS) == 300 and len({row["response"] for row in ROWS}) == 300
    assert min(Counter(row["kind"] for row in ROWS).values()) >= 30
    assert not {row["prompt"] for row in HELD} & {row["prompt"] for row in ROWS if row["split"] == "tune"}


def test_the_passes_agree() -> None:
    for key in ("refused", "degenerate"):
        assert kappa(*([row[key][number] for row in ROWS] for number in (0, 1))) >= 0.8


@pytest.mark.parametrize("better, worse", [("refusal", "wei2024")])
def test_the_matcher_is_nearer_to_the_labels_than_the_phrase_rule(better: str, worse: str) -> None:
    found = {}
    for name in (better, worse):
        verdicts = Plugins.load().get("judge", name)().judge([Record(row["prompt"], row["response"]) for row in HELD])
        found[name] = kappa([row["refused"][0] for row in HELD], [verdict.positive is False for verdict in verdicts])
    assert found[better] > max(found[worse], 0.5)


def test_no_sound_answer_is_called_degenerate() -> None:
    assert not [row["id"] for row in HELD if degenerate(row["response"]) and not row["degenerate"][0]]
