"""Wanda."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from brittle_eval import Attribution, BrittleError

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Seen, Weight


@dataclass(frozen=True)
class Wanda(Attribution):
    """`|W_ij| · ‖X_j‖₂`, X (tokens, in): what entered the weight at the response tokens of all examples.

    The state is Σ X², (in,), in float32. A sum over tokens, so more data scales all scores of a weight alike. With
    `use_diff`, `|W − W_base|` takes the place of `|W|`: what safety training changed; needs a base model of the same shape.

    Sun et al. 2023 (arXiv 2306.11695), on response tokens only as in Wei et al. 2024 (arXiv 2402.05162).
    """

    use_diff: bool = False

    @property
    def needs(self) -> frozenset[Literal["inputs", "outputs", "gradients", "base"]]:
        return frozenset({"inputs", "base"}) if self.use_diff else frozenset({"inputs"})

    def start(self, weight: Weight) -> Tensor:
        return torch.zeros(weight.value.shape[1], dtype=torch.float32, device=weight.value.device)

    def update(self, state: Tensor, seen: Seen) -> Tensor:
        return state.add_(seen.inputs.float().square().sum(0))

    def finish(self, state: Tensor, weight: Weight) -> Tensor:
        value = weight.value.float()
        if self.use_diff:
            if weight.base is None:
                raise BrittleError(f"wanda with use-diff needs the base model's {weight.name}, but none was given: give --base")
            value = value - weight.base.float()
        return value.abs().mul_(state.sqrt())
