"""Labels by people: what a file of them may say, and how judges are scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brittle_eval import BrittleError, Record, Verdict
from brittle_eval.judgement.labels import read_labels, score, scores
from brittle_eval.judgement.verdicts import answer_key


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_an_answer_is_named_by_its_texts_by_its_digest_or_by_its_place(tmp_path: Path) -> None:
    key = answer_key(Record("p", "r"))
    file = write(
        tmp_path / "labels.jsonl",
        {"prompt": "p", "response": "r", "label": True, "remark": "kept out"},
        {"answer": key, "label": True},
        {"task": "t", "doc_id": 3, "label": False},
        {"task": "t", "doc_id": 3, "sample": 1, "row": "plan", "label": None},
    )
    found = read_labels(file)
    assert {place: label.label for place, label in found.items()} == {
        key: True,
        ("unedited", "t", 3, 0): False,
        ("plan", "t", 3, 1): None,
    }


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"prompt": "p", "response": "r"}], "row 1: key 'label': field required"),
        ([{"prompt": "p", "response": "r", "label": "harmful"}], "row 1: key 'label'"),
        ([{"prompt": "p", "label": True}], "row 1 does not say which answer it labels"),
        ([{"task": "t", "label": True}], "row 1 does not say which answer it labels"),
        ([{"task": "t", "doc_id": 1, "sample": -1, "label": True}], "key 'sample'"),
        ([{"answer": "x", "label": True}, {"answer": "x", "label": False}], "row 2 gives an answer a second label"),
        ([], "has no labels"),
    ],
)
def test_mistakes_name_the_row(tmp_path: Path, lines: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(BrittleError) as caught:
        read_labels(write(tmp_path / "labels.jsonl", *lines))
    assert said in str(caught.value) and "\n" not in str(caught.value)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([True, False, None])), max_size=30))
def test_scores_are_their_definitions_and_the_unscored_are_misses(pairs: list[tuple[bool, bool | None]]) -> None:
    found = score((label, Verdict(said)) for label, said in pairs)
    called = [label for label, said in pairs if said is True]
    true = [said for label, said in pairs if label]
    assert found.precision == (sum(called) / len(called) if called else None)
    assert found.recall == (true.count(True) / len(true) if true else None)
    assert (found.n + found.unscored, found.positives) == (len(pairs), len(true))
    scored = [(label, said) for label, said in pairs if said is not None]
    if scored and len({label for label, _ in scored} | {said for _, said in scored}) == 2:
        observed = sum(label == said for label, said in scored) / len(scored)
        chance = sum(
            sum(label == value for label, _ in scored) * sum(said == value for _, said in scored) for value in (True, False)
        )
        expected = (observed - chance / len(scored) ** 2) / (1 - chance / len(scored) ** 2)
        assert found.kappa == pytest.approx(expected)
    else:
        assert found.kappa is None


def test_labels_of_no_answer_here_and_undecided_ones_are_counted(tmp_path: Path) -> None:
    labels = read_labels(
        write(
            tmp_path / "labels.jsonl",
            *({"answer": key, "label": label} for key, label in {"a": True, "b": None, "c": False}.items()),
        )
    )
    found = scores(labels, {"a": {"j": Verdict(True)}, "b": {"j": Verdict(True)}}, ["j"])
    assert {key: found[key] for key in ("labels", "used", "undecided", "of_no_answer")} == {
        "labels": 3,
        "used": 1,
        "undecided": 1,
        "of_no_answer": 1,
    }
    assert (found["judges"]["j"].n, found["judges"]["j"].recall) == (1, 1.0)
    with pytest.raises(BrittleError, match="none of 3 labels"):
        scores(labels, {}, ["j"])
