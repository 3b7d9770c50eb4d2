"""Query heads and MLP channels: what a head's rows and columns do in the model itself, and the masks of sets of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.engine.anatomy import OUTPUTS, find_units
from brittle_eval.engine.isolate import whole_region
from brittle_eval.regions import Region
from brittle_eval.units import Member, Unit, UnitKind, unit_mask
from brittle_eval.weights import Address, find_weights
from brittle_plugins.ablate import Ablate
from tests.architectures import bloom, falcon, gpt_neox, gpt_oss, mixtral, mpt, nemotron, qwen3_moe
from tests.editing import edit
from tests.models import MODELS, llama, phi3

IDS = torch.tensor([[5, 17, 40, 9, 211, 33]])
GROUPS: dict[str, tuple[Callable[[], PreTrainedModel], int]] = {
    **{name: (make, 4 if name in ("gpt2", "opt") else 2) for name, make in MODELS.items()},
    "gpt-neox": (gpt_neox, 4),
    "bloom": (bloom, 4),
    "mpt": (mpt, 4),
    "falcon-own": (partial(falcon, "own"), 4),
    "falcon-one": (partial(falcon, "one"), 1),
    "falcon-groups": (partial(falcon, "groups"), 2),
    "gpt-oss": (gpt_oss, 2),
    "qwen3-moe": (qwen3_moe, 2),
}
"""Every layout of heads, with the number of groups of four heads."""
ALL = pytest.mark.parametrize("name", GROUPS)


def units(model: PreTrainedModel, kind: UnitKind = "query-head") -> list[Unit]:
    return find_units(model, find_weights(model)[0], kind)[0]


def only(region: Region, name: str) -> Region:
    return Region({name: region[name]})


def of(unit: Unit, axis: int) -> Region:
    """The unit's own rows, or columns, without what it shares."""
    members = tuple(member for member in unit.members if member.axis == axis)
    return unit_mask([Unit(unit.kind, unit.block, unit.index, members)])


def output_of(model: PreTrainedModel, unit: Unit) -> Address:
    """The weight that holds the unit's columns."""
    (name,) = (member.weight for member in unit.members if member.axis == 1)
    return next(address for address in find_weights(model)[0] if address.name == name)


def entering(model: PreTrainedModel, address: Address) -> Tensor:
    """What enters a weight, (positions, in)."""
    caught: list[Tensor] = []
    handle = model.get_submodule(address.module).register_forward_pre_hook(lambda _, args: caught.append(args[0].detach()))
    with torch.no_grad():
        model(input_ids=IDS)
    handle.remove()
    return caught[0].reshape(IDS.shape[1], -1)


def unbiased(model: PreTrainedModel) -> PreTrainedModel:
    """Without biases: they belong to no unit, and would keep a value where the weights give zero."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    return model


@ALL
def test_every_block_has_its_heads(name: str) -> None:
    make, groups = GROUPS[name]
    model = make()
    addresses = find_weights(model)[0]
    found, left_out = find_units(model, addresses, "query-head")
    assert [(unit.block, unit.index) for unit in found] == [(block, head) for block in (0, 1) for head in range(4)]
    assert left_out == []
    assert {unit.sharing for unit in found} == {4 // groups}
    assert {len(unit.shared) for unit in found} == ({0} if groups == 4 else {2})
    assert {output_of(model, unit).module.rpartition(".")[2] for unit in found} <= set(OUTPUTS)


@ALL
def test_all_heads_are_every_entry_of_the_attention_once(name: str) -> None:
    model = GROUPS[name][0]()
    heads = units(model)
    region = unit_mask(heads)
    whole = whole_region(model, [address for address in find_weights(model)[0] if address.name in region])
    assert region.masks() == whole.masks()
    sizes = {member.weight: len(member.indices) for member in heads[0].members if member.axis == 1}
    counts = [sum(mask.count for mask in of(head, 0).masks().values()) for head in heads]
    assert len(set(counts)) == 1 and set(sizes.values()) == {8}


@ALL
def test_a_heads_query_rows_reach_its_own_columns_and_no_others(name: str) -> None:
    """Zeroing them changes what enters the output projection in the head's columns only."""
    model = GROUPS[name][0]()
    for head in units(model):
        queries = next(member for member in head.members if member.axis == 0)
        address = output_of(model, head)
        before = entering(model, address)
        query_rows = unit_mask([Unit(head.kind, head.block, head.index, (queries,))])
        with edit(model, query_rows, Ablate()):
            changed = (entering(model, address) != before).any(dim=0)
        columns = of(head, 1).masks()[address.name].dense()[0]
        assert bool(changed[columns].all()) and not bool(changed[~columns].any())


@ALL
def test_a_groups_value_rows_feed_the_columns_of_its_heads(name: str) -> None:
    """Zeroing them makes exactly these columns' inputs zero."""
    model = unbiased(GROUPS[name][0]())
    heads = units(model)
    for head in heads:
        value: Member = (head.shared or head.members[2:])[-1]
        address = output_of(model, head)
        with edit(model, unit_mask([Unit(head.kind, head.block, head.index, (value,))]), Ablate()):
            zero = (entering(model, address) == 0).all(dim=0)
        group = [other for other in heads if (other.block, other.group) == (head.block, head.group)]
        columns = torch.stack([of(other, 1).masks()[address.name].dense()[0] for other in group]).any(dim=0)
        assert torch.equal(zero, columns)


@ALL
def test_a_groups_key_rows_reach_the_columns_of_its_heads(name: str) -> None:
    model = GROUPS[name][0]()
    heads = units(model)
    for head in heads:
        key: Member = (head.shared or head.members[2:])[0]
        address = output_of(model, head)
        before = entering(model, address)
        with edit(model, unit_mask([Unit(head.kind, head.block, head.index, (key,))]), Ablate()):
            changed = (entering(model, address) != before).any(dim=0)
        group = [other for other in heads if (other.block, other.group) == (head.block, head.group)]
        columns = torch.stack([of(other, 1).masks()[address.name].dense()[0] for other in group]).any(dim=0)
        assert torch.equal(changed, columns)


@pytest.mark.parametrize("name", ["llama", "falcon-groups", "phi3"])
def test_shared_rows_enter_with_the_last_head_of_their_group(name: str) -> None:
    model = GROUPS[name][0]()
    heads = units(model)[:4]
    own, shared = unit_mask(heads[:1]), {member.weight for member in heads[0].shared}
    for one in (0, 1):
        assert all(member.axis == 1 or len(member.indices) == 8 for member in heads[one].members)
    together, other = unit_mask(heads[:2]), unit_mask([heads[0], heads[2]])
    alone = unit_mask(heads[1:2]).count + own.count
    assert other.count == alone
    rows = sum(len(member.indices) * member.shape[1] for member in heads[0].shared)
    assert together.count == alone + rows and shared <= set(together)
    assert unit_mask([*heads[:2], heads[0]]).count == together.count


CHANNELS: dict[str, Callable[[], PreTrainedModel]] = {
    name: make for name, (make, _) in GROUPS.items() if name not in ("gpt-oss", "qwen3-moe")
}


@pytest.mark.parametrize("name", CHANNELS)
def test_a_channel_is_what_feeds_one_column(name: str) -> None:
    """Zeroing its rows makes the input of its column zero and changes no other; all channels are every entry once."""
    model = unbiased(CHANNELS[name]())
    found, left_out = find_units(model, find_weights(model)[0], "mlp-channel")
    assert left_out == [] and {unit.block for unit in found} == {0, 1}
    gates = {len(unit.members) for unit in found}
    assert gates == ({3} if name in ("llama", "biased", "gemma2", "mistral", "phi3") else {2})
    for channel in (found[0], found[7], found[-1]):
        address = output_of(model, channel)
        before = entering(model, address)
        with edit(model, of(channel, 0), Ablate()):
            after = entering(model, address)
        column = of(channel, 1).masks()[address.name].dense()[0]
        assert int(column.sum()) == 1 and not bool(after[:, column].any()) and bool(before[:, column].any())
        assert torch.equal(after[:, ~column], before[:, ~column])
    region = unit_mask(found)
    assert region.masks() == whole_region(model, [a for a in find_weights(model)[0] if a.name in region]).masks()


def test_channels_of_experts_are_left_out_and_said() -> None:
    """Not so a plain MLP in another block, or the one beside the experts that every token passes."""
    for make, blocks, plain in ((mixtral, (0, 1), set[int]()), (qwen3_moe, (1,), {0}), (nemotron, (1,), {1})):
        model = make()
        found, left_out = find_units(model, find_weights(model)[0], "mlp-channel")
        assert {f"block {block}: its fused experts" for block in blocks} <= set(left_out)
        assert {unit.block for unit in found} == plain


def test_a_block_without_heads_and_a_layout_that_nobody_told_us_are_left_out() -> None:
    found, left_out = find_units(nemotron(), find_weights(nemotron())[0], "query-head")
    assert {unit.block for unit in found} == {0} and left_out == ["block 1: no query-head of a known layout"]
    model = phi3()
    vars(model.config)["model_type"] = "unheard-of"
    found, left_out = find_units(model, find_weights(model)[0], "query-head")
    assert found == [] and len(left_out) == 2


def test_without_heads_in_its_configuration_a_model_has_none() -> None:
    model = llama()
    addresses = find_weights(model)[0]
    vars(model.config)["num_attention_heads"] = [4, 4]
    assert find_units(model, addresses, "query-head")[0] == []
