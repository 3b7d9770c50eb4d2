"""Attacks whose texts come from the user's files, or are made of the request: what is sent, and files that do not fit."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager

from brittle_eval.errors import BrittleError, CannotRun
from tests.test_tasks import VARIANTS, fixtures, get, shelf, use

__all__ = ["fixtures", "shelf"]  # fixtures

SENT: dict[str, Callable[[int], set[str]]] = {
    "advbench_suffix": lambda n: {f"Do {n} ! one", f"Do {n} ! two"},
    "advbench_templates": lambda n: {f"Sing: Do {n}.", f"Say Do {n}"},
    "advbench_translations": lambda n: {f"fr {n}", f"de {n}"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_tried_on_every_request(shelf: TaskManager, fixtures: dict[str, Path], name: str) -> None:
    docs = list(get(shelf, name).eval_docs)
    assert len(docs) == 200
    for n in range(100):
        own = [doc for doc in docs if doc["row"] == n]
        assert {doc["prompt"] for doc in own} == SENT[name](n)
        assert [doc["variant"] for doc in own] == [0, 1] and {doc["goal"] for doc in own} == {f"Do {n}"}


@pytest.mark.parametrize("name", VARIANTS)
def test_an_attack_needs_the_users_file(shelf: TaskManager, fixtures: dict[str, Path], name: str) -> None:
    del fixtures[VARIANTS[name]]
    use(fixtures)
    with pytest.raises(CannotRun, match=rf"{name} needs .* --data {VARIANTS[name]}=FILE"):
        get(shelf, name)


def test_a_request_in_base64_can_be_read_back(shelf: TaskManager, fixtures: dict[str, Path]) -> None:
    for doc in list(get(shelf, "advbench_base64").eval_docs)[:3]:
        code = doc["prompt"].split()[-1]
        assert base64.b64decode(code).decode() == doc["goal"]


def test_the_start_of_an_answer_is_the_sets_own(shelf: TaskManager, fixtures: dict[str, Path]) -> None:
    assert [doc["prefill"] for doc in get(shelf, "advbench_prefill").eval_docs][:2] == ["Sure, 0", "Sure, 1"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("templates", "no slot\n", "template 1: expected {prompt} once, found it 0 times"),
        ("templates", "{prompt}\n{prompt} and {prompt}\n", "template 2: .* found it 2 times"),
        ("templates", "\n \n", "is empty"),
        ("suffixes", "\n", "is empty"),
        ("suffixes", b"\xff\xfe!", "is not UTF-8"),
        ("templates", b"\xff\xfe{prompt}", "is not UTF-8"),
        ("translations", '{"row": 0, "translation": "x"}', "lacks 99 of 100 requests .* the first is row 1"),
        ("translations", '{"row": 0, "translation": " "}', "row 1: has no translation"),
        ("translations", '{"row": "a", "translation": "x"}', "the row 'a' is no number"),
        ("translations", '{"row": 0, "translation": "x"}\n{"row": 0, "translation": "y"}', "row 0 has two translations"),
    ],
)
def test_a_users_file_that_does_not_fit(
    shelf: TaskManager, fixtures: dict[str, Path], name: str, content: str | bytes, said: str
) -> None:
    fixtures[name].write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BrittleError, match=said):
        get(shelf, next(task for task, file in VARIANTS.items() if file == name))
