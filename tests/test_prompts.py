"""The project's own prompts and questions: ids, splits, variety, and no near-duplicate across splits."""

from __future__ import annotations

import re
from collections import Counter
from itertools import product
from typing import Any

import pytest

from brittle_eval.errors import UnknownName
from brittle_tasks.data import SPLITS, own_rows

TEXT = {"harmful": "prompt", "harmless": "prompt", "choice": "question", "open": "prompt"}
SIZES = {
    "harmful": {"dev": 64, "eval": 64},
    "harmless": {"dev": 64, "eval": 64},
    "choice": {"dev": 100, "eval": 200},
    "open": {"dev": 60, "eval": 0},
}


def all_rows(name: str) -> list[dict[str, Any]]:
    return [row for split in SPLITS for row in own_rows(name, split)]


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[\w']+", text.lower()))


def similarity(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("name", TEXT)
def test_ids_and_texts_are_unique(name: str) -> None:
    rows = all_rows(name)
    assert len({row["id"] for row in rows}) == len(rows)
    assert len({words(row[TEXT[name]]) for row in rows}) == len(rows)
    assert all(row[TEXT[name]] == row[TEXT[name]].strip() != "" for row in rows)


@pytest.mark.parametrize("name", SIZES)
def test_splits_have_their_sizes(name: str) -> None:
    assert {split: len(own_rows(name, split)) for split in SIZES[name]} == SIZES[name]


@pytest.mark.parametrize("name", ["harmful", "harmless"])
@pytest.mark.parametrize(("one", "other"), [("eval", "train"), ("dev", "train"), ("eval", "dev")])
def test_no_near_duplicates_across_splits(name: str, one: str, other: str) -> None:
    left, right = ([(row["prompt"], words(row["prompt"])) for row in own_rows(name, split)] for split in (one, other))
    closest = max(product(left, right), key=lambda pair: similarity(pair[0][1], pair[1][1]))
    assert similarity(closest[0][1], closest[1][1]) < 0.6, (closest[0][0], closest[1][0])


@pytest.mark.parametrize("split", ["dev", "eval"])
def test_no_open_prompt_is_near_one_that_is_measured(split: str) -> None:
    """The open prompts train the embedded model: none is close to a harmless one that chooses or measures, nor
    to an open one of `dev`.
    """
    trained = [(row["prompt"], words(row["prompt"])) for row in own_rows("open", "train")]
    rows = [*own_rows("harmless", split), *own_rows("open", "dev")]
    closest = max(
        product(trained, [(row["prompt"], words(row["prompt"])) for row in rows]), key=lambda p: similarity(p[0][1], p[1][1])
    )
    assert similarity(closest[0][1], closest[1][1]) < 0.6, (closest[0][0], closest[1][0])


def test_no_prompt_is_both_harmful_and_harmless() -> None:
    harmful = {words(row["prompt"]) for row in all_rows("harmful")}
    assert not harmful & {words(row["prompt"]) for row in all_rows("harmless")}


@pytest.mark.parametrize("split", SPLITS)
def test_harmful_prompts_are_varied(split: str) -> None:
    rows = own_rows("harmful", split)
    assert len({row["category"] for row in rows}) >= 10
    assert {"imperative", "question", "role-play", "indirect"} <= {row["form"] for row in rows}


@pytest.mark.parametrize("split", ["dev", "eval"])
def test_half_of_the_harmless_prompts_sound_alarming(split: str) -> None:
    assert Counter(row["kind"] for row in own_rows("harmless", split)) == {"plain": 32, "twin": 32}


@pytest.mark.parametrize("split", ["dev", "eval"])
def test_choices_are_balanced(split: str) -> None:
    rows = own_rows("choice", split)
    assert all(len(set(row["choices"])) == 4 for row in rows)
    assert all(choice == choice.strip() != "" for row in rows for choice in row["choices"])
    for counts in (Counter(row["answer"] for row in rows), Counter(row["kind"] for row in rows)):
        assert len(set(counts.values())) == 1
    assert {row["answer"] for row in rows} == {0, 1, 2, 3}


def test_a_wrong_name_or_split_has_suggestions() -> None:
    with pytest.raises(UnknownName, match="harmless"):
        own_rows("harmles", "eval")
    with pytest.raises(UnknownName, match="eval"):
        own_rows("harmless", "evals")
