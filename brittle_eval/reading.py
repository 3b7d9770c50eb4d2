"""What a method may ask of the whole unedited model: its residual stream and its next tokens at the ends of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Steering:
    """What is done to the residual stream in a pass: `x ← x − r rᵀ x` wherever it is written, or `x ← x + v` before one block."""

    ablate: Tensor | None = None
    """r (width,), of norm 1."""
    add: Tensor | None = None
    """v (width,)."""
    block: int = 0
    """Where `add` goes: to what enters this block, at every position."""


class Reader(Protocol):
    """The unedited model and the run's behaviours. Prompts are rendered as for calibration; nothing is left changed."""

    @property
    def blocks(self) -> int:
        """How many decoder blocks there are."""
        ...

    @property
    def weights(self) -> Mapping[str, tuple[int, tuple[int, int]]]:
        """The block and the shape (out, in) of every weight of the plan's scope, by name."""
        ...

    @property
    def writers(self) -> Mapping[str, tuple[int, int]]:
        """The weights of the plan's scope whose outputs are added to the residual stream: shapes (out, in) by name."""
        ...

    @property
    def left_out(self) -> Sequence[str]:
        """What else writes to the residual stream, or changes what the writers give before it is added, in words."""
        ...

    def states(self, behaviour: str, positions: int, behind: Sequence[int] = ()) -> Tensor:
        """(blocks + 1, examples, positions + tokens behind, width), float32: what enters each block, and leaves the last one.

        At the last `positions` tokens of each prompt and at the tokens `behind`, which are read behind all of them, in their
        order. BrittleError for a prompt that is shorter.
        """
        ...

    @property
    def ending(self) -> int:
        """How many tokens all prompts of the plan's behaviours end with: what the chat template puts after the request."""
        ...

    def next_tokens(self, behaviour: str, examples: Sequence[int], steering: Steering | None = None) -> Tensor:
        """The log-probabilities of the token after each prompt, (examples, vocabulary), float32."""
        ...

    def tokens(self, text: str) -> tuple[int, ...]:
        """The ids of a text, without special tokens."""
        ...

    def first_tokens(self, behaviour: str) -> list[int]:
        """The first token of each example's response."""
        ...
