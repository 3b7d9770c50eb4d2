"""The highest scores of one behaviour, outside the highest of another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brittle_eval import Compare, Mask, Share, select
from brittle_plugins.set_difference import SetDifference

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Context, Part


@dataclass(frozen=True)
class TopOutside(SetDifference):
    """`top_q(S_of outside top_p(S_minus))`: the highest scores for `of`, of entries that are not among the highest for `minus`.

    `q` and `p` are fractions in [0, 1] of all n entries that compete (`compare`): ⌊q·n⌋ are taken, or all that are outside.
    Regions of one `p` and a rising `q` are nested, and their size is what was asked for, other than with set-difference,
    which takes what is left of top_q. Ties go to the lower position.

    The order that a brittleness curve goes through; p as in the set difference of Wei et al. 2024 (arXiv 2402.05162).
    """

    p: Share = 0.01
    q: Share = 0.01
    compare: Compare = "global"

    def isolate(self, scores: Mapping[str, Mapping[str, Tensor]], context: Context) -> Mapping[str, Part]:
        shared = select(scores[self.minus], self.p, self.compare)
        outside = {name: value.masked_fill(shared[name], -math.inf) for name, value in scores[self.of].items()}
        chosen = select(outside, self.q, self.compare)
        return {name: Mask.from_dense(chosen[name] & ~shared[name]) for name in chosen}
