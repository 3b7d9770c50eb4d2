"""Wanda."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from brittle_eval import Attribution

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Seen, Weight


@dataclass(frozen=True)
class Wanda(Attribution):
    """`|W_ij| · ‖X_j‖₂`, X (tokens, in): what entered the weight at the response tokens of all examples.

    The state is Σ X², (in,), in float32. A sum over tokens, so more data scales all scores of a weight alike.

    Sun et al. 2023 (arXiv 2306.11695), on response tokens only as in Wei et al. 2024 (arXiv 2402.05162).
    """

    needs = frozenset({"inputs"})

    def start(self, weight: Weight) -> Tensor:
        return torch.zeros(weight.value.shape[1], dtype=torch.float32, device=weight.value.device)

    def update(self, state: Tensor, seen: Seen) -> Tensor:
        return state.add_(seen.inputs.float().square().sum(0))

    def finish(self, state: Tensor, weight: Weight) -> Tensor:
        return weight.value.float().abs() * state.sqrt()
