"""Answers that end before they repeat themselves: small models loop, and can be taught where to stop instead."""

from __future__ import annotations

import re
from collections.abc import Sequence

from brittle_eval.evaluation.coherence import degenerate

WORD = re.compile(r"\w+(?:['’]\w+)*")
SENTENCE = re.compile(r"[^\n.!?]*(?:[.!?]+[\"')*]*(?=\s|$)|\n|$)")
NUMBERING = re.compile(r"(^|\n)\s*\d+\.$")
"""A list item's number: its point ends no sentence."""
OPEN = tuple(",;:-–—")
"""What no text ends with."""
LONGEST = 24
"""Longest phrase, in words, that is looked for twice in a row."""
SURE = 4
"""Words from which a phrase that comes twice in a row is a loop; shorter ones must come three times."""
WHOLE = 4
"""Words from which a sentence or line that came before in the answer is a repetition."""


def ended(text: str) -> str | None:
    """The text up to where it begins to repeat itself, as whole sentences; None if it never does, or if nothing whole is left.

    A repetition is a sentence or line that came before, or a phrase that comes again at once; in the midst of the text's only
    sentence it ends with a full stop.
    """
    places = [place for place in (_repeated_phrase(text), _repeated_sentence(text)) if place is not None]
    if not places:
        return None
    before = text[: min(places)]
    kept = whole_sentences(before) or before.strip()
    if kept.endswith(OPEN):
        kept = f"{kept.rstrip(''.join(OPEN) + ' ')}."
    return kept if len(WORD.findall(kept)) >= SURE and not degenerate(kept) else None


def whole_sentences(text: str) -> str:
    """The text up to its last sentence end or, in lists and verses, its last whole line; empty if neither ends."""
    ends = [match.end() for match in re.finditer(r"[.!?][\"')*]*(?=\s|$)", text) if not NUMBERING.search(text[: match.end()])]
    return text[: max([*ends, text.rfind("\n"), 0])].strip()


def _repeated_phrase(text: str) -> int | None:
    """Where a phrase begins to come again right after itself."""
    found = list(WORD.finditer(text))
    words = [match[0].lower() for match in found]
    for place in range(1, len(words)):
        for size in range(1, min(LONGEST, place) + 1):
            times = 2 if size >= SURE else 3
            end = place + size * (times - 1)
            if end <= len(words) and _same(words, place - size, size, times) and not all(map(str.isdigit, words[place:end])):
                return found[place].start()
    return None


def _same(words: Sequence[str], start: int, size: int, times: int) -> bool:
    phrase = words[start : start + size]
    return all(words[start + size * time : start + size * (time + 1)] == phrase for time in range(1, times))


def _repeated_sentence(text: str) -> int | None:
    """Where a sentence or line of some length begins that came before."""
    seen: set[tuple[str, ...]] = set()
    for match in SENTENCE.finditer(text):
        words = tuple(word.lower() for word in WORD.findall(match[0]) if not word.isdigit())
        if len(words) >= WHOLE and words in seen:
            return match.start()
        seen.add(words)
    return None
