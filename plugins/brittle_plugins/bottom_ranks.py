"""The weakest directions of one behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brittle_eval import Isolation, Projector, Ranks

if TYPE_CHECKING:
    from brittle_eval import Context, Directions, Part


@dataclass(frozen=True)
class BottomRanks(Isolation):
    """`R(W) = W − U_k U_kᵀ W`: all but the k = R − r strongest directions for the behaviour `of`, R = min(out, in).

    From 1 on `r` is a number of ranks; below 1 a fraction of R, ⌊r·R⌋. Ablation leaves the best fit of rank k. Directions
    that no token showed are the weakest, and among them those that the weight itself gives least.
    BrittleError for more ranks than R, and for fewer tokens than k.

    The least safety-relevant ranks of Wei et al. 2024 (arXiv 2402.05162).
    """

    r: Ranks = 0.05
    of: str = "safety"

    takes = frozenset({"directions"})

    @property
    def behaviours(self) -> tuple[str, ...]:
        return (self.of,)

    def isolate(self, scores: Mapping[str, Mapping[str, Directions]], context: Context) -> Mapping[str, Part]:
        return {name: self._part(found) for name, found in scores[self.of].items()}

    def _part(self, found: Directions) -> Projector:
        kept = found.ranks - found.count(self.r)
        basis = found.basis(kept)
        if 2 * kept > found.ranks:  # the weak ones are fewer, and span all the rest of W
            return Projector.onto(found.shape, basis[:, kept:])
        return ~Projector.onto(found.shape, basis[:, :kept])
