"""Likelihood measures that lm-eval's task types cannot express: token perplexity, and the divergence from the unedited model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.calibration import Example, collate

KL_TOKENS = 16
"""Response tokens over which the divergence is averaged."""


@dataclass(frozen=True)
class Reference:
    """The unedited model's greedy answers to harmless prompts and its log-probabilities over their first tokens."""

    examples: tuple[Example, ...]
    first: tuple[Tensor, ...]
    """For each example, (≤ 16, vocabulary), float32: log p of the unedited model where it predicts those tokens."""


@torch.inference_mode()
def _predictions(
    model: PreTrainedModel, examples: Sequence[Example], pad_id: int, batch_size: int, tokens: int | None = None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each example its index, its response tokens (at most `tokens`), and the log-probabilities that predict them."""
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].ids))
    device = model.get_input_embeddings().weight.device
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        ids, mask, responses = collate([examples[index] for index in indices], pad_id, device)
        hidden = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        for row, index in enumerate(indices):
            where = responses[row].nonzero().squeeze(1)[:tokens]
            logits = model.get_output_embeddings()(hidden[row, where - 1]).float()
            yield index, ids[row, where], logits.log_softmax(-1)


def perplexities(
    model: PreTrainedModel, examples: Sequence[Example], pad_id: int, batch_size: int, tokens: int | None = None
) -> list[float]:
    """`exp(−mean log p(token))` over each example's response tokens, or its first `tokens`."""
    out = [math.nan] * len(examples)
    for index, ids, log_probs in _predictions(model, examples, pad_id, batch_size, tokens):
        out[index] = float((-log_probs.gather(1, ids[:, None]).mean()).exp())
    return out


def reference(model: PreTrainedModel, examples: Sequence[Example], pad_id: int, batch_size: int) -> Reference:
    """What the unedited model says of its own answers, to be compared with later."""
    first: list[Tensor] = [torch.empty(0)] * len(examples)
    for index, _, log_probs in _predictions(model, examples, pad_id, batch_size, KL_TOKENS):
        first[index] = log_probs.cpu()
    return Reference(tuple(examples), tuple(first))


def divergences(model: PreTrainedModel, known: Reference, pad_id: int, batch_size: int) -> list[float]:
    """For each example the mean over its first 16 response tokens of `KL(unedited ‖ this model)`, in nats."""
    out = [math.nan] * len(known.examples)
    for index, _, log_probs in _predictions(model, known.examples, pad_id, batch_size, KL_TOKENS):
        was = known.first[index].to(log_probs.device)
        out[index] = max(0.0, float((was.exp() * (was - log_probs)).sum(-1).mean()))
    return out
