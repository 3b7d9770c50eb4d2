"""Walking from block to block: the bits of whole passes, at the cost of one, and whole passes where it cannot be done."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.engine.attribute import Pass, accumulate
from brittle_eval.engine.isolate import find_region
from brittle_eval.engine.walk import begin_walk
from brittle_eval.weights import decoder_blocks, find_weights
from brittle_plugins.top import Top
from brittle_plugins.wanda import Wanda
from tests.models import MODELS, PAD, context, examples, llama, weights_of
from tests.walking import counted_calls, leaning

BEHAVIOURS = {
    "safety": examples([(4, 6), (7, 3), (5, 5), (9, 9), (2, 3)], 1),
    "utility": examples([(3, 8), (6, 2), (12, 14)], 2),
}
ALL = pytest.mark.parametrize("name", MODELS)


@ALL
def test_a_walk_gives_the_bits_of_whole_passes(name: str) -> None:
    model, said = MODELS[name](), list[str]()
    weights, how = weights_of(model), Pass(PAD, 2, say=said.append)
    walk = begin_walk(model, Wanda(), BEHAVIOURS, how)
    assert walk is not None and not said
    found, expected = walk.states(weights), accumulate(model, Wanda(), weights, BEHAVIOURS, how)
    for behaviour, state in expected.items():
        assert list(found[behaviour]) == list(state)
        assert all(torch.equal(found[behaviour][weight], value) for weight, value in state.items())
    assert all("forward" not in block.__dict__ for _, block in decoder_blocks(model))


@ALL
def test_any_number_of_groups_costs_one_pass(name: str) -> None:
    """And three runs of two examples, in which the walk is checked."""
    model = MODELS[name]()
    addresses = find_weights(model)[0]
    regions, steps = [], []
    for memory in (1, 1 << 30):
        reported: list[int] = []
        how = Pass(PAD, 2, memory, on_batch=reported.append)
        with counted_calls(model) as calls:
            regions.append(find_region(model, Wanda(), Top(q=0.1), BEHAVIOURS, addresses, context(), how))
        checking = 3 if memory == 1 else 0
        assert calls == [math.ceil(len(BEHAVIOURS["safety"]) / 2) + checking] * len(calls)
        steps.append(sum(reported))
    assert regions[0].masks() == regions[1].masks()
    assert steps == [len(BEHAVIOURS["safety"]) * 2] * 2


def test_a_walk_goes_through_blocks_that_nobody_looks_at() -> None:
    model = llama(layers=3)
    weights = {address: weight for address, weight in weights_of(model).items() if address.block == 2}
    walk = begin_walk(model, Wanda(), BEHAVIOURS, Pass(PAD, 2))
    assert walk is not None
    found, expected = walk.states(weights), accumulate(model, Wanda(), weights, BEHAVIOURS, Pass(PAD, 2))
    assert all(torch.equal(found[b][name], value) for b, state in expected.items() for name, value in state.items())


def test_a_forward_that_was_replaced_before_comes_back() -> None:
    """As accelerate does where a model lies on several devices."""
    model = llama()
    block = model.model.layers[1]
    plain, calls = block.forward, list[int]()

    def moved(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return plain(*args, **kwargs)

    block.forward = moved
    walk = begin_walk(model, Wanda(), BEHAVIOURS, Pass(PAD, 2))
    assert walk is not None and block.forward is moved
    known = len(calls)
    walk.states(weights_of(model))
    assert len(calls) == known + 5


def counting(model: PreTrainedModel) -> None:
    """The second block gives something else at every call."""
    block, calls = model.model.layers[1], list[int]()
    plain = block.forward

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return plain(hidden, *args, **kwargs) + len(calls)

    block.forward = forward


def spoiling(model: PreTrainedModel) -> None:
    """The second block works in place on what enters it."""
    block = model.model.layers[1]
    plain = block.forward
    block.forward = lambda hidden, *args, **kwargs: plain(hidden.mul_(2), *args, **kwargs)


@pytest.mark.parametrize(
    ("strange", "why"), [(leaning, "IndexError"), (counting, "do not give the bits"), (spoiling, "do not give the bits")]
)
def test_what_cannot_be_walked_is_found_and_said(strange: Any, why: str) -> None:
    model, said = llama(), list[str]()
    strange(model)
    assert begin_walk(model, Wanda(), BEHAVIOURS, Pass(PAD, 2, say=said.append)) is None
    (line,) = said
    assert "no walk from block to block through LlamaForCausalLM" in line and why in line


def test_whole_passes_take_the_place_of_a_walk() -> None:
    model = llama()
    leaning(model)
    addresses = find_weights(model)[0]
    walked, whole = (
        find_region(model, Wanda(), Top(q=0.1), BEHAVIOURS, addresses, context(), Pass(PAD, 2, memory)) for memory in (1, 1 << 30)
    )
    assert walked.masks() == whole.masks()
