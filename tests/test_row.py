"""Rows on disk: their schema, older schemas, and the command that makes a run again."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

import brittle_eval
from brittle_eval.cards import PresetCard
from brittle_eval.commands.cli_run import as_options
from brittle_eval.errors import BrittleError
from brittle_eval.evaluation import presets
from brittle_eval.running.command import EVALUATION, FLAGS, NAMES, PLAIN, PRESET, REPEATED, command_line, of_config
from brittle_eval.running.prepare import Options
from brittle_eval.running.row import SCHEMA, Row, TaskResult, read_row, row_schema

SCHEMA_FILE = Path(brittle_eval.__file__).parents[1] / "registry/brittle_registry/schema/row.json"
OLD = {"name": "plan", "kind": "edited", "recipe": "plan", "plan": "plan", "model": "m", "fingerprint": "f", "schema": 1}


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def config(options: Options) -> dict[str, Any]:
    """As run.json keeps it."""
    plain: dict[str, Any] = json.loads(
        json.dumps(asdict(options), default=lambda value: sorted(map(str, value)) if isinstance(value, frozenset) else str(value))
    )
    return plain


EVERYTHING = [
    *("--model", "hf", "--model_args", "pretrained=./my models/tiny,dtype=float32", "--modify", "wanda-diff:p=0.02,q=0.01"),
    *("--modify", "magnitude+top+ablate", "--tasks", "embedded_harmful,embedded_choice", "--condition", "check-after"),
    *("--controls", "random:2", "--batch_size", "3", "--limit", "0.5", "--device", "cpu", "--seed", "7"),
    *("--apply_chat_template", "--system_instruction", 'be "brief" & kind', "--system-role", "merge"),
    *("--include_path", "more tasks", "--gen_kwargs", "max_gen_toks=4,do_sample=True", "--metadata", "shots=16,seqlen=64"),
    *("--num_fewshot", "2", "--behaviour", "safety=a b.jsonl", "--pairs", "5", "--data", "advbench=~/x.csv", "--base", "base"),
    *("--judge", "wei2024", "--stop-when-decided", "--plugin", "mine.py"),
]


@pytest.mark.parametrize("arguments", [EVERYTHING, [], ["--preset", "wei2024"], ["--apply_chat_template", "rag"]])
def test_the_command_of_a_configuration_asks_for_the_same_again(arguments: list[str]) -> None:
    options = as_options(arguments)
    words = shlex.split(command_line(config(options)))
    assert words[:2] == ["brittle-eval", "run"]
    again = config(as_options(words[2:]))
    lost = {"given", "output_path", "memory"}
    assert {key: value for key, value in again.items() if key not in lost} == {
        key: value for key, value in config(options).items() if key not in lost
    }


def test_every_option_has_a_place_in_the_command() -> None:
    covered = {*PLAIN, *REPEATED, *FLAGS, "merge_system", "apply_chat_template"}
    free = {"output_path", "memory", "given", "utility_limit"}  # where results go, how fast, and what only presets set
    assert {NAMES.get(one.name, one.name) for one in fields(Options)} - free <= covered
    assert {one.name for one in fields(Options)} >= set(EVALUATION)


def test_a_preset_fixes_what_the_command_leaves_out() -> None:
    card = PresetCard(name="one", summary="s", version="1", source="s", tasks={}, judges=[], max_gen_toks=1, samples={})
    assert {NAMES.get(name, name) for name in presets.fixed(card)} == {*PRESET, "condition"}, "of a preset several"
    words = shlex.split(command_line({"model": "hf", "preset": "wei2024 1", "tasks": ["a"], "modify": ["none"]}))
    assert words == ["brittle-eval", "run", "--model", "hf", "--preset", "wei2024", "--modify", "none"]


def test_a_row_of_schema_1_gets_what_its_run_knows() -> None:
    known = {
        "config": {"model": "hf", "seed": 3, "modify": ["plan"], "gen_kwargs": {"max_gen_toks": 4}},
        "versions": {"torch": "2"},
    }
    row = read_row(line(**OLD), "here", known)
    assert (row.schema, row.seed, row.versions, row.files) == (SCHEMA, 3, {"torch": "2"}, {})
    assert row.command == "brittle-eval run --model hf --seed 3 --gen_kwargs max_gen_toks=4 --modify plan"
    assert row.settings == {"gen_kwargs": {"max_gen_toks": 4}}
    alone = read_row(line(**OLD), "here")
    assert (alone.command, alone.seed, alone.versions) == ("", 0, {})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (line(**OLD | {"schema": 99}), "is a row of schema 99, and this version reads 1, 2"),
        (line(**{key: value for key, value in OLD.items() if key != "schema"} | {"seed": "x"}), "is a row of schema None"),
        (line(**OLD | {"schema": SCHEMA, "colour": 1}), "colour: Unexpected keyword argument"),
        (line(**OLD | {"schema": SCHEMA, "kind": "best"}), "kind: Input should be 'unedited', 'edited' or 'control'"),
        (line(**OLD | {"colour": 1}), "is no row of schema 1"),
        (b'{"name": "pl', "is damaged"),
        (b"[1, 2]", "is no row, which is a JSON object"),
    ],
)
def test_what_is_no_row_of_a_known_schema_is_refused_by_name(content: bytes, said: str) -> None:
    with pytest.raises(BrittleError, match="file, line 3") as error:
        read_row(content, "file, line 3")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_items_are_left_out_without_touching_anything_else() -> None:
    task = TaskResult("t", "attack", items=[0.0, 1.0, 1e-5], notes=['"items": [1.0]', "items"], values={"k": 1})
    row = Row("plan", "edited", "plan", 'has "items": [2] in it', "m", "f", tasks=[task, TaskResult("u", "measure", items=[2.5])])
    written = json.dumps(asdict(row)).encode().replace(b"2.5", b"null")
    whole, bare = read_row(written, "x"), read_row(written, "x", items=False)
    assert whole.tasks[0].items == [0.0, 1.0, 1e-5] and whole.tasks[1].items == [None]
    assert [one.items for one in bare.tasks] == [[], []]
    for one in (*whole.tasks, *bare.tasks):
        one.items = []
    assert whole == bare


def test_the_registry_has_the_schema_of_rows() -> None:
    assert json.loads(SCHEMA_FILE.read_text(encoding="utf-8")) == row_schema(), "run `make docs`"


def test_the_schema_names_every_field_and_allows_no_other() -> None:
    schema = row_schema()
    assert set(schema["properties"]) == {one.name for one in fields(Row)} and schema["additionalProperties"] is False
    inner = schema["$defs"]["TaskResult"]
    assert set(inner["properties"]) == {one.name for one in fields(TaskResult)} and inner["additionalProperties"] is False
    assert schema["properties"]["schema"]["const"] == SCHEMA
    assert of_config({}) == {"seed": 0, "command": "", "settings": {}}
