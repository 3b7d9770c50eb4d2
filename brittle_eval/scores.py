"""What attributions give, and the exact selection of the highest or lowest scores."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

Compare = Literal["row", "weight", "block", "global"]
"""What competes for the top share: the entries of a row, a weight, a block's weights, or all weights."""


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
    limit = torch.topk(scores, k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    above = scores > limit
    ties = scores == limit
    free = k - above.sum(dim=1, keepdim=True)
    if bool((ties.sum(dim=1, keepdim=True) == free).all()):
        return above | ties
    return above | (ties & (ties.cumsum(dim=1) <= free))


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
