"""Behaviours: named sets of prompt/response pairs, as token ids with response masks; and the check against evaluation prompts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.chat import render

NEAR = 0.8
"""Word-set Jaccard similarity from which two prompts count as the same."""


@dataclass(frozen=True)
class Pair:
    """A request and the response that shows the behaviour."""

    prompt: str
    response: str


@dataclass(frozen=True)
class Example:
    """A tokenised pair: the rendered prompt's tokens, then the response's; `ids[start:]` are response tokens."""

    ids: tuple[int, ...]
    start: int


def read_pairs(path: Path) -> list[Pair]:
    """Those pairs of a jsonl file with the keys `prompt` and `response` that have a response; BrittleError for none."""
    pairs = [pair for pair in read_rows(path) if pair.response.strip()]
    if not pairs:
        raise BrittleError(f"{path} holds no pair with a response: expected jsonl lines with prompt and response")
    return pairs


def read_rows(path: Path) -> list[Pair]:
    """All pairs of the file, also those with a blank response."""
    pairs = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BrittleError(f"cannot read behaviour file {path}: {error}; expected UTF-8 jsonl with prompt and response") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            pair = Pair(row["prompt"], row["response"])
        except (json.JSONDecodeError, KeyError, TypeError):
            raise BrittleError(
                f"{path}, line {number}: expected a JSON object with the keys prompt and response, got {line[:60]!r}"
            ) from None
        if not isinstance(pair.prompt, str) or not isinstance(pair.response, str):
            raise BrittleError(f"{path}, line {number}: prompt and response must be texts")
        pairs.append(pair)
    return pairs


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text, without special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode(tokenizer: PreTrainedTokenizerBase, pair: Pair, *, system: str = "default", end: bool = False) -> Example:
    """Chat-rendered prompt and response as ids; no special tokens are added to either, `end` appends the end token."""
    prompt = plain_ids(tokenizer, render(tokenizer, pair.prompt, system).text)
    response = plain_ids(tokenizer, pair.response)
    if not response:
        raise BrittleError(f"the response {pair.response[:40]!r} tokenises to nothing: remove it from the behaviour file")
    return Example((*prompt, *response, *([tokenizer.eos_token_id] if end else [])), len(prompt))


def collate(
    batch: Sequence[Example], pad_id: int, device: torch.device, side: Literal["left", "right"] = "right"
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention mask and response mask, each (batch, longest)."""
    width = max(len(example.ids) for example in batch)
    ids = torch.full((len(batch), width), pad_id)
    mask = torch.zeros(len(batch), width, dtype=torch.long)
    responses = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, example in enumerate(batch):
        length = len(example.ids)
        offset = width - length if side == "left" else 0
        ids[row, offset : offset + length] = torch.tensor(example.ids)
        mask[row, offset : offset + length] = 1
        responses[row, offset + example.start : offset + length] = True
    return ids.to(device), mask.to(device), responses.to(device)


def input_device(model: PreTrainedModel) -> torch.device:
    """Where the model takes its token ids."""
    return next(model.get_input_embeddings().parameters()).device


def predicting(responses: Tensor) -> Tensor:
    """The positions whose output predicts a response token: one to the left of each (the first token is predicted by none)."""
    return torch.nn.functional.pad(responses[:, 1:], (0, 1))


def logits_at(model: PreTrainedModel, ids: Tensor, mask: Tensor, where: Tensor, cache: Cache | None = None) -> Tensor:
    """The model's own logits, float32 (positions, vocabulary), where the boolean `where` (batch, longest) is true.

    The output head sees these positions only. What the model does after its head (soft caps, scales) is kept. A `cache`
    holds what precedes the ids, which the mask covers too, and takes them up.
    """
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda module, args: (args[0][where.to(args[0].device)],))
    try:
        given = {} if cache is None else {"past_key_values": cache}
        logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=cache is not None, **given).logits
    finally:
        handle.remove()
    return logits.float()


def digest(pairs: Iterable[Pair]) -> str:
    """Content hash of a behaviour."""
    text = "\n".join(json.dumps([pair.prompt, pair.response]) for pair in pairs)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


def drop_leaks(prompts: Sequence[str], evaluation: Iterable[str]) -> tuple[list[int], int]:
    """Indices of the prompts that neither equal nor nearly repeat an evaluation prompt, and how many were dropped."""
    known = {words for prompt in evaluation if (words := _words(prompt))}
    kept = []
    for index, prompt in enumerate(prompts):
        words = _words(prompt)
        if not any(len(words & other) >= NEAR * len(words | other) for other in known):
            kept.append(index)
    return kept, len(prompts) - len(kept)
