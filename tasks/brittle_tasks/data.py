"""Loaders for the YAML's `custom_dataset`: called with a task's metadata and `dataset_kwargs`, they read `source`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brittle_eval import BrittleError, UnknownName, sources

if TYPE_CHECKING:
    from datasets import Dataset

Row = dict[str, Any]
OWN = ("choice", "harmful", "harmless", "open")
SPLITS = ("dev", "eval", "train")


def own_rows(name: str, split: str) -> list[Row]:
    """The project's own rows of the split `train`, `dev` or `eval`: `harmful` and `harmless` prompts, `choice` questions, or
    `open` requests for lists, recipes and verses, which are harmless and for training alone (`train` and `dev`).
    """
    if name not in OWN:
        raise UnknownName("set of the project's own prompts", name, OWN)
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
    text = (files(__package__) / "embedded" / f"{name}.jsonl").read_text(encoding="utf-8")
    rows: list[Row] = [json.loads(line) for line in text.splitlines()]
    return [row for row in rows if row["split"] == split]


def load_own(**options: Any) -> dict[str, Dataset]:
    """`source: {name, split, where}`: the project's own rows as they are, all or those of a kind."""
    source = dict(options["source"])
    chosen = {key: source.pop(key) for key in ("where", "unless") if key in source}
    return dataset(select(own_rows(**source), chosen))


def load_prompts(**options: Any) -> dict[str, Dataset]:
    """`source: {card, first, where, unless}`: the `prompt` column of a card's chosen rows, with id and row number."""
    source = options["source"]
    columns = ["prompt", *source.get("where", ()), *source.get("unless", ())]
    rows = select(enumerated(card_rows(options, columns)), source)[: source.get("first")]
    return dataset(
        [{"id": f"{source['card']}-{row['row']:03d}", "row": row["row"], "prompt": row["prompt"].strip()} for row in rows]
    )


def load_choices(**options: Any) -> dict[str, Dataset]:
    """`source: {card, columns}`: a card's rows as they are, which must have the columns."""
    return dataset(card_rows(options, options["source"]["columns"]))


def enumerated(rows: Sequence[Row]) -> list[Row]:
    """The rows with their numbers in the column `row`."""
    return [{**row, "row": number} for number, row in enumerate(rows)]


def select(rows: Sequence[Row], source: Mapping[str, Any]) -> list[Row]:
    """The rows whose columns fit all patterns of `where` and none of `unless`: `{type: contrast_*}`."""

    def fits(row: Row, patterns: Mapping[str, str]) -> list[bool]:
        return [fnmatchcase(str(row[column]), pattern) for column, pattern in patterns.items()]

    return [row for row in rows if all(fits(row, source.get("where", {}))) and not any(fits(row, source.get("unless", {})))]


def card_rows(options: Mapping[str, Any], columns: Sequence[str]) -> list[Row]:
    """A card's rows, which must have the columns."""
    card, task = options["source"]["card"], task_name(options)
    rows = sources().rows(card, task)
    for number, row in enumerate(rows):
        if missing := [column for column in columns if column not in row]:
            raise BrittleError(
                f"task {task} expects rows of '{card}' with {', '.join(columns)}; row {number} has {', '.join(row)} and lacks "
                f"{missing[0]}: give another file with --data {card}=PATH"
            )
    return rows


def task_name(options: Mapping[str, Any]) -> str:
    """The task's name: that of its YAML file, which lm-eval puts into the metadata."""
    return Path(options.get("config_source", "this task")).stem


def dataset(rows: list[Row]) -> dict[str, Dataset]:
    """The rows as the split `test`."""
    from datasets import Dataset

    return {"test": Dataset.from_list(rows)}
