"""The loss that holds a response's first tokens near the model before the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import logsigmoid

from brittle_eval import response_losses

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

FIRST, NEXT, LATER = 0.5, 2.0, 0.1
"""β at a response's first token, at the next four, and after them."""


def few_tokens_deep(
    model: PreTrainedModel, examples: Sequence[Any], pad_id: int
) -> Callable[[PreTrainedModel, Sequence[Any]], Tensor]:
    """`−(2/β_t) log σ(β_t (log π − log π_ref))`, mean over the response tokens, π_ref the model as it is now.

    Its gradient is that of `−w_t log π` with `w_t = 2 (1 − σ(β_t (log π − log π_ref)))`: the further a token has been learnt
    beyond the reference, the less it counts, and the more so the larger β_t. Qi et al. 2025 (arXiv 2406.05946).
    """
    with torch.no_grad():
        reference = {example: response_losses(model, [example], pad_id)[0] for example in set(examples)}

    def loss_of(model: PreTrainedModel, batch: Sequence[Any]) -> Tensor:
        losses, number = response_losses(model, batch, pad_id)
        gain = torch.cat([reference[example] for example in batch]).to(losses) - losses
        beta = torch.where(number == 1, FIRST, torch.where(number <= 5, NEXT, LATER)).to(losses)
        return (-2 / beta * logsigmoid(beta * gain)).mean()

    return loss_of
