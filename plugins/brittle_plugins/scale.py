"""Scaling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brittle_eval import Modification
from brittle_plugins.where import Where, replaced

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Context, Part, Weight


@dataclass(frozen=True)
class Scale(Modification):
    """`W + (α − 1) R(W)`: the region times α; 1 changes nothing, 0 ablates.

    Safety layers, Li et al. 2024 (arXiv 2408.17003), scale all weights of some blocks: `scale:alpha=1.15,blocks=6-14`.
    """

    alpha: float = 1.15
    where: Where = "region"

    def edit(self, weight: Weight, part: Part, context: Context) -> Tensor:
        value = weight.value.float()
        return replaced(part, value, self.alpha * value, self.where)
