"""Regions from behaviours, against the selection on all scores at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from brittle_eval.engine.attribute import Pass, accumulate, scores
from brittle_eval.engine.isolate import Wanted, find_region, find_regions, whole_region
from brittle_eval.engine.kept import Kept
from brittle_eval.errors import BrittleError
from brittle_eval.methods import Attribution, Weight
from brittle_eval.regions import Region
from brittle_eval.scores import Compare
from brittle_eval.weights import find_weights
from brittle_plugins.magnitude import Magnitude
from brittle_plugins.set_difference import SetDifference
from brittle_plugins.snip import Snip
from brittle_plugins.top import Top
from brittle_plugins.wanda import Wanda
from tests.models import MODELS, PAD, context, examples, gpt2, llama, weights_of

BEHAVIOURS = {"safety": examples([(4, 6), (7, 3), (5, 5)], 1), "utility": examples([(3, 8), (6, 2), (2, 4)], 2)}
Scores = dict[str, Tensor]


def ranked(values: list[float], fraction: float) -> set[int]:
    """Positions of the top share, the slow way: ties go to the lower position."""
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    return set(order[: math.floor(fraction * len(values) + 1e-9)])


def top(found: Scores, fraction: float, compare: Compare, block_of: Mapping[str, int]) -> set[tuple[str, int]]:
    """Top entries as (weight, flat position)."""
    keys: dict[Compare, Callable[[str, int], tuple[object, ...]]] = {
        "row": lambda name, i: (name, i // found[name].shape[1]),
        "weight": lambda name, i: (name,),
        "block": lambda name, i: (block_of[name],),
        "global": lambda name, i: (),
    }
    competing: dict[tuple[object, ...], list[tuple[str, int, float]]] = {}
    for name, value in found.items():
        for i, score in enumerate(value.flatten().tolist()):
            competing.setdefault(keys[compare](name, i), []).append((name, i, score))
    chosen: set[tuple[str, int]] = set()
    for entries in competing.values():
        chosen |= {entries[place][:2] for place in ranked([score for _, _, score in entries], fraction)}
    return chosen


@pytest.mark.parametrize("compare", ["row", "weight", "block", "global"])
@pytest.mark.parametrize("method", [Wanda(), Snip()], ids=["wanda", "snip"])
@pytest.mark.parametrize("memory", [1, 4 << 30])
def test_set_difference_is_brute_force(compare: Compare, method: Attribution, memory: int) -> None:
    model = llama()
    addresses = find_weights(model)[0]
    isolation = SetDifference(p=0.08, q=0.13, compare=compare)
    region = find_region(model, method, isolation, BEHAVIOURS, addresses, context(), Pass(PAD, 2, memory))
    weights = weights_of(model)
    states = accumulate(model, method, weights, BEHAVIOURS, Pass(PAD, 2))
    full: dict[str, Any] = {b: {w.name: scores(method, w, states[b][w.name]) for w in weights.values()} for b in BEHAVIOURS}
    block_of = {address.name: address.block for address in addresses}
    expected = top(full["safety"], 0.13, compare, block_of) - top(full["utility"], 0.08, compare, block_of)
    found = {(name, i) for name, mask in region.masks().items() for i in mask.dense().flatten().nonzero()[:, 0].tolist()}
    assert found == expected
    assert region.count == len(expected) > 0
    assert list(region) == [address.name for address in addresses]


@pytest.mark.parametrize("name", MODELS)
def test_parts_have_the_shape_of_the_weight_as_seen(name: str) -> None:
    model = MODELS[name]()
    addresses = find_weights(model)[0]
    region = find_region(model, Wanda(), Top(q=0.1), BEHAVIOURS, addresses, context(), Pass(PAD))
    assert {n: part.shape for n, part in region.items()} == {a.name: tuple(a.view(model).shape) for a in addresses}


@pytest.mark.parametrize(
    "isolation",
    [Top(q=0.01), Top(q=0.0, compare="global"), SetDifference(p=1.0, q=0.3), SetDifference(minus="safety", p=0.5, q=0.3)],
)
def test_an_empty_region_is_an_error(isolation: Top | SetDifference) -> None:
    model = llama()
    with pytest.raises(BrittleError, match=r"the region of .* is empty: raise q, lower p"):
        find_region(model, Magnitude(), isolation, {}, find_weights(model)[0], context(), Pass(PAD))


@pytest.mark.parametrize("memory", [1, 4 << 30])
def test_one_attribution_gives_all_regions(memory: int, tmp_path: Path) -> None:
    """Of other sizes, reaches and scopes, beside one that cannot be: each as if it were found alone."""
    model, steps, alone = llama(), list[int](), list[int]()
    addresses, data = find_weights(model)[0], BEHAVIOURS
    isolations = [SetDifference(p=0.1, q=q, compare=compare) for q in (0.1, 0.3) for compare in ("row", "block", "global")]
    scopes = [addresses, addresses[:9], addresses[5:]] * 2
    wanted = [
        Wanted(isolation, scope, context(), Kept(tmp_path / str(number), {"fingerprint": "one"}))
        for number, (isolation, scope) in enumerate(zip(isolations, scopes, strict=True))
    ]
    wanted.insert(1, Wanted(Top(q=0.0), addresses, context()))
    found = list(find_regions(model, Snip(), wanted, data, context(), Pass(PAD, 2, memory, on_batch=steps.append)))
    reason = found.pop(1)
    assert isinstance(reason, BrittleError) and "is empty" in str(reason)
    for region, isolation, scope in zip(found, isolations, scopes, strict=True):
        own = find_region(model, Snip(), isolation, data, scope, context(), Pass(PAD, 2, memory, on_batch=alone.append))
        assert isinstance(region, Region)
        assert list(region) == list(own) and region.masks() == own.masks()
    assert sum(steps) == 2 * sum(len(known) for known in data.values()), "each example once a block"
    assert sum(alone) > 3 * sum(steps)


class Farther(Attribution):
    """How far from the base."""

    needs = frozenset({"base"})

    def finish(self, state: None, weight: Weight) -> Tensor:
        assert weight.base is not None
        return (weight.value - weight.base).abs()


def test_the_base_reaches_a_method_that_needs_it() -> None:
    model = llama()
    addresses = find_weights(model)[0]
    base = {address.name: address.view(model).clone() for address in addresses}
    base[addresses[3].name][5, 7] += 1
    region = find_region(model, Farther(), Top(q=1e-4, compare="global"), {}, addresses, context(base), Pass(PAD))
    assert region.masks()[addresses[3].name].dense()[5, 7]


def test_scores_are_reported_as_they_are_taken() -> None:
    model, taken = llama(), list[int]()
    addresses = find_weights(model)[0]
    find_region(
        model, Wanda(), SetDifference(p=0.1, q=0.2, compare="block"), BEHAVIOURS, addresses, context(), Pass(PAD), taken.append
    )
    assert taken == [7, 7, 7, 7]


def test_the_whole_region_is_every_entry() -> None:
    model = gpt2()
    addresses = find_weights(model)[0]
    region = whole_region(model, addresses)
    assert region.count == sum(address.parameter(model).numel() for address in addresses)
    value = torch.randn(96, 32)
    assert torch.equal(region["transformer.h.0.attn.c_attn.weight"].apply(value), value)
