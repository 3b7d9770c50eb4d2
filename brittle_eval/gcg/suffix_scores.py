"""How likely a suffix makes the targets: losses of many suffixes, and the gradient by token, after a prompt read once."""

from __future__ import annotations

import copy
import math
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

PARTS = 3
"""In how many parts candidates are scored at least, each from where its first one leaves the step's suffix."""


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
        self._shares = all(type(layer) is DynamicLayer for layer in layers)  # others cannot be cut back
        self._read: dict[Slots, DynamicCache] = {}
        self._near: dict[Slots, tuple[tuple[int, ...], DynamicCache]] = {}
        """By goal, the suffix of its last gradient, with the keys and values of all up to that suffix's end."""

    @torch.no_grad()
    def losses(self, slots: Slots, suffixes: Sequence[Sequence[int]], near: Sequence[int] = ()) -> Tensor:
        """(suffixes,), float32: mean over the target's tokens of `−log p(token | everything before)`, in nats.

        What suffixes share with the beginning of `near`, of which the goal's last gradient was taken, is not read again.
        """
        known = near if self.cached and near and self._near.get(slots, ((),))[0] == tuple(near) else ()
        same = [_same(known, suffix) for suffix in suffixes]
        order = sorted(range(len(suffixes)), key=same.__getitem__)
        size = min(self.rows, math.ceil(len(suffixes) / PARTS) if known else self.rows)
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        found = [self._losses(slots, [suffixes[place] for place in part], same[part[0]]) for part in parts]
        return torch.cat(found).cpu()[torch.tensor(order).argsort()]

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

        cache = self._prefix(slots, 1)
        handle = self.model.get_input_embeddings().register_forward_hook(catch)
        try:
            with frozen(self.model), torch.enable_grad():
                (grad,) = torch.autograd.grad(self._losses(slots, [suffix], cache=cache)[0], seen[0])
        finally:
            handle.remove()
        if cache is not None and self._shares:
            self._near[slots] = (tuple(suffix), _cut(cache, len(slots.before) + len(suffix)))
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

    def _losses(
        self, slots: Slots, suffixes: Sequence[Sequence[int]], known: int = 0, cache: DynamicCache | None = None
    ) -> Tensor:
        logits = self._logits(slots, suffixes, known, cache)
        target = self._ids(slots.target).to(logits.device).expand(len(suffixes), -1)
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        return losses.view(len(suffixes), -1).mean(dim=1)

    def _logits(
        self, slots: Slots, suffixes: Sequence[Sequence[int]], known: int = 0, cache: DynamicCache | None = None
    ) -> Tensor:
        """(suffixes, target, vocabulary), float32: what predicts each token of the target; `known` tokens are not read again."""
        cache = cache or self._prefix(slots, len(suffixes), known)
        read = 0 if cache is None else len(slots.before) + known
        ids = self._ids([[*slots.prompt_ids(suffix), *slots.target[:-1]][read:] for suffix in suffixes])
        mask = ids.new_ones(len(suffixes), read + ids.shape[1])
        where = torch.zeros_like(ids, dtype=torch.bool)
        where[:, -len(slots.target) :] = True
        return logits_at(self.model, ids, mask, where, cache).view(len(suffixes), len(slots.target), -1)

    def _prefix(self, slots: Slots, rows: int, known: int = 0) -> DynamicCache | None:
        """Keys and values of what precedes the suffix, read once a goal, and of `known` tokens of it, for so many rows.

        None without a cache.
        """
        if not self.cached:
            return None
        if known:
            own = _cut(self._near[slots][1], len(slots.before) + known)
            own.batch_repeat_interleave(rows)
            return own
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


def _same(one: Sequence[int], other: Sequence[int]) -> int:
    """With how many tokens both begin."""
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _cut(cache: DynamicCache, length: int) -> DynamicCache:
    """The keys and values of the first places, without what a gradient would need of them."""
    cut = DynamicCache()
    for number, layer in enumerate(cache.layers):
        assert isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None
        cut.update(layer.keys[:, :, :length].detach(), layer.values[:, :, :length].detach(), number)
    return cut
