"""SNIP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from brittle_eval import Attribution, BrittleError

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Seen, Weight


@dataclass
class Gradients:
    """What SNIP keeps of one weight and behaviour."""

    total: Tensor
    """Σ |∂L/∂W| over the examples (signed: Σ ∂L/∂W), (out, in), float32."""
    examples: int = 0


@dataclass(frozen=True)
class Snip(Attribution):
    """`mean over examples of |W ∘ ∂L/∂W|`, L an example's mean loss (nats) over its response tokens.

    The absolute value is taken of each example's gradient, before the mean. With `loss=sum`, L is the sum over the response
    tokens, so that long responses count more. With `signed`, no absolute value: `mean of −W ∘ ∂L/∂W`, to first order
    by how much L rises when the entry is set to zero; entries that work against the behaviour are below zero.

    Lee et al. 2019 (arXiv 1810.02340), per example as in Wei et al. 2024 (arXiv 2402.05162).
    """

    signed: bool = False
    loss: Literal["mean", "sum"] = "mean"

    needs = frozenset({"gradients"})

    def start(self, weight: Weight) -> Gradients:
        return Gradients(torch.zeros(weight.value.shape, dtype=torch.float32, device=weight.value.device))

    def update(self, state: Gradients, seen: Seen) -> Gradients:
        if seen.weight_grad is None:
            raise BrittleError("snip needs gradients, but none reached this weight: is it frozen or quantised?")
        tokens = len(seen.example) if self.loss == "sum" else 1
        state.total.add_(seen.weight_grad if self.signed else seen.weight_grad.abs_(), alpha=tokens)
        state.examples += 1
        return state

    def finish(self, state: Gradients, weight: Weight) -> Tensor:
        value = -weight.value.float() if self.signed else weight.value.float().abs()
        return value.mul_(state.total).div_(state.examples)
