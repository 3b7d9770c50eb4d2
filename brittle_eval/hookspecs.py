"""The hooks, complete. A plugin implements any of them with `@hookimpl` and is found by the entry-point group `brittle_eval`.

Hooks take nothing and return what the plugin brings. A string `"module:Class"` is imported on use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pluggy

from brittle_eval.methods import Attribution, Isolation, Judge, Modification

PROJECT = "brittle_eval"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def brittle_attributions() -> Mapping[str, type[Attribution] | str]:  # type: ignore[empty-body]
    """Attributions by name: which weights carry a behaviour."""


@hookspec
def brittle_isolations() -> Mapping[str, type[Isolation] | str]:  # type: ignore[empty-body]
    """Isolations by name: which of them safety does not share with utility."""


@hookspec
def brittle_modifications() -> Mapping[str, type[Modification] | str]:  # type: ignore[empty-body]
    """Modifications by name: what is done to them."""


@hookspec
def brittle_judges() -> Mapping[str, type[Judge] | str]:  # type: ignore[empty-body]
    """Judges by name: what an answer is."""


@hookspec
def brittle_task_paths() -> Iterable[Path]:  # type: ignore[empty-body]
    """Folders with lm-eval task YAML."""


@hookspec
def brittle_registry_paths() -> Iterable[Path]:  # type: ignore[empty-body]
    """Folders with cards: recipes/, datasets/, models/, judges/."""
