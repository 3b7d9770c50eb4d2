"""The registry: cards of recipes, data sets and models."""

from __future__ import annotations

from pathlib import Path

from brittle_eval import hookimpl


@hookimpl
def brittle_registry_paths() -> list[Path]:
    return [Path(__file__).parent]
