"""What attributions give beside plain tensors, and the exact selection of the highest or lowest scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from brittle_eval.errors import BrittleError

Compare = Literal["row", "weight", "block", "global"]
"""What competes for the top share: the entries of a row, a weight, a block's weights, or all weights."""


@dataclass(frozen=True, eq=False)
class Directions:
    """The directions of what one weight gave for one behaviour, strongest first: `W X = U S Vᵀ`, X (in, tokens)."""

    name: str
    """The weight's address."""
    shape: tuple[int, int]
    """(out, in) of the weight."""
    vectors: Tensor
    """U (out, k), float64, orthonormal; only real directions, so k ≤ min(out, in, tokens)."""
    energies: Tensor
    """S² (k,), float64, falling: the eigenvalues of the Gram matrix of the outputs."""
    unseen: Tensor
    """(out, min(out, in) − k), float64, orthonormal: what else the weight can give, by what it gives to any input."""
    tokens: int
    """How many tokens were seen."""

    @property
    def ranks(self) -> int:
        """`min(out, in)`: how many directions there could be."""
        return min(self.shape)

    def count(self, given: float) -> int:
        """How many ranks an option means: from 1 on that number, below 1 a share of all, `⌊given · min(out, in)⌋`.

        BrittleError for more than there are, and for a number that is not whole.
        """
        if given < 1:
            return share(given, self.ranks)
        if given > self.ranks or given != int(given):
            raise BrittleError(
                f"{given:g} ranks of {self.name} were asked for, expected a whole number up to min(out, in) = {self.ranks}: "
                "give that, or a fraction below 1, which is taken of each weight's own ranks"
            )
        return int(given)

    def leading(self, count: int) -> Tensor:
        """The `count` strongest directions (out, count); BrittleError if fewer are real."""
        if count > (real := len(self.energies)):
            raise BrittleError(
                f"{count} directions of {self.name} are to be kept, but its outputs over {self.tokens} response tokens have only "
                f"{real} real ones: give more calibration pairs, or remove more ranks"
            )
        return self.vectors[:, :count]

    def basis(self, kept: int) -> Tensor:
        """All directions (out, min(out, in)), real ones first; BrittleError for fewer tokens than the `kept` strongest."""
        if kept > self.tokens:
            self.leading(kept)
        return torch.cat([self.vectors, self.unseen], dim=1)


@dataclass(frozen=True, eq=False)
class ExampleInputs:
    """What entered one weight in each example of one behaviour."""

    name: str
    """The weight's address."""
    values: Tensor
    """(examples, in), float32."""


@dataclass(frozen=True, eq=False)
class HiddenStates:
    """The residual stream at the ends of one behaviour's prompts."""

    values: Tensor
    """(blocks + 1, examples, positions, width), float32: what enters each block, and what leaves the last one."""
    behind: tuple[int, ...] = ()
    """The tokens that were read behind the prompts, at the last of the positions."""

    @property
    def prompts(self) -> Tensor:
        """The values at the prompts' own positions."""
        return self.values[:, :, : self.values.shape[2] - len(self.behind)]


Scored = Tensor | Directions | ExampleInputs
"""What an attribution gives of one weight and behaviour."""


def share(fraction: float, size: int) -> int:
    """`⌊q·n⌋` of the decimal that was typed: `share(0.29, 100)` is 29, although `floor(0.29 * 100)` is 28 in binary."""
    return int(Fraction(repr(float(fraction))) * size)


def highest(scores: Tensor, k: int) -> Tensor:
    """The k highest entries of every row of `scores (rows, n)`, as booleans; ties go to the lower position."""
    n = scores.shape[1]
    if k <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if k >= n:
        return torch.ones_like(scores, dtype=torch.bool)
    limit = _lowest_of_highest(scores, k)
    chosen = scores >= limit
    if int(chosen.count_nonzero()) == k * len(scores):  # no row has more of its limit than it may take
        return chosen
    above = scores > limit
    ties = chosen & ~above
    return above | (ties & (ties.cumsum(dim=1) <= k - above.sum(dim=1, keepdim=True)))


def _lowest_of_highest(scores: Tensor, k: int) -> Tensor:
    """The k-th highest entry of every row, (rows, 1); NumPy's partition is several times as fast as `topk` on a CPU."""
    if scores.device.type != "cpu" or scores.dtype not in (torch.float32, torch.float64):
        return torch.topk(scores, k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    place = scores.shape[1] - k
    return torch.from_numpy(np.partition(scores.detach().numpy(), place, axis=1)[:, place, None].copy())


def select(scores: Mapping[str, Tensor], fraction: float, compare: Compare, *, lowest: bool = False) -> dict[str, Tensor]:
    """The top (or, with `lowest`, bottom) share of the given weights' scores, as one boolean tensor (out, in) a weight.

    `row` and `weight` look at each weight alone; `block` and `global` let all given weights compete, so give one block's, or all.
    """
    signed = {name: -value if lowest else value for name, value in scores.items()}
    if compare == "row":
        return {name: highest(value, share(fraction, value.shape[1])) for name, value in signed.items()}
    if compare == "weight":
        return {
            name: highest(value.reshape(1, -1), share(fraction, value.numel())).reshape(value.shape)
            for name, value in signed.items()
        }
    joined = torch.cat([value.reshape(-1) for value in signed.values()])[None]
    chosen = highest(joined, share(fraction, joined.shape[1]))[0].split([value.numel() for value in signed.values()])
    return {name: part.reshape(value.shape) for (name, value), part in zip(signed.items(), chosen, strict=True)}
