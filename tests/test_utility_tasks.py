"""The utility tasks: what the model is shown, and that a model which is always right scores 1."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

import brittle_registry
import brittle_tasks
from brittle_eval import data
from brittle_eval.cards import DatasetCard, load

FIXTURES: dict[str, list[dict[str, Any]]] = {
    "boolq-rows": [
        {"query": "Passage: Ice is cold.\nQuestion: is ice hot?", "choices": ["no", "yes"], "gold": 0},
        {"query": "Passage: Ice is cold.\nQuestion: is ice cold?", "choices": ["no", "yes"], "gold": 1},
    ],
    "winogrande-rows": [
        {
            "context_options": ["The cup fits the box so the cup", "The cup fits the box so the box"],
            "continuation": "is big.",
            "gold": 1,
        }
    ],
    "arc-challenge-rows": [{"choices": ["a star", "a lamp", "a fish"], "query": "Question: What is the sun?", "gold": 0}],
    "openbookqa-rows": [{"query": "A frog likes", "choices": ["ponds", "ovens"], "gold": 0}],
}
ROWS = [name.replace("-", "_") for name in FIXTURES]


class RuleLM(LM):  # type: ignore[misc]  # lm-eval ships no types
    """Prefers the continuations that `likes` picks, and remembers what it was asked."""

    def __init__(self, likes: Callable[[str, str], bool] = lambda context, end: False) -> None:
        super().__init__()
        self.likes = likes
        self.asked: list[tuple[str, str]] = []

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self.asked += [request.args for request in requests]
        return [(0.0 if self.likes(*request.args) else -100.0, False) for request in requests]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        raise NotImplementedError


@pytest.fixture(scope="module")
def shelf() -> TaskManager:
    return TaskManager(include_path=list(map(str, brittle_tasks.brittle_task_paths())), include_defaults=False)


@pytest.fixture
def fixtures(tmp_path: Path) -> Iterator[None]:
    """Small files with the local rows' schemas, as the process's sources."""
    for name, rows in FIXTURES.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cards = load("datasets", DatasetCard, brittle_registry.brittle_registry_paths())
    before = data._current
    data.set_sources(data.Sources(cards, {name: tmp_path / f"{name}.jsonl" for name in FIXTURES}))
    yield
    data.set_sources(before)


def get(shelf: TaskManager, name: str) -> Any:
    return shelf.load([name])["tasks"][name]


def accuracy(task: Any, lm: LM) -> float:
    name = task.config.task
    loaded = {"tasks": {name: task}, "groups": {}, "group_map": {}}
    results = evaluate(lm=lm, task_dict=loaded, log_samples=True, bootstrap_iters=0)
    return float(results["results"][name]["acc,none"])


RENDERED = {
    "boolq_rows": [
        (f"Passage: Ice is cold.\nQuestion: is ice {word}?\nAnswer:", f" {choice}")
        for word in ("hot", "cold")
        for choice in ("no", "yes")
    ],
    "winogrande_rows": [("The cup fits the box so the cup", " is big."), ("The cup fits the box so the box", " is big.")],
    "arc_challenge_rows": [("Question: What is the sun?\nAnswer:", f" {choice}") for choice in ("a star", "a lamp", "a fish")],
    "openbookqa_rows": [("A frog likes", " ponds"), ("A frog likes", " ovens")],
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_rendered_as_lm_eval_renders_the_task(shelf: TaskManager, fixtures: None, name: str) -> None:
    lm = RuleLM()
    accuracy(get(shelf, name), lm)
    assert lm.asked == RENDERED[name]


RIGHT: dict[str, Callable[[str, str], bool]] = {
    "boolq_rows": lambda context, end: ("hot" in context.split("Question")[1]) == (end == " no"),
    "winogrande_rows": lambda context, end: context.endswith("so the box"),
    "arc_challenge_rows": lambda context, end: end == " a star",
    "openbookqa_rows": lambda context, end: end == " ponds",
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_score_a_model_that_is_always_right_and_one_that_never_is(shelf: TaskManager, fixtures: None, name: str) -> None:
    right = RIGHT[name]
    assert accuracy(get(shelf, name), RuleLM(right)) == 1
    wrong = RuleLM(lambda context, end: not right(context, end))
    assert accuracy(get(shelf, name), wrong) == 0


def test_choices_are_joined_by_one_space(shelf: TaskManager) -> None:
    lm = RuleLM()
    accuracy(get(shelf, "embedded_choice"), lm)
    texts = ["".join(pair) for pair in lm.asked]
    assert len(texts) == 800
    assert not [text for text in texts if "  " in text or " \n" in text]
    assert all(end.startswith(" ") and not context[-1].isspace() for context, end in lm.asked)


CHOICES = {"text": ["a star", "a lamp", "a fish", "a cup"], "label": ["A", "B", "C", "D"]}
UTILITY: dict[str, tuple[str, list[dict[str, Any]], list[str]]] = {
    "boolq": (
        "super_glue/boolq/default.yaml",
        [{"passage": "Ice is cold.", "question": "is ice hot", "idx": 0, "label": 0}],
        ["Ice is cold.\nQuestion: is ice hot?\nAnswer: no"],
    ),
    "rte": (
        "glue/rte/default.yaml",
        [{"sentence1": "Ice is cold.", "sentence2": "Ice is hot.", "label": 1, "idx": 0}],
        ["Ice is cold.\nQuestion: Ice is hot. True or False?\nAnswer: False"],
    ),
    "hellaswag": (
        "hellaswag/hellaswag.yaml",
        [
            {
                "activity_label": "Tea",
                "ctx_a": "A man boils water.",
                "ctx_b": "he",
                "endings": ["eats it.", "pours it.", "sings.", "dies."],
                "label": "1",
            }
        ],
        ["Tea: A man boils water. He pours it."],
    ),
    "winogrande": (
        "winogrande/default.yaml",
        [{"sentence": "The cup fits the box so the _ is big.", "option1": "cup", "option2": "box", "answer": "2"}],
        ["The cup fits the box so the box is big."],
    ),
    "arc_challenge": (
        "arc/arc_challenge.yaml",
        [{"id": "x", "question": "What is the sun?", "choices": CHOICES, "answerKey": "A"}],
        ["Question: What is the sun?\nAnswer: a star"],
    ),
    "openbookqa": (
        "openbookqa/openbookqa.yaml",
        [{"id": "x", "question_stem": "A frog is not", "choices": CHOICES, "answerKey": "D"}],
        ["A frog is not a cup"],
    ),
}
LOADER = """
import json
from pathlib import Path
from datasets import Dataset

def load(**options):
    rows = Dataset.from_list(json.loads((Path(__file__).parent / "rows.json").read_text()))
    return {"train": rows, "validation": rows, "test": rows}
"""


def over_local_rows(name: str, folder: Path, rows: list[dict[str, Any]]) -> Any:
    """lm-eval's own task over local rows of its own schema, as a user without network would write it."""
    definition = Path(lm_eval.tasks.__file__).parent / UTILITY[name][0]
    (folder / "local.py").write_text(LOADER)
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / f"{name}.yaml").write_text(f"include: {definition}\ntask: {name}\ncustom_dataset: !function local.load\n")
    return get(TaskManager(include_path=[str(folder)], include_defaults=False), name)


@pytest.mark.parametrize("name", UTILITY)
@pytest.mark.parametrize("right", [True, False])
def test_utility_is_lm_evals_own_definition(tmp_path: Path, name: str, right: bool) -> None:
    _, rows, answers = UTILITY[name]
    lm = RuleLM(lambda context, end: ((context + end) in answers) is right)
    assert accuracy(over_local_rows(name, tmp_path, rows), lm) == float(right)
    assert answers[0] in {"".join(pair) for pair in lm.asked}
