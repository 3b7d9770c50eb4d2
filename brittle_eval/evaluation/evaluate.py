"""Our own loop over lm-eval's tasks: one task at a time, re-seeded, with its own chat rendering and system turn."""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lm_eval.tasks
import numpy as np
import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import get_model
from lm_eval.api.registry import register_model as register_model
from lm_eval.api.task import Task as Task
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import simple_parse_args_string

from brittle_eval.data import sources
from brittle_eval.errors import BrittleError, CannotRun, UnknownName
from brittle_eval.evaluation.asking import Before, SelfChecking, Sweeping, points
from brittle_eval.evaluation.attack_sets import Attack, attacks, members
from brittle_eval.evaluation.conditions import condition
from brittle_eval.evaluation.lm import BrittleHFLM
from brittle_eval.evaluation.showing import Settings as Settings
from brittle_eval.evaluation.showing import answered, turns_of
from brittle_eval.evaluation.showing import own_metadata as own_metadata

UTILITY_FOLDERS = ("super_glue", "glue", "hellaswag", "winogrande", "arc", "openbookqa")
"""lm-eval's task folders that our groups name; indexing these alone takes 10 ms, all of them 5 s."""
SEEDS = (0, 1234)
"""lm-eval's seeds: Python's, then NumPy's and torch's; few-shot draws use the latter too."""


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
    multiple_choice: bool = False
    """A sample's arguments are its choices."""


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
    def attacks(self) -> dict[str, Attack]:
        """The attacks on other sets than AdvBench, which no YAML describes."""
        index = self._manager.task_index
        return attacks([name for name, entry in index.items() if "group" not in (entry.cfg or {})], sources().cards)

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
        if name in self.attacks:
            return [Leaf(name, group)]
        listed = members(
            name, {key: (entry.cfg or {}).get("task") for key, entry in self._manager.task_index.items()}, sources().cards
        )
        if listed is None:
            manager = self._manager_of(name)
            if name not in manager.task_index:
                raise UnknownName("task", name, [*manager.task_index, *measures, *self.attacks])
            listed = (manager.task_index[name].cfg or {}).get("task")
        if isinstance(listed, list) and all(isinstance(member, str) for member in listed):
            return [leaf for member in listed for leaf in self._members(member, name, measures)]
        return [Leaf(name, group)]

    def load(self, name: str, settings: Settings) -> Task:
        """A task with the run's overrides; `CannotRun` says which data it lacks."""
        if name not in self._loaded:
            try:
                tasks = self._built(name)
            except BrittleError:
                raise
            except (ConnectionError, OSError, ValueError) as error:
                entry = self._manager_of(name).task_index.get(name)
                raise CannotRun(_no_data(name, entry.cfg or {} if entry else {}, error)) from error
            for task in tasks.values():
                _configure(task, settings)
            if len(tasks) != 1:
                raise BrittleError(
                    f"'{name}' stands for {len(tasks)} tasks ({', '.join(list(tasks)[:4])}, …): name them one by one"
                )
            (self._loaded[name],) = tasks.values()
        return self._loaded[name]

    def _built(self, name: str) -> dict[str, Task]:
        attack = self.attacks.get(name)
        if attack is None:
            return dict(self._manager_of(name).load([name])["tasks"])
        pattern = Path(self._manager.task_index[attack.pattern].yaml_path).resolve()
        with tempfile.TemporaryDirectory() as folder:
            return dict(self._manager.load([str(attack.write(pattern, Path(folder)))])["tasks"])


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


def loggers() -> Any:
    """lm-eval's loggers and its tracker of results, which take a second to import."""
    import lm_eval.loggers

    return lm_eval.loggers


def lm_eval_command(words: Sequence[str]) -> None:
    """lm-eval's own command with these words, in this process: what is registered here is registered there."""
    before = sys.argv
    sys.argv = ["lm-eval", *words]
    try:
        cli_evaluate()
    finally:
        sys.argv = before


def backend_model(name: str, arguments: Mapping[str, Any]) -> Any:
    """lm-eval's own model type of that name; BrittleError where it does not load."""
    try:
        return get_model(name)(**arguments)
    except (ImportError, OSError, ValueError, TypeError, RuntimeError, AssertionError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BrittleError(f"lm-eval's model type {name} does not load the edited model: {first[:240]}") from error


def run_task(lm: BrittleHFLM | Before, task: Task, settings: Settings, on_answer: Callable[[], None] = lambda: None) -> Output:
    """One task on the model as it is now, re-seeded so that the result does not depend on what ran before."""
    random.seed(SEEDS[0])
    np.random.seed(SEEDS[1])
    torch.manual_seed(SEEDS[1])
    name, own = task.config.task, own_metadata(task)
    if own is None:
        return _evaluate(lm, task, settings, settings.apply_chat_template, settings.system_instruction, "utility")
    if own.get("chat") and not lm.tokenizer.chat_template:
        raise BrittleError(f"task {name} needs a chat template and the model has none: use a chat model, or tasks without chat")
    role = own.get("role", "utility")
    if not answered(task):
        return _evaluate(lm, task, settings, bool(own.get("chat")), None, role)
    with lm.showing(turns_of(own, settings), on_answer):
        return _evaluate(_asked(lm, task, own, settings), task, settings, bool(own.get("chat")), None, role)


def _asked(lm: BrittleHFLM | Before, task: Task, own: Mapping[str, Any], settings: Settings) -> BrittleHFLM | Before:
    """What answers a task's requests: the model, or one that sweeps its decoding, or one that checks itself."""
    asked: BrittleHFLM | Before = lm
    if "sweep" in own:
        sweep = points(own["sweep"])
        if len(sweep) != task.config.repeats:
            raise BrittleError(
                f"task {task.config.task} sweeps {len(sweep)} settings and repeats {task.config.repeats} times: make them equal"
            )
        asked = Sweeping(lm, sweep)
    check = condition(settings.condition).check
    return SelfChecking(asked, check) if check else asked


def _evaluate(
    lm: BrittleHFLM | Before, task: Task, settings: Settings, chat: bool | str, system: str | None, role: str
) -> Output:
    name = task.config.task
    results = evaluate(
        lm=lm,
        task_dict={"tasks": {name: task}, "groups": {}, "group_map": {}},
        limit=settings.limit_of(role),
        log_samples=True,
        system_instruction=system,
        apply_chat_template=chat,
        fewshot_as_multiturn=bool(chat),
    )
    metrics = {key: value for key, value in results["results"][name].items() if key not in ("alias", "name", "sample_len")}
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    choices = task.config.output_type == "multiple_choice" and "acc_mutual_info" not in str(sorted(metrics))
    return Output(metrics, samples, results["versions"].get(name), choices)
