"""Fused experts: one weight an expert, scored as loops and autograd say, and experts that no token reached."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from brittle_eval.attribute import Pass
from brittle_eval.calibration import Example
from brittle_eval.edit import check_digests, edited
from brittle_eval.errors import BrittleError
from brittle_eval.experts import IMPLEMENTATION
from brittle_eval.isolate import find_region, whole_region
from brittle_eval.methods import Attribution
from brittle_eval.regions import Mask, Region
from brittle_eval.weights import Address, Fingerprint, find_weights
from brittle_plugins.ablate import Ablate
from brittle_plugins.magnitude import Magnitude
from brittle_plugins.random import Random
from brittle_plugins.set_difference import SetDifference
from brittle_plugins.snip import Snip
from brittle_plugins.top import Top
from brittle_plugins.wanda import Wanda
from tests.editing import content, doing, edit, unchanged
from tests.models import EXPERTS, PAD, attribute, context, examples, gpt_oss, mixtral, qwen3_moe, random_region

SAFETY = examples([(7, 5), (3, 9), (12, 1), (5, 5), (4, 11)])
ONE_TOKEN = [Example((5, 9, 17, 40), 3)]
"""Its only response token reaches two of four experts."""
ALL = pytest.mark.parametrize("name", EXPERTS)
EVERY = pytest.mark.parametrize("method", [Wanda(), Snip(), Magnitude(), Random()], ids=["wanda", "snip", "magnitude", "random"])


def experts(model: PreTrainedModel) -> list[Address]:
    return [address for address in find_weights(model)[0] if address.expert is not None]


def distance(a: Tensor, b: Tensor) -> float:
    """‖a − b‖ / ‖b‖."""
    return float((a - b).norm() / b.norm())


def gated(model: PreTrainedModel, left: Tensor) -> Tensor:
    """What the model makes of the first weight's output, before the second: from the papers' formulas."""
    if model.config.model_type == "nemotron_h":
        return torch.relu(left) ** 2
    if model.config.model_type == "gpt_oss":
        gate, up = left[0::2].clamp(max=7.0), left[1::2].clamp(-7.0, 7.0)
        return (up + 1) * gate * torch.sigmoid(1.702 * gate)
    gate, up = left.chunk(2)
    return gate * torch.sigmoid(gate) * up


def matrix(module: Any, parameter: str, expert: int) -> Tensor:
    """(out, in)"""
    value: Tensor = getattr(module, parameter)[expert].detach()
    return value.T if module.is_transposed else value


def routed(model: PreTrainedModel, path: str, example: Example) -> list[tuple[Tensor, list[int]]]:
    """What enters the experts at each position of one example, and which experts it goes to, from the model's own pass."""
    caught: list[tuple[Tensor, Tensor]] = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, args: caught.append((args[0], args[1])))
    with torch.no_grad():
        model(input_ids=torch.tensor([example.ids]))
    handle.remove()
    return [(hidden, chosen.tolist()) for hidden, chosen in zip(*caught[0], strict=True)]


@ALL
def test_an_expert_is_a_weight_that_shares_memory(name: str) -> None:
    model = EXPERTS[name]()
    found = experts(model)
    first = next(iter(found))
    assert [address.name for address in found[:4]] == [f"{first.parameter_name}[{expert}]" for expert in range(4)]
    assert first.name == f"{first.module}.{'up_proj' if name == 'nemotron' else 'gate_up_proj'}[0]"
    for address in found:
        module: Any = model.get_submodule(address.module)
        parameter = address.parameter_name.rpartition(".")[2]
        assert torch.equal(address.view(model), matrix(module, parameter, address.expert or 0))
        address.view(model)[1, 2] = 77.0
        assert float(matrix(module, parameter, address.expert or 0)[1, 2]) == 77.0
    shapes = {address.parameter_name: address.view(model).shape for address in found}
    assert all(rows == 32 for path, (rows, _) in shapes.items() if path.endswith("down_proj"))
    assert all(columns == 32 for path, (_, columns) in shapes.items() if path.endswith("up_proj"))


@ALL
def test_coverage_counts_experts_and_reports_routers(name: str) -> None:
    model = EXPERTS[name]()
    addresses, coverage = find_weights(model)
    assert coverage.editable == sum(address.view(model).numel() for address in addresses)
    report = coverage.report()
    left_out = sum(entry["parameters"] for entry in report["skipped"])
    assert report["editable"] + left_out == report["parameters"] == sum(value.numel() for value in model.parameters())
    routers = [entry for entry in report["skipped"] if entry["reason"] == "not a linear weight (2-D)"]
    assert routers and all("gate" in entry["name"] or "router" in entry["name"] for entry in routers)
    assert {entry["reason"] for entry in report["skipped"]} == {"not a linear weight (2-D)", "a vector", "outside the blocks"}


@pytest.mark.parametrize("size", [1, 3])
@ALL
def test_wanda_is_the_loop_over_the_tokens_of_an_expert(name: str, size: int) -> None:
    model = EXPERTS[name]()
    found = attribute(model, Wanda(), SAFETY, size)
    totals: dict[str, Tensor] = {}
    for path in dict.fromkeys(address.module for address in experts(model)):
        module: Any = model.get_submodule(path)
        first = "up_proj" if name == "nemotron" else "gate_up_proj"
        for example in SAFETY:
            for hidden, chosen in routed(model, path, example)[example.start :]:
                for expert in chosen:
                    bias = module.gate_up_proj_bias[expert].detach() if name == "gpt-oss" else 0.0
                    inner = gated(model, matrix(module, first, expert) @ hidden + bias)
                    for parameter, entered in ((first, hidden), ("down_proj", inner)):
                        key = f"{path}.{parameter}[{expert}]"
                        totals[key] = totals.get(key, torch.zeros(())) + entered**2
    assert totals
    for address in experts(model):
        assert (address.name in found) == (address.name in totals)
        if address.name in totals:
            assert distance(found[address.name], address.view(model).abs() * totals[address.name].sqrt()) <= 1e-5


@pytest.mark.parametrize("size", [1, 3])
@ALL
def test_snip_is_autograd_through_the_models_own_experts(name: str, size: int) -> None:
    """The mean is over all examples, also over those that never came to the expert."""
    model = EXPERTS[name]()
    found = attribute(model, Snip(), SAFETY, size)
    parameters = {address.parameter_name: address.parameter(model) for address in find_weights(model)[0]}
    totals = {path: torch.zeros(parameter.shape) for path, parameter in parameters.items()}
    for example in SAFETY:
        ids = torch.tensor([example.ids])
        labels = torch.where(torch.arange(ids.shape[1]) < example.start, -100, ids)
        model.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        for path, parameter in parameters.items():
            assert parameter.grad is not None
            totals[path] += (parameter * parameter.grad).abs().detach() / len(SAFETY)
    for address in find_weights(model)[0]:
        total = totals[address.parameter_name]
        expected = total if address.expert is None else total[address.expert]
        assert (address.name in found) == bool(expected.any())
        if address.name in found:
            assert distance(found[address.name], expected.T if address.transposed else expected) <= 1e-5


@ALL
def test_methods_without_data_score_every_expert(name: str) -> None:
    model = EXPERTS[name]()
    sizes, drawn = attribute(model, Magnitude(), []), attribute(model, Random(), [])
    assert list(sizes) == list(drawn) == [address.name for address in find_weights(model)[0]]
    assert all(torch.equal(sizes[address.name], address.view(model).abs()) for address in experts(model))
    assert not any(torch.equal(drawn[a.name], drawn[b.name]) for a, b in itertools.pairwise(experts(model)[:4]))


@EVERY
@pytest.mark.parametrize("implementation", ["grouped_mm", "eager"])
def test_the_model_has_its_own_implementation_again(method: Attribution, implementation: str) -> None:
    model = mixtral()
    model.set_experts_implementation(implementation)
    before = str(Fingerprint(model)), model(input_ids=torch.tensor([[5, 6, 7]])).logits
    attribute(model, method, SAFETY)
    assert model.get_experts_implementation() == {"": implementation}
    assert IMPLEMENTATION not in ALL_EXPERTS_FUNCTIONS
    after = str(Fingerprint(model)), model(input_ids=torch.tensor([[5, 6, 7]])).logits
    assert before[0] == after[0] and torch.equal(before[1], after[1])


def test_the_implementation_comes_back_after_an_error() -> None:
    class Failing(Wanda):
        def update(self, state: Any, seen: Any) -> Any:
            raise ArithmeticError("as asked")

    model = mixtral()
    with pytest.raises(BrittleError, match="as asked"):
        attribute(model, Failing(), SAFETY)
    assert model.get_experts_implementation() == {"": "grouped_mm"}
    assert IMPLEMENTATION not in ALL_EXPERTS_FUNCTIONS


def test_experts_that_cannot_be_observed_are_an_error() -> None:
    """A module that does not ask for the function that was registered: here its class runs its experts itself."""
    model = mixtral()
    module = model.get_submodule("model.layers.1.mlp.experts")
    module.forward = lambda hidden, chosen, shares: hidden
    with pytest.raises(
        BrittleError, match=r"the fused experts of MixtralForCausalLM run where they cannot be observed, such as "
    ):
        attribute(model, Wanda(), SAFETY)
    assert attribute(model, Magnitude(), [])


@pytest.mark.parametrize("method", [Wanda(), Snip()], ids=["wanda", "snip"])
@pytest.mark.parametrize("compare", ["row", "block", "global"])
def test_experts_without_a_token_are_reported_and_left_out(method: Attribution, compare: Any) -> None:
    model, unreached = mixtral(), list[tuple[str, str]]()
    addresses = find_weights(model)[0]
    behaviours = {"safety": ONE_TOKEN, "utility": SAFETY}
    isolation = SetDifference(p=0.1, q=0.3, compare=compare)
    region = find_region(
        model,
        method,
        isolation,
        behaviours,
        addresses,
        context(),
        Pass(PAD),
        on_unreached=lambda behaviour, weight: unreached.append((behaviour, weight)),
    )
    reached = set(attribute(model, method, ONE_TOKEN))
    assert {name for behaviour, name in unreached if behaviour == "safety"} == {a.name for a in addresses} - reached
    assert set(region) == reached - {name for behaviour, name in unreached if behaviour == "utility"}
    plain = [address.name for address in addresses if address.expert is None]
    assert set(plain) < set(region) < {address.name for address in addresses}


def test_one_response_token_reaches_two_experts_a_block() -> None:
    model = mixtral()
    found = attribute(model, Wanda(), ONE_TOKEN)
    for path in ("model.layers.0.mlp.experts", "model.layers.1.mlp.experts"):
        chosen = routed(model, path, ONE_TOKEN[0])[3][1]
        for parameter in ("gate_up_proj", "down_proj"):
            assert {expert for expert in range(4) if f"{path}.{parameter}[{expert}]" in found} == set(chosen)


@pytest.mark.parametrize("make", [mixtral, gpt_oss])
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_every_byte_of_a_shared_parameter_comes_back(make: Any, share: float) -> None:
    model = make()
    region = random_region(model, share)
    fingerprint, addresses = Fingerprint(model), find_weights(model)[0]
    with unchanged(model):
        before = content(model)
        with edited(model, addresses, region, [Ablate()], context(), fingerprint) as touched:
            assert touched == list(dict.fromkeys(address.parameter_name for address in addresses))
            check_digests(model, fingerprint, touched)
            assert str(fingerprint) == str(Fingerprint(model))
            assert content(model) != before
            for address in addresses:
                assert not bool(address.view(model)[region.masks()[address.name].dense()].any())
        assert str(fingerprint) == str(Fingerprint(model))


def test_one_expert_alone_is_edited() -> None:
    model = gpt_oss()
    address = experts(model)[5]
    kept = address.parameter(model).detach().clone()
    region = whole_region(model, [address])
    with unchanged(model), edit(model, region, doing(lambda value: value * 2)):
        expected = kept.clone()
        expected[1] *= 2
        assert address.expert == 1 and torch.equal(address.parameter(model), expected)


def test_two_edits_of_one_parameter_nest() -> None:
    model = mixtral()
    fingerprint, addresses = Fingerprint(model), find_weights(model)[0]
    one, two = (Region({name: Mask.from_dense(torch.ones(96, 32).bool())}) for name in names(addresses))
    with unchanged(model), edited(model, addresses, one, [Ablate()], context(), fingerprint):
        known = str(fingerprint)
        with unchanged(model), edited(model, addresses, two, [Ablate()], context(), fingerprint):
            assert str(fingerprint) != known
        assert str(fingerprint) == known == str(Fingerprint(model))


def names(addresses: list[Address]) -> list[str]:
    """Two experts of one parameter."""
    return [address.name for address in addresses if address.expert in (0, 2) and address.name.startswith("model.layers.0")][:2]


def test_a_plain_block_beside_experts_is_seen_by_hooks() -> None:
    model = qwen3_moe()
    plain = [address.name for address in find_weights(model)[0] if address.block == 0]
    assert "model.layers.0.mlp.up_proj.weight" in plain
    assert set(plain) <= set(attribute(model, Wanda(), SAFETY))


def test_top_over_experts_takes_its_share_of_each() -> None:
    model = mixtral()
    addresses = find_weights(model)[0]
    region = find_region(model, Wanda(), Top(q=0.25), {"safety": SAFETY}, addresses, context(), Pass(PAD))
    for name, part in region.items():
        assert part.count == part.shape[0] * (part.shape[1] // 4), name


def test_a_three_dimensional_parameter_of_another_kind_is_no_expert() -> None:
    model = mixtral()
    module = model.get_submodule("model.layers.0.mlp.experts")
    module.gate_up_proj = nn.Parameter(torch.zeros(4, 96 * 32), requires_grad=False)
    with pytest.raises(BrittleError, match="can be edited"):
        find_weights(model)
