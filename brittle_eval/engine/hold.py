"""Training that stays inside a region: what the region does not act on keeps its bytes, or its directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.errors import BrittleError
from brittle_eval.regions import Mask, Part, Projector, Region, Whole
from brittle_eval.weights import Address


def within(part: Part, change: Tensor) -> Tensor:
    """`P(ΔW)`, (out, in): the orthogonal projection of a change onto what the part acts on.

    For entries `M ⊙ ΔW`, for an orthogonal projector `U Uᵀ ΔW`. BrittleError for a product of two factors.
    """
    if isinstance(part, Projector) and part.right is not part.left:
        raise BrittleError("training inside L Rᵀ with two factors is not defined: give a region of entries or of top ranks")
    return part.apply(change)


@dataclass(frozen=True)
class _Held:
    address: Address
    part: Part
    start: Tensor


class TrainOnly:
    """Lets a model train inside a region only: `ΔW ← P(ΔW)` after every step, P the orthogonal projector of the region.

    Masking gradients alone is not enough for ranks: Adam scales every entry by itself and so leaves the subspace. Parameters
    without a part of the region do not require gradients. Costs a copy of the weights that train.
    """

    def __init__(self, model: PreTrainedModel, addresses: Sequence[Address], region: Region) -> None:
        self._model = model
        model.requires_grad_(False)
        self._held = []
        for address in addresses:
            if address.name in region:
                address.parameter(model).requires_grad_(True)
                self._held.append(_Held(address, region[address.name], address.view(model).clone()))

    @torch.no_grad()
    def before_step(self) -> None:
        """Project the gradients, so that their norm and the optimiser's moments are those of what trains."""
        for held in self._held:
            gradient = held.address.parameter(self._model).grad
            if gradient is not None and not isinstance(held.part, Whole):
                view = held.address.of(gradient)
                view.copy_(within(held.part, view))

    @torch.no_grad()
    def after_step(self) -> None:
        """Project the change since the start; entries outside a mask get their old bytes."""
        for held in self._held:
            value = held.address.view(self._model)
            if isinstance(held.part, Mask):
                value.copy_(torch.where(held.part.dense().to(value.device), value, held.start))
            elif isinstance(held.part, Projector):
                value.copy_(held.start + within(held.part, value - held.start))
