"""The tasks: every YAML loads and runs through lm-eval with a model that answers by a rule."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

import brittle_registry
import brittle_tasks
from brittle_eval import data
from brittle_eval.cards import DatasetCard, load
from brittle_eval.errors import BrittleError, CannotRun

(SHELF,) = brittle_tasks.brittle_task_paths()
YAMLS = sorted(SHELF.rglob("*.yaml"))
GROUPS = {
    "advbench": ["advbench_system", "advbench_plain", "advbench_suffix", "advbench_decoding", "advbench_decoding_chat"],
    "advbench_all": [
        *("advbench_system", "advbench_plain", "advbench_suffix", "advbench_decoding", "advbench_decoding_chat"),
        *("advbench_sweep", "advbench_prefill", "advbench_many_shot", "advbench_templates", "advbench_base64"),
        "advbench_translations",
    ],
    "xstest": ["xstest_unsafe", "xstest_safe"],
    "embedded": ["embedded_harmful", "embedded_harmless", "embedded_choice"],
    "utility": ["boolq", "rte", "hellaswag", "winogrande", "arc_challenge", "openbookqa"],
}
TASKS = [path.stem for path in YAMLS if path.stem not in GROUPS]
OWN = [name for name in TASKS if name.startswith("embedded_")]
ADVBENCH = GROUPS["advbench_all"]
VARIANTS = {"advbench_suffix": "suffixes", "advbench_templates": "templates", "advbench_translations": "translations"}
"""Attacks with several prompts a request, and the user's file that they need."""
REPEATS = {"advbench_decoding": 5, "advbench_decoding_chat": 5, "advbench_sweep": 49}

FIXTURES: dict[str, list[Any]] = {
    "advbench": [{"goal": f"Do {n}", "target": f"Sure, {n}"} for n in range(103)],
    "harmfulq": ["How to harm?", "Why not?"],
    "oktest": [{"prompt": "How to kill time?\n"}, {"prompt": "Who shot the film?\n"}],
    "xstest": [
        {"type": "contrast_x", "prompt": "Rob?"},
        {"type": "homonyms", "prompt": "Kill time?"},
        {"type": "y", "prompt": "z"},
    ],
    "alpaca-instructions": [f"Name {n} fruits" for n in range(102)],
    "boolq-rows": [{"query": "Is ice hot?", "choices": ["no", "yes"], "gold": 0}],
    "winogrande-rows": [{"context_options": ["The cup", "The box"], "continuation": "is big.", "gold": 1}],
    "arc-challenge-rows": [{"query": "Question: What is the sun?", "choices": ["a star", "a fish"], "gold": 0}],
    "openbookqa-rows": [{"query": "A frog likes", "choices": ["ponds", "ovens"], "gold": 0}],
}


class CountingLM(LM):  # type: ignore[misc]  # lm-eval ships no types
    """Answers each request with its number; likes all continuations alike."""

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return [(-1.0, False) for _ in requests]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return [f"answer {n}" for n in range(len(requests))]


@pytest.fixture(scope="module")
def shelf() -> TaskManager:
    return TaskManager(include_path=[str(SHELF)], include_defaults=False)


@pytest.fixture
def fixtures(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Small files with the public data sets' schemas, as the process's sources."""
    paths = {name: tmp_path / f"{name}.{'json' if isinstance(rows[0], str) else 'jsonl'}" for name, rows in FIXTURES.items()}
    for name, path in paths.items():
        rows = FIXTURES[name]
        path.write_text(json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))
    paths["suffixes"] = tmp_path / "suffixes.txt"
    paths["suffixes"].write_text("! one\n! two\n")
    paths["templates"] = tmp_path / "templates.txt"
    paths["templates"].write_text("Sing: {prompt}.\nSay {prompt}\n")
    paths["translations"] = tmp_path / "translations.jsonl"
    lines = [{"row": n, "language": tongue, "translation": f"{tongue} {n}"} for n in range(100) for tongue in ("fr", "de")]
    paths["translations"].write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = data._current
    yield use(paths)
    data.set_sources(before)


def use(paths: dict[str, Path]) -> dict[str, Path]:
    cards = load("datasets", DatasetCard, brittle_registry.brittle_registry_paths())
    data.set_sources(data.Sources(cards, paths))
    return paths


def run(task: Any) -> dict[str, Any]:
    name = task.config.task
    loaded = {"tasks": {name: task}, "groups": {}, "group_map": {}}
    return dict(evaluate(lm=CountingLM(), task_dict=loaded, limit=3, log_samples=True, bootstrap_iters=0))


def get(shelf: TaskManager, name: str) -> Any:
    return shelf.load([name])["tasks"][name]


def test_every_yaml_is_found_under_its_files_name(shelf: TaskManager) -> None:
    assert sorted(shelf.task_index) == sorted(path.stem for path in YAMLS)
    assert sorted(shelf.all_groups) == sorted(GROUPS)


@pytest.mark.parametrize("group", GROUPS)
def test_groups_have_their_members(shelf: TaskManager, group: str) -> None:
    config = shelf.task_index[group].cfg
    assert config is not None
    assert config["task"] == GROUPS[group]


@pytest.mark.parametrize("name", TASKS)
def test_metadata_is_complete(shelf: TaskManager, name: str) -> None:
    metadata = shelf.task_index[name].cfg["metadata"]
    assert metadata["version"] == 1.0
    own = metadata["brittle"]
    assert {"chat", "system", "role"} <= set(own) <= {"chat", "system", "role", "options", "before"}
    assert isinstance(own["chat"], bool)
    assert own["system"] in {"paper", "none", "default"}
    assert own["role"] in {"attack", "harmless", "utility"}
    assert own["chat"] or own["system"] == "none"


@pytest.mark.parametrize("name", TASKS)
def test_generation_options_leave_nothing_to_defaults(shelf: TaskManager, name: str) -> None:
    config = shelf.task_index[name].cfg
    if config["output_type"] != "generate_until":
        assert config["metadata"]["brittle"] == {"chat": False, "system": "none", "role": "utility"}
        return
    options = config["generation_kwargs"]
    assert options["until"] == []
    assert options["max_gen_toks"] == (100 if name == "advbench_sweep" else 256)
    sampled = name in REPEATS
    assert options["do_sample"] is sampled
    assert options["temperature"] == (1.0 if sampled else 0.0)
    assert not sampled or (options["top_p"], options["top_k"]) == (1.0, 0)
    assert config["repeats"] == REPEATS.get(name, 1)
    assert config["filter_list"][0]["filter"] == [{"function": "take_first_k", "k": config["repeats"]}]


def test_the_attacks_differ_in_wrapper_and_system_turn(shelf: TaskManager) -> None:
    shown = {name: shelf.task_index[name].cfg["metadata"]["brittle"] for name in ADVBENCH}
    assert {name: own["chat"] for name, own in shown.items()} == {name: name != "advbench_decoding" for name in ADVBENCH}
    assert {name for name, own in shown.items() if own["system"] == "paper"} == {"advbench_system"}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_runs_through_lm_eval(shelf: TaskManager, fixtures: dict[str, Path], name: str) -> None:
    task = get(shelf, name)
    results = run(task)
    samples = results["samples"][name]
    assert len(samples) == min(3, len(task.eval_docs))
    if task.config.output_type == "generate_until":
        repeats = REPEATS.get(name, 1)
        assert results["results"][name]["n_answers,all"] == repeats
        assert all(len(sample["resps"][0]) == len(set(sample["resps"][0])) == repeats for sample in samples)
        shown = [f"{sample['doc']['prompt']} {sample['doc'].get('prefill', '')}".strip() for sample in samples]
        assert [sample["arguments"][0][0].strip() for sample in samples] == shown
        assert len({doc["id"] for doc in task.eval_docs}) == len(task.eval_docs)


@pytest.mark.parametrize("name", [name for name in ADVBENCH if name not in VARIANTS])
def test_advbench_is_the_first_hundred_rows(shelf: TaskManager, fixtures: dict[str, Path], name: str) -> None:
    docs = list(get(shelf, name).eval_docs)
    assert [(doc["row"], doc["goal"], doc["target"]) for doc in docs] == [(n, f"Do {n}", f"Sure, {n}") for n in range(100)]


def test_xstest_is_split_by_type(shelf: TaskManager, fixtures: dict[str, Path]) -> None:
    assert [doc["prompt"] for doc in get(shelf, "xstest_unsafe").eval_docs] == ["Rob?"]
    assert [(doc["row"], doc["prompt"]) for doc in get(shelf, "xstest_safe").eval_docs] == [(1, "Kill time?"), (2, "z")]


def test_twins_are_the_alarming_half_of_the_harmless_prompts(shelf: TaskManager) -> None:
    twins = {doc["id"] for doc in get(shelf, "embedded_twins").eval_docs}
    whole = {doc["id"]: doc["kind"] for doc in get(shelf, "embedded_harmless").eval_docs}
    assert twins == {name for name, kind in whole.items() if kind == "twin"} and len(twins) == 32


def test_missing_data_names_the_task(
    shelf: TaskManager, fixtures: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    del fixtures["harmfulq"]
    use(fixtures)
    with pytest.raises(CannotRun, match="harmfulq needs the data set 'harmfulq'"):
        get(shelf, "harmfulq")


@pytest.mark.parametrize(
    ("name", "card", "row", "lacking"),
    [
        ("advbench_plain", "advbench", {"goal": "x"}, "target"),
        ("oktest", "oktest", {"text": "x"}, "prompt"),
        ("winogrande_rows", "winogrande-rows", {"query": "x"}, "context_options"),
    ],
)
def test_a_file_with_other_columns_is_a_user_error(
    shelf: TaskManager, fixtures: dict[str, Path], name: str, card: str, row: dict[str, str], lacking: str
) -> None:
    fixtures[card].write_text(json.dumps(row))
    with pytest.raises(BrittleError, match=f"task {name} expects .* lacks {lacking}.*--data {card}=PATH"):
        get(shelf, name)


def test_texts_are_taken_as_prompts_and_cut_to_the_first_hundred(shelf: TaskManager, fixtures: dict[str, Path]) -> None:
    assert [doc["prompt"] for doc in get(shelf, "oktest").eval_docs] == ["How to kill time?", "Who shot the film?"]
    assert [doc["prompt"] for doc in get(shelf, "alpaca_100").eval_docs] == FIXTURES["alpaca-instructions"][:100]


@pytest.mark.parametrize("name", GROUPS["embedded"])
def test_splits_share_no_rows(shelf: TaskManager, name: str) -> None:
    splits = [{doc["id"] for doc in get(shelf, other).eval_docs} for other in OWN if other.startswith(name)]
    assert len(splits) >= 2
    assert len(set().union(*splits)) == sum(map(len, splits))


def test_what_was_read_is_known_by_its_digest(shelf: TaskManager, fixtures: dict[str, Path]) -> None:
    get(shelf, "advbench_plain")
    assert data.sources().digests()["advbench"] == hashlib.sha256(fixtures["advbench"].read_bytes()).hexdigest()


def real_sources() -> Mapping[str, DatasetCard]:
    folder = os.environ.get("BRITTLE_EVAL_DATA")
    if not folder:
        pytest.skip("BRITTLE_EVAL_DATA is not set: no local copies of the public data sets")
    cards = load("datasets", DatasetCard, brittle_registry.brittle_registry_paths())
    missing = [card.file for card in cards.values() if card.sha256 and not (Path(folder) / card.file).is_file()]
    if missing:
        pytest.skip(f"BRITTLE_EVAL_DATA has no {', '.join(missing)}")
    data.set_sources(data.from_options(cards, (), {"BRITTLE_EVAL_DATA": folder}))
    return cards


@pytest.mark.parametrize("name", [name for name in TASKS if name not in OWN and name not in VARIANTS])
def test_real_rows_run_through_lm_eval(shelf: TaskManager, name: str) -> None:
    before = data._current
    cards = real_sources()
    config = shelf.task_index[name].cfg
    try:
        if cards[config["dataset_kwargs"]["source"]["card"]].sha256 is None:
            pytest.skip(f"{name}: the card of its data set is unverified, and no copy is at hand")
        task = get(shelf, name)
        card = config["dataset_kwargs"]["source"]["card"]
        rows = cards[card].rows
        assert rows is not None
        assert len(task.eval_docs) == min(rows, task.config.dataset_kwargs["source"].get("first", 10**6))
        assert len(run(task)["samples"][name]) == 3
        assert data.sources().digests()[card] == cards[card].sha256
    finally:
        data.set_sources(before)
