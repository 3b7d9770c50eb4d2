"""The built-in methods against their definitions, written out as loops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from brittle_eval import Attribution, BrittleError, Compare, Context, Isolation, Mask, Seen, Share, Weight, Whole, share
from brittle_eval.options import options_of
from brittle_plugins.ablate import Ablate
from brittle_plugins.bottom import Bottom
from brittle_plugins.magnitude import Magnitude
from brittle_plugins.random import Random
from brittle_plugins.restore import Restore
from brittle_plugins.set_difference import SetDifference
from brittle_plugins.snip import Snip
from brittle_plugins.top import Top
from brittle_plugins.wanda import Wanda

SHAPES = [(3, 5), (5, 3), (1, 1), (1, 7)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
COMPARE: list[Compare] = ["row", "weight", "block", "global"]


def generator(seed: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(seed if isinstance(seed, int) else sum(seed.encode()))


def weight(shape: tuple[int, int], dtype: torch.dtype = torch.float32, seed: int = 0, base: Tensor | None = None) -> Weight:
    value = torch.randn(shape, generator=generator(seed)).to(dtype)
    return Weight("blocks.0.w", 0, value, base, generator(seed + 1))


def nothing(which: str) -> Mapping[str, Tensor]:
    return {}


CONTEXT = Context(generator, nothing)


def seen(inputs: Tensor, grad: Tensor | None = None) -> Seen:
    tokens = len(inputs)
    return Seen(inputs, torch.zeros(tokens, 1), torch.zeros(tokens, dtype=torch.int64), grad)


def close(found: Tensor, expected: Tensor) -> bool:
    """Within 1e-5 of the reference, norm-wise."""
    return float((found.double() - expected).norm()) <= 1e-5 * max(float(expected.norm()), 1e-30)


def run(method: Attribution, of: Weight, batches: list[Seen]) -> Tensor:
    state: Any = method.start(of)
    for batch in batches:
        state = method.update(state, batch)
    found = method.finish(state, of)
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_wanda_is_the_weight_times_the_norm_of_its_inputs(shape: tuple[int, int], dtype: torch.dtype) -> None:
    given_weight = weight(shape, dtype)
    batches = [torch.randn(tokens, shape[1], generator=generator(tokens)).to(dtype) for tokens in (4, 0, 9)]
    expected = torch.zeros(shape, dtype=torch.float64)
    for i in range(shape[0]):
        for j in range(shape[1]):
            squares = sum(float(batch[t, j]) ** 2 for batch in batches for t in range(len(batch)))
            expected[i, j] = abs(float(given_weight.value[i, j])) * math.sqrt(squares)
    found = run(Wanda(), given_weight, [seen(batch) for batch in batches])
    assert found.dtype == torch.float32
    assert close(found, expected)


def test_wanda_neither_overflows_in_float16_nor_changes_its_inputs() -> None:
    inputs = torch.full((1000, 2), 300.0, dtype=torch.float16)
    found = run(Wanda(), weight((2, 2)), [seen(inputs)])
    assert close(found, weight((2, 2)).value.double().abs() * math.sqrt(1000 * 300.0**2))
    plain = torch.full((3, 2), -2.0)
    run(Wanda(), weight((2, 2)), [seen(plain)])
    assert bool((plain == -2).all())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_snip_is_the_mean_of_each_examples_absolute_product(shape: tuple[int, int], dtype: torch.dtype) -> None:
    given_weight = weight(shape, dtype)
    gradients = [torch.randn(shape, generator=generator(seed)).to(dtype) for seed in (5, 6, 7)]
    expected = torch.zeros(shape, dtype=torch.float64)
    for i in range(shape[0]):
        for j in range(shape[1]):
            products = [abs(float(given_weight.value[i, j]) * float(grad[i, j])) for grad in gradients]
            expected[i, j] = sum(products) / len(products)
    found = run(Snip(), given_weight, [seen(torch.zeros(2, shape[1]), grad.clone()) for grad in gradients])
    assert found.dtype == torch.float32
    assert close(found, expected)


def test_snip_with_gradients_of_a_real_loss() -> None:
    given_weight = weight((4, 6))
    batches, expected = [], torch.zeros(4, 6, dtype=torch.float64)
    for seed in range(3):
        inputs, labels = torch.randn(5, 6, generator=generator(seed)), torch.tensor([0, 1, 2, 3, 0])
        w = given_weight.value.double().requires_grad_()
        loss = torch.nn.functional.cross_entropy(inputs.double() @ w.T, labels)
        (grad,) = torch.autograd.grad(loss, w)
        batches.append(seen(inputs, grad.float()))
        expected += (w.detach() * grad).abs() / 3
    assert close(run(Snip(), given_weight, batches), expected)


def test_snip_without_a_gradient_says_so() -> None:
    with pytest.raises(BrittleError, match="needs gradients"):
        run(Snip(), weight((2, 2)), [seen(torch.zeros(1, 2))])


def test_magnitude() -> None:
    given_weight = weight((3, 4), torch.bfloat16)
    assert torch.equal(run(Magnitude(), given_weight, []), given_weight.value.float().abs())


def test_random_is_uniform_and_repeats_with_the_weights_generator() -> None:
    first, again, other = (run(Random(), weight((60, 70), seed=seed), []) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (60, 70) and float(first.min()) >= 0 and float(first.max()) < 1
    assert abs(float(first.mean()) - 0.5) < 0.02 and abs(float(first.std()) - 12**-0.5) < 0.02


def test_needs_say_what_the_driver_must_provide() -> None:
    needs = [sorted(method.needs) for method in (Wanda(), Wanda(use_diff=True), Snip(), Magnitude(), Random())]
    assert needs == [["inputs"], ["base", "inputs"], ["gradients"], [], []]
    assert [sorted(method.needs) for method in (Ablate, Restore)] == [[], ["base"]]


def draw_scores(seed: int) -> dict[str, dict[str, Tensor]]:
    """Two weights, two behaviours; few levels, so that ties abound."""
    random = generator(seed)
    shapes = {"a": (3, 8), "b": (4, 6)}
    return {
        behaviour: {name: torch.randint(0, 5, shape, generator=random).float() for name, shape in shapes.items()}
        for behaviour in ("safety", "utility", "third")
    }


def groups(scores: Mapping[str, Tensor], compare: Compare) -> list[list[tuple[str, int, int]]]:
    """Positions (weight, row, column) that compete with one another."""
    cells = {name: [[(name, i, j) for j in range(s.shape[1])] for i in range(s.shape[0])] for name, s in scores.items()}
    if compare == "row":
        return [row for rows in cells.values() for row in rows]
    whole = [[cell for row in rows for cell in row] for rows in cells.values()]
    return whole if compare == "weight" else [[cell for part in whole for cell in part]]


def best(scores: Mapping[str, Tensor], q: float, compare: Compare, sign: int = 1) -> set[tuple[str, int, int]]:
    chosen: set[tuple[str, int, int]] = set()
    for group in groups(scores, compare):
        ranked = sorted(group, key=lambda cell: -sign * float(scores[cell[0]][cell[1], cell[2]]))
        chosen |= set(ranked[: share(q, len(group))])
    return chosen


def taken(method: Isolation, scores: Mapping[str, Mapping[str, Tensor]]) -> set[tuple[str, int, int]]:
    parts = method.isolate({name: scores[name] for name in method.behaviours}, CONTEXT)
    assert set(parts) == {"a", "b"}
    cells = set()
    for name, part in parts.items():
        assert isinstance(part, Mask) and part.shape == scores["safety"][name].shape
        cells |= {(name, int(i), int(j)) for i, j in part.dense().nonzero()}
    return cells


SHARES = st.sampled_from([0.0, 0.05, 0.13, 0.29, 0.5, 0.9, 1.0])


@given(st.integers(0, 99), SHARES, st.sampled_from(COMPARE))
def test_top_and_bottom(seed: int, q: float, compare: Compare) -> None:
    scores = draw_scores(seed)
    assert taken(Top(q, compare), scores) == best(scores["safety"], q, compare)
    assert taken(Bottom(q, compare), scores) == best(scores["safety"], q, compare, sign=-1)
    assert taken(Top(q, compare, of="third"), scores) == best(scores["third"], q, compare)


@given(st.integers(0, 99), SHARES, SHARES, st.sampled_from(COMPARE))
def test_set_difference(seed: int, p: float, q: float, compare: Compare) -> None:
    scores = draw_scores(seed)
    found = taken(SetDifference(p, q, compare), scores)
    assert found == best(scores["safety"], q, compare) - best(scores["utility"], p, compare)
    swapped = SetDifference(p, q, compare, of="utility", minus="third")
    assert taken(swapped, scores) == best(scores["utility"], q, compare) - best(scores["third"], p, compare)


def test_isolations_say_what_they_must_see() -> None:
    for method in (Top, Bottom, SetDifference):
        reach = [method(compare=compare).reach for compare in COMPARE]
        assert reach == ["weight", "weight", "block", "model"]
    assert Top(of="over-safety").behaviours == ("over-safety",)
    assert SetDifference(of="x", minus="y").behaviours == ("x", "y")


def test_the_defaults_are_the_papers() -> None:
    assert SetDifference() == SetDifference(p=0.05, q=0.05, compare="row", of="safety", minus="utility")
    assert (Top(), Bottom()) == (Top(0.05, "row", "safety"), Bottom(0.05, "row", "safety"))
    assert {options_of(method)["q"].annotation for method in (Top, Bottom, SetDifference)} == {Share}


@pytest.mark.parametrize("dtype", DTYPES)
def test_ablate_makes_exact_zeros_and_touches_nothing_else(dtype: torch.dtype) -> None:
    given_weight = weight((4, 5), dtype)
    dense = torch.rand(4, 5, generator=generator(3)) < 0.4
    found = Ablate().edit(given_weight, Mask.from_dense(dense), CONTEXT).to(dtype)
    for i in range(4):
        for j in range(5):
            assert float(found[i, j]) == (0.0 if dense[i, j] else float(given_weight.value[i, j]))
    assert not bool(Ablate().edit(given_weight, Whole((4, 5)), CONTEXT).any())


@pytest.mark.parametrize("dtype", DTYPES)
def test_restore_takes_the_base_inside_and_nothing_outside(dtype: torch.dtype) -> None:
    base = torch.randn(4, 5, generator=generator(9)).to(dtype)
    given_weight = weight((4, 5), dtype, base=base)
    dense = torch.rand(4, 5, generator=generator(3)) < 0.4
    found = Restore().edit(given_weight, Mask.from_dense(dense), CONTEXT).to(dtype)
    for i in range(4):
        for j in range(5):
            assert float(found[i, j]) == float((base if dense[i, j] else given_weight.value)[i, j])
    assert torch.equal(Restore().edit(given_weight, Whole((4, 5)), CONTEXT).to(dtype), base)


def test_restore_to_oneself_is_the_identity() -> None:
    given_weight = weight((4, 5))
    itself = Weight("w", 0, given_weight.value, given_weight.value, given_weight.generator)
    assert torch.equal(Restore().edit(itself, Mask.from_dense(torch.ones(4, 5, dtype=torch.bool)), CONTEXT), itself.value)


def test_restore_needs_a_base_of_the_same_shape() -> None:
    with pytest.raises(BrittleError, match="none was given"):
        Restore().edit(weight((2, 3)), Whole((2, 3)), CONTEXT)
    with pytest.raises(BrittleError, match=r"\(2, 3\) but \(3, 2\) in the base model"):
        Restore().edit(weight((2, 3), base=torch.zeros(3, 2)), Whole((2, 3)), CONTEXT)
