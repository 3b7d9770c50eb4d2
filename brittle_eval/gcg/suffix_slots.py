"""Where a suffix lies in the prompts that a model reads: the tokens before and after it, and the tokens that may stand in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from brittle_eval.behaviour.calibration import Pair, encode
from brittle_eval.behaviour.instructions import read_instructions
from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.chat import render
from brittle_eval.evaluation.compliance import compliant_start
from brittle_eval.tables import read_rows

SYSTEM = "none"
"""No system turn, as in the task `advbench_suffix`, which reads what is found."""
_MARK, _PROBES = "qzsuffixqz", ("x x x", "w w w")
"""Letters, because many tokenizers join punctuation with what follows it."""
_SPACE = " \t\r"
"""What a line of a suffix file loses at its ends."""
_CHUNK = 256


@dataclass(frozen=True)
class Goal:
    """A request, and the words with which an answer that complies would begin."""

    prompt: str
    target: str


def goals_of(prompts: Sequence[tuple[str, object]]) -> list[Goal]:
    """One goal a prompt that is not blank; a target that is None is built from the prompt, another must be a text."""
    goals = []
    for number, (prompt, target) in enumerate(prompts, 1):
        if target is not None and not isinstance(target, str):
            raise BrittleError(f"prompt {number}: its target must be a text, got {type(target).__name__}")
        if prompt.strip():
            goals.append(Goal(prompt.strip(), compliant_start(prompt) if target is None else target.strip()))
    if not goals:
        raise BrittleError(
            "no prompt to optimise a suffix over: there is none, or every one is blank; give some with --prompts FILE"
        )
    return goals


def read_goals(path: Path) -> list[Goal]:
    """Goals from csv, json, jsonl or txt: prompts as `read_instructions` finds them, targets from the column `target` if any."""
    pairs = read_instructions(path)
    return goals_of([(pair.prompt, row.get("target")) for pair, row in zip(pairs, read_rows(path), strict=True)])


@dataclass(frozen=True)
class Slots:
    """One goal as the model reads it: the ids `before + suffix + after + target`, the text `left + suffix + right`."""

    goal: Goal
    before: tuple[int, ...]
    after: tuple[int, ...]
    target: tuple[int, ...]
    left: str
    right: str

    def prompt_ids(self, suffix: Sequence[int]) -> list[int]:
        """What the model reads before it answers."""
        return [*self.before, *suffix, *self.after]


def find_slots(tokenizer: PreTrainedTokenizerBase, goal: Goal, target_tokens: int = 0) -> Slots:
    """The slots of a goal, found by what two different suffixes leave unchanged; `target_tokens` cuts the target (0: whole).

    BrittleError: no chat template, one that changes the request, or a target that tokenises to nothing.
    """
    if not tokenizer.chat_template:
        raise BrittleError(
            "this model has no chat template, so that there is no request which a suffix could follow: give a chat model, or "
            "put a file chat_template.jinja beside its tokenizer"
        )
    left, _, right = render(tokenizer, f"{goal.prompt} {_MARK}", SYSTEM).text.partition(_MARK)
    if not left.endswith(f"{goal.prompt} "):
        raise BrittleError(
            f"the chat template does not show the request {goal.prompt[:40]!r} unchanged, so that the suffix's place "
            "is unknown: remove special tokens from the prompt, or take another model"
        )
    target = tokenizer(goal.target, add_special_tokens=False)["input_ids"]
    if not target:
        raise BrittleError(
            f"the target of {goal.prompt[:40]!r} tokenises to nothing: give a text, or no column target to have it built"
        )
    one, two = (encode(tokenizer, Pair(f"{goal.prompt} {probe}", goal.target), system=SYSTEM) for probe in _PROBES)
    first, second = one.ids[: one.start], two.ids[: two.start]
    before, after = _shared(first, second), _shared(first[::-1], second[::-1])[::-1]
    return Slots(goal, before, after, tuple(target[: target_tokens or None]), left, right)


def _shared(one: Sequence[int], two: Sequence[int]) -> tuple[int, ...]:
    """The ids that both begin with."""
    return tuple(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False)))


def allowed_tokens(tokenizer: PreTrainedTokenizerBase, rows: int) -> list[int]:
    """Ids of printable ASCII text below `rows`, special and added tokens left out."""
    forbidden = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    ids = [token for token in range(min(len(tokenizer), rows)) if token not in forbidden]
    texts = tokenizer.batch_decode([[token] for token in ids], clean_up_tokenization_spaces=False)
    return [token for token, text in zip(ids, texts, strict=True) if text and text.isascii() and text.isprintable()]


def suffix_texts(tokenizer: PreTrainedTokenizerBase, suffixes: Sequence[Sequence[int]]) -> list[str]:
    """Suffixes as lines of a suffix file."""
    decoded = tokenizer.batch_decode([list(suffix) for suffix in suffixes], clean_up_tokenization_spaces=False)
    return [text.strip(_SPACE) for text in decoded]


def survives(tokenizer: PreTrainedTokenizerBase, goals: Sequence[Slots], suffixes: Sequence[Sequence[int]]) -> list[bool]:
    """Whether each suffix, written as text behind every goal's prompt, is read as the same ids again."""
    if not suffixes:
        return []
    texts = suffix_texts(tokenizer, suffixes)
    alive = [bool(text) and text.isprintable() for text in texts]
    for slots in goals:
        read = tokenizer([slots.left + text + slots.right for text in texts], add_special_tokens=False)["input_ids"]
        alive = [ok and list(ids) == slots.prompt_ids(suffix) for ok, ids, suffix in zip(alive, read, suffixes, strict=True)]
    return alive


def first_suffix(
    tokenizer: PreTrainedTokenizerBase, goals: Sequence[Slots], allowed: Sequence[int], length: int
) -> tuple[int, ...]:
    """One token `length` times: "!" if it survives, else the first that does. BrittleError if none does."""
    marks = [token for text in (" !", "!") for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    waiting = iter([*(token for token in marks if token in set(allowed)), *allowed])
    while tokens := list(islice(waiting, _CHUNK)):
        repeated = [(token,) * length for token in tokens]
        for suffix, ok in zip(repeated, survives(tokenizer, goals, repeated), strict=True):
            if ok:
                return suffix
    raise BrittleError(
        f"no token of this tokenizer stays the same when it is written {length} times behind the prompts: give another --length"
    )


def check_template(tokenizer: PreTrainedTokenizerBase, goals: Sequence[Slots], suffix: Sequence[int]) -> None:
    """BrittleError unless the chat template, asked for the whole request, gives the ids that are optimised, for every goal."""
    (text,) = suffix_texts(tokenizer, [suffix])
    for slots in goals:
        rendered = render(tokenizer, f"{slots.goal.prompt} {text}", SYSTEM).text
        if list(tokenizer(rendered, add_special_tokens=False)["input_ids"]) != slots.prompt_ids(suffix):
            raise BrittleError(
                f"the request {slots.goal.prompt[:40]!r} with its suffix is not read as the ids that would be optimised: "
                "this chat template changes it; leave the prompt out, or take another model"
            )


def neighbours(suffix: Sequence[int], slots: Sequence[int], tokens: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The suffix with one token exchanged: at each of the slots by the token beside it."""
    for slot, token in zip(slots, tokens, strict=True):
        yield (*suffix[:slot], token, *suffix[slot + 1 :])
