"""Edits and their undo, byte by byte."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest
import torch
from brittle_plugins.ablate import Ablate
from brittle_plugins.restore import Restore
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval import edit as edit_module
from brittle_eval.edit import check_digests, edited
from brittle_eval.errors import BrittleError
from brittle_eval.isolate import whole_region
from brittle_eval.methods import Context, Modification, Weight
from brittle_eval.regions import Mask, Part, Region
from brittle_eval.weights import Fingerprint, find_weights
from tests.models import MODELS, context, gpt2, llama

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def content(model: PreTrainedModel) -> dict[str, bytes]:
    """Raw bytes of every parameter."""
    return {name: bytes(value.detach().flatten().view(torch.uint8).tolist()) for name, value in model.named_parameters()}


def random_region(model: PreTrainedModel, share: float, seed: int = 0) -> Region:
    generator = torch.Generator().manual_seed(seed)
    shapes = {address.name: address.view(model).shape for address in find_weights(model)[0]}
    return Region({name: Mask.from_dense(torch.rand(shape, generator=generator) < share) for name, shape in shapes.items()})


def edit(model: PreTrainedModel, region: Region, *chain: Modification, given: Context | None = None) -> AbstractContextManager[list[str]]:
    return edited(model, find_weights(model)[0], region, chain, given or context(), Fingerprint(model))


@dataclass(frozen=True)
class Doing(Modification):
    """`edit` is the function."""

    what: Callable[[Tensor, Context, str], Tensor]

    def edit(self, weight: Weight, part: Part, context: Context) -> Tensor:
        return self.what(weight.value, context, weight.name)


def doing(what: Callable[[Tensor], Tensor]) -> Doing:
    return Doing(lambda value, context, name: what(value))


@contextmanager
def unchanged(model: PreTrainedModel) -> Iterator[None]:
    before = content(model)
    yield
    assert content(model) == before


@DTYPES
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 1.0])
@pytest.mark.parametrize("make", [llama, gpt2])
def test_every_byte_comes_back(make: Callable[[], PreTrainedModel], share: float, dtype: torch.dtype) -> None:
    model = make().to(dtype)
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


class Halt(Exception):
    """Raised in the middle."""


@pytest.mark.parametrize("error", [Halt, KeyboardInterrupt, SystemExit])
def test_every_byte_comes_back_after_an_error_inside(error: type[BaseException]) -> None:
    model = llama()
    with unchanged(model), pytest.raises(error), edit(model, random_region(model, 0.3), Ablate()):
        raise error


@pytest.mark.parametrize("make", [llama, gpt2])
def test_every_byte_comes_back_after_an_error_half_way(make: Callable[[], PreTrainedModel]) -> None:
    model, calls = make(), list[str]()

    def fail_at_the_fifth(value: Tensor, context: Context, name: str) -> Tensor:
        calls.append(name)
        if len(calls) == 5:
            raise Halt
        return -value

    with unchanged(model), pytest.raises(Halt), edit(model, random_region(model, 0.3), Doing(fail_at_the_fifth)):
        pytest.fail("the body must not run")
    assert len(calls) == 5


def test_every_byte_comes_back_after_ctrl_c_in_an_edit() -> None:
    model, calls = llama(), list[str]()

    def interrupted(value: Tensor, context: Context, name: str) -> Tensor:
        calls.append(name)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return value + 1

    with unchanged(model), pytest.raises(KeyboardInterrupt), edit(model, random_region(model, 0.3), Doing(interrupted)):
        pytest.fail("the body must not run")
    assert len(calls) == 3


@pytest.fixture
def ctrl_c_while_undoing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    restored: list[str] = []
    restore = edit_module._Undo.restore

    def interrupted(entry: edit_module._Undo, model: PreTrainedModel) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        restore(entry, model)
        restored.append(entry.address.name)

    monkeypatch.setattr(edit_module._Undo, "restore", interrupted)
    return restored


def test_ctrl_c_while_undoing_waits_for_the_last_byte(ctrl_c_while_undoing: list[str]) -> None:
    model, handler = llama(), signal.getsignal(signal.SIGINT)
    with unchanged(model), pytest.raises(KeyboardInterrupt), edit(model, random_region(model, 0.3), Ablate()):
        pass
    assert len(ctrl_c_while_undoing) == 14
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_after_an_error_waits_as_well(ctrl_c_while_undoing: list[str]) -> None:
    model = llama()
    with unchanged(model), pytest.raises(KeyboardInterrupt) as caught, edit(model, random_region(model, 0.3), Ablate()):
        raise Halt
    assert isinstance(caught.value.__context__, Halt)


def test_a_process_that_ignores_ctrl_c_goes_on(ctrl_c_while_undoing: list[str]) -> None:
    model, handler = llama(), signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with unchanged(model), edit(model, random_region(model, 0.3), Ablate()):
            pass
    finally:
        signal.signal(signal.SIGINT, handler)
    assert len(ctrl_c_while_undoing) == 14


def test_edits_work_outside_the_main_thread() -> None:
    model, seen = llama(), list[int]()

    def work() -> None:
        with edit(model, random_region(model, 0.3), Ablate()) as touched:
            seen.append(len(touched))

    with unchanged(model):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == [14]


def test_edits_nest_as_a_stack() -> None:
    model = llama()
    fingerprint, addresses = Fingerprint(model), find_weights(model)[0]
    known = [str(fingerprint)]
    with unchanged(model):
        with edited(model, addresses, random_region(model, 0.3, 1), [Ablate()], context(), fingerprint):
            known.append(str(fingerprint))
            with (
                unchanged(model),
                edited(model, addresses, random_region(model, 0.7, 2), [doing(lambda value: value * 2 + 1)], context(), fingerprint),
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
    model = llama().to(dtype)
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
    model = llama().to(dtype)
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
    with pytest.raises(RuntimeError, match=r"1 weights were not restored, first model\.layers\.1\.mlp\.up_proj\.weight"), edit(model, region, Ablate()):
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
    with unchanged(model), edit(model, Region({"elsewhere.weight": Mask.from_dense(torch.ones(2, 2).bool())}), Ablate()) as touched:
        assert touched == []
