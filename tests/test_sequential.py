"""Sequential order, against a copy of the model that is attributed, isolated and edited block by block."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.engine.attribute import Pass, accumulate, scores
from brittle_eval.engine.edit import edited
from brittle_eval.engine.isolate import find_region
from brittle_eval.engine.sequential import find_region_in_order
from brittle_eval.errors import BrittleError
from brittle_eval.methods import Attribution, Isolation, Modification
from brittle_eval.regions import Mask, Region
from brittle_eval.weights import Address, Fingerprint, find_weights
from brittle_plugins.ablate import Ablate
from brittle_plugins.magnitude import Magnitude
from brittle_plugins.restore import Restore
from brittle_plugins.set_difference import SetDifference
from brittle_plugins.snip import Snip
from brittle_plugins.top import Top
from brittle_plugins.wanda import Wanda
from tests.editing import content, doing, unchanged
from tests.models import MODELS, PAD, context, examples, llama, weights_of
from tests.walking import counted_calls, leaning

BEHAVIOURS = {"safety": examples([(4, 6), (7, 3), (5, 5)], 1), "utility": examples([(3, 8), (6, 2), (2, 4)], 2)}
METHODS = pytest.mark.parametrize("method", [Wanda(), Snip()], ids=["wanda", "snip"])


def in_order(
    model: PreTrainedModel,
    method: Attribution,
    isolation: Isolation,
    chain: Sequence[Modification] = (Ablate(),),
    how: Pass | None = None,
    only: Sequence[Address] = (),
    base: Mapping[str, Tensor] | None = None,
) -> Region:
    addresses = only or find_weights(model)[0]
    given = (BEHAVIOURS, addresses, context(base), Fingerprint(model), how or Pass(PAD, 2))
    return find_region_in_order(model, method, isolation, chain, *given)


def slowly(model: PreTrainedModel, method: Attribution, isolation: Isolation) -> tuple[dict[str, Mask], PreTrainedModel]:
    """The masks, and the copy with the masked entries at zero: for every block, whole passes of the copy as it is by then."""
    edited_copy = copy.deepcopy(model)
    found: dict[str, Mask] = {}
    for number in range(model.config.num_hidden_layers):
        weights = {address: weight for address, weight in weights_of(edited_copy).items() if address.block == number}
        asked = {name: BEHAVIOURS[name] for name in isolation.behaviours}
        states = accumulate(edited_copy, method, weights, asked, Pass(PAD, 2))
        full = {b: {w.name: scores(method, w, states[b][w.name]) for w in weights.values()} for b in asked}
        for name, part in isolation.isolate(full, context()).items():
            assert isinstance(part, Mask)
            found[name] = part
        for address in weights:
            address.view(edited_copy)[found[address.name].dense()] = 0
    return found, edited_copy


@METHODS
@pytest.mark.parametrize("isolation", [Top(q=0.2), SetDifference(p=0.1, q=0.3, compare="block")], ids=["top", "diff"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_each_block_is_scored_on_the_edited_blocks_before_it(name: str, isolation: Isolation, method: Attribution) -> None:
    model = MODELS[name]()
    with unchanged(model):
        found = in_order(model, method, isolation)
    expected, edited_copy = slowly(model, method, isolation)
    assert found.masks() == expected
    with edited(model, find_weights(model)[0], found, [Ablate()], context(), Fingerprint(model)):
        assert content(model) == content(edited_copy)


@METHODS
def test_the_order_matters_behind_the_first_block(method: Attribution) -> None:
    model = llama(layers=3)
    addresses = find_weights(model)[0]
    parallel = find_region(model, method, Top(q=0.2), BEHAVIOURS, addresses, context(), Pass(PAD, 2)).masks()
    sequential = in_order(model, method, Top(q=0.2)).masks()
    same = {number: all(parallel[a.name] == sequential[a.name] for a in addresses if a.block == number) for number in range(3)}
    assert same == {0: True, 1: False, 2: False}


def test_the_plans_own_modifications_are_what_later_blocks_see() -> None:
    """Restoring a base model that is the model changes nothing, so the order does not matter; any other edit does matter."""
    model = llama()
    addresses = find_weights(model)[0]
    base = {address.name: address.view(model).clone() for address in addresses}
    parallel = find_region(model, Wanda(), Top(q=0.2), BEHAVIOURS, addresses, context(), Pass(PAD, 2)).masks()
    assert in_order(model, Wanda(), Top(q=0.2), [Restore()], base=base).masks() == parallel
    assert in_order(model, Wanda(), Top(q=0.2), [doing(lambda value: value * 3)]).masks() != parallel


def test_two_passes_for_a_method_without_gradients() -> None:
    """One that looks at a block and one that goes on; the check of the walk takes three runs of two examples."""
    model, reported = llama(layers=3), list[int]()
    with counted_calls(model) as calls:
        in_order(model, Wanda(), Top(q=0.2), how=Pass(PAD, 2, on_batch=reported.append))
    assert calls == [2 * 2 + 3, 2 * 2 + 3, 2 + 3]
    assert sum(reported) == 3 * len(BEHAVIOURS["safety"])


def test_a_pass_for_every_block_is_said() -> None:
    model, said = llama(), list[str]()
    in_order(model, Snip(), Top(q=0.2), how=Pass(PAD, 2, say=said.append))
    passes = "a forward pass and a backward pass down to the block"
    assert f"order=sequential: {passes} for each of 2 blocks, over all examples" in said
    leaning(model)
    in_order(model, Wanda(), Top(q=0.2), how=Pass(PAD, 2, say=said.append))
    assert "order=sequential: a whole pass for each of 2 blocks, over all examples" in said


def test_the_backward_pass_ends_at_the_block() -> None:
    model = llama(layers=3)
    reached: list[int] = []

    def watch(number: int) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(lambda grad: reached.append(number))

        return hook

    for number, block in enumerate(model.model.layers):
        block.register_forward_hook(watch(number))
    last = [address for address in find_weights(model)[0] if address.block == 1]
    accumulate(
        model, Snip(), {a: w for a, w in weights_of(model).items() if a in last}, {"safety": BEHAVIOURS["safety"]}, Pass(PAD)
    )
    assert reached == [2, 1]


def test_whole_passes_where_a_model_cannot_be_walked() -> None:
    model = llama()
    leaning(model)
    first, second = (in_order(model, Wanda(), Top(q=0.2), how=Pass(PAD, size)).masks() for size in (2, 2))
    assert first == second
    parallel = find_region(model, Wanda(), Top(q=0.2), BEHAVIOURS, find_weights(model)[0], context(), Pass(PAD, 2)).masks()
    assert {name for name, mask in first.items() if mask != parallel[name]} >= {"model.layers.1.mlp.up_proj.weight"}


def test_blocks_out_of_scope_are_gone_through() -> None:
    model = llama(layers=3)
    some = [address for address in find_weights(model)[0] if address.block in (0, 2)]
    found = in_order(model, Wanda(), Top(q=0.2), only=some)
    assert list(found) == [address.name for address in some]
    edited_copy = copy.deepcopy(model)
    for address in some[:7]:
        address.view(edited_copy)[found.masks()[address.name].dense()] = 0
    rest = find_region(edited_copy, Wanda(), Top(q=0.2), BEHAVIOURS, some[7:], context(), Pass(PAD, 2))
    assert all(found.masks()[name] == mask for name, mask in rest.masks().items())


def test_a_method_that_sees_no_data_runs_nothing() -> None:
    model = llama()
    with counted_calls(model) as calls:
        found = in_order(model, Magnitude(), Top(q=0.2))
    assert calls == [0, 0]
    parallel = find_region(model, Magnitude(), Top(q=0.2), {}, find_weights(model)[0], context(), Pass(PAD))
    assert found.masks() == parallel.masks()


def test_an_isolation_that_sees_the_whole_model_is_refused() -> None:
    with pytest.raises(BrittleError, match=r"order=sequential .* give compare=row, weight or block, or order=parallel"):
        in_order(llama(), Wanda(), Top(q=0.2, compare="global"))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_every_byte_comes_back_after_an_error_in_the_middle(error: type[BaseException]) -> None:
    model, calls = llama(), list[int]()

    def fail(value: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 10:
            raise error
        return torch.zeros_like(value)

    with unchanged(model), pytest.raises((BrittleError, KeyboardInterrupt)):
        in_order(model, Wanda(), Top(q=0.2), [doing(fail)])
    assert len(calls) == 10
