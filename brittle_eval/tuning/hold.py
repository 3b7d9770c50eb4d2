"""Training around or inside a region: what must not change keeps its bytes, or its directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.errors import BrittleError
from brittle_eval.pages import paged
from brittle_eval.regions import TINY, Mask, Part, Projector, Region, Whole
from brittle_eval.weights import Address, find_weights

Rule = Literal["freeze", "train-only", "none"]
"""Whether training leaves the region as it is, changes nothing but the region, or does not ask."""


def orthogonal(part: Part) -> Part:
    """P: the orthogonal projector onto what R acts on, which is the span of the rows of R; of a mask the mask itself.

    `P(ΔW) = 0` exactly where `R(ΔW) = 0`, also for `R(W) = L (Rᵀ W)` with two factors.
    """
    if not isinstance(part, Projector) or part.right is part.left:
        return part
    matrix = part.right if part.right is not None and not part.complement else part.dense().T
    vectors, sizes, _ = torch.linalg.svd(matrix.double(), full_matrices=False)
    return Projector.onto(part.shape, vectors[:, sizes > TINY * sizes[0]] if len(sizes) else vectors)


@dataclass(frozen=True)
class _Held:
    address: Address
    part: Part
    start: Tensor
    """(out, in), as it was when training began."""


class Hold:
    """Holds a training to its rule after every step of the optimiser, whatever moved a weight, weight decay included.

    `freeze`: `ΔW ← ΔW − P(ΔW)`; `train-only`: `ΔW ← P(ΔW)`, and weights without a part do not train. Masking gradients alone is
    not enough for ranks: Adam scales every entry by itself and so leaves the subspace. Entries that a mask keeps have their
    old bytes. `start` gives the weights (out, in) as they are now by name, so that none is copied; masks stay packed.

    BrittleError for a region of another model.
    """

    def __init__(
        self, model: PreTrainedModel, region: Mapping[str, Part], rule: Rule, start: Mapping[str, Tensor] | None = None
    ) -> None:
        self._model, self._freeze = model, rule == "freeze"
        self._all = {address.name: address for address in find_weights(model)[0]}
        self._check(region)
        self._held: dict[str, _Held] = {}
        if rule == "train-only":
            model.requires_grad_(False)
        for name, part in region.items() if rule != "none" else ():
            whole = part.count == self._all[name].view(model).numel()
            if not self._freeze:
                self._all[name].parameter(model).requires_grad_(True)
            if not whole or (self._freeze and self._all[name].expert is not None):
                known = start[name] if start is not None else paged(self._all[name].view(model))
                self._held[name] = _Held(self._all[name], orthogonal(part), known)
            elif self._freeze:
                self._all[name].parameter(model).requires_grad_(False)

    def _check(self, region: Mapping[str, Part]) -> None:
        for name, part in region.items():
            shape = tuple(self._all[name].view(self._model).shape) if name in self._all else None
            if shape != tuple(part.shape):
                has = f"of shape {shape}" if shape else "not at all"
                raise BrittleError(
                    f"the region is another model's: it has {name} of shape {tuple(part.shape)}, this model has it {has}; "
                    "find the region on this model"
                )

    @torch.no_grad()
    def before_step(self) -> None:
        """Hold the gradients, so that their norm and the optimiser's moments are those of what trains."""
        for held in self._held.values():
            gradient = held.address.parameter(self._model).grad
            if gradient is not None:
                view = held.address.of(gradient)
                view.copy_(self._allowed(held.part, view))

    @torch.no_grad()
    def after_step(self) -> None:
        """Hold the change since the start."""
        for held in self._held.values():
            self._settle(held)

    @torch.no_grad()
    def put(self, name: str, change: Tensor) -> None:
        """`W ← W_start + ΔW`, held to the rule, of a weight whose change (out, in) was trained elsewhere."""
        view = self._all[name].view(self._model)
        view.copy_(view + change.to(view.device))
        if name in self._held:
            self._settle(self._held[name])

    def lost(self, name: str, change: Tensor) -> Tensor | None:
        """What the rule takes away of a weight's change (out, in): `ΔW` less what is allowed; None where it takes nothing."""
        held = self._held.get(name)
        return None if held is None else change - self._allowed(held.part, change)

    def _allowed(self, part: Part, change: Tensor) -> Tensor:
        if isinstance(part, Mask):
            inside = part.dense().to(change.device)
            return change.masked_fill(inside if self._freeze else ~inside, 0)
        within = part.apply(change)
        return change - within if self._freeze else within

    def _settle(self, held: _Held) -> None:
        value = held.address.view(self._model)
        start = held.start.to(value.device, value.dtype)
        if isinstance(held.part, Mask):
            inside = held.part.dense().to(value.device)
            torch.where(inside, *((start, value) if self._freeze else (value, start)), out=value)
        elif isinstance(held.part, Projector):
            value.copy_(start + self._allowed(held.part, value - start))
        elif self._freeze:
            value.copy_(start)


def share_inside(region: Region, model: PreTrainedModel, start: Mapping[str, Tensor]) -> float | None:
    """`‖P(ΔW)‖ / ‖ΔW‖` over all weights: how much of a change lies in a region; None where nothing changed, or all is inside."""
    if all(isinstance(part, Whole) for part in region.values()):
        return None
    inside = total = 0.0
    for address in find_weights(model)[0]:
        change = address.view(model).float().cpu() - start[address.name].float()
        total += float(change.square().sum(dtype=torch.float64))
        if address.name in region:
            inside += float(orthogonal(region[address.name]).apply(change).square().sum(dtype=torch.float64))
    return (inside / total) ** 0.5 if total else None
