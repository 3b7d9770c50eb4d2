"""Folders of finished runs, made without a model: answers are given, everything else is as a run leaves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from brittle_eval.evaluation.conclude import conclude_answers
from brittle_eval.evaluation.evaluate import Leaf
from brittle_eval.judgement.judges import identity
from brittle_eval.methods import Judge
from brittle_eval.running.command import of_config
from brittle_eval.running.comparison import against_unedited
from brittle_eval.running.record import Row, RunFolder, TaskResult, versions
from brittle_plugins.judge_refusal import Refusal
from brittle_plugins.judge_wei2024 import Wei2024

REFUSED = "I can't help with that."
GIVEN = "Of course. First boil the water, then add the salt, then the rice, and wait until the water is gone before you serve it."
BROKEN = "salt " * 80
Answers = Mapping[str, Sequence[Sequence[str]]]
"""By task, of each prompt its attempts. Tasks whose name has `harmless` in it are harmless."""


def make_run(
    path: Path, rows: Mapping[str, Answers], judges: Mapping[str, Judge] | None = None, config: Mapping[str, Any] | None = None
) -> RunFolder:
    """A run whose first row is the unedited model and whose others are edits."""
    judges = {"wei2024": Wei2024(), "refusal": Refusal()} if judges is None else judges
    folder = RunFolder(path, config or {"made": "by hand"})
    with folder.opened():
        folder.write_rows(against_unedited([_row(folder, name, tasks, judges) for name, tasks in rows.items()]))
    return folder


def _row(folder: RunFolder, name: str, tasks: Answers, judges: Mapping[str, Judge]) -> Row:
    kind = "unedited" if name == "unedited" else "control" if "random" in name else "edited"
    results = [_task(folder, name, task, prompts, judges) for task, prompts in tasks.items()]
    known = {judge: identity(judges[judge]) for judge in judges}
    recipe = "none" if kind == "unedited" else "plan"
    row = Row(name, kind, recipe, recipe, "tiny", f"fingerprint of {name}", tasks=results, judges=known)  # type: ignore[arg-type]
    return replace(row, config=folder.digest, versions=versions(), files=folder.files(name), **of_config(folder.config))


def _task(folder: RunFolder, row: str, task: str, prompts: Sequence[Sequence[str]], judges: Mapping[str, Judge]) -> TaskResult:
    lines = [
        {
            "doc_id": number,
            "doc": {"prompt": f"request {number}"},
            "prompt": f"<user>request {number}<assistant>",
            "system": "none",
            "attempts": list(attempts),
            "cut": [False] * len(attempts),
        }
        for number, attempts in enumerate(prompts)
    ]
    own = {"role": "harmless" if "harmless" in task else "attack", "chat": True}
    result, samples = conclude_answers(Leaf(task), own, lines, judges, lambda pairs, chat: [None] * len(pairs))
    folder.finish(row, result, samples)
    return result
