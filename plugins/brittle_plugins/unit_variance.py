"""How much what enters a weight varies, by what the weight makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from brittle_eval import Attribution

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Seen, Weight


@dataclass
class Moments:
    """Mean and squared deviations of each input over the tokens so far, float64."""

    mean: Tensor
    deviations: Tensor
    """Σ (x − mean)²."""
    tokens: int = 0


@dataclass(frozen=True)
class UnitVariance(Attribution):
    """`Var(X_j) · ‖W_:j‖₂²`: all entries of an input column j get its score, X (tokens, in) what entered at the response tokens.

    The variance is unbiased (N − 1), in one pass: batches are merged by their means and squared deviations, in float64. Of the
    weight behind the heads, or behind an MLP's activation, a column is one channel of a head or of the MLP, which is what
    isolations by unit look at. Weights that read one input share its variance. With one token it is zero.

    SSAH, Li and Kim 2024 (arXiv 2410.10862); the score is WIFV of FLAP (An et al. 2023, arXiv 2312.11983).
    """

    needs = frozenset({"inputs"})
    shares = True

    def start(self, weight: Weight, *beside: Weight) -> Moments:
        zeros = torch.zeros(weight.value.shape[1], dtype=torch.float64, device=weight.value.device)
        return Moments(zeros, zeros.clone())

    def update(self, state: Moments, seen: Seen) -> Moments:
        inputs, before = seen.inputs.double(), state.tokens
        if not len(inputs):
            return state
        state.tokens += len(inputs)
        mean = inputs.mean(0)
        away = mean - state.mean
        state.deviations += (inputs - mean).square().sum(0) + away.square() * (before * len(inputs) / state.tokens)
        state.mean += away * (len(inputs) / state.tokens)
        return state

    def finish(self, state: Moments, weight: Weight) -> Tensor:
        variance = state.deviations / max(1, state.tokens - 1)
        scores = variance * weight.value.double().square().sum(0)
        return scores.float().expand_as(weight.value)
