"""What an attribution says it will hold, against what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from brittle_eval.attribute import Pass
from brittle_eval.budget import Reach, estimate, groups, held, in_words, state_sizes
from brittle_eval.isolate import find_region
from brittle_eval.methods import Attribution, Weight
from brittle_eval.weights import find_weights
from brittle_plugins.set_difference import SetDifference
from brittle_plugins.snip import Snip
from brittle_plugins.top import Top
from brittle_plugins.wanda import Wanda
from tests.models import PAD, context, examples, gpt2, llama, weights_of

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
        found = state_sizes(model, method, list(weights), weights.__getitem__)
        assert found == {weight.name: size(*weight.value.shape) for weight in weights.values()}


@pytest.mark.parametrize(("reach", "seen"), [("weight", 48 * 32), ("block", 0), ("model", 0)])
def test_the_estimate_counts_states_of_a_group_and_scores_of_what_is_isolated_together(reach: Reach, seen: int) -> None:
    model = llama(layers=3)
    addresses = find_weights(model)[0]
    weights = weights_of(model)
    sizes = state_sizes(model, Snip(), addresses, weights.__getitem__)
    block = sum(a.view(model).numel() * 4 for a in addresses if a.block == 0)
    together = {"weight": seen * 4, "block": block, "model": 3 * block}[reach]
    for memory, many in ((4 * block, 2), (6 * block, 1), (1, 3)):
        made = groups(addresses, sizes, 2, memory)
        found = estimate(model, made, sizes, 2, memory, reach)
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


def test_sizes_in_words() -> None:
    assert [in_words(n) for n in (0, 1023, 1024, 1536 * 1024, 4 << 30)] == ["0 bytes", "1023 bytes", "1 KiB", "1.5 MiB", "4 GiB"]


def test_a_block_is_the_least_that_is_attributed_at_once() -> None:
    model, said = llama(), list[str]()
    find_region(model, Snip(), Top(q=0.1), BEHAVIOURS, find_weights(model)[0], context(), Pass(PAD, 2, 1, say=said.append))
    assert "in 2 groups of blocks" in said[0] and "(--memory 1 bytes; more than that, and less is not possible)" in said[0]
