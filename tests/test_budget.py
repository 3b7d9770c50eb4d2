"""What an attribution says it will hold, against what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from brittle_eval.engine import sharing
from brittle_eval.engine.attribute import Pass, accumulate
from brittle_eval.engine.budget import Reach, estimate, groups, held, in_words, scores_size, state_sizes
from brittle_eval.engine.isolate import find_region
from brittle_eval.engine.sequential import find_region_in_order
from brittle_eval.engine.sharing import readers, sites
from brittle_eval.engine.walk import begin_walk
from brittle_eval.methods import Attribution, Weight
from brittle_eval.scope import Scope
from brittle_eval.weights import Fingerprint, find_weights
from brittle_plugins.ablate import Ablate
from brittle_plugins.actsvd import ActSVD
from brittle_plugins.orthogonal import Orthogonal
from brittle_plugins.set_difference import SetDifference
from brittle_plugins.snip import Snip
from brittle_plugins.top import Top
from brittle_plugins.wanda import Wanda
from tests.architectures import gpt_oss, mixtral
from tests.models import PAD, context, directions, examples, gpt2, llama, phi3, weights_of

BEHAVIOURS = {"safety": examples([(4, 6), (7, 3)], 1), "utility": examples([(3, 8), (6, 2)], 2)}


@dataclass
class Kept:
    """A state with tensors in many places, one of them twice."""

    table: dict[str, Tensor]
    pair: tuple[Tensor, list[Tensor]]
    label: str = "x"


def test_every_tensor_of_a_state_is_counted_once() -> None:
    shared = torch.zeros(10, dtype=torch.float64)
    state = Kept({"a": torch.zeros(3, 5), "b": shared}, (torch.zeros(7, dtype=torch.bool), [shared[2:4]]))
    assert held(state) == 3 * 5 * 4 + 10 * 8 + 7
    assert held(None) == held("text") == held({"n": 3}) == 0


class Squares(Attribution):
    """A state of (in, in) float64."""

    needs = frozenset({"inputs"})

    def start(self, weight: Weight) -> Any:
        return torch.zeros(weight.value.shape[1], weight.value.shape[1], dtype=torch.float64)

    def finish(self, state: Tensor, weight: Weight) -> Tensor:
        return torch.ones(weight.value.shape)


@pytest.mark.parametrize("make", [llama, gpt2])
def test_the_size_of_a_state_is_measured_for_any_method(make: Any) -> None:
    model = make()
    weights = weights_of(model)
    for method, size in (
        (Snip(), lambda out, into: out * into * 4),
        (Wanda(), lambda out, into: into * 4),
        (Squares(), lambda out, into: into * into * 8),
    ):
        found = state_sizes(model, method, [[address] for address in weights], weights.__getitem__)
        assert found == {weight.name: size(*weight.value.shape) for weight in weights.values()}


@pytest.mark.parametrize(("reach", "seen"), [("weight", 48 * 32), ("block", 0), ("model", 0)])
def test_the_estimate_counts_states_of_a_group_and_scores_of_what_is_isolated_together(reach: Reach, seen: int) -> None:
    model = llama(layers=3)
    addresses = find_weights(model)[0]
    weights = weights_of(model)
    sizes = state_sizes(model, Snip(), [[address] for address in addresses], weights.__getitem__)
    block = sum(a.view(model).numel() * 4 for a in addresses if a.block == 0)
    together = {"weight": seen * 4, "block": block, "model": 3 * block}[reach]
    for memory, many in ((4 * block, 2), (6 * block, 1), (1, 3)):
        made = groups(addresses, sizes, 2, memory)
        found = estimate(model, Snip(), made, sizes, BEHAVIOURS, memory, reach)
        assert found.groups == len(made) == many
        assert found.states == 2 * block * {1: 3, 2: 2, 3: 1}[many]
        assert found.scores == 2 * together
        assert ("less is not possible" in str(found)) == (found.states + found.scores > memory)


def test_the_estimate_is_said_before_the_first_batch() -> None:
    model, said = llama(), list[str]()
    how = Pass(PAD, 2, 1 << 20, on_batch=lambda steps: said.append("batch"), say=said.append)
    find_region(model, Snip(), SetDifference(p=0.1, q=0.3), BEHAVIOURS, find_weights(model)[0], context(), how)
    size = sum(a.view(model).numel() for a in find_weights(model)[0]) * 4 * 2
    assert said[0] == (
        f"memory beside the model: {in_words(size)} of states in one group of blocks, {in_words(2 * 48 * 32 * 4)} of scores "
        "(--memory 1 MiB)"
    )
    assert said.count("batch") == len(said) - 1 == 2


class Recorded(ActSVD):
    """Holds on to every state that it was asked to begin."""

    begun: ClassVar[list[Any]] = []

    def start(self, weight: Weight, *beside: Weight) -> Any:
        self.begun.append(super().start(weight, *beside))
        return self.begun[-1]


EVERY, KEYS, QUERIES = Scope(), Scope(modules="k_proj+v_proj"), Scope(modules="q_proj+k_proj+down_proj")
CASES = [(llama, EVERY), (llama, KEYS), (llama, QUERIES), (gpt2, EVERY), (phi3, EVERY), (mixtral, EVERY), (gpt_oss, EVERY)]


@pytest.mark.parametrize(("make", "scope"), CASES)
def test_shared_states_are_counted_as_they_are_allocated(make: Any, scope: Scope) -> None:
    """Of grouped-query keys and values alone and beside the queries, of fused weights, and of experts."""
    model = make()
    weights = {address: weights_of(model)[address] for address in scope.of(find_weights(model)[0])}
    together = sites(model, ActSVD(), list(weights), BEHAVIOURS, PAD)
    sizes = state_sizes(model, ActSVD(), together, weights.__getitem__)
    assert list(sizes) == [weight.name for weight in weights.values()]
    Recorded.begun.clear()
    accumulate(model, Recorded(), weights, BEHAVIOURS, Pass(PAD, 2), together)
    assert held(Recorded.begun) == 2 * sum(sizes.values())
    found = directions(model, ActSVD(), BEHAVIOURS["safety"], only=list(weights))
    assert found and all(held(one) == scores_size(ActSVD(), one.shape) for one in found.values())


def test_keys_and_values_share_what_is_larger_than_their_own() -> None:
    """Alone each would keep its outputs' Gram matrix, (16, 16); together they keep one of their input, (32, 32)."""
    model = llama(layers=1)
    addresses = KEYS.of(find_weights(model)[0])
    for together, expected in (
        (sites(model, ActSVD(), addresses, BEHAVIOURS, PAD), [8 * 32**2, 0]),
        ([[a] for a in addresses], [8 * 16**2] * 2),
    ):
        assert [*state_sizes(model, ActSVD(), together, weights_of(model).__getitem__).values()] == expected


def test_what_a_walk_keeps_is_in_the_estimate_and_taken_from_the_memory() -> None:
    model, said = llama(layers=4), list[str]()
    addresses, weights = find_weights(model)[0], weights_of(model)
    walk = begin_walk(model, Squares(), BEHAVIOURS, Pass(PAD, 2))
    assert walk is not None
    room, tokens = held(walk.kept), 2 * (10 + 11)  # both batches of two, padded to the longer one
    assert room >= tokens * (32 * 4 + 8 + 8 + 1)
    block = 2 * sum(state_sizes(model, Squares(), [[a] for a in addresses if a.block == 0], weights.__getitem__).values())
    memory = 3 * block + room - 1
    find_region(
        model, Squares(), SetDifference(p=0.1, q=0.3), BEHAVIOURS, addresses, context(), Pass(PAD, 2, memory, say=said.append)
    )
    assert f"{in_words(2 * block)} of states in 2 groups of blocks" in said[0] and f"{in_words(room)} of hidden states" in said[0]


def test_the_readers_of_one_input_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of groups, behaviours and blocks, in both orders."""
    calls = list[int]()

    def counted(*given: Any) -> Any:
        calls.append(1)
        return readers(*given)

    monkeypatch.setattr(sharing, "readers", counted)
    model = llama(layers=3)
    given = (BEHAVIOURS, find_weights(model)[0], context())
    isolation = Orthogonal(r_u=0.9, r_s=0.9)
    find_region(model, ActSVD(), isolation, *given, Pass(PAD, 2, 1))
    assert len(calls) == 1
    find_region_in_order(model, ActSVD(), isolation, [Ablate()], *given, Fingerprint(model), Pass(PAD, 2))
    assert len(calls) == 2


def test_sizes_in_words() -> None:
    assert [in_words(n) for n in (0, 1023, 1024, 1536 * 1024, 4 << 30)] == ["0 bytes", "1023 bytes", "1 KiB", "1.5 MiB", "4 GiB"]


def test_a_block_is_the_least_that_is_attributed_at_once() -> None:
    model, said = llama(), list[str]()
    find_region(model, Snip(), Top(q=0.1), BEHAVIOURS, find_weights(model)[0], context(), Pass(PAD, 2, 1, say=said.append))
    assert "in 2 groups of blocks" in said[0] and "(--memory 1 bytes; more than that, and less is not possible)" in said[0]
