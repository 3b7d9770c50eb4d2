"""What attributions see and give, against loops and autograd on tiny models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from brittle_plugins.magnitude import Magnitude
from brittle_plugins.snip import Snip
from brittle_plugins.wanda import Wanda
from torch import Tensor, nn
from transformers import PreTrainedModel

from brittle_eval.attribute import Pass, accumulate, groups, scores
from brittle_eval.calibration import Example
from brittle_eval.errors import BrittleError
from brittle_eval.methods import Attribution, Seen, Weight
from brittle_eval.weights import Address, Fingerprint, find_weights
from tests.models import MODELS, PAD, VOCABULARY, biased, examples, llama, weights_of

SAFETY = examples([(7, 5), (3, 9), (12, 1), (5, 5), (4, 11), (9, 2), (6, 6), (2, 3), (8, 4)])
ALL = pytest.mark.parametrize("name", MODELS)


def attribute(
    model: PreTrainedModel, method: Attribution, data: Sequence[Example], size: int = 8, only: Sequence[Address] = ()
) -> dict[str, Tensor]:
    weights = {address: weight for address, weight in weights_of(model).items() if not only or address in only}
    states = accumulate(model, method, weights, {"safety": data}, Pass(PAD, size))["safety"]
    return {weight.name: scores(method, weight, states[weight.name]) for weight in weights.values()}


def inputs_of(model: PreTrainedModel, module: str, example: Example) -> Tensor:
    """What enters a module in a plain pass over one example, (positions, in)."""
    caught: list[Tensor] = []
    handle = model.get_submodule(module).register_forward_pre_hook(lambda _, args: caught.append(args[0].detach()))
    model(input_ids=torch.tensor([example.ids]))
    handle.remove()
    return caught[0].reshape(len(example.ids), -1)


def distance(a: Tensor, b: Tensor) -> float:
    """‖a − b‖ / ‖b‖."""
    return float((a - b).norm() / b.norm())


def plain_gradients(model: PreTrainedModel, example: Example) -> dict[str, Tensor]:
    """Gradients of one example's mean response loss by autograd, from transformers' own loss over labels."""
    ids = torch.tensor([example.ids])
    labels = ids.clone()
    labels[:, : example.start] = -100
    model.zero_grad()
    model(input_ids=ids, labels=labels).loss.backward()
    gradients = {}
    for address in find_weights(model)[0]:
        grad = address.parameter(model).grad
        assert grad is not None
        gradients[address.name] = (grad.T if address.transposed else grad).clone()
    model.zero_grad()
    return gradients


@ALL
def test_wanda_is_the_loop_over_response_tokens(name: str) -> None:
    model = MODELS[name]()
    found = attribute(model, Wanda(), SAFETY)
    for address in find_weights(model)[0]:
        total = torch.zeros(address.view(model).shape[1])
        for example in SAFETY:
            for token in inputs_of(model, address.module, example)[example.start :]:
                total += token**2
        expected = address.view(model).abs() * total.sqrt()[None, :]
        assert distance(found[address.name], expected) <= 1e-5


@ALL
def test_snip_is_autograd_one_example_at_a_time(name: str) -> None:
    model = MODELS[name]()
    found = attribute(model, Snip(), SAFETY, size=4)
    gradients = [plain_gradients(model, example) for example in SAFETY]
    for address in find_weights(model)[0]:
        value = address.view(model)
        expected = sum((value * one[address.name]).abs() for one in gradients) / len(SAFETY)
        assert isinstance(expected, Tensor)
        assert distance(found[address.name], expected) <= 1e-5


def test_a_conv1d_is_seen_as_out_by_in() -> None:
    model = MODELS["gpt2"]()
    found = attribute(model, Wanda(), SAFETY[:2])
    assert found["transformer.h.0.attn.c_attn.weight"].shape == (96, 32)
    assert model.get_parameter("transformer.h.0.attn.c_attn.weight").shape == (32, 96)
    assert found["transformer.h.1.mlp.c_proj.weight"].shape == (32, 128)


def test_prompt_tokens_do_not_count() -> None:
    """What enters the first block's queries depends on a position's own token only: another prompt must change nothing there."""
    model = llama()
    first = [address for address in find_weights(model)[0] if address.name.endswith("layers.0.self_attn.q_proj.weight")]
    other = [Example((*(VOCABULARY - 1 for _ in range(e.start)), *e.ids[e.start :]), e.start) for e in SAFETY]
    longer = [Example(e.ids, e.start - 1) for e in SAFETY]
    found, again, more = (attribute(model, Wanda(), data, only=first)[first[0].name] for data in (SAFETY, other, longer))
    assert torch.equal(found, again)
    assert distance(more, found) > 0.01


@pytest.mark.parametrize("method", [Wanda(), Snip()], ids=["wanda", "snip"])
@ALL
def test_the_batch_size_changes_rounding_only(name: str, method: Attribution) -> None:
    model = MODELS[name]()
    one, eight = (attribute(model, method, SAFETY, size) for size in (1, 8))
    for weight, value in one.items():
        k = math.ceil(0.05 * value.numel())
        a, b = (set(found[weight].flatten().topk(k).indices.tolist()) for found in (one, eight))
        assert len(a & b) / len(a | b) >= 0.999
        assert distance(eight[weight], value) <= 1e-5


def test_groups_of_blocks_give_the_same_bits() -> None:
    model = llama(layers=3)
    addresses = find_weights(model)[0]
    block = sum(a.parameter(model).numel() for a in addresses if a.block == 0) * 4
    whole = attribute(model, Snip(), SAFETY)
    for memory, expected in ((block, [[0], [1], [2]]), (2 * block, [[0, 1], [2]]), (1, [[0], [1], [2]]), (9 * block, [[0, 1, 2]])):
        made = groups(addresses, model, Snip(), 1, memory)
        assert [sorted({a.block for a in group}) for group in made] == expected
        assert [a for group in made for a in group] == addresses
        parts = [attribute(model, Snip(), SAFETY, only=group) for group in made]
        assert all(torch.equal(value, whole[weight]) for part in parts for weight, value in part.items())
    assert [sorted({a.block for a in group}) for group in groups(addresses, model, Snip(), 2, 2 * block)] == [[0], [1], [2]]
    assert groups(addresses, model, Wanda(), 1, 1) == [addresses]


@pytest.mark.parametrize("method", [Wanda(), Snip()], ids=["wanda", "snip"])
def test_a_second_run_gives_the_same_bits(method: Attribution) -> None:
    model = llama()
    one, two = attribute(model, method, SAFETY), attribute(model, method, SAFETY)
    assert all(torch.equal(value, two[weight]) for weight, value in one.items())


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
        with pytest.raises(ArithmeticError):
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


@pytest.mark.parametrize("method", [Wanda(), Snip()], ids=["wanda", "snip"])
def test_bfloat16_agrees_with_float32(method: Attribution) -> None:
    exact, coarse = attribute(llama(), method, SAFETY), attribute(llama().bfloat16(), method, SAFETY)
    for weight, value in exact.items():
        assert coarse[weight].dtype == torch.float32
        assert distance(coarse[weight], value) < 0.2


def test_every_example_is_reported_once() -> None:
    model, batches = llama(), list[int]()
    accumulate(model, Wanda(), weights_of(model), {"a": SAFETY, "b": SAFETY[:3]}, Pass(PAD, 4, on_batch=batches.append))
    assert batches == [4, 4, 1, 3]
