"""Perplexity and divergence, against full logits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example
from brittle_eval.evaluation import measures
from brittle_eval.evaluation.measures import Reference, compared, perplexities, pieces, reference, token_perplexity
from tests.models import MODELS, PAD, examples, llama

DATA = examples([(4, 6), (9, 30), (1, 17), (6, 1), (12, 16), (3, 3), (8, 20)], seed=4)
OPENED = [Example((*range(40, 52), *example.ids), example.start + 12) for example in DATA]
"""The same after one system turn."""
ALL = pytest.mark.parametrize("name", MODELS)
BOTH = pytest.mark.parametrize("data", [DATA, OPENED], ids=["bare", "opened"])


def log_probs(model: PreTrainedModel, example: Example) -> Tensor:
    """Of the whole vocabulary at every position that predicts a response token."""
    with torch.no_grad():
        logits: Tensor = model(torch.tensor([example.ids])).logits[0].double()
    return logits.log_softmax(-1)[max(example.start, 1) - 1 : -1]


def divergences(model: PreTrainedModel, known: Reference, pad: int, size: int) -> list[float]:
    return compared(model, known, pad, size)[1]


def perplexity(model: PreTrainedModel, example: Example, tokens: int | None = None) -> float:
    response = example.ids[max(example.start, 1) :][:tokens]
    return math.exp(-sum(float(log_probs(model, example)[i, token]) for i, token in enumerate(response)) / len(response))


@ALL
@BOTH
def test_perplexity_is_brute_force(name: str, data: list[Example]) -> None:
    model = MODELS[name]()
    assert perplexities(model, data, PAD, 3) == pytest.approx([perplexity(model, example) for example in data], rel=1e-4)
    assert perplexities(model, data, PAD, 3, 5) == pytest.approx([perplexity(model, example, 5) for example in data], rel=1e-4)


def test_what_all_prompts_open_with_is_read_once() -> None:
    model, read = llama(), list[int]()
    model.get_input_embeddings().register_forward_hook(lambda module, args, output: read.append(output.shape[:2].numel()))
    perplexities(model, OPENED, PAD, 7)
    widest = max(len(example.ids) for example in DATA)
    assert read == [12, 7 * widest]


def test_a_first_token_without_context_is_not_scored() -> None:
    model, bare = llama(), [Example(DATA[0].ids, 0), DATA[1]]
    assert perplexities(model, bare, PAD, 2) == pytest.approx([perplexity(model, example) for example in bare], rel=1e-4)


@ALL
@BOTH
def test_divergence_is_brute_force(name: str, data: list[Example]) -> None:
    model, edited = MODELS[name](), MODELS[name]()
    with torch.no_grad():
        next(edited.get_input_embeddings().parameters())[5:].mul_(1.2)
    expected = []
    for example in data:
        was, now = (log_probs(one, example)[:16] for one in (model, edited))
        expected.append(float((was.exp() * (was - now)).sum(-1).mean()))
    surprise, found = compared(edited, reference(model, data, PAD, 3), PAD, 3)
    assert min(expected) > 1e-4
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert surprise == perplexities(edited, data, PAD, 3)


@ALL
@BOTH
def test_a_model_does_not_diverge_from_itself(name: str, data: list[Example]) -> None:
    model = MODELS[name]()
    assert divergences(model, reference(model, data, PAD, 3), PAD, 3) == [0.0] * len(data)


def test_the_reference_holds_the_first_sixteen_tokens() -> None:
    held = reference(llama(), DATA, PAD, 3)
    assert [len(one) for one in held.first] == [6, 16, 16, 1, 16, 3, 16]
    assert all(one.dtype == torch.float32 for one in held.first)


@pytest.mark.parametrize("size", [1, 2, 7, 100])
@pytest.mark.parametrize("held", [1, 25 * 320 * 4, 1 << 28])
def test_neither_the_batch_size_nor_the_memory_matters(size: int, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = llama(), llama(1)
    known = reference(model, DATA, PAD, 3)
    values, distances = perplexities(model, DATA, PAD, 3), divergences(other, known, PAD, 3)
    monkeypatch.setattr(measures, "LOGITS", held)
    assert perplexities(model, DATA, PAD, size) == pytest.approx(values, rel=1e-5)
    assert divergences(other, reference(model, DATA, PAD, size), PAD, size) == pytest.approx(distances, rel=1e-4)


@pytest.mark.parametrize(("held", "expected"), [(1, [1] * 7), (40 * 320 * 4, [4, 2, 1]), (1 << 28, [5, 2])])
def test_batches_hold_as_many_logits_as_allowed(held: int, expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = llama(), list[int]()
    model.register_forward_pre_hook(lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True)
    monkeypatch.setattr(measures, "LOGITS", held)
    perplexities(model, DATA, PAD, 5)
    assert sizes == expected


def test_a_broken_model_is_not_taken_for_an_unchanged_one() -> None:
    model, broken = llama(), llama()
    known = reference(model, DATA, PAD, 3)
    with torch.no_grad():
        broken.get_parameter("model.layers.0.mlp.up_proj.weight").fill_(math.nan)
    assert all(math.isnan(value) for value in divergences(broken, known, PAD, 3))
    assert all(math.isnan(value) for value in perplexities(broken, DATA, PAD, 3))


def test_tokens_that_a_model_rules_out_do_not_spoil_the_divergence() -> None:
    model, other = llama(), llama(1)
    ruled_out = torch.zeros(320).index_fill(0, torch.tensor([0, 1]), -math.inf)
    for one in (model, other):
        one.get_output_embeddings().register_forward_hook(lambda module, args, output: output + ruled_out)
    known = reference(model, DATA, PAD, 3)
    assert divergences(model, known, PAD, 3) == [0.0] * len(DATA)
    assert all(0 < value < math.inf for value in divergences(other, known, PAD, 3))


def test_nothing_to_measure_gives_nothing() -> None:
    assert perplexities(llama(), [], PAD, 3) == []
    assert divergences(llama(), reference(llama(), [], PAD, 3), PAD, 3) == []


def test_pieces_are_whole_and_in_order() -> None:
    assert pieces(range(7), 3) == [[0, 1, 2], [3, 4, 5]]
    assert pieces(range(6), 3) == [[0, 1, 2], [3, 4, 5]]
    assert pieces(range(2), 3) == []


@ALL
def test_token_perplexity_is_brute_force_over_all_predicted_tokens(name: str) -> None:
    model = MODELS[name]()
    texts = pieces([number % 300 + 4 for number in range(3, 67)], 12)
    losses = []
    for text in texts:
        with torch.no_grad():
            said = model(torch.tensor([text])).logits[0].double().log_softmax(-1)
        losses += [-float(said[place, token]) for place, token in enumerate(text[1:])]
    mean, each = token_perplexity(model, texts, PAD, 2)
    assert len(losses) == 5 * 11 and len(each) == 5
    assert mean == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)


def test_token_perplexity_of_a_broken_model_is_no_number() -> None:
    model = llama()
    with torch.no_grad():
        model.get_parameter("model.layers.0.mlp.up_proj.weight").fill_(math.nan)
    assert math.isnan(token_perplexity(model, [[4, 5, 6]], PAD, 2)[0])
