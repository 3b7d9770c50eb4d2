"""The run as a function, on a model that is in memory already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brittle_eval.errors import UnknownName
from brittle_eval.evaluation.lm import load_lm
from brittle_eval.running.prepare import Options
from brittle_eval.running.record import Row
from brittle_eval.running.results import numbers
from brittle_eval.running.run import run

if TYPE_CHECKING:
    from pandas import DataFrame
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OURS = frozenset({"model", "model_args", "modify", "tasks", "given"})
"""Options that are arguments of their own, or that a function call has no use for."""

COLUMNS = ["row", "kind", "recipe", "task", "role", "n", "number", "value", "low", "high"]


@dataclass(frozen=True)
class Evaluation:
    """The rows of a run, and the folder where its samples, regions and results lie."""

    rows: list[Row]
    path: Path

    @property
    def frame(self) -> DataFrame:
        """A line for every number of every task and row: row, kind, recipe, task, role, n, number, value, low, high.

        `low` and `high` end the 95 % interval, where the number has one.
        """
        from pandas import DataFrame

        lines = [
            (row.name, row.kind, row.recipe, task.task, task.role, task.n, *number)
            for row in self.rows
            for task in row.tasks
            for number in numbers(task)
        ]
        return DataFrame(lines, columns=COLUMNS)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    modify: Sequence[str] = ("wanda-diff",),
    tasks: Sequence[str] = ("embedded",),
    name: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Evaluation:
    """Evaluate a model before and after modifications and against controls, as `brittle-eval` does; the model is left as it was.

    `modify` are plans and `tasks` names of tasks, as on the command line; `name` is what the rows call the model. All other
    options are fields of `Options`: `output_path`, `controls="random:3,magnitude:1"`, `limit`, `batch_size`, `seed`, `judges`,
    `behaviours`, `base`, `memory` and so on. BrittleError for every mistake in them.
    """
    known = {one.name for one in fields(Options)} - OURS
    if unknown := sorted(set(options) - known):
        raise UnknownName("option", unknown[0], known)
    called = name or str(model.config._name_or_path) or type(model).__name__
    given = Options(model_args={"pretrained": called}, modify=tuple(modify), tasks=tuple(tasks), **options)
    lm = load_lm({"pretrained": model, "tokenizer": tokenizer}, given.device, given.batch_size, given.seed)
    return Evaluation(*run(given, say, lm))
