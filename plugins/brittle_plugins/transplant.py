"""Transplantation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brittle_eval import Modification

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Context, Part, Weight


@dataclass(frozen=True)
class Transplant(Modification):
    """`W + R(W_donor − W)`: the region of another model of the same shape (`--donor`) in this one, computed in float32.

    Entries of a mask are the donor's own. A safer donor gives its safety, a fine-tuned one what training did to the region.
    """

    needs = frozenset({"donor"})

    def edit(self, weight: Weight, part: Part, context: Context) -> Tensor:
        value, donor = weight.value.float(), context.weights("donor")[weight.name].float()
        return value - part.apply(value) + part.apply(donor)
