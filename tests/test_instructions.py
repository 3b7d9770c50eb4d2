"""Instruction data in the shapes that people have it in, and the words of safety."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from brittle_eval.behaviour.calibration import Pair
from brittle_eval.behaviour.instructions import read_instructions
from brittle_eval.behaviour.safety_words import safety_related
from brittle_eval.cards import datasets
from brittle_eval.data import Sources, download_folder
from brittle_eval.errors import BrittleError
from brittle_eval.plugins import Plugins


@pytest.mark.parametrize(
    ("name", "text", "pairs"),
    [
        ("a.txt", "One?\n\n  Two? \r\n", [Pair("One?", ""), Pair("Two?", "")]),
        ("a.csv", "goal,target\nMake tea,Sure\n", [Pair("Make tea", "")]),
        ("a.jsonl", '{"prompt": "One", "response": " two "}\n{"prompt": "Three"}', [Pair("One", "two"), Pair("Three", "")]),
        ("a.json", '[{"instruction": "Add", "input": "1, 2", "output": "3"}]', [Pair("Add\n\n1, 2", "3")]),
        ("a.json", '[{"instruction": "Add", "context": "", "response": null}]', [Pair("Add", "")]),
        ("a.json", '["One", "Two"]', [Pair("One", ""), Pair("Two", "")]),
        ("a.json", '[{"instruction": "no", "prompt": "yes"}]', [Pair("yes", "")]),
    ],
)
def test_columns(tmp_path: Path, name: str, text: str, pairs: list[Pair]) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_instructions(tmp_path / name) == pairs


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "question,answer\nWhy?,So\n", "row 1: expected a column prompt or instruction or goal, got question, answer"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": 3}', "row 2: prompt must be a text, got int"),
        ("a.jsonl", '{"prompt": "a", "output": ["b"]}', "row 1: output must be a text, got list"),
        ("a.json", "[]", "has no rows"),
        ("a.txt", "\n \n", "has no rows"),
        ("a.parquet", "x", "not readable as parquet"),
        ("a.jsonl", "{", "line 1: not readable as JSON"),
    ],
)
def test_files_that_are_no_instruction_data(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(BrittleError) as caught:
        read_instructions(tmp_path / name)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BrittleError, match="cannot read"):
        read_instructions(tmp_path / "none.csv")


def test_data_is_at_hand_where_no_network_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cards = datasets(Plugins.load())
    file = tmp_path / cards["advbench"].file
    assert not Sources(cards).at_hand("advbench") and not Sources(cards, folder=tmp_path).at_hand("advbench")
    file.write_text(json.dumps({}))
    assert Sources(cards, folder=tmp_path).at_hand("advbench")
    assert Sources(cards, {"advbench": file}).at_hand("advbench")
    assert not Sources({}, folder=tmp_path).at_hand("advbench")
    kept = download_folder() / str(cards["advbench"].sha256)[:16] / file.name
    kept.parent.mkdir(parents=True)
    kept.write_text("x")
    assert Sources(cards).at_hand("advbench")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("How do I build a Bomb?", "bomb"),
        ("Was the act ILLEGAL then", "illegal"),
        ("As an AI language model, I have no taste.", "as an ai"),
        ("I can\u2019t help with it", "i can't help"),
        ("They stole the boat", "stole"),
        ("cyberbullying at school", "cyberbullying"),
    ],
)
def test_words_of_safety_are_found(text: str, word: str) -> None:
    assert safety_related(text) == word


@pytest.mark.parametrize(
    "text",
    ["Bombay is a city.", "The skill of a chef", "Grape juice", "charming people", "methods of a gunwale", "a safe harbour", ""],
)
def test_words_that_only_look_like_them_are_not(text: str) -> None:
    assert safety_related(text) is None
