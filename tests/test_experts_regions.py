"""Fused experts in regions and edits: what is left as it was, what no token reached, and parameters that weights share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from brittle_eval.behaviour.calibration import Example
from brittle_eval.engine.attribute import Pass
from brittle_eval.engine.edit import check_digests, edited
from brittle_eval.engine.experts import IMPLEMENTATION
from brittle_eval.engine.isolate import find_region, whole_region
from brittle_eval.errors import BrittleError
from brittle_eval.methods import Attribution
from brittle_eval.regions import Mask, Region
from brittle_eval.running.base import base_weights
from brittle_eval.running.prepare import Options, prepare
from brittle_eval.weights import Address, Fingerprint, find_weights
from brittle_plugins.ablate import Ablate
from brittle_plugins.magnitude import Magnitude
from brittle_plugins.random import Random
from brittle_plugins.restore import Restore
from brittle_plugins.set_difference import SetDifference
from brittle_plugins.snip import Snip
from brittle_plugins.top import Top
from brittle_plugins.wanda import Wanda
from tests.architectures import gpt_oss, mixtral, qwen3_moe
from tests.editing import content, doing, edit, unchanged
from tests.models import PAD, attribute, context, random_region
from tests.test_experts import SAFETY, experts, routed

ONE_TOKEN = [Example((5, 9, 17, 40), 3)]
"""Its only response token reaches two of four experts."""
EVERY = pytest.mark.parametrize("method", [Wanda(), Snip(), Magnitude(), Random()], ids=["wanda", "snip", "magnitude", "random"])


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


@pytest.mark.parametrize("method", [Wanda(), Snip()], ids=["wanda", "snip"])
def test_groups_of_blocks_give_the_same_bits(method: Attribution) -> None:
    """Also of a block without experts, whatever the model's own implementation rounds."""
    model = qwen3_moe()
    model.set_experts_implementation("batched_mm")
    whole = attribute(model, method, SAFETY)
    for block in (0, 1):
        group = [address for address in find_weights(model)[0] if address.block == block]
        assert all(torch.equal(value, whole[name]) for name, value in attribute(model, method, SAFETY, only=group).items())


def test_top_over_experts_takes_its_share_of_each() -> None:
    model = mixtral()
    addresses = find_weights(model)[0]
    region = find_region(model, Wanda(), Top(q=0.25), {"safety": SAFETY}, addresses, context(), Pass(PAD))
    for name, part in region.items():
        assert part.count == part.shape[0] * (part.shape[1] // 4), name


def test_the_base_model_is_read_expert_by_expert(tmp_path: Path) -> None:
    model, base = mixtral(), mixtral(seed=1)
    base.save_pretrained(tmp_path / "base")
    mixtral(experts=3).save_pretrained(tmp_path / "fewer")
    addresses = find_weights(model)[0]
    found = base_weights(prepare(Options(base=str(tmp_path / "base"))), model, addresses)
    assert all(torch.equal(found[address.name], address.view(base)) for address in addresses)
    with unchanged(model), edit(model, whole_region(model, addresses), Restore(), given=context(found)):
        assert all(torch.equal(address.view(model), address.view(base)) for address in addresses)
    with pytest.raises(
        BrittleError, match=r"has no weight model\.layers\.0\.mlp\.experts\.gate_up_proj\[3\]: give a base of the same"
    ):
        base_weights(prepare(Options(base=str(tmp_path / "fewer"))), model, addresses)


def test_a_three_dimensional_parameter_of_another_kind_is_no_expert() -> None:
    model = mixtral()
    module = model.get_submodule("model.layers.0.mlp.experts")
    module.gate_up_proj = nn.Parameter(torch.zeros(4, 96 * 32), requires_grad=False)
    with pytest.raises(BrittleError, match="can be edited"):
        find_weights(model)
