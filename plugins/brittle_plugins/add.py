"""Directions added to the residual stream while the model runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brittle_eval import HookModification

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Add(HookModification):
    """`x + α d` where the region has a direction d, at every position: activation addition.

    The isolation `direction` has one d, the whole difference of the means, before its block: α = 1 moves harmless prompts to
    where harmful ones are, which makes models refuse, and α = −1 the other way. Arditi et al. 2024 (arXiv 2406.11717).
    """

    alpha: float = 1.0

    def steer(self, stream: Tensor, direction: Tensor, state: Tensor | None) -> Tensor:
        return stream + self.alpha * direction
