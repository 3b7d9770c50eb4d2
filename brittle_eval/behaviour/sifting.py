"""Which pairs make a behaviour: refusals by a judge's word, utility pairs by the rule against safety, none that is broken."""

from __future__ import annotations

from collections.abc import Sequence

from brittle_eval.behaviour.calibration import Pair
from brittle_eval.behaviour.safety_words import safety_related
from brittle_eval.errors import blaming
from brittle_eval.evaluation.coherence import degenerate
from brittle_eval.judgement.judging import judge_records
from brittle_eval.methods import Judge, Record

Counts = dict[str, int]
"""How many pairs were left out, by reason; every function adds to it."""


def refusals(pairs: Sequence[Pair], name: str, judge: Judge, short: bool, counts: Counts) -> list[Pair]:
    """The pairs whose response the judge calls a refusal; with `short`, up to where it has refused."""
    refused = _judged(pairs, name, judge, counts)[False]
    counts["refused"] = len(refused)
    if short:
        with blaming(judge):
            parts = [judge.segment(Record(pair.prompt, pair.response)) for pair in refused]
        _add(counts, "without_segment", sum(not part for part in parts))
        refused = [Pair(pair.prompt, part) for pair, part in zip(refused, parts, strict=True) if part]
    return refused


def apart_from_safety(pairs: Sequence[Pair], name: str, judge: Judge, counts: Counts) -> list[Pair]:
    """The pairs that are no refusal by the judge's word and have no word of safety in prompt or response."""
    judged = _judged(without_words(pairs, counts), name, judge, counts)
    _add(counts, "refusals", len(judged[False]))
    return judged[True]


def without_words(pairs: Sequence[Pair], counts: Counts) -> list[Pair]:
    """The pairs without a word of safety."""
    kept = [pair for pair in pairs if safety_related(pair.prompt) is None and safety_related(pair.response) is None]
    _add(counts, "safety_words", len(pairs) - len(kept))
    return kept


def _judged(pairs: Sequence[Pair], name: str, judge: Judge, counts: Counts) -> dict[bool | None, list[Pair]]:
    """The pairs by verdict; what the judge could not score is in no behaviour."""
    verdicts = judge_records({name: judge}, [Record(pair.prompt, pair.response) for pair in pairs])[name]
    judged: dict[bool | None, list[Pair]] = {True: [], False: [], None: []}
    for pair, verdict in zip(pairs, verdicts, strict=True):
        judged[verdict.positive].append(pair)
    _add(counts, "unscored", len(judged[None]))
    return judged


def sound(pairs: Sequence[Pair], counts: Counts) -> list[Pair]:
    """The pairs whose response holds together, each once."""
    whole = [pair for pair in pairs if degenerate(pair.response) is None]
    _add(counts, "degenerate", len(pairs) - len(whole))
    once = list(dict.fromkeys(whole))
    _add(counts, "repeated", len(whole) - len(once))
    return once


def _add(counts: Counts, reason: str, number: int) -> None:
    counts[reason] = counts.get(reason, 0) + number


def listed(counts: Counts) -> str:
    """`544 prompts, 3 near evaluation prompts, …`: what is not zero."""
    return ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items() if value)
