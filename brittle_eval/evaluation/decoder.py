"""The model's state while a batch is decoded: mask, positions and a key/value cache with spare room."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from brittle_eval.behaviour.calibration import input_device
from brittle_eval.engine.steering import asking

ROOM = 64
"""Tokens by which a full key/value cache grows at a time."""
SHARED = 8
"""Tokens that all prompts of a batch must open with for them to be read once."""


class GrowingLayer(DynamicLayer):
    """A `DynamicLayer` with spare room: a step writes one token instead of copying every key and value."""

    _room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, new = self.get_seq_length(), key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < start + new:
            self._room = (self._grow(self.keys, key_states, start), self._grow(self.values, value_states, start))
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[..., start : start + new, :] = states
        self.keys, self.values = (room[..., : start + new, :] for room in self._room)
        return self.keys, self.values

    @staticmethod
    def _grow(old: Tensor | None, new: Tensor, start: int) -> Tensor:
        room = new.new_empty((*new.shape[:-2], start + new.shape[-2] + ROOM, new.shape[-1]))
        if old is not None and start:
            room[..., :start, :] = old
        return room

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._room = None

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._room = None


def shareable(cache: DynamicCache) -> bool:
    """Whether rows may go on from one that was read alone: no layer counts places or keeps a recurrent state."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


class Decoder:
    """The model's state for one batch: mask, positions and key/value cache of the rows in `slots`.

    Equal prompts (samples of one) are read once, and so is what all prompts open with (a system turn). The rest is padded on
    its left, so that in a row the gap lies between the two; models whose cache counts places (sliding windows, recurrent
    states) read whole prompts instead. Rows that are steered by their prompts keep the state of theirs beside the cache.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[list[int]], pad_id: int) -> None:
        self.model, self.slots = model, list(range(len(prompts)))
        self.cache = DynamicCache(config=model.config)
        self.plain = shareable(self.cache)
        self.steered, self.states = asking(model), list[Tensor]()
        self.cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in self.cache.layers]
        parameters = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in parameters
        self.options = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        read = {tuple(prompt): prompt for prompt in prompts}
        places = {key: place for place, key in enumerate(read)}
        self.read, self.sources = list(read.values()), [places[tuple(prompt)] for prompt in prompts]
        self.shared = common_start(self.read) if self.plain and self.takes_positions and len(read) > 1 else []
        own = [prompt[len(self.shared) :] for prompt in self.read]
        width, device, self.pad_id = max(map(len, own)), input_device(model), pad_id
        self.ids = torch.tensor([[pad_id] * (width - len(rest)) + rest for rest in own], device=device)
        start = [1] * len(self.shared)
        self.mask = torch.tensor([start + [0] * (width - len(rest)) + [1] * len(rest) for rest in own], device=device)

    def prefill(self) -> Tensor:
        """Logits after the prompts, a row each."""
        if self.shared:
            ids = torch.tensor([self.shared], device=self.ids.device)
            self._forward(ids, torch.arange(len(self.shared), device=ids.device)[None], torch.ones_like(ids))
            self.cache.batch_repeat_interleave(len(self.ids))
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)[:, len(self.shared) :]
        logits = self._look(positions) if self.steered else self._forward(self.ids, positions, self.mask)
        if len(self.ids) < len(self.sources):
            self._take(self.sources)
            logits = logits[self.sources]
        return logits

    def decode(self, tokens: list[int]) -> Tensor:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        ids = torch.tensor(tokens, device=self.mask.device)[:, None]
        return self._forward(ids, self.mask.sum(1, keepdim=True) - 1, self.mask)

    def _look(self, positions: Tensor) -> Tensor:
        """Read the prompts, steered at their last tokens, after a look at each: if the cache can forget, from there on only."""
        assert self.steered is not None
        if not self.plain:
            where = torch.zeros_like(self.ids, dtype=torch.bool)
            where[:, -1] = True
            self.states = self.steered.states(self.read, self.pad_id)
            return self._forward(self.ids, positions, self.mask, where)
        if self.ids.shape[1] > 1:
            self._forward(self.ids[:, :-1], positions[:, :-1], self.mask[:, :-1])
        more = self.ids.new_tensor(self.steered.streams.behind).expand(len(self.ids), -1)
        ids, mask = torch.cat([self.ids[:, -1:], more], dim=1), torch.cat([self.mask, torch.ones_like(more)], dim=1)
        ahead = positions[:, -1:] + torch.arange(ids.shape[1], device=ids.device)
        self.states = self.steered.look(lambda: self._forward(ids, ahead, mask), lambda stream: stream.reshape(*ids.shape, -1))
        self.cache.crop(-ids.shape[1])
        return self._forward(self.ids[:, -1:], positions[:, -1:], self.mask)

    def _forward(self, ids: Tensor, positions: Tensor, mask: Tensor, where: Tensor | None = None) -> Tensor:
        options = self.options | ({"position_ids": positions} if self.takes_positions else {})
        with self._steering(where):
            out = self.model(input_ids=ids, attention_mask=mask, past_key_values=self.cache, use_cache=True, **options)
        last: Tensor = out.logits[:, -1]
        return last

    def _steering(self, where: Tensor | None) -> AbstractContextManager[None]:
        """How a pass is steered: not at all before the prompts' states are known."""
        if self.steered is None:
            return nullcontext()
        return self.steered.rows(self.states, where) if self.states else self.steered.unsteered()

    def drop_all_but(self, keep: list[int]) -> None:
        self._take(keep)
        self.slots = [self.slots[slot] for slot in keep]

    def _take(self, places: list[int]) -> None:
        self.cache.batch_select_indices(torch.tensor(places, device=self.mask.device))
        self.mask = self.mask[places]
        self.states = [state[places] for state in self.states]


def common_start(prompts: Sequence[list[int]]) -> list[int]:
    """The tokens that all prompts open with, short of any prompt's last one; none if they are too few to matter."""
    low, high = min(prompts), max(prompts)
    longest = min(map(len, prompts)) - 1
    same = next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), longest)
    return low[: min(same, longest)] if min(same, longest) >= SHARED else []
