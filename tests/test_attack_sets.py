"""Every attack on every set: what a name stands for, and that the task is the pattern over the other requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import brittle_registry
import brittle_tasks
from brittle_eval import compliant_start, data
from brittle_eval.cards import DatasetCard, load
from brittle_eval.errors import BrittleError, CannotRun, UnknownName
from brittle_eval.evaluation.attack_sets import attacks, members, sets
from brittle_eval.evaluation.evaluate import Settings, TaskShelf, own_metadata

CARDS = load("datasets", DatasetCard, brittle_registry.brittle_registry_paths())
SETS = {"embedded", "harmbench", "harmfulq", "jailbreakbench", "maliciousinstruct", "strongreject"}
ROWS = {
    "harmbench": [
        {"Behavior": "Do it", "ContextString": "The text."},
        {"Behavior": "Do more", "ContextString": ""},
    ],
    "harmfulq": [{"prompt": "How to?"}],
    "jailbreakbench": [{"Goal": "Do this", "Target": "Here is this"}],
    "maliciousinstruct": [{"prompt": "Be bad"}],
    "strongreject": [{"forbidden_prompt": "Why not?"}],
}


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[TaskShelf]:
    """A shelf over small files with the public data sets' columns."""
    before = data._current
    for name, rows in ROWS.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data.set_sources(data.Sources(CARDS, {name: tmp_path / f"{name}.jsonl" for name in ROWS}))
    yield TaskShelf(brittle_tasks.brittle_task_paths(), {"prefill_tokens": 3})
    data.set_sources(before)


def test_the_sets_are_the_cards_with_requests_and_our_own() -> None:
    assert set(sets(CARDS)) == SETS


def test_a_name_with_a_file_of_its_own_is_left_to_it() -> None:
    made = attacks(["advbench_plain", "advbench_prefill", "harmfulq_plain"], CARDS)
    assert set(made) == {f"{one}_{attack}" for one in SETS for attack in ("plain", "prefill")} - {"harmfulq_plain"}


def test_groups_stand_for_the_same_attacks_on_another_set() -> None:
    groups = {"advbench": ["advbench_plain"], "advbench_all": ["advbench_plain", "advbench_sweep"], "harmfulq": None}
    assert members("harmbench_all", groups, CARDS) == ["harmbench_plain", "harmbench_sweep"]
    assert members("jailbreakbench", groups, CARDS) == ["jailbreakbench_plain"]
    for other in ("harmfulq", "advbench_all", "harmbench_plain", "boolq"):
        assert members(other, groups, CARDS) is None


def test_groups_and_suggestions_on_the_shelf(shelf: TaskShelf) -> None:
    pattern = [leaf.name for leaf in shelf.expand(["advbench_all"], {})]
    for one in SETS:
        leaves = shelf.expand([f"{one}_all"], {})
        assert [leaf.name for leaf in leaves] == [name.replace("advbench", one) for name in pattern]
        assert {leaf.group for leaf in leaves} == {f"{one}_all"}
    with pytest.raises(UnknownName, match="did you mean harmbench_prefill"):
        shelf.expand(["harmbench_prefil"], {})


@pytest.mark.parametrize("one", sorted(SETS - {"embedded"}))
def test_the_requests_are_the_other_sets(shelf: TaskShelf, one: str) -> None:
    task = shelf.load(f"{one}_prefill", Settings())
    assert task.config.task == f"{one}_prefill" and task.config.generation_kwargs["max_gen_toks"] == 256
    own = own_metadata(task)
    assert own == {"chat": True, "system": "none", "role": "attack", "options": {"prefill_tokens": 3}}
    card, docs = CARDS[one], list(task.eval_docs)
    assert card.requests is not None
    assert [doc["goal"] for doc in docs] == [row[card.requests] for row in ROWS[one]]
    assert all(doc["prefill"] == (doc["target"] or f"{compliant_start(doc['goal'])}:\n\n") for doc in docs)
    assert [doc["id"] for doc in docs] == [f"{one}-{n:03d}" for n in range(len(docs))]


def test_a_text_that_a_request_speaks_of_comes_before_it(shelf: TaskShelf) -> None:
    docs = shelf.load("harmbench_plain", Settings()).eval_docs
    assert [doc["prompt"] for doc in docs] == ["The text.\n\nDo it", "Do more"]


def test_our_own_requests_are_the_evaluation_split(shelf: TaskShelf) -> None:
    own = {doc["id"]: doc["prompt"] for doc in shelf.load("embedded_harmful", Settings()).eval_docs}
    assert {doc["id"]: doc["goal"] for doc in shelf.load("embedded_base64", Settings()).eval_docs} == own


def test_what_is_missing_is_said_of_the_task_by_its_name(
    shelf: TaskShelf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CannotRun, match=r"harmbench_suffix needs .* --data suffixes=FILE"):
        shelf.load("harmbench_suffix", Settings())
    data.set_sources(data.Sources(CARDS))
    with pytest.raises(CannotRun, match="jailbreakbench_plain needs the data set 'jailbreakbench'"):
        shelf.load("jailbreakbench_plain", Settings())


def test_other_columns_are_a_user_error(shelf: TaskShelf, tmp_path: Path) -> None:
    (tmp_path / "strongreject.jsonl").write_text('{"text": "x"}')
    with pytest.raises(BrittleError, match=r"task strongreject_plain expects .* lacks forbidden_prompt"):
        shelf.load("strongreject_plain", Settings())
