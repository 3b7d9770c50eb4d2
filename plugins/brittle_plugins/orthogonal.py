"""What one behaviour's directions hold and another's do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from brittle_eval import Isolation, Projector, Ranks

if TYPE_CHECKING:
    from brittle_eval import Context, Directions, Part

ALONG = 1e-12
"""sin² of the angle up to which a direction lies in the other behaviour's span."""


@dataclass(frozen=True)
class Orthogonal(Isolation):
    """`R(W) = (I − Π_minus) Π_of W`: the strongest directions for `of`, less the strongest for `minus`.

    `r-s` and `r-u` count the ranks that are removed, as the paper counts them: of the R = min(out, in) ranks of a weight
    Π_of keeps the strongest R − r-s, and Π_minus the strongest R − r-u. From 1 on they are numbers of ranks; below 1
    fractions of R, ⌊r·R⌋, which suit weights of different R. The rank of R(W) is at most min(r-u, R − r-s).
    BrittleError for more ranks than R, and where fewer directions are real than are kept.

    Orthogonal projection of Wei et al. 2024 (arXiv 2402.05162); the defaults are their r_u = 3950 and r_s = 4090 of 4096.
    """

    r_u: Ranks = 0.9644
    r_s: Ranks = 0.9986
    of: str = "safety"
    minus: str = "utility"

    takes = frozenset({"directions"})

    @property
    def behaviours(self) -> tuple[str, ...]:
        return (self.of, self.minus)

    def isolate(self, scores: Mapping[str, Mapping[str, Directions]], context: Context) -> Mapping[str, Part]:
        return {name: self._part(mine, scores[self.minus][name]) for name, mine in scores[self.of].items()}

    def _part(self, of: Directions, minus: Directions) -> Projector:
        wanted = of.leading(of.ranks - of.count(self.r_s))
        shared = minus.leading(minus.ranks - minus.count(self.r_u))
        left = wanted - shared @ (shared.T @ wanted)
        squares, turn = torch.linalg.eigh(left.T @ left)  # sin² of the angles between the two spans
        turn = turn[:, squares > ALONG]
        return Projector.product(of.shape, left @ turn, wanted @ turn)
