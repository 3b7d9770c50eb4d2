"""One direction taken out of the residual stream while the model runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brittle_eval import HookModification

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AblateStream(HookModification):
    """`x − r rᵀ x` wherever the residual stream is written, r the region's one direction, of length 1.

    That is before every block, behind every output projection and narrowing MLP weight, and behind the last block, at every
    position. `ablate` on the same region does so to the weights, and gives the same model up to rounding where embeddings and
    biases have no part along r. BrittleError for a region with several directions. Arditi et al. 2024 (arXiv 2406.11717).
    """

    everywhere = True

    def steer(self, stream: Tensor, direction: Tensor, state: Tensor | None) -> Tensor:
        value = stream.float()
        return value - (value @ direction)[..., None] * direction
