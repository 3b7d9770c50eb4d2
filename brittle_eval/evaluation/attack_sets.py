"""Every attack on every set of harmful requests: `<set>_<attack>` is the task `advbench_<attack>` over another data set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brittle_eval.cards import DatasetCard

PATTERN = "advbench"
"""The set whose attacks have YAML files; they are the patterns for the others."""
OWN = {"embedded": {"name": "harmful", "split": "eval"}}
"""Sets of the project's own requests, as the tasks' loaders name them."""


@dataclass(frozen=True)
class Attack:
    """A task that no YAML file describes: a pattern over another set."""

    name: str
    pattern: str
    source: Mapping[str, Any]

    def write(self, pattern: Path, folder: Path) -> Path:
        """The task's YAML, which includes the pattern's and names the other data."""
        file = folder / f"{self.name}.yaml"
        content = {"include": str(pattern), "task": self.name, "dataset_kwargs": {"source": dict(self.source)}}
        file.write_text(json.dumps(content), encoding="utf-8")
        return file


def sets(cards: Mapping[str, DatasetCard]) -> dict[str, Mapping[str, Any]]:
    """The sets that attacks can be tried on, with how a task's loader finds each; not the patterns' own."""
    found = {name: {"card": name} for name, card in cards.items() if card.requests and name != PATTERN}
    return {**OWN, **found}


def attacks(known: Iterable[str], cards: Mapping[str, DatasetCard]) -> dict[str, Attack]:
    """Every attack on every set but AdvBench, by name; tasks that have a YAML of their own (`known`) are not among them."""
    names = set(known)
    patterns = [name for name in names if name.startswith(f"{PATTERN}_")]
    made = [
        Attack(other.replace(PATTERN, one, 1), other, source) for one, source in sets(cards).items() for other in sorted(patterns)
    ]
    return {attack.name: attack for attack in made if attack.name not in names}


def members(name: str, groups: Mapping[str, Any], cards: Mapping[str, DatasetCard]) -> list[str] | None:
    """What a group of AdvBench attacks is on another set: `harmbench_all` as `advbench_all`; None for any other name.

    `groups` are the known names, with the members of those that are groups.
    """
    one = next((one for one in sets(cards) if name == one or name.startswith(f"{one}_")), None)
    listed = groups.get(name.replace(one, PATTERN, 1)) if one and name not in groups else None
    return [member.replace(PATTERN, one, 1) for member in listed] if one and isinstance(listed, list) else None
