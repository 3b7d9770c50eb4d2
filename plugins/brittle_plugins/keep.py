"""Keeping the region only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brittle_eval import Modification

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Context, Part, Weight


@dataclass(frozen=True)
class Keep(Modification):
    """`R(W)`: what is outside the region becomes zero.

    A weight that the region does not name at all is untouched, as with every modification.
    """

    def edit(self, weight: Weight, part: Part, context: Context) -> Tensor:
        return part.apply(weight.value.float())
