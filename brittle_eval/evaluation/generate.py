"""Batched generation: rows sorted by length, finished rows leave the batch, one random stream per row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.evaluation.crew import Helpers
from brittle_eval.evaluation.decoder import Decoder
from brittle_eval.evaluation.responses import Answer, Responses
from brittle_eval.evaluation.stopping import Stopping

FEW = 512
"""Most likely tokens among which the end of a nucleus is looked for first."""


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
    sample: int
    random: torch.Generator
    answer: Answer = field(default_factory=Answer)
    ended: bool = False


@dataclass(frozen=True)
class _How:
    """What the answers of a call have in common."""

    sampling: Sampling
    end_ids: frozenset[int]
    pad_id: int
    stop: Stopping | None

    def keys(self, rows: Sequence[_Row], kept: Responses) -> list[str]:
        stop = self.stop.name if self.stop else ""
        arguments = asdict(self.sampling) | {"end_ids": sorted(self.end_ids), "stop": stop}
        return [kept.key(row.prompt, row.sample, arguments) for row in rows]

    def part(self, rows: Sequence[_Row]) -> dict[str, Any]:
        """A batch as another process gets it."""
        prompts, samples = [row.prompt for row in rows], [row.sample for row in rows]
        own = {"sampling": self.sampling, "end_ids": sorted(self.end_ids), "pad_id": self.pad_id, "batch_size": len(rows)}
        return {"given": own | {"prompts": prompts, "samples": samples}, "stops": self.stop is not None}


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
    stop: Stopping | None = None,
    kept: Responses | None = None,
    helpers: Helpers | None = None,
) -> list[Answer]:
    """Answers to tokenised prompts, as token ids without prompt and end token, in the order of the prompts.

    `samples[i]` is the number of the i-th prompt's sample: equal prompts with different numbers give independent answers.
    Answers do not depend on the batch, up to rounding. An answer that is decided for `stop` ends there, `cut`. A batch
    whose answers are all `kept` is not run again, so that the batches, and every bit, are those of a run in one piece: also
    with `helpers`, which take whole batches.
    """
    rows = []
    for index, prompt in enumerate(prompts):
        sample = samples[index] if samples else 0
        rows.append(_Row(index, list(prompt), sample, torch.Generator().manual_seed(row_seed(sampling.seed, prompt, sample))))
    rows.sort(key=lambda row: (-len(row.prompt), row.prompt))
    how = _How(sampling, frozenset(end_ids), pad_id, stop)
    waiting = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        if kept is not None and (known := kept.find(how.keys(batch, kept))) is not None:
            _take(batch, known, on_finished)
        else:
            waiting.append(batch)
    together = 1 + (helpers.count if helpers else 0)
    for start in range(0, len(waiting), together):
        batches = waiting[start : start + together]
        _run_batches(model, batches, how, helpers, on_finished)
        if kept is not None:
            for batch in batches:
                kept.add(how.keys(batch, kept), [row.answer for row in batch])
    return [row.answer for row in sorted(rows, key=lambda row: row.index)]


def _take(rows: Sequence[_Row], answers: Sequence[Answer], on_finished: Callable[[], None]) -> None:
    for row, answer in zip(rows, answers, strict=True):
        row.answer = answer
        on_finished()


def _run_batches(
    model: PreTrainedModel, batches: Sequence[list[_Row]], how: _How, helpers: Helpers | None, on_finished: Callable[[], None]
) -> None:
    """The first batch here, and each of the others in a process of its own."""
    parts = [how.part(batch) for batch in batches[1:]]
    elsewhere: AbstractContextManager[list[Any]] = helpers.working("answers", parts) if helpers and parts else nullcontext([])
    with elsewhere as others:
        for _ in _run_batch(model, batches[0], how):
            on_finished()
    for batch, answers in zip(batches[1:], others, strict=True):
        _take(batch, answers, on_finished)


def run_part(model: PreTrainedModel, part: Mapping[str, Any], stop: Stopping | None) -> list[Answer]:
    """A batch of another process, which has a `stop` like this one's if it says so."""
    return generate(model, **part["given"], stop=stop if part["stops"] else None)


def _run_batch(model: PreTrainedModel, rows: list[_Row], how: _How) -> Iterator[_Row]:
    """Decode one batch; yields each row when it ends. Rows that ended are dropped once they are a quarter of the batch."""
    step = Decoder(model, [row.prompt for row in rows], how.pad_id)
    logits = step.prefill()
    while True:
        tokens = _choose(logits, [rows[slot].random for slot in step.slots], how.sampling)
        for slot, token in zip(step.slots, tokens, strict=True):
            row = rows[slot]
            if not row.ended and _ends(row, token, how):
                yield row
        keep = [place for place, slot in enumerate(step.slots) if not rows[slot].ended]
        if not keep:
            return
        if len(keep) <= 0.75 * len(step.slots):
            step.drop_all_but(keep)
            tokens = [tokens[place] for place in keep]
        logits = step.decode(tokens)


def _ends(row: _Row, token: int, how: _How) -> bool:
    """Take a row's next token; whether the row ended with it."""
    if token not in how.end_ids:
        row.answer.append(token)
    row.ended = token in how.end_ids or len(row.answer) >= how.sampling.max_new_tokens
    if not row.ended and how.stop is not None and how.stop(row.answer):
        row.ended = row.answer.cut = True
    return row.ended


def _choose(logits: Tensor, random: Sequence[torch.Generator], sampling: Sampling) -> list[int]:
    """The next token of every row of `logits (rows, vocabulary)`: the place of a row's random number in its distribution."""
    if sampling.temperature == 0:
        chosen: list[int] = logits.argmax(dim=-1).tolist()
        return chosen
    scores = logits.float() / sampling.temperature
    order: Tensor | None = None
    if sampling.top_k:
        scores, order = scores.topk(min(sampling.top_k, scores.shape[1]))
    probabilities = scores.softmax(-1)
    if sampling.top_p < 1:
        probabilities, places = _nucleus(probabilities, sampling.top_p)
        order = places if order is None else order.gather(1, places)
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    points = torch.cat([torch.rand(1, generator=own, dtype=torch.float64) for own in random]).to(cumulative.device)
    found = torch.searchsorted(cumulative, points[:, None] * cumulative[:, -1:], right=True).clamp(max=cumulative.shape[1] - 1)
    tokens: list[int] = (found if order is None else order.gather(1, found))[:, 0].tolist()
    return tokens


def _nucleus(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The most likely tokens up to the one that reaches `top_p`, all others 0, and their places; few have to be sorted."""
    count, size = FEW, probabilities.shape[1]
    while True:
        likely, places = probabilities.topk(min(count, size))
        reached = likely.cumsum(-1, dtype=torch.float64)
        if count >= size or bool((reached[:, -1] >= top_p).all()):
            break
        count *= 16
    before = reached - likely
    before[:, 0] = -1.0  # the most likely token is never cut
    return likely.masked_fill(before >= top_p, 0), places
