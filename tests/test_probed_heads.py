"""The probing baseline: inputs at prompt ends, and heads ranked by a probe, against loops and plain gradient descent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from brittle_eval import BrittleError, Context, ExampleInputs, Unit, UnitKind, unit_mask
from brittle_eval.engine.anatomy import find_units
from brittle_eval.engine.attribute import Pass, accumulate, scores
from brittle_eval.engine.budget import held, state_sizes
from brittle_eval.engine.isolate import find_region
from brittle_eval.engine.walk import begin_walk
from brittle_eval.methods import Attribution
from brittle_eval.scope import Scope
from brittle_eval.weights import find_weights
from brittle_plugins.probed_heads import ProbedHeads, probe
from brittle_plugins.prompt_ends import PromptEnds
from brittle_plugins.wanda import Wanda
from tests.models import MODELS, PAD, examples, llama, weights_of
from tests.test_attribute import distance, inputs_of
from tests.test_builtin_methods import generator

DATA = examples([(7, 5), (3, 9), (12, 1), (5, 5), (4, 11), (9, 2), (6, 6), (2, 3), (8, 4)])
MODEL = llama()
ADDRESSES = find_weights(MODEL)[0]
OUTPUTS = Scope(modules="o_proj").of(ADDRESSES)


def units(kind: UnitKind) -> Sequence[Unit]:
    return find_units(MODEL, ADDRESSES, kind)[0]


CONTEXT = Context(generator, lambda which: {}, units)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("walking", [False, True])
def test_prompt_ends_are_what_enters_at_the_last_token_of_each_prompt(name: str, walking: bool) -> None:
    """Examples come in the order of their lengths, as all batches have them, whatever the batch."""
    model, method = MODELS[name](), PromptEnds()
    weights, how = weights_of(model), Pass(PAD, 4)
    if walking:
        walk = begin_walk(model, method, {"safety": DATA}, how)
        assert walk is not None
        states = walk.states(weights)["safety"]
    else:
        states = accumulate(model, method, weights, {"safety": DATA}, how)["safety"]
    for address, weight in weights.items():
        found = scores(method, weight, states[weight.name])
        assert isinstance(found, ExampleInputs)
        ordered = sorted(DATA, key=lambda example: len(example.ids))
        expected = torch.stack([inputs_of(model, address.module, example)[example.start - 1] for example in ordered])
        assert found.values.shape == expected.shape and distance(found.values, expected) <= 1e-5


def test_the_memory_for_all_inputs_is_in_the_estimate() -> None:
    weights = {address: weight for address, weight in weights_of(MODEL).items() if address in OUTPUTS}
    sizes = state_sizes(MODEL, PromptEnds(), [[a] for a in weights], weights.__getitem__, {"safety": DATA})
    states = accumulate(MODEL, PromptEnds(), weights, {"safety": DATA}, Pass(PAD, 4))["safety"]
    inputs = {name: [batch for _, batch in state] for name, state in states.items()}
    assert sizes == {name: held(batches) for name, batches in inputs.items()}


def descended(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The probe by plain gradient descent: weights on scaled entries, and the scaling."""
    known, signs = torch.cat([one, two]), torch.cat([torch.ones(len(one)), -torch.ones(len(two))]).double()
    centre, spread = known.mean(0), known.std(0, correction=0)
    inputs = torch.cat([(known - centre) / spread, torch.ones(len(known), 1)], 1)
    weights = torch.zeros(inputs.shape[1], dtype=torch.float64, requires_grad=True)
    for _ in range(4000):
        loss = torch.log1p(torch.exp(-signs * (inputs @ weights))).sum() + 0.5 * weights[:-1].square().sum()
        (grad,) = torch.autograd.grad(loss, weights)
        weights = (weights - 0.02 * grad).detach().requires_grad_()
    return weights.detach(), centre, spread


def draw(count: int, shift: float, seed: int) -> Tensor:
    return torch.randn(count, 4, generator=generator(seed)).double() + shift


@pytest.mark.parametrize("shift", [0.0, 0.5, 9.0])
def test_the_probe_is_a_logistic_regression(shift: float) -> None:
    one, two, new = draw(20, shift, 1), draw(15, 0.0, 2), (draw(9, shift, 3), draw(8, 0.0, 4))
    weights, centre, spread = descended(one, two)
    found = probe(one.numpy(), two.numpy(), new[0].numpy(), new[1].numpy())
    for margins, values, sign in zip(found, new, (1, -1), strict=True):
        expected = sign * (((values - centre) / spread) @ weights[:-1] + weights[-1])
        assert torch.allclose(torch.from_numpy(np.asarray(margins)), expected, atol=1e-3)


def inputs(name: str, values: Tensor) -> ExampleInputs:
    return ExampleInputs(name, values.float())


def told_apart(heads: Sequence[int], seed: int = 0) -> dict[str, dict[str, ExampleInputs]]:
    """Noise, in which the given heads of the model (by number, four a block) tell the behaviours apart, the first the best."""
    found: dict[str, dict[str, ExampleInputs]] = {}
    for number, behaviour in enumerate(("safety", "utility")):
        found[behaviour] = {}
        for block, address in enumerate(OUTPUTS):
            values = torch.randn(56, 32, generator=generator(seed + 7 * number + block))
            for place, head in enumerate(heads):
                if head // 4 == block:
                    values[:, 8 * (head % 4) : 8 * (head % 4) + 8] += number * (5 - 1.5 * place)
            found[behaviour][address.name] = inputs(address.name, values)
    return found


@pytest.mark.parametrize("heads", [[2], [5, 0], [7, 6, 1]])
def test_the_heads_that_tell_the_behaviours_apart_are_taken(heads: list[int]) -> None:
    method, chosen = ProbedHeads(count=len(heads)), [units("query-head")[head] for head in heads]
    parts = method.isolate(told_apart(heads), CONTEXT)
    expected = unit_mask(chosen)
    assert set(parts) == {address.name for address in OUTPUTS}
    assert {name for name, part in parts.items() if part.count} == {name for name in expected if "o_proj" in name}
    assert all(parts[name] == expected[name] for name, part in parts.items() if part.count)
    assert {name: part.count for name, part in ProbedHeads(q=len(heads) / 8).isolate(told_apart(heads), CONTEXT).items()} == {
        name: part.count for name, part in parts.items()
    }


def test_ranks_are_those_of_the_probe_on_the_examples_that_were_left_out() -> None:
    """All eight heads in the order of their accuracy and loss, from a split and probes made here."""
    given = told_apart([3, 6], seed=5)
    halves = {}
    for name in ("safety", "utility"):
        order = torch.randperm(56, generator=generator(f"probed-heads {name}"))
        halves[name] = (order[:40], order[40:])
    ranks = []
    for head in units("query-head"):
        columns = slice(8 * head.index, 8 * head.index + 8)
        values = {b: given[b][OUTPUTS[head.block].name].values[:, columns].double() for b in given}
        weights, centre, spread = descended(*(values[b][halves[b][0]] for b in values))
        margins = [
            sign * (((values[b][halves[b][1]] - centre) / spread) @ weights[:-1] + weights[-1])
            for b, sign in zip(values, (1, -1), strict=True)
        ]
        accuracy = sum(float((margin > 0).double().mean()) for margin in margins) / 2
        ranks.append((-accuracy, sum(float(torch.log1p(torch.exp(-margin)).mean()) for margin in margins) / 2))
    best = sorted(range(8), key=ranks.__getitem__)
    for count in range(1, 8):
        parts = ProbedHeads(count=count).isolate(given, CONTEXT)
        expected = unit_mask(units("query-head")[index] for index in best[:count])
        assert all(part == expected[name] for name, part in parts.items() if part.count)
        assert sum(part.count for part in parts.values()) == count * 8 * 32


def test_a_head_is_found_in_a_model_and_takes_its_queries_along() -> None:
    behaviours = {"safety": examples([(n, 3) for n in range(3, 12)], 1), "utility": examples([(n, 3) for n in range(4, 13)], 2)}
    addresses = Scope(modules="o_proj+q_proj").of(ADDRESSES)
    region = find_region(MODEL, PromptEnds(), ProbedHeads(count=1), behaviours, addresses, CONTEXT, Pass(PAD, 4))
    (output,) = (name for name, mask in region.masks().items() if "o_proj" in name and mask.count)
    (query,) = (name for name, mask in region.masks().items() if "q_proj" in name and mask.count)
    assert query == output.replace("o_proj", "q_proj") and region.count == 2 * 8 * 32


def test_what_a_probe_cannot_do_is_said() -> None:
    few = {b: {n: inputs(n, one.values[:6]) for n, one in own.items()} for b, own in told_apart([1]).items()}
    with pytest.raises(BrittleError, match="needs 7 examples of 'safety' or more, got 6: give more pairs"):
        ProbedHeads().isolate(few, CONTEXT)
    with pytest.raises(BrittleError, match="no output of a head of a known layout in this plan's scope: add modules=o_proj"):
        ProbedHeads().isolate(told_apart([1]), Context(generator, lambda which: {}))


class Slanted(Wanda):
    at = "prompt-ends"
    needs = frozenset({"gradients"})


class Narrow(PromptEnds):
    def finish(self, state: object, weight: object) -> ExampleInputs:
        return ExampleInputs("w", torch.zeros(3, 5))


class Infinite(PromptEnds):
    def finish(self, state: object, weight: object) -> ExampleInputs:
        return ExampleInputs("w", torch.full((3, 32), torch.inf))


class Plain(PromptEnds):
    gives = "weight-scores"


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (Slanted(), "Slanted looks at prompt-ends, where there are no gradients"),
        (Narrow(), r"Narrow gave inputs of shape \(3, 5\) for .*q_proj.*, expected \(examples, 32\)"),
        (Infinite(), "Infinite gave NaN or infinite scores"),
        (Plain(), "Plain says that it gives weight-scores, but gave ExampleInputs"),
    ],
)
def test_inputs_that_are_none_are_refused(method: Attribution, said: str) -> None:
    weights = dict(list(weights_of(MODEL).items())[:1])
    with pytest.raises(BrittleError, match=said):
        states = accumulate(MODEL, method, weights, {"safety": DATA}, Pass(PAD))["safety"]
        for weight in weights.values():
            scores(method, weight, states[weight.name])
