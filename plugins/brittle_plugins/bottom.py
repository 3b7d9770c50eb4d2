"""The lowest scores of one behaviour."""

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
class Bottom(Isolation):
    """`bottom_q(S_of)`: the share `q` (fraction in [0, 1]) of entries with the lowest scores for the behaviour `of`.

    `compare` says what competes: the entries of a row, of a weight, of a block's weights, or of all weights.
    Exactly ⌊q·n⌋ of n entries; ties go to the lower position.

    The least safety-relevant weights of Wei et al. 2024 (arXiv 2402.05162).
    """

    q: Share = 0.05
    compare: Compare = "row"
    of: str = "safety"

    @property
    def reach(self) -> Literal["weight", "block", "model"]:
        return REACH[self.compare]

    @property
    def behaviours(self) -> tuple[str, ...]:
        return (self.of,)

    def isolate(self, scores: Mapping[str, Mapping[str, Tensor]], context: Context) -> Mapping[str, Part]:
        chosen = select(scores[self.of], self.q, self.compare, lowest=True)
        return {name: Mask.from_dense(dense) for name, dense in chosen.items()}
