"""Which pairs of a user's file a run takes, and what it says of the others."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from brittle_eval.behaviour.behaviours import Behaviour, from_file, sizes
from brittle_eval.behaviour.calibration import Pair
from brittle_eval.errors import BrittleError
from tests.models import tokenizer

LM: Any = SimpleNamespace(tokenizer=tokenizer(), max_length=4096)
BLANK = {3, 8, 15}
EVALUATION = ["please do the thing number 5"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """20 pairs, three without a response, one with a prompt of the evaluation."""
    rows = [{"prompt": f"please do the thing number {n}", "response": " \n" if n in BLANK else f"no {n}"} for n in range(20)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def taken(file: Path, pairs: int, seed: int = 0) -> Behaviour:
    return from_file("safety", file, LM, EVALUATION, pairs, seed)


def test_a_longer_file_is_drawn_from_with_the_seed(file: Path) -> None:
    every = taken(file, 128)
    usable = [n for n in range(20) if n not in {*BLANK, 5}]
    assert every.pairs == tuple(Pair(f"please do the thing number {n}", f"no {n}") for n in usable)
    draws = [taken(file, 7, seed) for seed in (0, 0, 1, 2)]
    for drawn in draws:
        assert len(drawn.pairs) == len(drawn.examples) == 7
        assert drawn.pairs == tuple(pair for pair in every.pairs if pair in drawn.pairs)
    assert draws[0].digest == draws[1].digest
    assert len({drawn.digest for drawn in draws}) > 1


def test_what_is_left_out_is_counted_and_said(file: Path) -> None:
    every, drawn = taken(file, 128), taken(file, 7)
    assert [(one.dropped, one.left, one.blank) for one in (every, drawn)] == [(1, 0, 3), (1, 9, 3)]
    assert sizes({"safety": drawn, "utility": every}) == (
        "safety 7 of 16 pairs, utility 16 pairs "
        "(2 prompts dropped as near evaluation prompts, 6 pairs without a response left out)"
    )
    clean = Behaviour("safety", every.pairs, every.examples, 0)
    assert sizes({"safety": clean}) == "safety 16 pairs"


def test_a_file_without_any_response(file: Path) -> None:
    file.write_text('{"prompt": "a", "response": ""}\n')
    with pytest.raises(BrittleError, match="holds no pair with a response"):
        taken(file, 7)
