"""Our own loop over lm-eval's tasks: one task at a time, re-seeded, with its own chat rendering and system turn."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import lm_eval.tasks
import numpy as np
import torch
from lm_eval.api.task import Task as Task
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import simple_parse_args_string

from brittle_eval.errors import BrittleError, CannotRun, UnknownName
from brittle_eval.lm import BrittleHFLM, Turns

UTILITY_FOLDERS = ("super_glue", "glue", "hellaswag", "winogrande", "arc", "openbookqa")
"""lm-eval's task folders that our groups name; indexing these alone takes 10 ms, all of them 5 s."""
SEEDS = (0, 1234)
"""lm-eval's seeds: Python's, then NumPy's and torch's; few-shot draws use the latter too."""


@dataclass(frozen=True)
class Settings:
    """What applies to every task of a run; chat options reach other people's tasks only, ours say themselves what they need."""

    limit: float | None = None
    num_fewshot: int | None = None
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)
    apply_chat_template: bool | str = False
    system_instruction: str | None = None
    merge_system: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Leaf:
    """A task to run, and the group that named it, if any."""

    name: str
    group: str | None = None


@dataclass(frozen=True)
class Output:
    """What one task gave: lm-eval's metrics and its logged samples."""

    metrics: dict[str, Any]
    samples: list[dict[str, Any]]
    version: Any


def parse_arguments(text: str) -> dict[str, Any]:
    """`a=1,b=x` as lm-eval reads it."""
    try:
        return dict(simple_parse_args_string(text))
    except ValueError as error:
        raise BrittleError(f"cannot read '{text}': expected key=value,key=value ({error})") from None


class TaskShelf:
    """Finds and loads tasks by name: ours and the user's folders first, then lm-eval's own."""

    def __init__(self, paths: Iterable[Path], metadata: Mapping[str, Any]) -> None:
        self._paths = [str(path) for path in paths]
        self._metadata = dict(metadata)
        self._loaded: dict[str, Task] = {}
        root = Path(lm_eval.tasks.__file__).parent
        near = [str(root / folder) for folder in UTILITY_FOLDERS]
        self._manager = TaskManager(include_path=[*near, *self._paths], include_defaults=False, metadata=self._metadata)

    @cached_property
    def _all(self) -> TaskManager:
        return TaskManager(include_path=self._paths, metadata=self._metadata)

    def _manager_of(self, name: str) -> TaskManager:
        return self._manager if name in self._manager.task_index else self._all

    def expand(self, names: Sequence[str], measures: Mapping[str, str]) -> list[Leaf]:
        """Groups as their members, in order and once each; a name that nobody knows is an error with suggestions.

        `measures` are names that no YAML describes, with the group that they join.
        """
        leaves: dict[str, Leaf] = {}
        for name in names:
            joining = [Leaf(measure, name) for measure, group in measures.items() if group == name]
            for leaf in [*self._members(name, None, measures), *joining]:
                leaves.setdefault(leaf.name, leaf)
        return list(leaves.values())

    def _members(self, name: str, group: str | None, measures: Iterable[str]) -> list[Leaf]:
        if name in measures:
            return [Leaf(name, group)]
        manager = self._manager_of(name)
        if name not in manager.task_index:
            raise UnknownName("task", name, [*manager.task_index, *measures])
        entry = manager.task_index[name]
        members = (entry.cfg or {}).get("task")
        if isinstance(members, list) and all(isinstance(member, str) for member in members):
            return [leaf for member in members for leaf in self._members(member, name, measures)]
        return [Leaf(name, group)]

    def load(self, name: str, settings: Settings) -> Task:
        """A task with the run's overrides; `CannotRun` says which data it lacks."""
        if name not in self._loaded:
            try:
                tasks = self._manager_of(name).load([name])["tasks"]
            except BrittleError:
                raise
            except (ConnectionError, OSError, ValueError) as error:
                raise CannotRun(_no_data(name, self._manager_of(name).task_index[name].cfg or {}, error)) from error
            for task in tasks.values():
                _configure(task, settings)
            if len(tasks) != 1:
                raise BrittleError(
                    f"'{name}' stands for {len(tasks)} tasks ({', '.join(list(tasks)[:4])}, …): name them one by one"
                )
            (self._loaded[name],) = tasks.values()
        return self._loaded[name]


def _no_data(name: str, config: Mapping[str, Any], error: Exception) -> str:
    data = "/".join(str(config[key]) for key in ("dataset_path", "dataset_name") if config.get(key))
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"task {name} needs the data set {data or 'that its YAML names'}, which could not be loaded ({first[:120]}): connect "
        "to the network, fill the Hugging Face cache, or give a task YAML over a local copy with --include_path"
    )


def _configure(task: Task, settings: Settings) -> None:
    """The overrides that lm-eval's `simple_evaluate` makes before it evaluates."""
    if task.get_config("output_type") == "generate_until" and settings.gen_kwargs:
        task.set_config(key="generation_kwargs", value=dict(settings.gen_kwargs), update=True)
    shots = task.get_config("num_fewshot")
    if settings.num_fewshot is not None and shots != 0:
        task.set_config(key="num_fewshot", value=settings.num_fewshot)
    elif shots is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=SEEDS[1])


def own_metadata(task: Task) -> dict[str, Any] | None:
    """Our tasks' own metadata (chat, system, role), or None for other people's."""
    found = (task.config.metadata or {}).get("brittle")
    return dict(found) if found else None


def turns_of(metadata: Mapping[str, Any], settings: Settings) -> Turns:
    """How the task's metadata wants its prompts shown."""
    system = metadata.get("system", "default")
    if system == "paper":
        from transformers.models.llama.tokenization_llama import DEFAULT_SYSTEM_PROMPT

        system = DEFAULT_SYSTEM_PROMPT
    return Turns(bool(metadata.get("chat")), system, settings.merge_system)


def run_task(lm: BrittleHFLM, task: Task, settings: Settings, on_answer: Callable[[], None] = lambda: None) -> Output:
    """One task on the model as it is now, re-seeded so that the result does not depend on what ran before."""
    random.seed(SEEDS[0])
    np.random.seed(SEEDS[1])
    torch.manual_seed(SEEDS[1])
    name, own = task.config.task, own_metadata(task)
    if own is None:
        return _evaluate(lm, task, settings, settings.apply_chat_template, settings.system_instruction)
    if own.get("chat") and not lm.tokenizer.chat_template:
        raise BrittleError(f"task {name} needs a chat template and the model has none: use a chat model, or tasks without chat")
    if task.config.output_type != "generate_until":
        return _evaluate(lm, task, settings, bool(own.get("chat")), None)
    with lm.showing(turns_of(own, settings), on_answer):
        return _evaluate(lm, task, settings, bool(own.get("chat")), None)


def _evaluate(lm: BrittleHFLM, task: Task, settings: Settings, chat: bool | str, system: str | None) -> Output:
    name = task.config.task
    results = evaluate(
        lm=lm,
        task_dict={"tasks": {name: task}, "groups": {}, "group_map": {}},
        limit=settings.limit,
        log_samples=True,
        system_instruction=system,
        apply_chat_template=chat,
        fewshot_as_multiturn=bool(chat),
    )
    metrics = {key: value for key, value in results["results"][name].items() if key not in ("alias", "name", "sample_len")}
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    return Output(metrics, samples, results["versions"].get(name))
