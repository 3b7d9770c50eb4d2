"""Rewinding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brittle_eval import Modification

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Context, Part, Weight


@dataclass(frozen=True)
class Rewind(Modification):
    """`W − R(W) + R(W_before)`: the region as it was before the chain began, such as before a `finetune` that stands ahead.

    Entries of a mask have their old bytes again. This is how the released code of Wei et al. 2024 freezes: it fine-tunes freely
    and copies the region's weights back, so that the others were trained beside moving ones; `finetune:region=freeze` is
    the paper's description.
    """

    needs = frozenset({"before"})

    def edit(self, weight: Weight, part: Part, context: Context) -> Tensor:
        value = weight.value.float()
        return value - part.apply(value) + part.apply(context.weights("before")[weight.name].float())
