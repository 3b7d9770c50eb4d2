"""Presets: the shipped cards, contradictions, and the numbers that they read from a run."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from brittle_eval import cards
from brittle_eval.cards import PresetCard, datasets
from brittle_eval.cli import main
from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.conditions import system_digest
from brittle_eval.evaluation.evaluate import TaskShelf
from brittle_eval.evaluation.presets import check_data, check_tasks, chosen, fixed, numbers
from brittle_eval.methods import Record
from brittle_eval.plugins import Plugins
from brittle_eval.running.prepare import Options, prepare
from brittle_eval.running.record import TaskResult
from brittle_plugins.judge_wei2024 import Wei2024
from brittle_plugins.judge_wei2024_paper import Wei2024Paper

PLUGINS = Plugins.load()
CARDS = cards.presets(PLUGINS)
CARD = PresetCard(
    name="mine",
    summary="Mine",
    version="3",
    source="me",
    tasks={"one": "1.0", "two": "2.0"},
    judges=["refusal"],
    max_gen_toks=9,
    samples={"two": 5},
    data={"set": "0" * 64},
    numbers={"asr": ["one.judge_refusal"], "mean": ["one.judge_refusal", "two.value"]},
)


def test_the_presets_are_there() -> None:
    assert set(CARDS) == {"wei2024", "wei2024-released-code", "strict-2026", "sode"}


@pytest.mark.parametrize("name", sorted(["wei2024", "wei2024-released-code", "strict-2026", "sode"]))
def test_a_shipped_preset_names_what_is_installed(name: str) -> None:
    card, shelf = CARDS[name], TaskShelf(PLUGINS.task_paths(), {})
    configs = {name: shelf._manager_of(name).task_index[name].cfg or {} for name in card.tasks}
    for task, version in card.tasks.items():
        config = configs[task]
        assert str(config["metadata"]["version"]) == version, task
        assert config.get("repeats", 1) == card.samples.get(task, 1), task
    assert all(judge in PLUGINS.names("judge") for judge in card.judges)
    assert {place.split(".", 1)[0] for places in card.numbers.values() for place in places} <= set(card.tasks)
    assert {name: datasets(PLUGINS)[name].sha256 for name in card.data} == card.data
    assert {name: system_digest(name) for name in card.system_prompts} == card.system_prompts
    used = {config.get("dataset_kwargs", {}).get("source", {}).get("card") for config in configs.values()} - {None}
    assert used == set(card.data), "every data set of ours is fixed"


def test_the_papers_preset_and_the_codes_differ_where_the_two_do() -> None:
    paper, code = CARDS["wei2024"], CARDS["wei2024-released-code"]
    assert (paper.utility_limit, code.utility_limit) == (None, 200)
    assert paper.numbers["asr-decoding"] == ["advbench_decoding.judge_wei2024-paper"]
    assert code.numbers["asr-decoding"] == ["advbench_decoding.judge_wei2024_mean"]
    assert set(paper.tasks) < set(code.tasks)


def test_the_papers_rule_has_no_least_length() -> None:
    answers = ["Sure.", "", "I cannot do that.", "word " * 30, "However, " + "word " * 30]
    records = [Record("x", answer) for answer in answers]
    assert [verdict.positive for verdict in Wei2024Paper().judge(records)] == [True, True, False, True, False]
    assert [verdict.positive for verdict in Wei2024().judge(records)] == [False, False, False, True, False]
    assert Wei2024Paper().final("Sure") is None and Wei2024Paper().final("I cannot") is not None


def test_a_preset_sets_the_options_and_refuses_others() -> None:
    values = chosen(CARD, asdict(Options()), ())
    assert values == fixed(CARD)
    assert (values["tasks"], values["judges"], values["gen_kwargs"]) == (("one", "two"), ("refusal",), {"max_gen_toks": 9})
    for name, value in values.items():
        assert chosen(CARD, {name: value}, {name}) == values
    with pytest.raises(
        BrittleError, match=r"--preset mine fixes judge to refusal, and wei2024,refusal was given: leave --judge out"
    ):
        chosen(CARD, asdict(Options()), {"judges"})
    with pytest.raises(BrittleError, match="fixes seed to 0, and 4 was given"):
        chosen(CARD, asdict(Options(seed=4)), {"seed"})


def test_what_was_given_is_what_differs_or_was_typed() -> None:
    assert Options(seed=4, preset="x").chosen == {"seed", "preset"}
    assert "judges" in replace(Options(), given=frozenset({"judges"})).chosen


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tasks": ("embedded",)}, "fixes tasks to advbench_system,"),
        ({"condition": "context"}, "fixes condition to nothing, and context was given"),
        ({"gen_kwargs": {"max_gen_toks": 3}}, "fixes gen_kwargs to max_gen_toks=512"),
        ({"metadata": {"prefill_tokens": 3}}, "fixes metadata to nothing"),
        ({"given": frozenset({"judges"})}, "fixes judge to refusal,wei2024, and wei2024,refusal was given"),
        ({"preset": "strict"}, "did you mean strict-2026"),
        ({"preset": None, "condition": "contxt"}, "did you mean context"),
    ],
)
def test_contradictions_end_before_anything_is_loaded(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BrittleError, match=re.escape(said)):
        prepare(Options(**({"preset": "strict-2026"} | given)))


def test_a_prepared_run_has_the_presets_options() -> None:
    prepared = prepare(Options(preset="wei2024-released-code", limit=2, batch_size=3))
    assert prepared.preset is not None and prepared.preset.title == "wei2024-released-code 1"
    assert prepared.tasks == tuple(CARDS["wei2024-released-code"].tasks)
    assert (prepared.options.utility_limit, prepared.options.limit, prepared.options.batch_size) == (200, 2, 3)
    assert list(prepared.judges) == ["wei2024", "refusal"]


def test_other_data_is_refused() -> None:
    check_data(CARD, {"other": "1" * 64})
    check_data(CARD, {"set": "0" * 64})
    with pytest.raises(BrittleError, match=f"fixes the data set 'set' to sha256 {'0' * 64}, and a file with {'1' * 64} was read"):
        check_data(CARD, {"set": "1" * 64})


def installed(version: float, repeats: int | None) -> SimpleNamespace:
    return SimpleNamespace(config=SimpleNamespace(metadata={"version": version}, repeats=repeats))


def test_another_version_of_a_task_or_a_system_text_is_refused() -> None:
    check_tasks(CARD, {"one": installed(1.0, None), "two": installed(2.0, 5)})
    with pytest.raises(BrittleError, match=r"the task one at version 1.0 with 1 answers to a prompt, and version 1.1 with 1"):
        check_tasks(CARD, {"one": installed(1.1, 1)})
    with pytest.raises(BrittleError, match=r"the task two at version 2.0 with 5 answers to a prompt, and version 2.0 with 4"):
        check_tasks(CARD, {"two": installed(2.0, 4)})
    with pytest.raises(BrittleError, match="fixes the system text 'paper'"):
        check_tasks(CARD.model_copy(update={"system_prompts": {"paper": "0" * 64}}), {})


def test_numbers_are_means_of_what_the_row_has() -> None:
    one = TaskResult("one", "attack", values={"judge_refusal": {"value": 0.25, "k": 1, "n": 4}})
    two = TaskResult("two", "utility", values={"value": 0.75})
    assert numbers(CARD, [one, two]) == {"asr": 0.25, "mean": 0.5}
    assert numbers(CARD, [one]) == {"asr": 0.25, "mean": None}


def test_presets_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)["presets"]} == set(CARDS)
    assert main(["show", "wei2024", "--json"]) == 0
    shown = {one["kind"]: one for one in json.loads(capsys.readouterr().out)}
    assert shown["preset"]["preset"] == "wei2024 1" and shown["preset"]["version"] == "0.1.0"
    assert shown["preset"]["samples"] == {"advbench_decoding": 5}
    assert main(["show", "strict-2026"]) == 0
    text = capsys.readouterr().out
    for part in ("strict-2026 1", "advbench_prefill", "512", "refusal, wei2024", CARDS["strict-2026"].data["oktest"]):
        assert part in text


def test_show_says_unverified_of_a_data_set_without_digest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "strongreject"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("sha256"))
    assert line.split() == ["sha256", "unverified"]


def test_an_option_typed_against_the_preset_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--preset", "strict-2026", "--output_path", str(tmp_path / "run")]
    assert main([*line, "--judge", "wei2024,refusal"]) == 2, "the default, typed, contradicts the preset"
    assert "--preset strict-2026 fixes judge to refusal,wei2024" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
