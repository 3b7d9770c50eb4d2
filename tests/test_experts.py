"""Fused experts: one weight an expert, scored as loops and autograd say, and experts that no token reached."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example
from brittle_eval.weights import Address, find_weights
from brittle_plugins.magnitude import Magnitude
from brittle_plugins.random import Random
from brittle_plugins.snip import Snip
from brittle_plugins.wanda import Wanda
from tests.architectures import EXPERTS
from tests.models import attribute, examples

SAFETY = examples([(7, 5), (3, 9), (12, 1), (5, 5), (4, 11)])
ALL = pytest.mark.parametrize("name", EXPERTS)


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
