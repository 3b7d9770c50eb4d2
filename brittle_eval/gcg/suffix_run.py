"""One search for a suffix, from the options to its folder: prompts, self-tests, steps that can be resumed, evaluation."""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from brittle_eval.behaviour.behaviour_build import ADVBENCH, EVALUATION, FIRST_ROW
from brittle_eval.behaviour.behaviours import ANSWER_TOKENS
from brittle_eval.behaviour.calibration import drop_leaks
from brittle_eval.data import sources
from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.evaluate import Settings as TaskSettings
from brittle_eval.evaluation.evaluate import TaskShelf
from brittle_eval.evaluation.lm import load_lm
from brittle_eval.gcg.suffix import Search, Settings, State
from brittle_eval.gcg.suffix_checkpoint import Checkpoint
from brittle_eval.gcg.suffix_scores import Scorer
from brittle_eval.gcg.suffix_slots import (
    Goal,
    allowed_tokens,
    check_template,
    find_slots,
    first_suffix,
    goals_of,
    read_goals,
    suffix_texts,
)
from brittle_eval.gcg.suffix_trial import SHORTER, Trial, described
from brittle_eval.progress import bar
from brittle_eval.running.prepare import BEHAVIOUR_TASKS, Options, Prepared, load_arguments, prepare
from brittle_eval.running.record import RunFolder, versions
from brittle_eval.weights import Fingerprint

Say = Callable[[str], None]
FORMAT = "brittle-eval suffix 1"
HELD_OUT = "embedded_harmful"
"""The project's own prompts that a suffix is evaluated on; none of them, or near them, is optimised over."""
RESULT, LINES, CHECKPOINT = "suffix.json", "suffixes.txt", "checkpoint.json"


@dataclass(frozen=True)
class Wanted:
    """The suffix to find."""

    settings: Settings
    prompts: Path | None = None
    """csv, json, jsonl or txt; None: AdvBench from row 100 on if it is at hand, else the project's own."""
    evaluate: bool = True


def find(options: Options, wanted: Wanted, say: Say = print) -> tuple[dict[str, Any], Path]:
    """Optimise a suffix, evaluate it, and leave `suffix.json` and `suffixes.txt` (mode 0600); gives the first and the folder.

    A search that was interrupted goes on behind its last step, as if it had not been. BrittleError for every mistake in the
    options, and where the model refuses nothing.
    """
    prepared = prepare(options)
    source, goals = _goals(prepared, wanted)
    folder = RunFolder(_folder(prepared), _configuration(prepared, wanted, goals))
    with folder.opened():
        if (known := folder.read_json(RESULT)) is not None:
            say(f"resumed: {folder.path / RESULT} is there")
            return known, folder.path
        say(f"prompts: {len(goals)} of {source}")
        result = _Work(prepared, wanted, goals, folder, say).result() | {"prompts": source}
        folder.write_text(LINES, result["suffix"] + "\n")
        folder.write_json(RESULT, result, private=True)
        (folder.path / CHECKPOINT).unlink(missing_ok=True)
        return result, folder.path


def _goals(prepared: Prepared, wanted: Wanted) -> tuple[str, list[Goal]]:
    """Where the prompts come from, and those drawn from them with the seed, without any that answers are evaluated on."""
    shelf = TaskShelf(prepared.plugins.task_paths(), dict(prepared.options.model_args or {}))

    def prompts(task: str) -> list[str]:
        return [doc["prompt"] for doc in shelf.load(task, TaskSettings()).eval_docs]

    checked = [task for task, card in EVALUATION.items() if card is None or sources().at_hand(card)]
    evaluated = [prompt for task in checked for prompt in prompts(task)]
    if wanted.prompts is not None:
        source, goals = wanted.prompts.name, read_goals(wanted.prompts)
    elif sources().at_hand(ADVBENCH):
        rows = sources().rows(ADVBENCH, "suffix")[FIRST_ROW:]
        source, goals = f"{ADVBENCH}, rows from {FIRST_ROW} on", goals_of([(row["goal"], row["target"]) for row in rows])
    else:
        source = BEHAVIOUR_TASKS["safety"]
        goals = goals_of([(prompt, None) for prompt in prompts(source)])
    kept, dropped = drop_leaks([goal.prompt for goal in goals], evaluated)
    if not kept:
        raise BrittleError(f"{source}: all {dropped} prompts are near ones that answers are evaluated on; give others")
    drawn = random.Random(f"{prepared.options.seed}|suffix").sample(kept, min(wanted.settings.goals, len(kept)))
    return source, [goals[index] for index in drawn]


def _folder(prepared: Prepared) -> Path:
    model = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(prepared.model_name).name)
    return prepared.options.output_path or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{model}-suffix"


def _configuration(prepared: Prepared, wanted: Wanted, goals: Sequence[Goal]) -> dict[str, Any]:
    """What makes two searches the same."""
    options = prepared.options
    asked = json.dumps([asdict(goal) for goal in goals])
    return {
        "command": "suffix",
        "model_name": prepared.model_name,
        "model_args": dict(options.model_args or {}),
        "adapter": prepared.model_card.adapter_sha256 if prepared.model_card else None,
        "device": options.device,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "settings": asdict(wanted.settings),
        "evaluate": wanted.evaluate,
        "goals": hashlib.blake2b(asked.encode(), digest_size=16).hexdigest(),
    }


class _Work:
    """A search on the loaded model: first the self-tests, then the steps, then the evaluation."""

    def __init__(self, prepared: Prepared, wanted: Wanted, goals: Sequence[Goal], folder: RunFolder, say: Say) -> None:
        self.prepared, self.wanted, self.folder, self.say = prepared, wanted, folder, say
        options, settings = prepared.options, wanted.settings
        arguments, said = load_arguments(prepared)
        self.lm = load_lm(arguments, options.device, options.batch_size, options.seed)
        self.fingerprint = str(Fingerprint(self.lm.model))
        self.trial = Trial(self.lm, prepared.judges)
        self.slots = [find_slots(self.lm.tokenizer, goal, settings.target_tokens) for goal in goals]
        filled = [slots.prompt_ids([0] * settings.length) for slots in self.slots]
        self.lm.check_lengths(filled, ANSWER_TOKENS, SHORTER)
        self.lm.check_lengths([[*ids, *slots.target] for ids, slots in zip(filled, self.slots, strict=True)], 0, SHORTER)
        self.allowed = allowed_tokens(self.lm.tokenizer, self.lm.model.get_input_embeddings().weight.shape[0])
        first = first_suffix(self.lm.tokenizer, self.slots, self.allowed, settings.length)
        check_template(self.lm.tokenizer, self.slots, first)
        self.begun = self._begun()
        for line in [*said, f"batch size: {self.lm.batch_size}"]:
            say(line)
        self.kept: list[int] = self.begun.refused
        say(f"refused without a suffix: {len(self.kept)} of {len(self.slots)} prompts; the others are left out")
        self.search = self._search(first)

    def _begun(self) -> Checkpoint:
        """The checkpoint of an interrupted search; else what a first one holds: the goals that are refused without a suffix."""
        known = self.folder.read_json(CHECKPOINT)
        if known is None:
            refused = self.trial.refused([slots.goal for slots in self.slots])
            return Checkpoint(fingerprint=self.fingerprint, batch_size=int(self.lm.batch_size), refused=refused)
        file = self.folder.path / CHECKPOINT
        found = Checkpoint.read(known, file, len(self.slots), self.wanted.settings.length)
        if found.fingerprint != self.fingerprint:
            raise BrittleError(
                f"{file} is of another model (fingerprint {found.fingerprint}): give another --output_path, or remove the folder"
            )
        # another size would round otherwise, and so could take other candidates
        self.lm.batch_size_per_gpu = found.batch_size
        return found

    def _search(self, first: Sequence[int]) -> Search:
        goals = [self.slots[number] for number in self.kept]
        scorer = Scorer(self.lm.model, self.allowed, int(self.lm.batch_size))
        cached = scorer.check_cache(goals[0], first)
        self.say(f"template: as optimised; {'each prompt is read once' if cached else 'whole prompts are read: no cache'}")
        return Search(self.lm.tokenizer, scorer, goals, self.allowed, self.wanted.settings)

    def _steps(self) -> tuple[tuple[int, ...], State]:
        """The first suffix, and the state after the last step; a checkpoint is kept after each."""
        first = self.search.start(self.prepared.options.seed)
        state = self.begun.state or first
        if state.steps:
            self.say(f"resumed behind step {state.steps}")
        with bar("optimising", self.wanted.settings.steps) as advance:
            advance(state.steps)

            def keep(after: State) -> None:
                self.folder.write_json(CHECKPOINT, self.begun.model_copy(update={"state": after}).model_dump(), private=True)
                advance(1)

            return first.suffix, self.search.run(state, keep)

    def result(self) -> dict[str, Any]:
        """The search to its end, and everything that it takes to repeat and judge it."""
        search, (first, state) = self.search, self._steps()
        check_template(self.lm.tokenizer, search.goals, state.best)
        start, end = search.losses([first, state.best], len(search.goals)).tolist()
        self.say(f"target loss: {start:.3f} nats at the start, {end:.3f} at the end ({end / start:.2f} ×)")
        (text,) = suffix_texts(self.lm.tokenizer, [state.best])
        return {
            "format": FORMAT,
            "suffix": text,
            "tokens": list(state.best),
            "model": self.prepared.model_name,
            "fingerprint": self.fingerprint,
            "settings": asdict(self.wanted.settings),
            "seed": self.prepared.options.seed,
            "refused": len(self.kept),
            "of": len(self.slots),
            "cached": search.scorer.cached,
            "loss_start": start,
            "loss_end": end,
            "losses": list(state.losses),
            "goals_by_step": list(state.counts),
            "evaluation": self._evaluation(text),
            "data": sources().digests(),
            "versions": versions(),
        }

    def _evaluation(self, text: str) -> dict[str, Any] | None:
        if not self.wanted.evaluate:
            return None
        shelf = TaskShelf(self.prepared.plugins.task_paths(), {})
        prompts = [doc["prompt"] for doc in shelf.load(HELD_OUT, TaskSettings()).eval_docs]
        (other,) = suffix_texts(self.lm.tokenizer, [self.search.random_suffix(self.prepared.options.seed)])
        found = self.trial.compare(prompts, text, other)
        for line in described(found):
            self.say(line)
        return found | {"task": HELD_OUT}
