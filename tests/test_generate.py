"""Answers against transformers' own generation, token by token, and against the distribution that they are drawn from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import DynamicCache, PreTrainedModel, TopKLogitsWarper, TopPLogitsWarper
from transformers.cache_utils import DynamicLayer

from brittle_eval.evaluation import decoder
from brittle_eval.evaluation import generate as module
from brittle_eval.evaluation.generate import Sampling, generate, row_seed
from brittle_eval.evaluation.responses import Answer
from tests.models import END, MODELS, PAD, examples, gemma2, mistral, untied

PROMPTS = [list(example.ids) for example in examples([(n, 0) for n in (5, 1, 12, 7, 20, 7, 3, 9, 15, 2)], seed=3)]
GREEDY = Sampling(max_new_tokens=24)
NO_END = (10_000,)
"""An end token that no model here has: every answer is as long as may be."""


def answers(
    model: PreTrainedModel,
    sampling: Sampling = GREEDY,
    size: int = 32,
    ends: Sequence[int] = NO_END,
    prompts: Sequence[Sequence[int]] = PROMPTS,
    samples: Sequence[int] | None = None,
) -> list[Answer]:
    return generate(model, prompts, sampling, samples=samples, batch_size=size, end_ids=ends, pad_id=PAD)


def transformers_answer(model: PreTrainedModel, prompt: list[int], tokens: int) -> list[int]:
    """One prompt by `model.generate`, without end token."""
    ids = torch.tensor([prompt])
    whole: Any = model  # PreTrainedModel's own types leave `generate` out
    ends = {"eos_token_id": NO_END[0], "pad_token_id": PAD}
    out = whole.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, **ends)
    return [int(token) for token in out[0, len(prompt) :]]


@pytest.mark.parametrize("name", MODELS)
def test_greedy_answers_are_transformers_own(name: str) -> None:
    model = MODELS[name]()
    assert answers(model) == [transformers_answer(model, prompt, 24) for prompt in PROMPTS]


@pytest.mark.parametrize("name", MODELS)
def test_a_start_that_prompts_share_is_read_once(name: str) -> None:
    """One prompt ends with the shared start, one is the start alone and one opens with half of it."""
    model, widths = MODELS[name](), list[tuple[int, int]]()
    prompts = [PROMPTS[4][:12] + prompt for prompt in PROMPTS] + [PROMPTS[4][:12]]
    whole = [transformers_answer(model, prompt, 24) for prompt in prompts]
    model.register_forward_pre_hook(lambda _, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True)
    assert answers(model, prompts=prompts) == whole
    shared = name not in ("gemma2", "mistral")
    assert widths[:2] == [(1, 11), (11, 21)] if shared else widths[0] == (11, 32)
    widths.clear()
    answers(model, prompts=[*prompts, PROMPTS[4][:6]])
    assert widths[0] == (12, 32)


@pytest.mark.parametrize("name", MODELS)
def test_samples_of_a_prompt_share_its_reading(name: str) -> None:
    """Equal prompts that lie apart are read together, once, whatever kind of cache the model has; each has its own stream."""
    model, widths = MODELS[name](), list[tuple[int, int]]()
    prompts = [PROMPTS[0], PROMPTS[4], PROMPTS[2], PROMPTS[0], PROMPTS[4], PROMPTS[0]]
    numbers, sampled = [0, 0, 0, 1, 1, 2], Sampling(12, temperature=1.0, seed=4)
    alone = [answers(model, sampled, 1, prompts=[prompt], samples=[n])[0] for prompt, n in zip(prompts, numbers, strict=True)]
    model.register_forward_pre_hook(lambda _, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True)
    assert answers(model, sampled, prompts=prompts, samples=numbers) == alone
    assert widths[:2] == [(3, 20), (6, 1)]
    widths.clear()
    assert answers(model, GREEDY, prompts=[PROMPTS[3]] * 4, samples=range(4)) == answers(model, prompts=[PROMPTS[3]]) * 4
    assert widths[:2] == [(1, 7), (4, 1)]


def test_samples_in_turns_come_into_one_batch() -> None:
    """Prompts of one length that take turns: each is still read once."""
    model, rows = untied(), list[int]()
    prompts = [PROMPTS[3], PROMPTS[5]] * 4
    model.register_forward_pre_hook(lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True)
    answers(model, Sampling(2, temperature=1.0), 4, prompts=prompts, samples=[0, 0, 1, 1, 2, 2, 3, 3])
    assert rows == [1, 4, 1, 4]


@pytest.mark.parametrize("make", [mistral, gemma2])
def test_a_sliding_window_slides(make: Callable[[], PreTrainedModel]) -> None:
    """Prompts shorter and longer than the window of 8, alone and together."""
    model = make()
    whole = answers(model, Sampling(max_new_tokens=16))
    assert whole == answers(model, Sampling(max_new_tokens=16), size=1)
    assert whole[:3] == [transformers_answer(model, prompt, 16) for prompt in PROMPTS[:3]]


def spread_ends(whole: Sequence[Sequence[int]]) -> list[int]:
    """End tokens by which answers end at many different lengths."""
    return [whole[0][0], whole[1][3], whole[2][7], whole[3][12], whole[4][20]]


def cut(answer: Sequence[int], ends: Sequence[int]) -> list[int]:
    return list(answer[: next((place for place, token in enumerate(answer) if token in ends), len(answer))])


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(24, temperature=1.0, seed=5)], ids=["greedy", "sampled"])
def test_answers_do_not_depend_on_the_batch_or_on_who_ends_when(sampling: Sampling) -> None:
    model = untied()
    whole = answers(model, sampling)
    ends = spread_ends(whole)
    expected = [cut(answer, ends) for answer in whole]
    assert len({len(answer) for answer in expected}) >= 5
    for size in (1, 3, 8, 32):
        assert answers(model, sampling, size) == whole
        assert answers(model, sampling, size, ends) == expected


def test_rows_that_ended_leave_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = untied()
    whole = answers(model)
    ends = spread_ends(whole)
    widths: list[int] = []
    model.register_forward_pre_hook(lambda _, args, kwargs: widths.append(len(kwargs["input_ids"])), with_kwargs=True)
    answers(model, ends=ends)
    alive = [sum(len(cut(answer, ends)) >= step for answer in whole) for step in range(1, len(widths))]
    assert widths[0] == len(PROMPTS) and widths[-1] < len(PROMPTS)
    assert all(width == left or left > 0.75 * width for width, left in zip(widths[1:], alive, strict=True))


def test_finished_answers_are_reported_one_by_one() -> None:
    model, done = untied(), list[int]()
    generate(model, PROMPTS, GREEDY, batch_size=4, end_ids=NO_END, pad_id=PAD, on_finished=lambda: done.append(1))
    assert len(done) == len(PROMPTS)
    assert generate(model, [], GREEDY, end_ids=NO_END, pad_id=PAD) == []


def test_the_end_token_is_no_part_of_an_answer() -> None:
    model = untied()
    first = answers(model)[0][0]
    assert answers(model, ends=[first])[0] == []


def test_equal_prompts_with_other_numbers_get_other_answers() -> None:
    model, prompts = untied(), [PROMPTS[0]] * 6
    sampled = Sampling(12, temperature=1.0)
    found = answers(model, sampled, prompts=prompts, samples=range(6))
    assert len({tuple(answer) for answer in found}) == 6
    assert answers(model, sampled, prompts=prompts[:3], samples=[5, 0, 3], size=2) == [found[5], found[0], found[3]]
    assert len({tuple(answer) for answer in answers(model, sampled, prompts=prompts)}) == 1
    assert answers(model, Sampling(12, temperature=1.0, seed=1), prompts=prompts, samples=range(6)) != found


@given(st.integers(0, 2**40), st.lists(st.integers(0, 300), max_size=4), st.integers(0, 9))
def test_seeds_fit_a_generator_and_tell_rows_apart(seed: int, prompt: list[int], sample: int) -> None:
    own = row_seed(seed, prompt, sample)
    assert torch.Generator().manual_seed(own).initial_seed() == own
    others = [row_seed(seed + 1, prompt, sample), row_seed(seed, [*prompt, 1], sample), row_seed(seed, prompt, sample + 1)]
    assert own not in others


@pytest.mark.parametrize("temperature", [0.4, 1.0])
def test_first_tokens_follow_the_softmax(temperature: float) -> None:
    model, draws = untied(), 1500
    found = answers(model, Sampling(1, temperature), 500, prompts=[PROMPTS[3]] * draws, samples=range(draws))
    with torch.no_grad():
        expected = (model(torch.tensor([PROMPTS[3]])).logits[0, -1] / temperature).softmax(0).double() * draws
    counts = Counter(answer[0] for answer in found)
    common = [token for token in range(len(expected)) if expected[token] >= 5]
    observed = [*(counts[token] for token in common), draws - sum(counts[token] for token in common)]
    wanted = [*(float(expected[token]) for token in common), draws - sum(float(expected[token]) for token in common)]
    assert len(common) >= 4
    assert chisquare(observed, wanted, sum_check=False).pvalue > 0.01


@given(
    st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=8, unique=True),
    st.integers(0, 9),
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    st.sampled_from([0.5, 1.0, 2.0]),
)
def test_cuts_are_transformers_own(logits: list[float], top_k: int, top_p: float, temperature: float) -> None:
    scores = torch.tensor([logits]) / temperature
    empty = torch.zeros(1, 0, dtype=torch.long)
    if top_k:
        scores = TopKLogitsWarper(top_k)(empty, scores)
    kept = TopPLogitsWarper(top_p)(empty, scores)[0] if top_p < 1 else scores[0]
    sampling, random = Sampling(1, temperature, top_p, top_k), torch.Generator().manual_seed(0)
    drawn = {module._choose(torch.tensor([logits]), [random], sampling)[0] for _ in range(60)}
    assert all(kept[token] > -math.inf for token in drawn)
    assert {token for token, chance in enumerate(kept.softmax(0).tolist()) if chance > 0.2} <= drawn


def test_the_most_likely_token_is_never_cut() -> None:
    model = untied()
    assert answers(model, Sampling(8, 1.0, top_p=0.0)) == answers(model, Sampling(8))
    assert answers(model, Sampling(8, 1.0, top_k=1)) == answers(model, Sampling(8))


@pytest.mark.parametrize("room", [1, 3, 64])
def test_the_growing_cache_is_the_dynamic_cache(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "ROOM", room)
    grown, plain = decoder.GrowingLayer(), DynamicLayer()
    generator = torch.Generator().manual_seed(0)
    rows = 4
    for step, new in enumerate((5, 1, 1, 1, 2, 1, 1, 70, 1, 1)):
        keys, values = (torch.randn(rows, 2, new, width, generator=generator) for width in (3, 5))
        for one, other in zip(grown.update(keys, values), plain.update(keys, values), strict=True):
            assert torch.equal(one, other)
        assert grown.get_seq_length() == plain.get_seq_length()
        assert grown.get_mask_sizes(1) == plain.get_mask_sizes(1)
        if step in (3, 6):
            keep = torch.arange(0, rows, 2) if step == 6 else torch.tensor([0, 1, 3])
            grown.batch_select_indices(keep)
            plain.batch_select_indices(keep)
            rows = len(keep)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_the_growing_cache_changes_no_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS[name]()
    monkeypatch.setattr(decoder, "ROOM", 2)
    grown = answers(model)
    monkeypatch.setattr(decoder, "GrowingLayer", DynamicLayer)
    assert grown == answers(model)
    assert any(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def test_the_checkpoints_own_generation_defaults_are_not_read() -> None:
    model = untied()
    known = answers(model)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.eos_token_id = known[0][2]
    model.generation_config.do_sample = True
    assert answers(model, ends=[END]) == [cut(answer, [END]) for answer in known]
