"""Batched generation: rows sorted by length, finished rows leave the batch, one random stream per row."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from brittle_eval.calibration import input_device

ROOM = 64
"""Tokens by which a full key/value cache grows at a time."""
SHARED = 8
"""Tokens that all prompts of a batch must open with for them to be read once."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    `temperature` 0 is greedy; otherwise tokens are drawn from `softmax(logits / temperature)`, cut to the
    `top_k` most likely (0: all) and then to the smallest set with at least `top_p` of what is left. Nothing else applies: the
    checkpoint's own generation defaults (repetition penalty, top-k) are not read.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


@dataclass
class _Row:
    index: int
    prompt: list[int]
    random: torch.Generator
    tokens: list[int] = field(default_factory=list)
    ended: bool = False


class _GrowingLayer(DynamicLayer):
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


def row_seed(seed: int, prompt: Sequence[int], sample: int) -> int:
    """The seed of one answer's random stream: a digest of the run's seed, the prompt's tokens and the sample's number."""
    text = f"{seed}|{sample}|{','.join(map(str, prompt))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    samples: Sequence[int] | None = None,
    batch_size: int = 32,
    end_ids: Sequence[int],
    pad_id: int,
    on_finished: Callable[[], None] = lambda: None,
) -> list[list[int]]:
    """Answers to tokenised prompts, as token ids without prompt and end token, in the order of the prompts.

    `samples[i]` is the number of the i-th prompt's sample: equal prompts with different numbers give independent answers.
    Answers do not depend on the batch, up to rounding.
    """
    rows = []
    for index, prompt in enumerate(prompts):
        seed = row_seed(sampling.seed, prompt, samples[index] if samples else 0)
        rows.append(_Row(index, list(prompt), torch.Generator().manual_seed(seed)))
    rows.sort(key=lambda row: len(row.prompt), reverse=True)
    for start in range(0, len(rows), batch_size):
        for _ in _run_batch(model, rows[start : start + batch_size], sampling, frozenset(end_ids), pad_id):
            on_finished()
    return [row.tokens for row in sorted(rows, key=lambda row: row.index)]


def _run_batch(
    model: PreTrainedModel, rows: list[_Row], sampling: Sampling, end_ids: frozenset[int], pad_id: int
) -> Iterator[_Row]:
    """Decode one batch; yields each row when it ends. Rows that ended are dropped once they are a quarter of the batch."""
    step = _Decoder(model, rows, pad_id)
    logits = step.prefill()
    while True:
        tokens = _choose(logits, [rows[slot].random for slot in step.slots], sampling)
        for slot, token in zip(step.slots, tokens, strict=True):
            row = rows[slot]
            if row.ended:
                continue
            if token not in end_ids:
                row.tokens.append(token)
            row.ended = token in end_ids or len(row.tokens) >= sampling.max_new_tokens
            if row.ended:
                yield row
        keep = [place for place, slot in enumerate(step.slots) if not rows[slot].ended]
        if not keep:
            return
        if len(keep) <= 0.75 * len(step.slots):
            step.drop_all_but(keep)
            tokens = [tokens[place] for place in keep]
        logits = step.decode(tokens)


class _Decoder:
    """The model's state for one batch: mask, positions and key/value cache of the rows in `slots`.

    What all prompts open with (a system turn) is read once. The rest is padded on its left, so that in a row the gap lies
    between the two; models whose cache counts places (sliding windows, recurrent states) read whole prompts instead.
    """

    def __init__(self, model: PreTrainedModel, rows: list[_Row], pad_id: int) -> None:
        self.model, self.slots = model, list(range(len(rows)))
        self.cache = DynamicCache(config=model.config)
        plain = all(type(layer) is DynamicLayer for layer in self.cache.layers)
        self.cache.layers = [_GrowingLayer() if type(layer) is DynamicLayer else layer for layer in self.cache.layers]
        parameters = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in parameters
        self.options = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self.shared = _common_start([row.prompt for row in rows]) if plain and self.takes_positions and len(rows) > 1 else []
        own = [row.prompt[len(self.shared) :] for row in rows]
        width, device = max(map(len, own)), input_device(model)
        self.ids = torch.tensor([[pad_id] * (width - len(rest)) + rest for rest in own], device=device)
        start = [1] * len(self.shared)
        self.mask = torch.tensor([start + [0] * (width - len(rest)) + [1] * len(rest) for rest in own], device=device)

    def prefill(self) -> Tensor:
        if self.shared:
            ids = torch.tensor([self.shared], device=self.ids.device)
            self._forward(ids, torch.arange(len(self.shared), device=ids.device)[None], torch.ones_like(ids))
            self.cache.batch_repeat_interleave(len(self.slots))
        return self._forward(self.ids, (self.mask.cumsum(1) - 1).clamp(min=0)[:, len(self.shared) :], self.mask)

    def decode(self, tokens: list[int]) -> Tensor:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        ids = torch.tensor(tokens, device=self.mask.device)[:, None]
        return self._forward(ids, self.mask.sum(1, keepdim=True) - 1, self.mask)

    def _forward(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        options = self.options | ({"position_ids": positions} if self.takes_positions else {})
        out = self.model(input_ids=ids, attention_mask=mask, past_key_values=self.cache, use_cache=True, **options)
        last: Tensor = out.logits[:, -1]
        return last

    def drop_all_but(self, keep: list[int]) -> None:
        self.cache.batch_select_indices(torch.tensor(keep, device=self.mask.device))
        self.mask = self.mask[keep]
        self.slots = [self.slots[slot] for slot in keep]


def _common_start(prompts: Sequence[list[int]]) -> list[int]:
    """The tokens that all prompts open with, short of any prompt's last one; none if they are too few to matter."""
    low, high = min(prompts), max(prompts)
    longest = min(map(len, prompts)) - 1
    same = next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), longest)
    return low[: min(same, longest)] if min(same, longest) >= SHARED else []


def _choose(logits: Tensor, random: Sequence[torch.Generator], sampling: Sampling) -> list[int]:
    """The next token of every row of `logits (rows, vocabulary)`."""
    if sampling.temperature == 0:
        return [int(token) for token in logits.argmax(dim=-1)]
    return [_draw(row, generator, sampling) for row, generator in zip(logits, random, strict=True)]


def _draw(logits: Tensor, random: torch.Generator, sampling: Sampling) -> int:
    values, order = (logits.float() / sampling.temperature).sort(descending=True)
    if sampling.top_k:
        values, order = values[: sampling.top_k], order[: sampling.top_k]
    probabilities = values.double().softmax(0)
    if sampling.top_p < 1:
        before = probabilities.cumsum(0) - probabilities
        probabilities[1:][before[1:] >= sampling.top_p] = 0
    cumulative = probabilities.cumsum(0)
    point = torch.rand(1, generator=random, dtype=torch.float64).to(cumulative.device) * cumulative[-1]
    return int(order[torch.searchsorted(cumulative, point, right=True).clamp(max=len(order) - 1)])
