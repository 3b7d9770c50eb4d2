"""Scores of attributions, against loops and autograd on tiny models."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example, collate
from brittle_eval.engine import attribute as attribute_module
from brittle_eval.engine.budget import groups, state_sizes
from brittle_eval.methods import Attribution
from brittle_eval.weights import find_weights
from brittle_plugins.snip import Snip
from brittle_plugins.wanda import Wanda
from tests.models import MODELS, VOCABULARY, attribute, examples, in_dtype, llama, weights_of

SAFETY = examples([(7, 5), (3, 9), (12, 1), (5, 5), (4, 11), (9, 2), (6, 6), (2, 3), (8, 4)])
ALL = pytest.mark.parametrize("name", MODELS)


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


def slow_snip(model: PreTrainedModel, data: list[Example]) -> dict[str, Tensor]:
    """|W ∘ ∂L/∂W| of one example after the other, weight by weight, then the mean; all in float64 but the caller's weights.

    L is the mean of −log p over the response's tokens, one by one. That is what the released code of Wei et al. computes.
    """
    exact = copy.deepcopy(model).double()
    found = {address.name: torch.zeros(address.view(model).shape, dtype=torch.float64) for address in find_weights(model)[0]}
    for example in data:
        exact.zero_grad()
        logits = exact(input_ids=torch.tensor([example.ids])).logits[0].double()
        places = range(example.start, len(example.ids))
        loss = sum(-logits[place - 1].log_softmax(0)[example.ids[place]] for place in places) / len(places)
        assert isinstance(loss, Tensor)
        loss.backward()  # type: ignore[no-untyped-call]
        for address in find_weights(exact)[0]:
            grad = address.parameter(exact).grad
            assert grad is not None
            found[address.name] += (address.view(exact) * (grad.T if address.transposed else grad)).abs() / len(data)
    return found


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
    """As close as the issue asks: the error within 1e-6 of the scores, and the same top 3 % of every weight."""
    model = MODELS[name]()
    found, slow = attribute(model, Snip(), SAFETY, size=4), slow_snip(model, SAFETY)
    for weight, expected in slow.items():
        assert distance(found[weight].double(), expected) <= 1e-6
        k = math.ceil(0.03 * expected.numel())
        mine, theirs = (set(value.flatten().topk(k).indices.tolist()) for value in (found[weight], expected))
        assert len(mine & theirs) / len(mine | theirs) >= 0.9994


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


@pytest.mark.parametrize("method", [Wanda(), Snip()], ids=["wanda", "snip"])
@pytest.mark.parametrize("name", ["llama", "biased", "mistral"])
def test_the_side_of_the_padding_changes_rounding_only(name: str, method: Attribution, monkeypatch: pytest.MonkeyPatch) -> None:
    """With positions that are relative; absolute ones would have to be told to a model that is padded on the left."""
    model = MODELS[name]()
    right = attribute(model, method, SAFETY, 4)
    padded: list[bool] = []

    def on_the_left(batch: list[Example], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        ids, mask, responses = collate(batch, pad_id, device, "left")
        padded.append(not bool(mask[:, 0].all()))
        return ids, mask, responses

    monkeypatch.setattr(attribute_module, "collate", on_the_left)
    left = attribute(model, method, SAFETY, 4)
    assert any(padded)
    assert all(distance(left[weight], value) <= 1e-5 for weight, value in right.items())


def test_groups_of_blocks_give_the_same_bits() -> None:
    model = llama(layers=3)
    addresses = find_weights(model)[0]
    weights = weights_of(model)
    sizes = state_sizes(model, Snip(), [[address] for address in addresses], weights.__getitem__)
    block = sum(a.view(model).numel() for a in addresses if a.block == 0) * 4
    whole = attribute(model, Snip(), SAFETY)
    for memory, expected in (
        (block, [[0], [1], [2]]),
        (2 * block, [[0, 1], [2]]),
        (1, [[0], [1], [2]]),
        (9 * block, [[0, 1, 2]]),
    ):
        made = groups(addresses, sizes, 1, memory)
        assert [sorted({a.block for a in group}) for group in made] == expected
        assert [a for group in made for a in group] == addresses
        parts = [attribute(model, Snip(), SAFETY, only=group) for group in made]
        assert all(torch.equal(value, whole[weight]) for part in parts for weight, value in part.items())
    assert [sorted({a.block for a in group}) for group in groups(addresses, sizes, 2, 2 * block)] == [[0], [1], [2]]


@pytest.mark.parametrize("method", [Wanda(), Snip()], ids=["wanda", "snip"])
def test_a_second_run_gives_the_same_bits(method: Attribution) -> None:
    model = llama()
    one, two = attribute(model, method, SAFETY), attribute(model, method, SAFETY)
    assert all(torch.equal(value, two[weight]) for weight, value in one.items())


@pytest.mark.parametrize("method", [Wanda(), Snip()], ids=["wanda", "snip"])
def test_bfloat16_agrees_with_float32(method: Attribution) -> None:
    exact, coarse = attribute(llama(), method, SAFETY), attribute(in_dtype(llama(), torch.bfloat16), method, SAFETY)
    for weight, value in exact.items():
        assert coarse[weight].dtype == torch.float32
        assert distance(coarse[weight], value) < 0.2
