"""How likely a suffix makes the targets: losses of many suffixes, and the gradient by token, after a prompt read once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from brittle_eval.behaviour.calibration import input_device, logits_at
from brittle_eval.gcg.suffix_slots import Slots

CACHEABLE = (DynamicLayer, DynamicSlidingWindowLayer)
"""Caches that can be copied for many rows; models with other ones (recurrent states) read whole prompts."""


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """While inside, no parameter takes a gradient."""
    taking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in taking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in taking:
            parameter.requires_grad_(True)


class Scorer:
    """Losses and gradients of suffixes on one model. The rows of a goal have one length, so that nothing is padded."""

    def __init__(self, model: PreTrainedModel, allowed: Sequence[int], rows: int, cached: bool = True) -> None:
        """`allowed` are the tokens that gradients are for; `rows` suffixes are scored at a time."""
        self.model, self.rows, self.device = model, rows, input_device(model)
        self.allowed = torch.tensor(allowed, device=self.device)
        layers = DynamicCache(config=model.config).layers
        self.cached = cached and all(type(layer) in CACHEABLE for layer in layers)
        self._read: dict[Slots, DynamicCache] = {}

    @torch.no_grad()
    def losses(self, slots: Slots, suffixes: Sequence[Sequence[int]]) -> Tensor:
        """(suffixes,), float32: mean over the target's tokens of `−log p(token | everything before)`, in nats."""
        parts = [self._losses(slots, suffixes[start : start + self.rows]) for start in range(0, len(suffixes), self.rows)]
        return torch.cat(parts).cpu()

    @torch.no_grad()
    def succeeds(self, slots: Slots, suffix: Sequence[int]) -> bool:
        """Whether every token of the target is the most likely one: the greedy answer begins with the target."""
        logits = self._logits(slots, [suffix])[0]
        return bool((logits.argmax(dim=-1) == self._ids(slots.target).to(logits.device)).all())

    def gradient(self, slots: Slots, suffix: Sequence[int]) -> Tensor:
        """(length, allowed), float32: `∂ loss / ∂ one-hot`, one-hot rows of the suffix times the input embeddings.

        The gradient at the embeddings' output times every allowed token's embedding: no one-hot matrix is made.
        """
        seen: list[Tensor] = []

        def catch(module: nn.Module, args: object, output: Tensor) -> Tensor:
            seen.append(output.detach().requires_grad_())
            return seen[-1]

        self._prefix(slots, 1)
        handle = self.model.get_input_embeddings().register_forward_hook(catch)
        try:
            with frozen(self.model), torch.enable_grad():
                (grad,) = torch.autograd.grad(self._losses(slots, [suffix])[0], seen[0])
        finally:
            handle.remove()
        start = 0 if self.cached else len(slots.before)
        with torch.no_grad():
            table = self.model.get_input_embeddings()(self.allowed).float()
            by_token: Tensor = grad[0, start : start + len(suffix)].float() @ table.T
            return by_token.cpu()

    def check_cache(self, slots: Slots, suffix: Sequence[int]) -> bool:
        """Whether the cache is used; it is dropped where whole prompts give another loss than rounding (√ε) explains."""
        if self.cached:
            with_cache = float(self.losses(slots, [suffix]))
            self.cached = False
            whole = float(self.losses(slots, [suffix]))
            self.cached = abs(with_cache - whole) <= torch.finfo(self.model.dtype).eps ** 0.5 * max(1.0, whole)
        return self.cached

    def _losses(self, slots: Slots, suffixes: Sequence[Sequence[int]]) -> Tensor:
        logits = self._logits(slots, suffixes)
        target = self._ids(slots.target).to(logits.device).expand(len(suffixes), -1)
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        return losses.view(len(suffixes), -1).mean(dim=1)

    def _logits(self, slots: Slots, suffixes: Sequence[Sequence[int]]) -> Tensor:
        """(suffixes, target, vocabulary), float32: what predicts each token of the target."""
        cache = self._prefix(slots, len(suffixes))
        before = () if cache is not None else slots.before
        ids = self._ids([[*before, *suffix, *slots.after, *slots.target[:-1]] for suffix in suffixes])
        mask = ids.new_ones(len(suffixes), ids.shape[1] + len(slots.before) - len(before))
        where = torch.zeros_like(ids, dtype=torch.bool)
        where[:, -len(slots.target) :] = True
        return logits_at(self.model, ids, mask, where, cache).view(len(suffixes), len(slots.target), -1)

    def _prefix(self, slots: Slots, rows: int) -> DynamicCache | None:
        """Keys and values of what precedes the suffix, for so many rows; read once a goal, None without a cache."""
        if not self.cached:
            return None
        if slots not in self._read:
            ids = self._ids([slots.before])
            cache = DynamicCache(config=self.model.config)
            where = torch.zeros_like(ids, dtype=torch.bool)
            where[:, -1] = True
            with torch.no_grad():
                logits_at(self.model, ids, torch.ones_like(ids), where, cache)
            self._read[slots] = cache
        own = copy.deepcopy(self._read[slots])
        own.batch_repeat_interleave(rows)
        return own

    def _ids(self, ids: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(ids, device=self.device)
