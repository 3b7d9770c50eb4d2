"""SNIP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from brittle_eval import Attribution, BrittleError

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Seen, Weight


@dataclass
class Gradients:
    """What SNIP keeps of one weight and behaviour."""

    total: Tensor
    """Σ |∂L/∂W| over the examples, (out, in), float32."""
    examples: int = 0


@dataclass(frozen=True)
class Snip(Attribution):
    """`mean over examples of |W ∘ ∂L/∂W|`, L an example's mean loss (nats) over its response tokens.

    The absolute value is taken of each example's gradient, before the mean.

    Lee et al. 2019 (arXiv 1810.02340), per example as in Wei et al. 2024 (arXiv 2402.05162).
    """

    needs = frozenset({"gradients"})

    def start(self, weight: Weight) -> Gradients:
        return Gradients(torch.zeros(weight.value.shape, dtype=torch.float32, device=weight.value.device))

    def update(self, state: Gradients, seen: Seen) -> Gradients:
        if seen.weight_grad is None:
            raise BrittleError("snip needs gradients, but none reached this weight: is it frozen or quantised?")
        state.total += seen.weight_grad.abs()
        state.examples += 1
        return state

    def finish(self, state: Gradients, weight: Weight) -> Tensor:
        return weight.value.float().abs() * (state.total / state.examples)
