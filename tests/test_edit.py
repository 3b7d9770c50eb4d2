"""Edits and their undo, byte by byte."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.engine.edit import check_digests, edited
from brittle_eval.engine.isolate import whole_region
from brittle_eval.errors import BrittleError
from brittle_eval.methods import Context
from brittle_eval.regions import Mask, Region
from brittle_eval.weights import Fingerprint, find_weights
from brittle_plugins.ablate import Ablate
from brittle_plugins.restore import Restore
from tests.editing import Doing, content, doing, edit, unchanged
from tests.models import MODELS, context, gpt2, in_dtype, llama, random_region

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


@DTYPES
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 1.0])
@pytest.mark.parametrize("make", [llama, gpt2])
def test_every_byte_comes_back(make: Callable[[], PreTrainedModel], share: float, dtype: torch.dtype) -> None:
    model = in_dtype(make(), dtype)
    for address in find_weights(model)[0]:
        address.view(model)[::3] = -0.0
    region = random_region(model, share)
    with unchanged(model):
        before = content(model)
        with edit(model, region, Ablate()) as touched:
            assert touched == list(region)
            assert (content(model) == before) == (share == 0)
            for address in find_weights(model)[0]:
                inside = region.masks()[address.name].dense()
                assert torch.equal(address.view(model)[inside], torch.zeros(int(inside.sum()), dtype=dtype))


@pytest.mark.parametrize("name", MODELS)
def test_only_the_region_changes(name: str) -> None:
    model = MODELS[name]()
    kept = {parameter: value.detach().clone() for parameter, value in model.named_parameters()}
    region = random_region(model, 0.2)
    addresses = find_weights(model)[0]
    part = Region({address.name: region[address.name] for address in addresses[::2]})
    with edit(model, part, doing(lambda value: value), Ablate()) as touched:
        assert touched == list(part)
        for address in addresses:
            inside = part.masks()[address.name].dense() if address.name in part else torch.zeros_like(address.view(model)).bool()
            old = kept[address.name].T if address.transposed else kept[address.name]
            assert torch.equal(address.view(model), torch.where(inside, torch.zeros(()), old))
        others = kept.keys() - {address.name for address in addresses}
        assert all(torch.equal(model.get_parameter(other), kept[other]) for other in others)


def test_edits_nest_as_a_stack() -> None:
    model = llama()
    fingerprint, addresses = Fingerprint(model), find_weights(model)[0]
    known = [str(fingerprint)]
    with unchanged(model):
        with edited(model, addresses, random_region(model, 0.3, 1), [Ablate()], context(), fingerprint):
            known.append(str(fingerprint))
            with (
                unchanged(model),
                edited(
                    model, addresses, random_region(model, 0.7, 2), [doing(lambda value: value * 2 + 1)], context(), fingerprint
                ),
            ):
                known.append(str(fingerprint))
            assert str(fingerprint) == known[1]
        assert str(fingerprint) == known[0] == str(Fingerprint(model))
    assert len(set(known)) == 3


def test_a_chain_sees_the_last_value_and_the_one_before_all() -> None:
    model = llama()
    address = find_weights(model)[0][0]
    original = address.view(model).clone()

    def mix(value: Tensor, context: Context, name: str) -> Tensor:
        return value + 10 * context.weights("before")[name]

    with unchanged(model), edit(model, whole_region(model, [address]), doing(lambda value: value * 2), Doing(mix)):
        torch.testing.assert_close(address.view(model), 12 * original)


def test_work_in_place_on_what_a_method_was_given_is_undone() -> None:
    model = llama()

    def spoil(value: Tensor, context: Context, name: str) -> Tensor:
        value[::2] = 7
        return context.weights("before")[name].mul_(3)

    with unchanged(model), edit(model, random_region(model, 0.1), Doing(spoil)):
        pass


@DTYPES
def test_restore_from_itself_changes_nothing(dtype: torch.dtype) -> None:
    model = in_dtype(llama(), dtype)
    base = {address.name: address.view(model).clone() for address in find_weights(model)[0]}
    before = content(model)
    with edit(model, random_region(model, 0.4), Restore(), given=context(base)):
        assert content(model) == before


def test_restore_takes_the_base_inside_the_region() -> None:
    model, other = llama(0), llama(1)
    addresses = find_weights(model)[0]
    base = {address.name: address.view(other) for address in addresses}
    with unchanged(model), unchanged(other), edit(model, whole_region(model, addresses), Restore(), given=context(base)):
        assert all(torch.equal(address.view(model), address.view(other)) for address in addresses)


@pytest.mark.parametrize(("dtype", "value"), [(torch.float32, float("nan")), (torch.float32, float("inf")), (torch.float16, 7e4)])
def test_an_edit_must_be_finite_in_the_models_dtype(dtype: torch.dtype, value: float) -> None:
    model = in_dtype(llama(), dtype)
    with (
        unchanged(model),
        pytest.raises(BrittleError, match=r"the edit of model\.layers\.0.*q_proj\.weight is not finite in torch\.float"),
        edit(model, random_region(model, 0.1), doing(lambda old: torch.full(old.shape, value))),
    ):
        pytest.fail("the body must not run")


def test_an_edit_must_keep_the_shape() -> None:
    model = llama()
    with (
        unchanged(model),
        pytest.raises(BrittleError, match=r"Doing gave shape \(1, 32\) for .*, expected \(32, 32\)"),
        edit(model, random_region(model, 0.1), doing(lambda old: old[:1])),
    ):
        pytest.fail("the body must not run")


def test_the_proof_finds_a_weight_that_did_not_come_back() -> None:
    model = llama()
    region = Region({"model.layers.1.mlp.up_proj.weight": Mask.from_dense(torch.eye(48, 32).bool())})
    with (
        pytest.raises(RuntimeError, match=r"1 weights were not restored, first model\.layers\.1\.mlp\.up_proj\.weight"),
        edit(model, region, Ablate()),
    ):
        model.get_parameter("model.layers.1.mlp.up_proj.weight").data[0, 5] += 1


def test_a_change_behind_the_edits_back_is_noticed() -> None:
    model = llama()
    fingerprint = Fingerprint(model)
    region = random_region(model, 0.1)
    with edited(model, find_weights(model)[0], region, [Ablate()], context(), fingerprint) as touched:
        check_digests(model, fingerprint, touched)
        weight = model.get_parameter(touched[4]).data
        kept = weight.clone()
        weight.zero_()
        with pytest.raises(RuntimeError, match="changed after its edit"):
            check_digests(model, fingerprint, touched)
        weight.copy_(kept)


def test_names_that_the_model_lacks_are_not_touched() -> None:
    model = llama()
    with (
        unchanged(model),
        edit(model, Region({"elsewhere.weight": Mask.from_dense(torch.ones(2, 2).bool())}), Ablate()) as touched,
    ):
        assert touched == []
