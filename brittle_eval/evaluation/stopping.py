"""When an answer is decided: its generation may stop there, since no continuation changes a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence

EVERY = 4
"""Tokens between two looks at an answer."""
UNSETTLED = 4
"""Last tokens whose text the next ones may change: a character in several tokens, a space that is cleaned up."""


class Stopping:
    """Whether `decided(text)` holds of the text of some tokens that further tokens leave as it is.

    `name` says what decides, for the key of stored answers.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], decided: Callable[[str], bool], name: str) -> None:
        self._decode, self._decided, self.name = decode, decided, name

    def __call__(self, tokens: Sequence[int]) -> bool:
        return len(tokens) % EVERY == 0 and self._decided(self.text(tokens))

    def text(self, tokens: Sequence[int]) -> str:
        """The settled beginning of the text; the bytes of a character may lie far apart, with special tokens between them."""
        settled, whole = self._decode(tokens[:-UNSETTLED]), self._decode(tokens)
        while not whole.startswith(settled):
            settled = settled[:-1]
        return settled.rstrip("\ufffd")
