"""Likelihood measures that lm-eval's task types cannot express: token perplexity, and the divergence from the unedited model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from brittle_eval.behaviour.calibration import Example, collate, input_device, logits_at, predicting
from brittle_eval.engine.steering import asking, over
from brittle_eval.evaluation.decoder import common_start, shareable

KL_TOKENS = 16
"""Response tokens over which the divergence is averaged."""
LOGITS = 1 << 28
"""Bytes of float32 logits that are held at once, unless one example has more."""


@dataclass(frozen=True)
class Reference:
    """The unedited model's greedy answers to harmless prompts and its log-probabilities over their first tokens."""

    examples: tuple[Example, ...]
    first: tuple[Tensor, ...]
    """For each example, (≤ 16, vocabulary), float32: log p of the unedited model where it predicts those tokens."""


def _batches(examples: Sequence[Example], scored: Sequence[int], size: int, most: int) -> Iterator[list[int]]:
    """Indices of examples of similar length, at most `size`, with at most `most` scored tokens unless one example has more."""
    batch: list[int] = []
    for index in sorted(range(len(examples)), key=lambda index: len(examples[index].ids)):
        if batch and (len(batch) == size or sum(scored[i] for i in [*batch, index]) > most):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _opening(model: PreTrainedModel, batch: Sequence[Example]) -> tuple[DynamicCache | None, int]:
    """What all prompts of a batch open with (a system turn), read once: its keys and values for every row, and its length."""
    cache = DynamicCache(config=model.config)
    shared = common_start([list(example.ids[: example.start]) for example in batch]) if len(batch) > 1 else []
    if not shared or not shareable(cache) or asking(model):
        return None, 0
    ids = torch.tensor([shared], device=input_device(model))
    model.get_decoder()(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(batch))
    return cache, len(shared)


@torch.inference_mode()
def _predictions(
    model: PreTrainedModel, examples: Sequence[Example], pad_id: int, batch_size: int, tokens: int | None = None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each example its index, its response tokens (at most `tokens`), and the log-probabilities that predict them."""
    most = LOGITS // (4 * model.config.get_text_config().vocab_size)
    scored = [min(len(example.ids) - example.start, tokens or len(example.ids)) for example in examples]
    for indices in _batches(examples, scored, batch_size, most):
        cache, read = _opening(model, [examples[index] for index in indices])
        rest = [Example(examples[index].ids[read:], examples[index].start - read) for index in indices]
        ids, mask, responses = collate(rest, pad_id, input_device(model))
        wanted = responses & (responses.cumsum(1) <= tokens) if tokens else responses
        wanted[:, 0] = False
        labels = ids[wanted].split(wanted.sum(1).tolist())
        seen = torch.cat([mask.new_ones(len(ids), read), mask], dim=1)
        with over(model, rest, ids.shape[1], pad_id):
            logits = logits_at(model, ids, seen, predicting(wanted), cache).split(wanted.sum(1).tolist())
        for row, index in enumerate(indices):
            yield index, labels[row].to(logits[row].device), logits[row].log_softmax(-1)


def perplexities(
    model: PreTrainedModel, examples: Sequence[Example], pad_id: int, batch_size: int, tokens: int | None = None
) -> list[float]:
    """`exp(−mean log p(token))` over each example's response tokens, or its first `tokens`."""
    out = [math.nan] * len(examples)
    for index, ids, log_probs in _predictions(model, examples, pad_id, batch_size, tokens):
        out[index] = _perplexity(ids, log_probs)
    return out


def likelihoods(model: PreTrainedModel, examples: Sequence[Example], pad_id: int, batch_size: int) -> list[tuple[float, bool]]:
    """Of each example Σ log p over its response tokens, and whether each of them is the most likely one."""
    found = [(math.nan, False)] * len(examples)
    for index, ids, log_probs in _predictions(model, examples, pad_id, batch_size):
        greedy = bool((log_probs.argmax(-1) == ids).all())
        found[index] = (float(log_probs.gather(1, ids[:, None]).sum()), greedy)
    return found


def pieces(ids: Sequence[int], length: int) -> list[list[int]]:
    """The ids in whole pieces of this length; what is left at the end is dropped."""
    return [list(ids[start : start + length]) for start in range(0, len(ids) - length + 1, length)]


def token_perplexity(
    model: PreTrainedModel, texts: Sequence[Sequence[int]], pad_id: int, batch_size: int
) -> tuple[float, list[float]]:
    """`exp(mean of -log p(token))` over pieces of equal length, and each piece's own; its first token is predicted by none.

    As in the code of Wanda (Sun et al. 2023, arXiv 2306.11695); a document-level perplexity by words is another number.
    """
    each = perplexities(model, [Example(tuple(text), 0) for text in texts], pad_id, batch_size)
    return math.exp(sum(map(math.log, each)) / len(each)) if all(value > 0 for value in each) else math.nan, each


def reference(model: PreTrainedModel, examples: Sequence[Example], pad_id: int, batch_size: int) -> Reference:
    """What the unedited model says of its own answers, to be compared with later."""
    first: list[Tensor] = [torch.empty(0)] * len(examples)
    for index, _, log_probs in _predictions(model, examples, pad_id, batch_size):  # as in `compared`, so that rounding agrees
        first[index] = log_probs[:KL_TOKENS].clone().cpu()
    return Reference(tuple(examples), tuple(first))


def compared(model: PreTrainedModel, known: Reference, pad_id: int, batch_size: int) -> tuple[list[float], list[float]]:
    """Of each example, in one pass: `exp(−mean log p)` over the whole response, and `KL(unedited ‖ this model)` over its start.

    The divergence is the mean over the first 16 response tokens, in nats; NaN for NaN.
    """
    surprise, divergence = [math.nan] * len(known.examples), [math.nan] * len(known.examples)
    for index, ids, log_probs in _predictions(model, known.examples, pad_id, batch_size):
        surprise[index] = _perplexity(ids, log_probs)
        was = known.first[index].to(log_probs.device)
        terms = torch.where(was > -math.inf, was.exp() * (was - log_probs[: len(was)]), 0.0)
        divergence[index] = float(terms.sum(-1).mean().clamp(min=0))
    return surprise, divergence


def _perplexity(ids: Tensor, log_probs: Tensor) -> float:
    return float((-log_probs.gather(1, ids[:, None]).mean()).exp())
