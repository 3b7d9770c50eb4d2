"""What the driver shows a method, what it refuses, and that it leaves the model alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brittle_eval.engine.attribute import Pass, accumulate
from brittle_eval.errors import BrittleError
from brittle_eval.methods import Attribution, Seen, Weight
from brittle_eval.weights import Fingerprint, find_weights
from brittle_plugins.magnitude import Magnitude
from brittle_plugins.snip import Snip
from brittle_plugins.wanda import Wanda
from tests.models import MODELS, PAD, attribute, biased, examples, in_dtype, llama, weights_of

SAFETY = examples([(7, 5), (3, 9), (12, 1), (5, 5), (4, 11), (9, 2), (6, 6), (2, 3), (8, 4)])
ALL = pytest.mark.parametrize("name", MODELS)


@dataclass(frozen=True)
class Watching(Attribution):
    """Keeps all that it sees, with the weight's name; fails at the update numbered `fails`."""

    needs = frozenset({"inputs", "outputs"})
    seen: list[tuple[str, Seen]] = field(default_factory=list)
    fails: int = -1

    def start(self, weight: Weight) -> str:
        return weight.name

    def update(self, state: str, seen: Seen) -> str:
        if len(self.seen) == self.fails:
            raise ArithmeticError("as asked")
        self.seen.append((state, seen))
        return state

    def finish(self, state: str, weight: Weight) -> Tensor:
        return torch.ones(weight.value.shape)


class WatchingGradients(Watching):
    needs = frozenset({"inputs", "outputs", "gradients"})


@pytest.mark.parametrize("kind", [Watching, WatchingGradients])
@ALL
def test_outputs_are_the_weight_times_the_inputs_without_bias(name: str, kind: type[Watching]) -> None:
    model, method = MODELS[name](), kind()
    attribute(model, method, SAFETY, size=4)
    by_length = sorted(SAFETY, key=lambda example: len(example.ids))
    for address in find_weights(model)[0]:
        batches = [seen for name, seen in method.seen if name == address.name]
        for seen in batches:
            assert seen.outputs is not None
            torch.testing.assert_close(seen.outputs, seen.inputs @ address.view(model).T, rtol=1e-4, atol=1e-4)
            assert len(seen.inputs) == len(seen.example)
        counted = torch.cat([seen.example for seen in batches]).bincount().tolist()
        assert counted == [len(example.ids) - example.start for example in by_length]


@pytest.mark.parametrize("kind", [Watching, WatchingGradients])
@pytest.mark.parametrize("fails", [-1, 3])
def test_the_model_is_left_as_it_was(kind: type[Watching], fails: int) -> None:
    model = llama()
    model.model.norm.weight.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    before = str(Fingerprint(model))
    method = kind(fails=fails)
    if fails >= 0:
        with pytest.raises(BrittleError, match="as asked"):
            attribute(model, method, SAFETY)
    else:
        attribute(model, method, SAFETY)
    known = len(method.seen)
    hidden = model(input_ids=torch.tensor([[5, 6]]), output_hidden_states=True).hidden_states[0]
    assert hidden.requires_grad and not hidden.is_leaf
    assert len(method.seen) == known > 0
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert str(Fingerprint(model)) == before


class Filled(Attribution):
    """The same score everywhere, from no data."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def finish(self, state: Any, weight: Weight) -> Tensor:
        return self.value.expand(weight.value.shape) if self.value.ndim == 0 else self.value


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(BrittleError, match=r"Filled gave NaN or infinite scores for model\.layers\.0\.self_attn\.q_proj\.weight"):
        attribute(llama(), Filled(torch.tensor(bad)), [])


def test_scores_of_another_shape_are_refused() -> None:
    with pytest.raises(BrittleError, match=r"shape \(3, 2\) for model.*q_proj\.weight, expected \(32, 32\)"):
        attribute(llama(), Filled(torch.ones(3, 2)), [])


@pytest.mark.parametrize("method", [Wanda(), Snip()], ids=["wanda", "snip"])
def test_overflow_in_float16_is_refused(method: Attribution) -> None:
    """`silu(gate) · up` leaves the range of float16 (65504), not that of bfloat16."""
    model = llama()
    for block in model.model.layers:
        block.mlp.gate_proj.weight.data *= 300
        block.mlp.up_proj.weight.data *= 300
    with pytest.raises(BrittleError, match=r"NaN or infinite scores for .*: use dtype=float32 or bfloat16"):
        attribute(in_dtype(model, torch.float16), method, SAFETY)
    attribute(in_dtype(model, torch.bfloat16), method, SAFETY)


@pytest.mark.parametrize("method", [Wanda(), Snip()], ids=["wanda", "snip"])
def test_data_that_is_needed_must_be_given(method: Attribution) -> None:
    with pytest.raises(BrittleError, match="needs examples of 'safety', but there are none"):
        attribute(llama(), method, [])


def test_a_method_without_needs_runs_nothing() -> None:
    model = llama()
    passes: list[nn.Module] = []
    model.get_decoder().register_forward_pre_hook(lambda module, args: passes.append(module))
    found = attribute(model, Magnitude(), SAFETY)
    assert not passes
    assert all(torch.equal(found[a.name], a.view(model).abs()) for a in find_weights(model)[0])
    attribute(model, Wanda(), SAFETY, size=4)
    assert len(passes) == math.ceil(len(SAFETY) / 4)


class InPlace(Attribution):
    """Works in place on all that it may touch."""

    needs = frozenset({"inputs"})

    def start(self, weight: Weight) -> Any:
        return weight.value.zero_().sum(0)

    def update(self, state: Tensor, seen: Seen) -> Tensor:
        return state + seen.inputs.sum(0)

    def finish(self, state: Tensor, weight: Weight) -> Tensor:
        return weight.value.mul_(state.abs_())


def test_arithmetic_in_place_reaches_neither_the_model_nor_an_error() -> None:
    model = biased()
    before = str(Fingerprint(model))
    attribute(model, InPlace(), SAFETY)
    assert str(Fingerprint(model)) == before


class Gradients(Attribution):
    """Keeps every example's gradient, copied."""

    needs = frozenset({"gradients"})

    def start(self, weight: Weight) -> list[Tensor]:
        return []

    def update(self, state: list[Tensor], seen: Seen) -> list[Tensor]:
        assert seen.weight_grad is not None and seen.weight_grad.dtype == torch.float32
        state.append(seen.weight_grad.clone())
        seen.weight_grad.fill_(math.nan)
        return state

    def finish(self, state: list[Tensor], weight: Weight) -> Tensor:
        return torch.stack(state).sum(0)


@ALL
def test_the_memory_of_a_gradient_is_the_methods_until_the_next_one(name: str) -> None:
    """What a method writes there reaches nobody: the sums are those of autograd over all examples."""
    model = MODELS[name]()
    found = attribute(model, Gradients(), SAFETY, size=4)
    for example in SAFETY:
        ids = torch.tensor([example.ids])
        labels = ids.clone()
        labels[:, : example.start] = -100
        model(input_ids=ids, labels=labels).loss.backward()
    for address in find_weights(model)[0]:
        grad = address.parameter(model).grad
        assert grad is not None
        torch.testing.assert_close(found[address.name], grad.T if address.transposed else grad, rtol=1e-4, atol=1e-5)
    model.zero_grad()


def test_every_example_is_reported_once_for_each_block() -> None:
    model, batches = llama(), list[int]()
    accumulate(model, Wanda(), weights_of(model), {"a": SAFETY, "b": SAFETY[:3]}, Pass(PAD, 4, on_batch=batches.append))
    assert batches == [8, 8, 2, 6]
