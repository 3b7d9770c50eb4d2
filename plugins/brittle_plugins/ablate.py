"""Ablation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brittle_eval import Modification

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Context, Part, Weight


@dataclass(frozen=True)
class Ablate(Modification):
    """`W − R(W)`: the entries of a mask become exact zeros."""

    def edit(self, weight: Weight, part: Part, context: Context) -> Tensor:
        value = weight.value.float()
        return value - part.apply(value)
