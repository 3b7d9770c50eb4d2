"""The behaviours of a run: files that the user names, or the project's prompts answered by the unedited model."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from brittle_eval.behaviour.calibration import Example, Pair, digest, drop_leaks, encode, read_pairs, read_rows
from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.generate import Sampling
from brittle_eval.evaluation.lm import BrittleHFLM, Turns
from brittle_eval.evaluation.responses import Answer, Responses
from brittle_eval.methods import Judge, Record
from brittle_eval.progress import bar
from brittle_eval.running.record import RunFolder

FEWEST_REFUSALS = 32
ANSWER_TOKENS = 64
"""Length of a calibration answer."""


@dataclass(frozen=True)
class Behaviour:
    """A named set of pairs, ready for attribution."""

    name: str
    pairs: tuple[Pair, ...]
    examples: tuple[Example, ...]
    dropped: int
    """Prompts left out because they equal or nearly repeat an evaluation prompt."""
    left: int = 0
    """Pairs of a file that were not drawn."""
    blank: int = 0
    """Pairs of a file that have no response."""

    @property
    def digest(self) -> str:
        return digest(self.pairs)


def from_file(name: str, path: Path, lm: BrittleHFLM, evaluation: Sequence[str], pairs: int, seed: int) -> Behaviour:
    """At most `pairs` of a user's jsonl, drawn with the seed, without those that leak from the evaluation."""
    rows, known = read_rows(path), read_pairs(path)
    kept, dropped = drop_leaks([pair.prompt for pair in known], evaluation)
    chosen = _drawn(name, kept, pairs, seed)
    made = _made(name, [known[index] for index in chosen], lm, dropped)
    return replace(made, left=len(kept) - len(chosen), blank=len(rows) - len(known))


def _drawn(name: str, indices: Sequence[int], most: int, seed: int) -> list[int]:
    """At most so many of the indices, in their order: the same ones for a seed and a behaviour's name."""
    return sorted(random.Random(f"{seed}|{name}").sample(indices, min(most, len(indices))))


def from_prompts(
    name: str,
    prompts: Sequence[str],
    lm: BrittleHFLM,
    judge: Judge,
    evaluation: Sequence[str],
    pairs: int,
    folder: RunFolder,
    seed: int,
    kept: Responses,
) -> Behaviour:
    """`pairs` of the prompts with the unedited model's greedy answers: its refusals for safety, its other answers otherwise.

    Answers are in `kept` until the file is whole.
    """
    left, dropped = drop_leaks(prompts, evaluation)
    asked = [prompts[index] for index in _drawn(name, left, pairs, seed)]
    file = f"behaviours/{name}.jsonl"
    if not (folder.path / file).exists():
        answers = _answers(lm, asked, seed, f"answering {name} prompts", kept)
        verdicts = judge.judge([Record(prompt, answer) for prompt, answer in zip(asked, answers, strict=True)])
        wanted = name != "safety"
        good = [
            Pair(prompt, answer)
            for prompt, answer, verdict in zip(asked, answers, verdicts, strict=True)
            if verdict.positive is wanted and answer.strip()
        ]
        if name == "safety":
            check_refusals(len(good), len(asked), "give pairs with --behaviour safety=FILE")
        folder.write_lines(file, [asdict(pair) for pair in good], private=True)
        kept.remove()
    return _made(name, read_pairs(folder.path / file), lm, dropped)


def check_refusals(refused: int, asked: int, advice: str) -> None:
    """BrittleError where a model refuses too seldom for its safety to be attributed."""
    if refused < FEWEST_REFUSALS:
        raise BrittleError(
            f"the unedited model refused {refused} of {asked} harmful prompts: there is little safety to attribute "
            f"(at least {FEWEST_REFUSALS} refusals are needed); {advice}"
        )


def _made(name: str, pairs: Sequence[Pair], lm: BrittleHFLM, dropped: int) -> Behaviour:
    if not pairs:
        raise BrittleError(f"behaviour {name}: no pair is left; {dropped} were dropped because they repeat evaluation prompts")
    examples = tuple(encode(lm.tokenizer, pair) for pair in pairs)
    longest = max(len(example.ids) for example in examples)
    if longest > lm.max_length:
        raise BrittleError(
            f"behaviour {name}: a pair of {longest} tokens exceeds the model's context of {lm.max_length}: shorten it"
        )
    return Behaviour(name, tuple(pairs), examples, dropped)


def _answers(lm: BrittleHFLM, prompts: Sequence[str], seed: int, what: str, kept: Responses) -> list[str]:
    tokens = ask(lm, rendered(lm, prompts, Turns(chat=True)), Sampling(ANSWER_TOKENS, seed=seed), what, kept=kept)
    return [lm.decode(answer) for answer in tokens]


def rendered(lm: BrittleHFLM, prompts: Sequence[str], turns: Turns) -> list[list[int]]:
    """The prompts as the model reads them, as token ids."""
    with lm.showing(turns, lambda: None):
        return [lm.prompt_ids(lm.apply_chat_template([{"role": "user", "content": prompt}])) for prompt in prompts]


def ask(
    lm: BrittleHFLM,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    what: str,
    samples: int = 1,
    kept: Responses | None = None,
) -> list[Answer]:
    """The model's answers as token ids, `samples` of them in a row for every prompt."""
    with bar(what, len(prompts) * samples) as advance:
        return lm.answers(
            [prompt for prompt in prompts for _ in range(samples)],
            sampling,
            samples=list(range(samples)) * len(prompts),
            on_finished=lambda: advance(1),
            kept=kept,
        )


def reference_pairs(lm: BrittleHFLM, prompts: Sequence[str], folder: RunFolder, seed: int, kept: Responses) -> list[Example]:
    """The unedited model's greedy answers to harmless prompts, as examples for perplexity and divergence."""
    file = "behaviours/reference.jsonl"
    if not (folder.path / file).exists():
        answers = _answers(lm, prompts, seed, "answering reference prompts", kept)
        pairs = [Pair(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True) if answer.strip()]
        folder.write_lines(file, [asdict(pair) for pair in pairs], private=True)
        kept.remove()
    return [encode(lm.tokenizer, pair) for pair in read_pairs(folder.path / file)]


def sizes(behaviours: Mapping[str, Behaviour]) -> str:
    """`safety 121 pairs, utility 128 of 900 pairs (2 prompts dropped as near evaluation prompts, 3 pairs without a response)`."""
    leaks, blank = (sum(getattr(one, field) for one in behaviours.values()) for field in ("dropped", "blank"))
    listed = ", ".join(f"{name} {_size(behaviour)} pairs" for name, behaviour in behaviours.items())
    left_out = [f"{leaks} prompts dropped as near evaluation prompts"] if leaks else []
    left_out += [f"{blank} pairs without a response left out"] if blank else []
    return f"{listed} ({', '.join(left_out)})" if left_out else listed


def _size(behaviour: Behaviour) -> str:
    """`128 of 900` where some were not drawn."""
    count = len(behaviour.pairs)
    return f"{count} of {count + behaviour.left}" if behaviour.left else str(count)
