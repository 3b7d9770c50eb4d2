"""Chat rendering: one request as the text that the model reads, with a system turn, without one, or with the template's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from brittle_eval.errors import BrittleError, CannotRun

SystemState = Literal["none", "default", "given", "removed", "merged"]

_USER, _ANSWER, _NEXT, _SYSTEM = "qzuserqz", "qzanswerqz", "qznextqz", "qzsystemqz"
"""Words that no template contains: rendered in place of the turns, they show what the template puts around them."""


@dataclass(frozen=True)
class Rendered:
    """A prompt as text, to be tokenised with `add_special_tokens=False`: the template has written its BOS already."""

    text: str
    system_state: SystemState
    """`none`: no system turn, and the template adds none. `removed`: it adds one, which was cut out. `default`: whatever
    the template does. `given`: the caller's text in the system role. `merged`: that text at the head of the user turn."""


Turn = tuple[str, str]
"""A role and what it says."""


def render(
    tokenizer: PreTrainedTokenizerBase,
    user: str,
    system: str = "default",
    merge: bool = False,
    before: Sequence[tuple[str, str]] = (),
) -> Rendered:
    """The chat prompt for one request, ready for the answer, thinking off where the template offers that.

    `before` are earlier requests with their answers. `system` is `none`, `default` or the system text itself. Raises
    `BrittleError` without a chat template, and `CannotRun` where a template rejects or ignores the system role (`merge` folds
    the text into the first user turn instead) or where its own system turn cannot be told from the user turn. Tokenise with
    `add_special_tokens=False`.
    """
    turns = [turn for request, answer in before for turn in (("user", request), ("assistant", answer))] + [("user", user)]
    if system == "none":
        return _without_system(tokenizer, turns)
    if system == "default":
        return Rendered(_apply(tokenizer, *turns), "default")
    if not system.strip():
        raise BrittleError("the system text is empty: give a text, or ask for no system turn with 'none'")
    if _takes_system(tokenizer):
        return Rendered(_apply(tokenizer, ("system", system), *turns), "given")
    if merge:
        first = ("user", f"{system}\n\n{turns[0][1]}")
        return Rendered(_without_system(tokenizer, [first, *turns[1:]]).text, "merged")
    raise CannotRun("the template has no system role; use --system-role merge")


def _apply(tokenizer: PreTrainedTokenizerBase, *turns: Turn) -> str:
    try:
        template = tokenizer.get_chat_template()
    except ValueError:
        raise BrittleError(
            f"a model without a chat template ({Path(str(tokenizer.name_or_path)).name or 'unnamed'}) where a task needs one: "
            "choose --tasks that use none, or a chat model"
        ) from None
    switches: dict[str, Any] = {name: False for name in ("enable_thinking", "thinking") if re.search(rf"\b{name}\b", template)}
    messages = [{"role": role, "content": content} for role, content in turns]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **switches))


def _takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a system turn reaches the prompt: some templates raise, some drop it without a word."""
    try:
        text = _apply(tokenizer, ("system", _SYSTEM), ("user", _USER))
    except TemplateError:
        return False
    return _SYSTEM in text and _USER in text


def _without_system(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> Rendered:
    """The prompt with nothing before the first user turn but the BOS."""
    text = _apply(tokenizer, *turns)
    head, tail = _cut(_apply(tokenizer, ("user", _USER)), _USER)
    try:
        talk = _apply(tokenizer, ("user", _USER), ("assistant", _ANSWER), ("user", _NEXT))
    except TemplateError as error:
        raise CannotRun(f"no system turn was asked for, and the template does not show where its own ends: {error}") from None
    between = _cut(_cut(talk, _ANSWER)[1], _NEXT)[0]
    opening = _opening(tokenizer, head, between, tail)
    if opening == head:
        return Rendered(text, "none")
    content = text[len(head) : len(text) - len(tail)]
    if not text.startswith(head) or not text.endswith(tail) or not _holds(content.strip(), [turn[1].strip() for turn in turns]):
        raise CannotRun(
            "no system turn was asked for, and the template changes the request, so that its own cannot be cut out safely"
        )
    return Rendered(opening + content + tail, "removed")


def _holds(content: str, said: Sequence[str]) -> bool:
    """Whether the content is what was said: one request and nothing else, or a talk from its first to its last words."""
    return content == said[0] if len(said) == 1 else content.startswith(said[0]) and content.endswith(said[-1])


def _cut(text: str, word: str) -> tuple[str, str]:
    before, found, after = text.partition(word)
    if not found or word in after:
        raise CannotRun(
            "no system turn was asked for, and the template does not show each turn once, so that none can be cut out"
        )
    return before, after


def _opening(tokenizer: PreTrainedTokenizerBase, head: str, between: str, tail: str) -> str:
    """What should precede the request: `head` itself if the template injects nothing, otherwise BOS and user header.

    `head` precedes a first request, `between` lies between an answer and the next request: the end they share is the user
    header, after the token that ends a turn. What is left of `between` must be no more than the end of the answer's turn.
    """
    bos = tokenizer.bos_token if isinstance(tokenizer.bos_token, str) and head.startswith(tokenizer.bos_token) else ""
    shared = _common_end(head, between)
    if not head[: len(head) - len(shared)].removeprefix(bos).strip():
        return head
    names = sorted({*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}, key=len, reverse=True)
    special = re.compile("|".join(map(re.escape, names)) or r"(?!)")
    start = special.match(head.removeprefix(bos).lstrip()) or special.match(head)
    end = special.match(shared)
    if end and tail.startswith(end.group()) and not (start and start.group() == end.group()):
        shared = shared[end.end() :]
    header = shared.lstrip()
    rest = special.sub("", between[: len(between) - len(header)])
    if not header or rest.strip():
        raise CannotRun(
            "no system turn was asked for, and the template writes its own one inside the user turn, where it cannot be cut out"
        )
    return header if bos and header.startswith(bos) else bos + header


def _common_end(a: str, b: str) -> str:
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(reversed(a), reversed(b), strict=False)))
    return a[len(a) - same :]
