"""Restoration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brittle_eval import BrittleError, Modification

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Context, Part, Weight


@dataclass(frozen=True)
class Restore(Modification):
    """`W − R(W) + R(W_base)`: the region as it was before alignment; needs a base model of the same shape."""

    needs = frozenset({"base"})

    def edit(self, weight: Weight, part: Part, context: Context) -> Tensor:
        if weight.base is None:
            raise BrittleError(f"restore needs the base model's {weight.name}, but none was given: give a base model")
        if weight.base.shape != weight.value.shape:
            mine, theirs = tuple(weight.value.shape), tuple(weight.base.shape)
            raise BrittleError(f"{weight.name} is {mine} but {theirs} in the base model: give the base of this model")
        value = weight.value.float()
        return value - part.apply(value) + part.apply(weight.base.float())
