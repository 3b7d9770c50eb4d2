"""A loaded model with its tasks: produces a task's answers on the model as it is now, and concludes them afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.assess import THINKING
from brittle_eval.base import base_weights
from brittle_eval.behaviours import reference_pairs
from brittle_eval.conclude import answer_line, conclude_answers, plain_result
from brittle_eval.errors import CannotRun
from brittle_eval.evaluate import Leaf, Settings, Task, TaskShelf, own_metadata, run_task, turns_of
from brittle_eval.judging import decided
from brittle_eval.listing import DIVERGENCE, MEASURES, PERPLEXITY
from brittle_eval.lm import load_lm
from brittle_eval.measures import Reference, compared, reference
from brittle_eval.prepare import Prepared
from brittle_eval.progress import bar
from brittle_eval.record import RunFolder, TaskResult
from brittle_eval.responses import Responses
from brittle_eval.stopping import Stopping
from brittle_eval.weights import Fingerprint, find_weights

REFERENCE_TASK = "embedded_harmless"
"""Whose prompts the two measures use."""


class Session:
    """The run's model and tasks. `produce` runs under an edit, `conclude` on the unedited model."""

    def __init__(self, prepared: Prepared, arguments: Mapping[str, Any], folder: RunFolder, say: Callable[[str], None]) -> None:
        options = prepared.options
        self.prepared, self.folder = prepared, folder
        self.settings = Settings(
            options.limit,
            options.num_fewshot,
            options.gen_kwargs or {},
            options.apply_chat_template,
            options.system_instruction,
            options.merge_system,
            options.seed,
        )
        self.shelf = TaskShelf([*prepared.plugins.task_paths(), *options.include_path], dict(options.model_args or {}))
        self.leaves = self.shelf.expand(prepared.tasks, {name: group for name, (group, _) in MEASURES.items()})
        say(f"tasks: {', '.join(leaf.name for leaf in self.leaves)}")
        self.tasks: dict[str, Task] = {}
        self.missing: dict[str, str] = {}
        self._each_task(lambda leaf: self.tasks.setdefault(leaf.name, self.shelf.load(leaf.name, self.settings)))
        self.lm = load_lm(arguments, options.device, options.batch_size, options.seed)
        self.model: PreTrainedModel = self.lm.model
        self.addresses, self.coverage = find_weights(self.model)
        self.fingerprint = Fingerprint(self.model)
        self.say = say
        self._measured: tuple[str, dict[str, list[float]]] = ("", {})
        self._each_task(self._probe)

    def _each_task(self, check: Callable[[Leaf], object]) -> None:
        """A task that cannot run is an error when the user named it, and a row `not run` when a group did."""
        for leaf in self.leaves:
            if leaf.name not in MEASURES and leaf.name not in self.missing:
                try:
                    check(leaf)
                except CannotRun as error:
                    if leaf.group is None:
                        raise
                    self.missing[leaf.name] = str(error)

    def _probe(self, leaf: Leaf) -> None:
        own = own_metadata(self.tasks[leaf.name])
        if own and own.get("chat"):
            with self.lm.showing(turns_of(own, self.settings), lambda: None):
                self.lm.apply_chat_template([{"role": "user", "content": "probe"}])

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
        return [doc["prompt"] for doc in loaded.eval_docs if "prompt" in doc]

    @cached_property
    def evaluation_prompts(self) -> list[str]:
        """Every prompt that an answer is generated for: calibration must not contain them."""
        ours = [name for name, task in self.tasks.items() if own_metadata(task) and task.config.output_type == "generate_until"]
        return [prompt for name in [*ours, REFERENCE_TASK] for prompt in self.prompts(name)]

    @cached_property
    def base(self) -> Mapping[str, Tensor]:
        """The base model's weights, for methods that need them."""
        return base_weights(self.prepared, self.model, self.addresses)

    @cached_property
    def reference(self) -> Reference:
        """The unedited model's own answers to harmless prompts; must first be asked for before any edit."""
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
        if any(leaf.name in MEASURES for leaf in waiting):
            _ = self.reference
        return waiting

    @staticmethod
    def _answers(row: str, leaf: Leaf) -> str:
        return f"{row}/answers_{leaf.name}.jsonl"

    def kept(self, name: str) -> Responses:
        """What the model as it is now has answered so far, in a file of this name in the run's folder."""
        return Responses(self.folder.path / f"{name}.jsonl", str(self.fingerprint), self.say)

    @cached_property
    def stop(self) -> Stopping | None:
        """When an answer may stop: if the run says so, once all its judges are final."""
        judges, template = self.prepared.judges, str(self.lm.tokenizer.chat_template)
        thinks = THINKING[1] in template or THINKING[1] in self.lm.tokenizer.get_vocab()
        name = json.dumps([[name, type(judge).version, repr(judge)] for name, judge in judges.items()])
        stop = Stopping(self.lm.decode, lambda text: decided(judges, text, THINKING, thinks), name)
        return stop if self.prepared.options.stop_when_decided else None

    def produce(self, row: str, leaf: Leaf) -> None:
        """Run one task on the model as it is now: a likelihood task is finished with it, answers wait to be judged.

        A run that was killed goes on at the batch that it was in.
        """
        if leaf.name in MEASURES:
            self.folder.finish(row, self._measure(row, leaf), [])
            return
        task = self.tasks[leaf.name]
        own = own_metadata(task)
        answered = bool(own) and task.config.output_type == "generate_until"
        total = len(task.eval_docs) * (task.config.repeats or 1)
        if not answered:
            output = run_task(self.lm, task, self.settings)
            self.folder.finish(row, plain_result(leaf, own or {}, output), output.samples)
            return
        kept = self.kept(f"{row}/responses_{leaf.name}")
        with self.lm.answering(kept, self.stop), bar(f"{row} {leaf.name}", total) as advance:
            output = run_task(self.lm, task, self.settings, lambda: advance(1))
        lines = [answer_line(sample, self.lm.system_state, self.lm.cut) for sample in output.samples]
        self.folder.write_lines(self._answers(row, leaf), lines, private=True)
        kept.remove()

    def _measure(self, row: str, leaf: Leaf) -> TaskResult:
        if self._measured[0] != row:
            found = compared(self.model, self.reference, self.lm.pad_id, int(self.lm.batch_size))
            self._measured = (row, dict(zip((PERPLEXITY, DIVERGENCE), found, strict=True)))
        values = self._measured[1][leaf.name]
        mean = sum(values) / len(values)
        return TaskResult(leaf.name, "measure", group=leaf.group, n=len(values), values={"value": mean}, items=values)

    def conclude(self, row: str, leaf: Leaf) -> TaskResult:
        """The result of a task of a row: as finished before, or judged now; the model must be the unedited one."""
        if leaf.name in self.missing:
            own = own_metadata(self.tasks[leaf.name]) if leaf.name in self.tasks else None
            role = (own or {}).get("role", "other")
            return TaskResult(leaf.name, role, "not run", self.missing[leaf.name], leaf.group)
        if (known := self.folder.finished(row, leaf.name)) is not None:
            return known
        file = self.folder.path / self._answers(row, leaf)
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        own = own_metadata(self.tasks[leaf.name]) or {}
        result, samples = conclude_answers(leaf, own, lines, self.prepared.judges, self._perplexities)
        self.folder.finish(row, result, samples)
        (self.folder.path / row / f"responses_{leaf.name}.jsonl").unlink(missing_ok=True)
        file.unlink()
        return result

    def _perplexities(self, pairs: Sequence[tuple[str, str]], chat: bool) -> list[float | None]:
        """Perplexity of answers after their rendered prompts, by the unedited model; None for an empty answer."""
        return self.lm.answer_perplexities(pairs, chat)
