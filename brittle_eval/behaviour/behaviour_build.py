"""Behaviour sets: a model's own refusals, whole or their judgement alone, and utility pairs without those of safety."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from brittle_eval.behaviour import sifting
from brittle_eval.behaviour.behaviours import ask, check_refusals, rendered
from brittle_eval.behaviour.calibration import Pair, digest, drop_leaks
from brittle_eval.behaviour.instructions import read_instructions
from brittle_eval.behaviour.safety_words import RULE_VERSION
from brittle_eval.data import sources
from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.assess import THINKING
from brittle_eval.evaluation.evaluate import Settings, TaskShelf
from brittle_eval.evaluation.generate import Sampling
from brittle_eval.evaluation.lm import BrittleHFLM, Turns, load_lm
from brittle_eval.evaluation.responses import Responses
from brittle_eval.judgement.judging import final_answer
from brittle_eval.methods import Judge
from brittle_eval.organisms.organism import sha256
from brittle_eval.running.prepare import BEHAVIOUR_TASKS, Options, Prepared, load_arguments, prepare
from brittle_eval.running.record import versions, write_json, write_lines
from brittle_eval.weights import Fingerprint

Kind = Literal["safety-full", "safety-short", "utility"]
Say = Callable[[str], None]
FORMAT = "brittle-eval behaviour 1"
ADVBENCH, FIRST_ROW = "advbench", 100
"""The rows from here on are the paper's for attribution; the tasks evaluate on those before."""
EVALUATION = {
    "embedded_harmful": None,
    "embedded_harmful_dev": None,
    "embedded_harmless": None,
    "embedded_harmless_dev": None,
    "advbench_plain": ADVBENCH,
    "harmfulq": "harmfulq",
    "oktest": "oktest",
    "alpaca_100": "alpaca-instructions",
}
"""Tasks whose prompts no behaviour may contain, and the data set that each needs; what is not at hand is left out and said."""


@dataclass(frozen=True)
class Wanted:
    """The set to make."""

    kind: Kind
    output: Path
    prompts: Path | None = None
    judge: str = "refusal"
    samples: int | None = None
    """Answers to every prompt, drawn at temperature 1; None: one greedy answer."""
    pairs: int | None = None
    """At most so many prompts, drawn with the seed."""
    max_gen_toks: int = 256
    system: Literal["none", "default"] = "none"

    @property
    def sidecar(self) -> Path:
        """Where the set's description goes."""
        return self.output.with_name(self.output.name + ".json")

    @property
    def answers(self) -> Path:
        """Where answers are kept until the set is there: a build that was killed goes on with them."""
        return self.output.with_name(self.output.name + ".answers")


def build(options: Options, wanted: Wanted, say: Say = print) -> dict[str, Any]:
    """Make a behaviour's file (jsonl: prompt, response; mode 0600) and its description beside it; gives the description.

    BrittleError: an output that exists or cannot be written, fewer than 32 refusals, no pair left, or a judge that
    cannot say where a refusal has refused, for `safety-short`.
    """
    _check_output(wanted)
    prepared = prepare(options)
    if wanted.kind == "safety-short" and type(prepared.judges[wanted.judge]).segment is Judge.segment:
        raise BrittleError(
            f"--judge {wanted.judge}: it cannot say where an answer has refused, which safety-short needs: "
            "take 'refusal', or a judge with segment(record)"
        )
    work = _Work(prepared, wanted, say)
    try:
        pairs = work.pairs()
        if not pairs:
            raise BrittleError(
                f"{wanted.kind}: no pair is left ({sifting.listed(work.counts)}); give other prompts with --prompts FILE"
            )
        content = work.description(pairs)
        _write(wanted, pairs, content)
    except BrittleError:
        wanted.answers.unlink(missing_ok=True)
        raise
    wanted.answers.unlink(missing_ok=True)
    say(f"{wanted.kind}: {sifting.listed(work.counts)}; {content['mean_response_tokens']} tokens in the mean response")
    return content


def _check_output(wanted: Wanted) -> None:
    for file in (wanted.output, wanted.sidecar):
        if file.exists():
            raise BrittleError(f"--output {wanted.output}: {file} exists; give another name, or remove it")
    try:
        wanted.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BrittleError(f"--output {wanted.output}: cannot make its folder ({error.strerror}); give another") from None
    if not os.access(wanted.output.parent, os.W_OK):
        raise BrittleError(f"--output {wanted.output}: its folder cannot be written; give another")


def _write(wanted: Wanted, pairs: Sequence[Pair], content: dict[str, Any]) -> None:
    """Both files or none."""
    try:
        write_json(wanted.sidecar, content)
        write_lines(wanted.output, [asdict(pair) for pair in pairs], private=True)
    except BaseException:
        wanted.sidecar.unlink(missing_ok=True)
        raise


class _Work:
    """One set in the making. `counts` says what became of the prompts and pairs, in the order in which they were sifted."""

    def __init__(self, prepared: Prepared, wanted: Wanted, say: Say) -> None:
        self.prepared, self.wanted, self.say, self.judge = prepared, wanted, say, prepared.judges[wanted.judge]
        self.shelf = TaskShelf(prepared.plugins.task_paths(), dict(prepared.options.model_args or {}))
        self.random = random.Random(f"{prepared.options.seed}|{wanted.kind.partition('-')[0]}")
        self.counts: sifting.Counts = {}
        self.checked = [task for task, card in EVALUATION.items() if card is None or sources().at_hand(card)]
        self.source, self.rows = self._rows()
        say(f"prompts: {self.source}; checked against {', '.join(self.checked)}")
        if left_out := [task for task in EVALUATION if task not in self.checked]:
            say(f"not checked against {', '.join(left_out)}: the data is not on this machine")
        self.answered = wanted.kind != "utility" or not any(row.response for row in self.rows)
        self.rows = self._sifted(self.rows)
        options = prepared.options
        arguments, said = load_arguments(prepared)
        for line in said:
            say(line)
        self.lm: BrittleHFLM = load_lm(arguments, options.device, options.batch_size, options.seed)
        self.fingerprint = str(Fingerprint(self.lm.model))

    def _rows(self) -> tuple[str, list[Pair]]:
        """Where the prompts come from, and the rows; a response is empty where there is none."""
        if self.wanted.prompts is not None:
            rows = read_instructions(self.wanted.prompts)
            return f"{self.wanted.prompts.name}, sha256 {sha256(self.wanted.prompts)}", rows
        if self.wanted.kind != "utility" and sources().at_hand(ADVBENCH):
            goals = [row["goal"].strip() for row in sources().rows(ADVBENCH, "behaviour build")[FIRST_ROW:]]
            return f"{ADVBENCH}, rows from {FIRST_ROW} on", [Pair(goal, "") for goal in goals]
        task = BEHAVIOUR_TASKS["utility" if self.wanted.kind == "utility" else "safety"]
        return task, [Pair(prompt, "") for prompt in self._prompts(task)]

    def _prompts(self, task: str) -> list[str]:
        return [doc["prompt"] for doc in self.shelf.load(task, Settings()).eval_docs]

    def _sifted(self, rows: Sequence[Pair]) -> list[Pair]:
        """What may be asked or used: no leak, and for utility nothing of safety."""
        full = [row for row in rows if row.prompt and (self.answered or row.response)]
        kept, leaks = drop_leaks(
            [row.prompt for row in full], [prompt for task in self.checked for prompt in self._prompts(task)]
        )
        self.counts |= {"prompts": len(rows), "blank": len(rows) - len(full), "near_evaluation_prompts": leaks}
        own = [full[index] for index in kept]
        if self.wanted.kind != "utility":
            return [Pair(row.prompt, "") for row in own]
        if self.answered:
            return sifting.without_words(own, self.counts)
        return sifting.apart_from_safety(own, self.wanted.judge, self.judge, self.counts)

    def pairs(self) -> list[Pair]:
        """The pairs of the set."""
        wanted, counts = self.wanted, self.counts
        drawn = self._drawn(self.rows)
        answers = self._answers(drawn) if self.answered else drawn
        if wanted.kind != "utility":
            refused = sifting.refusals(answers, wanted.judge, self.judge, wanted.kind == "safety-short", counts)
            pairs = sifting.sound(refused, counts)
            check_refusals(len(pairs), len(answers), "give more prompts with --prompts, or take several answers with --samples")
        else:
            kept = sifting.apart_from_safety(answers, wanted.judge, self.judge, counts) if self.answered else answers
            pairs = sifting.sound(kept, counts)
        counts["pairs"] = len(pairs)
        return pairs

    def _drawn(self, rows: Sequence[Pair]) -> list[Pair]:
        """At most `pairs` of the rows, at random, in their order; what the model's context does not hold is passed over."""
        order = self.random.sample(range(len(rows)), len(rows))
        chosen: list[int] = []
        for index in order:
            if len(chosen) == self.wanted.pairs:
                break
            if self._length(rows[index]) <= self.lm.max_length:
                chosen.append(index)
            else:
                self.counts["too_long"] = self.counts.get("too_long", 0) + 1
        self.counts["drawn"] = len(chosen)
        return [rows[index] for index in sorted(chosen)]

    def _length(self, row: Pair) -> int:
        """Tokens of a row, with room for an answer where it has none, as it is asked here or shown in a run."""
        prompt = max(len(rendered(self.lm, [row.prompt], Turns(True, system))[0]) for system in {self.wanted.system, "default"})
        return prompt + (len(self._tokens(row.response)) if row.response else self.wanted.max_gen_toks)

    def _tokens(self, text: str) -> list[int]:
        return list(self.lm.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _answers(self, rows: Sequence[Pair]) -> list[Pair]:
        """The model's answers, without the thinking of a model that thinks; where that does not end there is no answer."""
        wanted, samples = self.wanted, self.wanted.samples
        temperature = 0.0 if samples is None else 1.0
        sampling = Sampling(wanted.max_gen_toks, temperature, seed=self.prepared.options.seed)
        prompts = rendered(self.lm, [row.prompt for row in rows], Turns(True, wanted.system))
        kept = Responses(wanted.answers, self.fingerprint, self.say)
        tokens = ask(self.lm, prompts, sampling, f"answering {wanted.kind} prompts", samples or 1, kept)
        texts = [final_answer(str(self.lm.tokenizer.decode(answer, skip_special_tokens=True)), THINKING) for answer in tokens]
        self.counts |= {
            "answers": len(texts),
            "cut_at_the_limit": sum(len(answer) >= wanted.max_gen_toks for answer in tokens),
            "unfinished_thinking": sum(text is None for text in texts),
        }
        asked = [row.prompt for row in rows for _ in range(samples or 1)]
        return [Pair(prompt, text.strip()) for prompt, text in zip(asked, texts, strict=True) if text is not None]

    def description(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """Everything that it takes to make the set again and to know it; never its text."""
        options, wanted = self.prepared.options, self.wanted
        lengths = [len(self._tokens(pair.response)) for pair in pairs]
        generation = {"samples": wanted.samples, "max_gen_toks": wanted.max_gen_toks, "system": self.lm.system_state}
        return {
            "format": FORMAT,
            "kind": wanted.kind,
            "digest": digest(pairs),
            "model": self.prepared.model_name,
            "fingerprint": self.fingerprint,
            "judge": {"name": wanted.judge, "version": self.judge.version},
            "safety_words": RULE_VERSION if wanted.kind == "utility" else None,
            "prompts": self.source,
            "generation": generation if self.answered else None,
            "checked_against": self.checked,
            "data": sources().digests(),
            "counts": self.counts,
            "mean_response_tokens": round(sum(lengths) / len(lengths), 1),
            "seed": options.seed,
            "versions": versions(),
        }
