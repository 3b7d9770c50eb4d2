"""The strongest directions of one behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brittle_eval import Isolation, Projector, Ranks

if TYPE_CHECKING:
    from brittle_eval import Context, Directions, Part


@dataclass(frozen=True)
class TopRanks(Isolation):
    """`R(W) = U_r U_rᵀ W`: the `r` strongest directions of what a weight gives for the behaviour `of`.

    From 1 on `r` is a number of ranks; below 1 a fraction of the weight's R = min(out, in), ⌊r·R⌋.
    BrittleError for more ranks than R, and where fewer directions are real.

    The most safety-relevant ranks of Wei et al. 2024 (arXiv 2402.05162): r = 1.
    """

    r: Ranks = 1
    of: str = "safety"

    takes = frozenset({"directions"})

    @property
    def behaviours(self) -> tuple[str, ...]:
        return (self.of,)

    def isolate(self, scores: Mapping[str, Mapping[str, Directions]], context: Context) -> Mapping[str, Part]:
        found = scores[self.of]
        return {name: Projector.onto(one.shape, one.leading(one.count(self.r))) for name, one in found.items()}
