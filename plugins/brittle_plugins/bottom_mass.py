"""The lowest scores of every row, up to one share of the row's sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from brittle_eval import BrittleError, Isolation, Mask, Share, select

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Context, Part


@dataclass(frozen=True)
class BottomMass(Isolation):
    """`Σ of the lowest S_of of row i ≤ α · Σ_j S_ij`: of every row the lowest up to one share α of its sum, α by the share `q`.

    A row whose importance is spread gives up fewer entries than one where a few carry it, and all rows lose alike in sum.
    `q` is a fraction in [0, 1] of the weight's entries. Exactly ⌊q·n⌋ of n are taken: those whose sum with all lower ones of
    their row is the smallest share of the row; ties go to the lower position. BrittleError for scores below zero.

    The variant of Wanda in its released code (Sun et al. 2023, arXiv 2306.11695), which that of Wei et al. 2024 (arXiv
    2402.05162) offers too. There α is searched by bisection, up to 0.8, until the share of the weight is within 0.001 of q.
    """

    q: Share = 0.05
    of: str = "safety"

    @property
    def behaviours(self) -> tuple[str, ...]:
        return (self.of,)

    def isolate(self, scores: Mapping[str, Mapping[str, Tensor]], context: Context) -> Mapping[str, Part]:
        reached = {name: _reached(name, value) for name, value in scores[self.of].items()}
        chosen = select(reached, self.q, "weight", lowest=True)
        return {name: Mask.from_dense(dense) for name, dense in chosen.items()}


def _reached(name: str, scores: Tensor) -> Tensor:
    """`Σ of the row's scores up to this one, lowest first / Σ of the row`, (out, in), float64; 0 in a row of zeros."""
    if bool((scores < 0).any()):
        raise BrittleError(f"{name} has scores below zero, of which no share can be taken: use bottom, or scores without a sign")
    ordered, places = scores.double().sort(dim=1, stable=True)
    sums = ordered.cumsum(dim=1)
    shares = sums / sums[:, -1:].clamp(min=torch.finfo(torch.float64).tiny)
    return torch.empty_like(shares).scatter_(1, places, shares)
