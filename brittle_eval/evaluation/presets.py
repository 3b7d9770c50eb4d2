"""Presets: an evaluation with every choice fixed, held against what the user gave and what was really run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from brittle_eval.cards import PresetCard
from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.conditions import condition, system_digest
from brittle_eval.running.record import TaskResult

OPTION = {"judges": "judge", "merge_system": "system-role"}
"""Names of the command's options where they differ from the fields."""


def fixed(card: PresetCard) -> dict[str, Any]:
    """The run's options that the preset fixes, with their values."""
    asked: Sequence[str | None] = card.conditions or [card.condition]
    for name in asked:
        condition(name)
    return {
        "tasks": tuple(card.tasks),
        "judges": tuple(card.judges),
        "gen_kwargs": {"max_gen_toks": card.max_gen_toks},
        "num_fewshot": card.num_fewshot,
        "utility_limit": card.utility_limit,
        "condition": card.condition,
        "seed": card.seed,
        "metadata": None,
        "apply_chat_template": False,
        "system_instruction": None,
        "merge_system": False,
    }


def chosen(card: PresetCard, options: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """What the preset makes of the options; BrittleError where one of the `given` says something else.

    Of a preset over several conditions the options name one.
    """
    values = fixed(card)
    if card.conditions:
        if options["condition"] not in card.conditions:
            raise BrittleError(
                f"--preset {card.name} compares {', '.join(card.conditions)}: name one with --condition, or take "
                f"`brittle-eval sweep --preset {card.name}`, which runs them all"
            )
        values["condition"] = options["condition"]
    for name in values:
        if name in given and options[name] != values[name]:
            option = OPTION.get(name, name)
            raise BrittleError(
                f"--preset {card.name} fixes {option} to {_words(values[name])}, and {_words(options[name])} was given: leave "
                f"--{option} out, or run without the preset"
            )
    return values


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{key}={item}" for key, item in value.items()) or "nothing"
    return ",".join(value) if isinstance(value, tuple) else "nothing" if value is None else str(value)


def check_data(card: PresetCard, read: Mapping[str, str]) -> None:
    """BrittleError where a data set that was read is not the one that the preset fixes."""
    for name, digest in card.data.items():
        if read.get(name, digest) != digest:
            raise BrittleError(
                f"--preset {card.name} fixes the data set '{name}' to sha256 {digest}, and a file with {read[name]} was read: "
                "give the right file, or run without the preset"
            )


def check_tasks(card: PresetCard, tasks: Mapping[str, Any]) -> None:
    """BrittleError where a task, or a system text that it names, is not of the version that the preset fixes."""
    for name, task in tasks.items():
        version, repeats = str((task.config.metadata or {}).get("version")), task.config.repeats or 1
        samples = card.samples.get(name, 1)
        if version != card.tasks[name] or repeats != samples:
            raise BrittleError(
                f"--preset {card.name} fixes the task {name} at version {card.tasks[name]} with {samples} answers to "
                f"a prompt, and version {version} with {repeats} is installed: use a preset of this installation"
            )
    for name, digest in card.system_prompts.items():
        if (found := system_digest(name)) != digest:
            raise BrittleError(
                f"--preset {card.name} fixes the system text '{name}' to sha256 {digest}, and this installation has {found}: "
                "install the versions of constraints.txt"
            )


def numbers(card: PresetCard, results: Sequence[TaskResult]) -> dict[str, float | None]:
    """The preset's own numbers: each the mean of some results' values, None where one is missing."""
    by_name = {result.task: result for result in results}
    found: dict[str, float | None] = {}
    for name, places in card.numbers.items():
        values = [_value(by_name, *place.split(".", 1)) for place in places]
        known = [value for value in values if value is not None]
        found[name] = sum(known) / len(known) if len(known) == len(values) else None
    return found


def _value(results: Mapping[str, TaskResult], task: str, key: str) -> float | None:
    value = results[task].values.get(key) if task in results else None
    if isinstance(value, Mapping):
        value = value.get("value")
    return float(value) if isinstance(value, int | float) else None
