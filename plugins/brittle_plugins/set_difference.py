"""What one behaviour needs and another does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from brittle_eval import Compare, Isolation, Mask, Share, select
from brittle_plugins.reach import REACH

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Context, Part


@dataclass(frozen=True)
class SetDifference(Isolation):
    """`top_q(S_of) ∖ top_p(S_minus)`: among the highest scores for `of`, those not among the highest for `minus`.

    `p` and `q` are fractions in [0, 1]. `compare` says what competes: the entries of a row, of a weight, of a block's
    weights, or of all weights. Ties go to the lower position. A `p` far above `q` leaves an empty region.

    Set difference of Wei et al. 2024 (arXiv 2402.05162): per row, p and q between 0.03 and 0.09.
    """

    p: Share = 0.05
    q: Share = 0.05
    compare: Compare = "row"
    of: str = "safety"
    minus: str = "utility"

    @property
    def reach(self) -> Literal["weight", "block", "model"]:
        return REACH[self.compare]

    @property
    def behaviours(self) -> tuple[str, ...]:
        return (self.of, self.minus)

    def isolate(self, scores: Mapping[str, Mapping[str, Tensor]], context: Context) -> Mapping[str, Part]:
        wanted = select(scores[self.of], self.q, self.compare)
        shared = select(scores[self.minus], self.p, self.compare)
        return {name: Mask.from_dense(wanted[name] & ~shared[name]) for name in wanted}
