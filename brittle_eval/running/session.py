"""A loaded model with its tasks: produces a task's answers on the model as it is now, and concludes them afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.behaviour.behaviours import reference_pairs, rendered
from brittle_eval.data import sources
from brittle_eval.errors import CannotRun
from brittle_eval.evaluation.asking import Before
from brittle_eval.evaluation.conclude import answer_line, conclude_answers, plain_result
from brittle_eval.evaluation.crew import Helpers, processes
from brittle_eval.evaluation.cutting import of_run
from brittle_eval.evaluation.delegate import delegated
from brittle_eval.evaluation.evaluate import Leaf, Task, TaskShelf, run_task
from brittle_eval.evaluation.lm import BrittleHFLM, Turns, load_lm
from brittle_eval.evaluation.measures import Reference, compared, reference, token_perplexity
from brittle_eval.evaluation.presets import check_data, check_tasks
from brittle_eval.evaluation.reasoning import COMPLIANCE, REFUSAL, direction, distances
from brittle_eval.evaluation.responses import Responses
from brittle_eval.evaluation.showing import answered, check_prompts, notes_of, own_metadata, prompted
from brittle_eval.evaluation.stopping import Stopping
from brittle_eval.evaluation.sweeping import sweep_values
from brittle_eval.listing import DIVERGENCE, MEASURES, PERPLEXITY, REASONING, WIKITEXT
from brittle_eval.progress import bar
from brittle_eval.running.base import base_weights, donor_weights
from brittle_eval.running.prepare import Prepared
from brittle_eval.running.record import Role, RunFolder, TaskResult, read_lines
from brittle_eval.running.task_options import check_metadata, settings_of, stopping, wikitext_pieces
from brittle_eval.weights import Fingerprint, find_weights

ANSWERS = 2
"""What a task costs whose answers are generated."""
REFERENCE_TASK = "embedded_harmless"
"""Whose prompts the two measures use."""


class Session:
    """The run's model and tasks. `produce` runs under an edit, `conclude` on the unedited model."""

    def __init__(
        self,
        prepared: Prepared,
        arguments: Mapping[str, Any],
        folder: RunFolder,
        say: Callable[[str], None],
        loaded: BrittleHFLM | None = None,
    ) -> None:
        """`loaded` is a model that the same arguments have given before."""
        options = prepared.options
        self.prepared, self.folder, self.arguments = prepared, folder, dict(arguments)
        self.settings = settings_of(options)
        self.options = dict(options.metadata or {})
        metadata = dict(options.model_args or {}) | self.options
        self.shelf = TaskShelf([*prepared.plugins.task_paths(), *options.include_path], metadata)
        leaves = self.shelf.expand(prepared.tasks, {name: group for name, (group, _) in MEASURES.items()})
        preset = prepared.preset  # whose tasks are a group: one that cannot run is said, and the others go on
        self.leaves = [Leaf(leaf.name, leaf.group or preset.name) for leaf in leaves] if preset else leaves
        say(f"tasks: {', '.join(leaf.name for leaf in self.leaves)}")
        self.tasks: dict[str, Task] = {}
        self.missing: dict[str, str] = {}
        self._each_task(lambda leaf: self.tasks.setdefault(leaf.name, self.shelf.load(leaf.name, self.settings)))
        self._check_options()
        self.bounds = of_run(options.stop_when, [leaf.name for leaf in self.leaves if self._cost(leaf) < ANSWERS])
        self.lm = loaded or load_lm(arguments, options.device, options.batch_size, options.seed)
        self.lm.seed = options.seed
        self.model: PreTrainedModel = self.lm.model
        self.addresses, self.coverage = find_weights(self.model)
        self.fingerprint = Fingerprint(self.model)
        self.lm.helpers = Helpers(self.model, self.fingerprint) if processes() > 1 else None
        self.say = say
        self._once: dict[str, Any] = {}
        self.asked: BrittleHFLM | Before = self.lm
        self._measured: tuple[str, dict[str, list[float]]] = ("", {})
        self._each_task(lambda leaf: check_prompts(self.lm, self.tasks[leaf.name], self.settings))
        self._each_task(self._check_steering, [*self.tasks, WIKITEXT])
        self._each_task(self._check_measure, list(MEASURES))

    def within(self, prepared: Prepared, folder: RunFolder) -> Session:
        """The same model and tasks for other plans in another folder; everything else of the two runs must be the same."""
        other = copy(self)
        other.prepared, other.folder, other._measured = prepared, folder, ("", {})
        other.coverage = replace(self.coverage, plans={})
        return other

    def _check_options(self) -> None:
        """The preset holds, and every option of --metadata belongs to a task of the run."""
        if self.prepared.preset is not None:
            check_tasks(self.prepared.preset, self.tasks)
            check_data(self.prepared.preset, sources().digests())
        if not self.missing:
            check_metadata(self.options, self.tasks, wikitext=WIKITEXT in [leaf.name for leaf in self.leaves])

    def _each_task(self, check: Callable[[Leaf], object], names: Sequence[str] | None = None) -> None:
        """A task that cannot run is an error when the user named it, and a row `not run` when a group did."""
        for leaf in self.leaves:
            asked = leaf.name in names if names is not None else leaf.name not in MEASURES
            if asked and leaf.name not in self.missing:
                try:
                    check(leaf)
                except CannotRun as error:
                    if leaf.group is None:
                        raise
                    self.missing[leaf.name] = str(error)

    def _check_measure(self, leaf: Leaf) -> None:
        if (backend := self.prepared.backend).type:
            raise CannotRun(f"{leaf.name} reads the model's own logits, which {backend.name} does not give: take --model hf")
        if leaf.name == WIKITEXT:
            _ = self.pieces

    def _check_steering(self, leaf: Leaf) -> None:
        """CannotRun for a task that does not say where its prompts end, if a plan steers by them."""
        asks = [chain.name for chain in self.prepared.chains for hook in chain.hooks if hook.asks]
        if asks and (leaf.name == WIKITEXT or not prompted(self.tasks[leaf.name])):
            raise CannotRun(f"'{asks[0]}' steers by what prompts say, and {leaf.name} has no prompts: leave the task out")

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """While inside, tasks are answered by the run's backend, on the model as it is now."""
        given = self.arguments | dict(self.prepared.options.model_args or {})
        with delegated(self.lm, self.prepared.backend, given) as self.asked:
            yield
        self.asked = self.lm

    def choices(self) -> list[str]:
        """What was chosen for this model, in words."""
        left_out = {reason for _, _, reason in self.coverage.skipped}
        covered = f"coverage: {self.coverage.share:.1%} of the block matrices in {len(self.addresses)} weights can be edited"
        lines = [
            f"batch size: {self.lm.batch_size}",
            covered + (f" (left out: {', '.join(sorted(left_out))})" if left_out else ""),
        ]
        return lines + [f"{name}: not run: {reason}" for name, reason in self.missing.items()]

    def prompts(self, task: str) -> list[str]:
        """The prompts of one of our tasks."""
        loaded = self.tasks.get(task) or self.shelf.load(task, self.settings)
        return [doc.get("goal", doc["prompt"]) for doc in loaded.eval_docs if "prompt" in doc]

    @cached_property
    def evaluation_prompts(self) -> list[str]:
        """Every prompt that an answer is generated for: calibration must not contain them."""
        ours = [name for name, task in self.tasks.items() if answered(task)]
        return [prompt for name in [*ours, REFERENCE_TASK] for prompt in self.prompts(name)]

    @cached_property
    def pieces(self) -> list[list[int]]:
        """WikiText-2's test text in pieces of `seqlen` tokens, the first ones with a limit."""
        return wikitext_pieces(self.options, self.lm, self.settings.limit)

    def _shared(self, name: str, make: Callable[[], Any]) -> Any:
        """What is made once for all runs of this model and these tasks."""
        if name not in self._once:
            self._once[name] = make()
        return self._once[name]

    @property
    def base(self) -> Mapping[str, Tensor]:
        """The base model's weights, for methods that need them."""
        weights: Mapping[str, Tensor] = self._shared("base", lambda: base_weights(self.prepared, self.model, self.addresses))
        return weights

    @property
    def donor(self) -> Mapping[str, Tensor]:
        """The donor's weights, for methods that transplant them."""
        weights: Mapping[str, Tensor] = self._shared("donor", lambda: donor_weights(self.prepared, self.model, self.addresses))
        return weights

    @property
    def reference(self) -> Reference:
        """The unedited model's own answers to harmless prompts; must first be asked for before any edit."""
        known: Reference = self._shared("reference", self._reference)
        return known

    def _reference(self) -> Reference:
        prompts = self.prompts(REFERENCE_TASK)
        limit = self.settings.limit
        kept = prompts[: int(limit) if limit and limit >= 1 else None]
        responses = self.kept("behaviours/responses_reference")
        examples = reference_pairs(self.lm, kept, self.folder, self.settings.seed, responses)
        return reference(self.model, examples, self.lm.pad_id, int(self.lm.batch_size))

    def waiting(self, row: str) -> list[Leaf]:
        """The tasks of a row that still need the model."""
        waiting = [
            leaf
            for leaf in self.leaves
            if leaf.name not in self.missing
            and self.folder.finished(row, leaf.name) is None
            and not (self.folder.path / self._answers(row, leaf)).exists()
        ]
        if any(leaf.name in (PERPLEXITY, DIVERGENCE) for leaf in waiting):
            _ = self.reference
        return sorted(waiting, key=self._cost)

    def _cost(self, leaf: Leaf) -> int:
        """Cheap tasks come first: measures, then what lm-eval scores, then answers."""
        if leaf.name in MEASURES:
            return 0
        return ANSWERS if leaf.name in self.tasks and answered(self.tasks[leaf.name]) else 1

    def given_up(self, row: str) -> str | None:
        """Why the model of a row is given up, by what was measured of it so far; None if it is not."""
        for one in self.bounds:
            result = self.folder.finished(row, one.task)
            if result is not None and one.met(result.values.get("value")):
                return one.reason(result.values.get("value"))
        return None

    @staticmethod
    def _answers(row: str, leaf: Leaf) -> str:
        return f"{row}/answers_{leaf.name}.jsonl"

    def kept(self, name: str) -> Responses:
        """What the model as it is now has answered so far, in a file of this name in the run's folder."""
        return Responses(self.folder.path / f"{name}.jsonl", str(self.fingerprint), self.say)

    @cached_property
    def stop(self) -> Stopping | None:
        """When an answer may stop: if the run says so, once all its judges are final."""
        return stopping(self.prepared.judges, self.lm) if self.prepared.options.stop_when_decided else None

    def produce(self, row: str, leaf: Leaf) -> None:
        """Run one task on the model as it is now; one of a group that turns out not to run (a text too long) is left out."""
        try:
            self._produce(row, leaf)
        except CannotRun as error:
            if leaf.group is None:
                raise
            self.missing[leaf.name] = str(error)

    def _produce(self, row: str, leaf: Leaf) -> None:
        """A likelihood task is finished with its run, answers wait to be judged; a killed run goes on at its batch."""
        if leaf.name in MEASURES:
            self.folder.finish(row, self._measure(row, leaf), [])
            return
        task = self.tasks[leaf.name]
        total = len(task.eval_docs) * (task.config.repeats or 1)
        if not answered(task):
            output = run_task(self.asked, task, self.settings)
            self.folder.finish(row, plain_result(leaf, own_metadata(task) or {}, output), output.samples)
            return
        kept = self.kept(f"{row}/responses_{leaf.name}")
        with self.lm.answering(kept, self.stop), bar(f"{row} {leaf.name}", total) as advance:
            output = run_task(self.asked, task, self.settings, lambda: advance(1))
        lm = self.lm
        lines = [answer_line(sample, lm.system_state, lm.prefills, lm.cut) for sample in output.samples]
        self.folder.write_lines(self._answers(row, leaf), lines, private=True)
        kept.remove()

    def _measure(self, row: str, leaf: Leaf) -> TaskResult:
        if leaf.name == WIKITEXT:
            mean, values = token_perplexity(self.model, self.pieces, self.lm.pad_id, int(self.lm.batch_size))
            metric = f"token_ppl_{len(self.pieces[0])}"
            shown = {"metric": metric, "value": mean}
            return TaskResult(leaf.name, "measure", n=len(values), values=shown, metrics={metric: mean}, items=values)
        if leaf.name == REASONING:
            items, shown = self._reasoning()
            return TaskResult(leaf.name, "measure", n=len(items), values=shown, items=items)
        if self._measured[0] != row:
            found = compared(self.model, self.reference, self.lm.pad_id, int(self.lm.batch_size))
            self._measured = (row, dict(zip((PERPLEXITY, DIVERGENCE), found, strict=True)))
        values = self._measured[1][leaf.name]
        mean = sum(values) / len(values)
        return TaskResult(leaf.name, "measure", group=leaf.group, n=len(values), values={"value": mean}, items=values)

    def _reasoning(self) -> tuple[list[float], dict[str, Any]]:
        """Of the model as it is now, on as many prompts as the run's limit leaves."""
        prompts, limit, lm = self.prompts("embedded_harmful"), self.settings.limit, self.lm
        ids = rendered(lm, prompts[: int(limit) if limit and limit >= 1 else None], Turns(chat=True))
        words = [lm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (REFUSAL, COMPLIANCE)]
        return direction(*(distances(self.model, ids, opening, lm.pad_id, int(lm.batch_size)) for opening in words))

    def conclude(self, row: str, leaf: Leaf, given_up: str | None = None) -> TaskResult:
        """The result of a task of a row: as finished before, or judged now; the model must be the unedited one."""
        if leaf.name in self.missing:
            return self._not_run(leaf, self.missing[leaf.name])
        if (known := self.folder.finished(row, leaf.name)) is not None:
            return known
        if given_up:
            return self._not_run(leaf, f"cut: {given_up}")
        file = self.folder.path / self._answers(row, leaf)
        lines = read_lines(file)
        own = own_metadata(self.tasks[leaf.name]) or {}
        result, samples = conclude_answers(leaf, own, lines, self.prepared.judges, self._perplexities)
        result.notes += notes_of(own, self.settings)
        if "sweep" in own:
            result.values |= sweep_values(samples, own["sweep"])
        self.folder.finish(row, result, samples)
        (self.folder.path / row / f"responses_{leaf.name}.jsonl").unlink(missing_ok=True)
        file.unlink()
        return result

    def _not_run(self, leaf: Leaf, reason: str) -> TaskResult:
        own = own_metadata(self.tasks[leaf.name]) if leaf.name in self.tasks else None
        other: Role = "measure" if leaf.name in MEASURES else "utility" if leaf.name in self.tasks else "other"
        return TaskResult(leaf.name, (own or {}).get("role", other), "not run", reason, leaf.group)

    def _perplexities(self, pairs: Sequence[tuple[str, str]], chat: bool) -> list[float | None]:
        """Perplexity of answers after their rendered prompts, by the unedited model; None for an empty answer."""
        return self.lm.answer_perplexities(pairs, chat)
