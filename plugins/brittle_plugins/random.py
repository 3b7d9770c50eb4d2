"""Random scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from brittle_eval import Attribution

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Weight


@dataclass(frozen=True)
class Random(Attribution):
    """`U(0, 1)`, independent for every entry, from the run's seed and the weight's name; it sees no data."""

    def finish(self, state: Any, weight: Weight) -> Tensor:
        drawn = torch.rand(weight.value.shape, generator=weight.generator, device=weight.generator.device)
        return drawn.to(weight.value.device)
