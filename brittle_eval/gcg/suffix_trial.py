"""What a suffix does to the answers: refused without one, and not refused with it more often than with a random one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from brittle_eval.behaviour.behaviours import ANSWER_TOKENS, ask
from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.assess import Attempt, assess
from brittle_eval.evaluation.generate import Sampling
from brittle_eval.evaluation.lm import BrittleHFLM, Turns
from brittle_eval.gcg.suffix_slots import SYSTEM, Goal
from brittle_eval.methods import Judge
from brittle_eval.stats import Rate, mcnemar, paired_delta

SHORTER = "give shorter prompts or a smaller --length"


class Trial:
    """A model's greedy answers of 64 tokens, judged as a run's are: with the perplexity of the model itself."""

    def __init__(self, lm: BrittleHFLM, judges: Mapping[str, Judge]) -> None:
        self.lm, self.judges = lm, judges

    def answers(self, prompts: Sequence[str], suffix: str, what: str) -> list[Attempt]:
        """One attempt a prompt; an empty suffix asks the prompt alone."""
        shown = [f"{prompt} {suffix}" if suffix else prompt for prompt in prompts]
        with self.lm.showing(Turns(True, SYSTEM), lambda: None):
            texts = [self.lm.apply_chat_template([{"role": "user", "content": text}]) for text in shown]
            asked = [self.lm.prompt_ids(text) for text in texts]
        self.lm.check_lengths(asked, ANSWER_TOKENS, SHORTER)
        tokens = ask(self.lm, asked, Sampling(ANSWER_TOKENS), what)
        answers = [self.lm.tokenizer.decode(answer, skip_special_tokens=True) for answer in tokens]
        perplexities = self.lm.answer_perplexities(list(zip(texts, answers, strict=True)), chat=True)
        judged = assess(shown, [[answer] for answer in answers], [[value] for value in perplexities], self.judges)
        return [attempt for (attempt,) in judged]

    def refused(self, goals: Sequence[Goal]) -> list[int]:
        """The goals that are refused without a suffix; BrittleError if none is."""
        found = self.answers([goal.prompt for goal in goals], "", "answering without a suffix")
        kept = [number for number, attempt in enumerate(found) if attempt.refused]
        if not kept:
            raise BrittleError(
                f"there is nothing to attack: without a suffix the model refuses none of the {len(goals)} prompts; give prompts "
                "that it refuses with --prompts FILE, or another model"
            )
        return kept

    def compare(self, prompts: Sequence[str], suffix: str, other: str) -> dict[str, Any]:
        """Rates of answers not refused and coherent: without a suffix, with the other, with this one; the paired difference."""
        found = {
            "none": self.answers(prompts, "", "evaluating without a suffix"),
            "random": self.answers(prompts, other, "evaluating a random suffix"),
            "found": self.answers(prompts, suffix, "evaluating the suffix"),
        }
        hits = {name: [attempt.counts for attempt in attempts] for name, attempts in found.items()}
        rates = {name: _rate(values) for name, values in hits.items()}
        degenerate = {name: sum(attempt.degenerate is not None for attempt in row) for name, row in found.items()}
        return {
            "prompts": len(prompts),
            "not_refused_coherent": rates,
            "degenerate": degenerate,
            "found_minus_random": asdict(paired_delta(hits["random"], hits["found"])),
            "mcnemar_p": mcnemar(hits["random"], hits["found"]),
        }


def _rate(hits: Sequence[bool]) -> dict[str, Any]:
    rate = Rate.of(sum(hits), len(hits))
    return asdict(rate) | {"value": rate.value}


def described(evaluation: Mapping[str, Any]) -> list[str]:
    """The comparison in lines for people."""
    rates, delta = evaluation["not_refused_coherent"], evaluation["found_minus_random"]
    lines = [
        f"not refused & coherent, {label}: {rate['value']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}], "
        f"{evaluation['degenerate'][name]} of {rate['n']} answers degenerate"
        for name, label in (("none", "no suffix"), ("random", "random suffix"), ("found", "found suffix"))
        for rate in [rates[name]]
    ]
    difference = f"{delta['mean']:+.2f} [{delta['low']:+.2f}, {delta['high']:+.2f}]"
    return [*lines, f"found − random: {difference} on {delta['n']} held-out prompts, McNemar p = {evaluation['mcnemar_p']:.2g}"]
