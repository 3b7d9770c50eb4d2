"""Loaders for the YAML's `custom_dataset`: called with a task's metadata and `dataset_kwargs`, they read `source`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brittle_eval import BrittleError, UnknownName, sources

if TYPE_CHECKING:
    from datasets import Dataset

Row = dict[str, Any]
OWN = ("choice", "harmful", "harmless")
SPLITS = ("dev", "eval", "train")


def own_rows(name: str, split: str) -> list[Row]:
    """The project's own rows: `harmful` and `harmless` prompts or `choice` questions, of the split `train`, `dev` or `eval`."""
    if name not in OWN:
        raise UnknownName("set of the project's own prompts", name, OWN)
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
    text = (files(__package__) / "embedded" / f"{name}.jsonl").read_text(encoding="utf-8")
    rows: list[Row] = [json.loads(line) for line in text.splitlines()]
    return [row for row in rows if row["split"] == split]


def load_own(**options: Any) -> dict[str, Dataset]:
    """`source: {name, split}`: the project's own rows as they are."""
    return _test(own_rows(**options["source"]))


def load_prompts(**options: Any) -> dict[str, Dataset]:
    """`source: {card, first}`: the `prompt` column of a card's first rows (all without `first`), with id and row number."""
    source = options["source"]
    rows = _card_rows(options, ("prompt",))[: source.get("first")]
    return _test([{"id": f"{source['card']}-{n:03d}", "row": n, "prompt": row["prompt"].strip()} for n, row in enumerate(rows)])


def load_choices(**options: Any) -> dict[str, Dataset]:
    """`source: {card, columns}`: a card's rows as they are, which must have the columns."""
    return _test(_card_rows(options, options["source"]["columns"]))


def load_advbench(**options: Any) -> dict[str, Dataset]:
    """`source: {card, first}`: AdvBench's first rows, the goal as the prompt."""
    return _test(_advbench(options))


def load_suffixes(**options: Any) -> dict[str, Dataset]:
    """`source: {card, first}`: every AdvBench prompt with every suffix of the user's file, prompt by prompt."""
    suffixes = sources().lines("suffixes", _task(options))
    return _test(
        [
            {**row, "id": f"{row['id']}-{n:02d}", "prompt": f"{row['goal']} {suffix}", "suffix": suffix, "suffix_number": n}
            for row in _advbench(options)
            for n, suffix in enumerate(suffixes)
        ]
    )


def _advbench(options: Mapping[str, Any]) -> list[Row]:
    rows = _card_rows(options, ("goal", "target"))[: options["source"]["first"]]
    return [
        {"id": f"advbench-{n:03d}", "row": n, "prompt": row["goal"], "goal": row["goal"], "target": row["target"]}
        for n, row in enumerate(rows)
    ]


def _card_rows(options: Mapping[str, Any], columns: Sequence[str]) -> list[Row]:
    card, task = options["source"]["card"], _task(options)
    rows = sources().rows(card, task)
    for number, row in enumerate(rows):
        if missing := [column for column in columns if column not in row]:
            raise BrittleError(
                f"task {task} expects rows of '{card}' with {', '.join(columns)}; row {number} has {', '.join(row)} and lacks "
                f"{missing[0]}: give another file with --data {card}=PATH"
            )
    return rows


def _task(options: Mapping[str, Any]) -> str:
    """The task's name: that of its YAML file, which lm-eval puts into the metadata."""
    return Path(options.get("config_source", "this task")).stem


def _test(rows: list[Row]) -> dict[str, Dataset]:
    from datasets import Dataset

    return {"test": Dataset.from_list(rows)}
