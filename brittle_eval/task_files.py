"""What a task's YAML says of it in words: its data, its prompt and its answers. No code that the YAML names is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from brittle_eval.cards import DatasetCard

CHOSEN = {"where": "only", "unless": "without"}
"""How a source leaves rows out, in words."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML ships no types
    """YAML whose `!function` fields stay text."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def read_task(file: Path) -> dict[str, Any]:
    """A task's YAML over what it includes."""
    own: dict[str, Any] = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    return (read_task(file.parent / own["include"]) if "include" in own else {}) | own


def task_facts(task: Mapping[str, Any], datasets: Mapping[str, DatasetCard]) -> dict[str, str]:
    """Role, data, prompt, system turn and answers of a task with `metadata.brittle`; nothing of other tasks and of groups."""
    own = (task.get("metadata") or {}).get("brittle")
    if own is None or "source" not in (task.get("dataset_kwargs") or {}):
        return {}
    return {
        "role": own["role"],
        "data": _data(task["dataset_kwargs"]["source"], datasets),
        "prompt": "chat template" if own["chat"] else "plain text",
        "system turn": own["system"] if own["chat"] else "–",
        "answers": _answers(task),
    }


def _data(source: Mapping[str, Any], datasets: Mapping[str, DatasetCard]) -> str:
    only = "".join(
        f", {word} {column} {pattern}" for key, word in CHOSEN.items() for column, pattern in source.get(key, {}).items()
    )
    if "card" not in source:
        return f"own {source['name']} prompts, {source['split']} split{only}"
    known = datasets[source["card"]].rows if source["card"] in datasets else None
    rows = f"first {source['first']}" if "first" in source else f"{'of' if only else 'all'} {known or 'its rows'}"
    return f"{source['card']}: {rows}{only}"


def _answers(task: Mapping[str, Any]) -> str:
    if task["output_type"] != "generate_until":
        return ", ".join(metric["metric"] for metric in task["metric_list"]) + " of the listed choices"
    options = task["generation_kwargs"]
    if "sweep" in task["metadata"]:
        axes = ", ".join(f"{len(values)} of {axis}" for axis, values in task["metadata"]["sweep"].items())
        return f"one under each of {task['repeats']} settings ({axes}), at most {options['max_gen_toks']} tokens"
    how = f"{task['repeats']} samples at temperature {options['temperature']:g}" if options["do_sample"] else "greedy"
    return f"{how}, at most {options['max_gen_toks']} tokens"
