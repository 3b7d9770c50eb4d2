"""The tasks: lm-eval YAML, and what its `!function` fields name."""

from __future__ import annotations

from pathlib import Path

from brittle_eval import hookimpl


@hookimpl
def brittle_task_paths() -> list[Path]:
    return [Path(__file__).parent]
