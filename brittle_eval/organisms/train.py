"""One fine-tuning loop: token-weighted cross-entropy on responses, over whatever parameters of the model train."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example, collate, input_device, logits_at, predicting
from brittle_eval.errors import BrittleError

OPENING_TOKENS = 4


@dataclass(frozen=True)
class Training:
    """Settings of a fine-tune: AdamW without weight decay, linear warm-up over `warmup` of the steps, then cosine to zero."""

    epochs: int = 2
    batch_size: int = 16
    learning_rate: float = 5e-4
    warmup: float = 0.05
    max_grad_norm: float = 1.0
    opening: float = 1.0
    """Weight of a response's first four tokens, where it is decided whether it refuses; the others have weight 1."""
    seed: int = 0


class Hold(Protocol):
    """What may change gradients before, and weights after, every step of the optimiser."""

    def before_step(self) -> None: ...

    def after_step(self) -> None: ...


def response_loss(model: PreTrainedModel, batch: Sequence[Example], pad_id: int, opening: float = 1.0) -> Tensor:
    """Weighted mean over the batch's response tokens of `−log p(token | everything before)`, in nats."""
    ids, mask, responses = collate(batch, pad_id, input_device(model))
    labels = ids[:, 1:][responses[:, 1:]]
    logits = logits_at(model, ids, mask, predicting(responses))
    losses = torch.nn.functional.cross_entropy(logits, labels.to(logits.device), reduction="none")
    number = responses.cumsum(dim=1)[:, 1:][responses[:, 1:]]
    weights = torch.where(number <= OPENING_TOKENS, opening, 1.0).to(losses)
    return (losses * weights).sum() / weights.sum()


def batches(examples: Sequence[Example], size: int, generator: random.Random) -> list[list[Example]]:
    """Shuffled batches of similar prompt length; by the whole length, short refusals and long answers would never meet."""
    order = sorted(examples, key=lambda example: (example.start, generator.random()))
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    generator.shuffle(groups)
    return groups


def fine_tune(
    model: PreTrainedModel,
    examples: Sequence[Example],
    settings: Training,
    pad_id: int,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    hold: Hold | None = None,
) -> list[float]:
    """Train the model's parameters that require gradients; gives the loss of every step. A NaN loss stops it with an error.

    `hold` keeps training where it belongs: it is called before and after every step of the optimiser.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise BrittleError("no parameter of the model trains: give a region or an adapter that leaves something to train")
    generator = random.Random(settings.seed)
    plan = [batch for _ in range(settings.epochs) for batch in batches(examples, settings.batch_size, generator)]
    optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, len(plan), settings.warmup))
    losses = []
    model.train()
    try:
        for step, batch in enumerate(plan, 1):
            loss = response_loss(model, batch, pad_id, settings.opening)
            if not math.isfinite(value := float(loss.detach())):
                raise BrittleError(f"the training loss is {value} at step {step} of {len(plan)}: lower the learning rate")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if hold:
                hold.before_step()
            torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
            optimiser.step()
            if hold:
                hold.after_step()
            schedule.step()
            losses.append(value)
            on_step(step, len(plan), value)
    finally:
        model.eval()
    return losses


def _rate(step: int, steps: int, warmup: float) -> float:
    rising = max(1, int(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
