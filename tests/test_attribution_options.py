"""The options of SNIP and Wanda against their definitions, and what built-in attributions do with the driver's memory."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from brittle_eval import Attribution, BrittleError, Weight
from brittle_plugins.snip import Snip
from brittle_plugins.wanda import Wanda
from tests.test_builtin_methods import DTYPES, close, generator, run, seen, weight


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("loss", ["mean", "sum"])
def test_snip_signed_and_of_the_summed_loss(signed: bool, loss: Literal["mean", "sum"]) -> None:
    """The driver gives the gradient of the mean loss: over n response tokens that of the sum is n times as large."""
    given_weight, lengths = weight((3, 5)), (4, 1, 9)
    gradients = [torch.randn(3, 5, generator=generator(seed)) for seed in (5, 6, 7)]
    expected = torch.zeros(3, 5, dtype=torch.float64)
    for length, grad in zip(lengths, gradients, strict=True):
        for i in range(3):
            for j in range(5):
                product = float(given_weight.value[i, j]) * float(grad[i, j]) * (length if loss == "sum" else 1)
                expected[i, j] += (-product if signed else abs(product)) / 3
    batches = [seen(torch.zeros(n, 5), grad.clone()) for n, grad in zip(lengths, gradients, strict=True)]
    assert close(run(Snip(signed, loss), given_weight, batches), expected)


def test_signed_snip_is_what_removing_an_entry_does_to_the_loss() -> None:
    """To first order: for an entry that is small anyway, the loss with the entry at zero minus the loss."""
    inputs, labels = torch.randn(5, 6, generator=generator(1), dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    value = torch.randn(4, 6, generator=generator(2), dtype=torch.float64) * 1e-4

    def loss(w: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(inputs @ w.T, labels)

    w = value.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(w), w)
    found = run(Snip(signed=True), Weight("w", 0, value, None, generator(1)), [seen(inputs, grad.float())])
    for i in range(4):
        for j in range(6):
            without = value.clone()
            without[i, j] = 0
            assert float(found[i, j]) == pytest.approx(float(loss(without) - loss(value)), rel=1e-2, abs=1e-9)


@pytest.mark.parametrize("method", [Wanda(), Snip(), Snip(signed=True, loss="sum")], ids=str)
def test_what_was_seen_may_be_overwritten_afterwards(method: Attribution) -> None:
    """The driver hands out its own memory, and the next batch comes in the same."""
    given_weight = weight((3, 5))
    drawn = [(torch.randn(4, 5, generator=generator(n)), torch.randn(3, 5, generator=generator(n + 9))) for n in range(3)]
    fresh = run(method, given_weight, [seen(inputs.clone(), grad.clone()) for inputs, grad in drawn])
    state: Any = method.start(given_weight)
    memory = seen(torch.empty(4, 5), torch.empty(3, 5))
    assert memory.weight_grad is not None
    for inputs, grad in drawn:
        memory.inputs.copy_(inputs)
        memory.weight_grad.copy_(grad)
        state = method.update(state, memory)
        assert torch.equal(memory.inputs, inputs)
        memory.inputs.fill_(math.nan)
        memory.weight_grad.fill_(math.nan)
    assert torch.equal(method.finish(state, given_weight), fresh)


@pytest.mark.parametrize("dtype", DTYPES)
def test_wanda_of_what_safety_training_changed(dtype: torch.dtype) -> None:
    base, inputs = torch.randn(3, 4, generator=generator(9)).to(dtype), torch.randn(6, 4, generator=generator(8))
    given_weight = weight((3, 4), dtype, base=base)
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for i in range(3):
        for j in range(4):
            norm = math.sqrt(sum(float(token[j]) ** 2 for token in inputs))
            expected[i, j] = abs(float(given_weight.value[i, j]) - float(base[i, j])) * norm
    assert close(run(Wanda(use_diff=True), given_weight, [seen(inputs)]), expected)
    with pytest.raises(BrittleError, match="use-diff needs the base model's"):
        run(Wanda(use_diff=True), weight((3, 4)), [seen(inputs)])
