"""One fine-tuning loop: token-weighted cross-entropy on responses, over whatever parameters of the model train."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example, collate, input_device, logits_at, predicting
from brittle_eval.errors import BrittleError
from brittle_eval.tuning.checkpoint import Checkpoint
from brittle_eval.tuning.hold import Hold

OPENING_TOKENS = 4


@dataclass(frozen=True)
class Training:
    """Settings of a fine-tune: AdamW, linear warm-up over `warmup` of the steps, then cosine to zero."""

    epochs: int = 2
    batch_size: int = 16
    learning_rate: float = 5e-4
    warmup: float = 0.05
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    opening: float = 1.0
    """Weight of a response's first four tokens, where it is decided whether it refuses; the others have weight 1."""
    seed: int = 0


def response_losses(model: PreTrainedModel, batch: Sequence[Example], pad_id: int) -> tuple[Tensor, Tensor]:
    """`−log p(token | everything before)`, in nats, of the batch's response tokens in order, and each one's number from 1."""
    ids, mask, responses = collate(batch, pad_id, input_device(model))
    labels = ids[:, 1:][responses[:, 1:]]
    logits = logits_at(model, ids, mask, predicting(responses))
    losses = torch.nn.functional.cross_entropy(logits, labels.to(logits.device), reduction="none")
    return losses, responses.cumsum(dim=1)[:, 1:][responses[:, 1:]].to(losses.device)


def response_loss(model: PreTrainedModel, batch: Sequence[Example], pad_id: int, opening: float = 1.0) -> Tensor:
    """Weighted mean over the batch's response tokens of `−log p(token | everything before)`, in nats."""
    losses, number = response_losses(model, batch, pad_id)
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
    checkpoint: Checkpoint | None = None,
    loss_of: Callable[[PreTrainedModel, Sequence[Example]], Tensor] | None = None,
    stop: int | None = None,
) -> list[float]:
    """Train the model's parameters that require gradients; gives the loss of every step. A NaN loss stops it with an error.

    `hold` keeps training where it belongs: it is called before and after every step of the optimiser. With a `checkpoint`
    an interrupted training goes on behind its last one, to the very same bytes. `loss_of` replaces the loss of a batch. After
    `stop` steps it ends where it is, and leaves a checkpoint behind which a longer one goes on.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise BrittleError("no parameter of the model trains: give a region or an adapter that leaves something to train")
    loss_of = loss_of or (lambda model, batch: response_loss(model, batch, pad_id, settings.opening))
    plan = _plan(examples, settings)
    optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    last = min(stop or len(plan), len(plan))
    losses = checkpoint.load(parameters, optimiser, last) if checkpoint else []
    model.train()
    try:
        for step, batch in enumerate(plan[len(losses) : last], len(losses) + 1):
            where = f"step {step} of {len(plan)}"
            optimiser.param_groups[0]["lr"] = settings.learning_rate * _rate(step - 1, len(plan), settings.warmup)
            with _memory(where), _drawing(parameters, settings.seed + step):
                losses.append(_step(model, parameters, optimiser, loss_of, batch, settings, hold, where))
            on_step(step, len(plan), losses[-1])
            if checkpoint and step < last:
                checkpoint.due(parameters, optimiser, losses)
        if checkpoint and last < len(plan):
            checkpoint.save(parameters, optimiser, losses)
    finally:
        model.eval()
    return losses


def _plan(examples: Sequence[Example], settings: Training) -> list[list[Example]]:
    """The batches of all epochs."""
    generator = random.Random(settings.seed)
    return [batch for _ in range(settings.epochs) for batch in batches(examples, settings.batch_size, generator)]


def _step(
    model: PreTrainedModel,
    parameters: Sequence[torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    loss_of: Callable[[PreTrainedModel, Sequence[Example]], Tensor],
    batch: Sequence[Example],
    settings: Training,
    hold: Hold | None,
    where: str,
) -> float:
    loss = loss_of(model, batch)
    if not math.isfinite(value := float(loss.detach())):
        raise BrittleError(f"the training loss is {value} at {where}: lower the learning rate")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    if hold:
        hold.before_step()
    torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
    optimiser.step()
    if hold:
        hold.after_step()
    return value


@contextmanager
def _drawing(parameters: Sequence[torch.nn.Parameter], seed: int) -> Iterator[None]:
    """Random numbers of a step (dropout) of its own, so that a training which goes on draws what it would have drawn."""
    with torch.random.fork_rng(sorted({value.device.index for value in parameters if value.is_cuda})):
        torch.manual_seed(seed)
        yield


@contextmanager
def _memory(where: str) -> Iterator[None]:
    """BrittleError that says what to lower where memory runs out, on a processor (a RuntimeError of its allocator) or a GPU."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error):
            advice = "lower the batch size, or train fewer parameters (lora-rank=8)"
            raise BrittleError(f"out of memory at {where} of the training: {advice}") from error
        raise


def _rate(step: int, steps: int, warmup: float) -> float:
    rising = max(1, int(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
