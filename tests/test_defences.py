"""Defences against fine-tuning, each against its definition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from brittle_eval.engine.isolate import whole_region
from brittle_eval.tuning.train import response_loss
from brittle_eval.weights import find_weights
from brittle_plugins.extrapolate import Extrapolate
from brittle_plugins.few_tokens_deep import few_tokens_deep
from brittle_plugins.finetune import Finetune
from brittle_plugins.safe_lora import SafeLoRA
from tests.editing import doing, unchanged
from tests.models import PAD, context, llama, random_region
from tests.test_finetune import DATA, FULL, apply, tuning, values


@pytest.mark.parametrize("k", [0, 2])
def test_extrapolation_goes_on_along_the_strongest_ranks(tmp_path: Path, k: int) -> None:
    model, base = llama(), values(llama(seed=4))
    old, region = values(model), random_region(model, 0.5)
    with unchanged(model), apply(model, region, tmp_path, Extrapolate(k=k, c=1.5), other=context(base)):
        for name, value in values(model).items():
            change = old[name] - base[name]
            left, sizes, right = torch.linalg.svd(change, full_matrices=False)
            best = left[:, :k] @ torch.diag(sizes[:k]) @ right[:k] if k else change
            expected = old[name] + 1.5 * best * region.masks()[name].dense()
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tau", [-1.0, 0.5])
def test_safe_lora_projects_what_leaves_the_direction_of_safety(tmp_path: Path, tau: float) -> None:
    """V has one rank; half of the weights move along it, the others at random."""
    model, draw = llama(), torch.Generator().manual_seed(0)
    old = values(model)
    base = {
        name: value - torch.randn(len(value), 1, generator=draw) @ torch.randn(1, value.shape[1], generator=draw)
        for name, value in old.items()
    }
    steps = {
        name: (value - base[name]) * 0.1 if number % 2 else torch.randn(value.shape, generator=draw) * 0.1
        for number, (name, value) in enumerate(old.items())
    }
    moved = iter(steps.values())
    shift = doing(lambda value: value + next(moved))
    replaced = []
    every = whole_region(model, find_weights(model)[0])
    with unchanged(model), apply(model, every, tmp_path, shift, SafeLoRA(tau), other=context(base)):
        for name, value in values(model).items():
            safety, change = old[name] - base[name], (old[name] + steps[name]) - old[name]
            projected = safety @ safety.T @ change / safety.square().sum().sqrt()
            cosine = torch.nn.functional.cosine_similarity(projected.flatten(), change.flatten(), dim=0)
            replaced.append(bool(cosine <= tau))
            torch.testing.assert_close(value, old[name] + (projected if replaced[-1] else change), rtol=1e-4, atol=1e-4)
    assert replaced == [tau > 0 and number % 2 == 0 for number in range(len(steps))]


def test_the_loss_that_holds_the_first_tokens_has_the_papers_weights() -> None:
    """Its gradient is that of `−w_t log π`, with w_t by hand; at the reference w_t = 1 for every token."""
    reference, model = llama(), llama(seed=2)
    loss_of = few_tokens_deep(reference, DATA, PAD)
    at_start = loss_of(reference, DATA)
    at_start.backward()  # type: ignore[no-untyped-call]
    plain = llama()
    response_loss(plain, DATA, PAD).backward()  # type: ignore[no-untyped-call]
    for one, other in zip(reference.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)
    loss_of(model, DATA[:2]).backward()  # type: ignore[no-untyped-call]
    by_hand, terms = llama(seed=2), list[Tensor]()
    for example in DATA[:2]:
        known, seen = (
            one(torch.tensor([example.ids])).logits[0].log_softmax(-1) for one in (reference.requires_grad_(False), by_hand)
        )
        for place in range(example.start, len(example.ids)):
            number, token = place - example.start + 1, example.ids[place]
            beta = 0.5 if number == 1 else 2.0 if number <= 5 else 0.1
            gain = float(seen[place - 1, token].detach() - known[place - 1, token])
            weight = 2 * (1 - 1 / (1 + 2.718281828459045 ** (-beta * gain)))
            terms.append(-weight * seen[place - 1, token])
    torch.stack(terms).mean().backward()  # type: ignore[no-untyped-call]
    for one, other in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)


def test_a_training_with_that_loss_stays_nearer_at_the_first_tokens(tmp_path: Path) -> None:
    def opening(settings: Finetune, folder: Path) -> float:
        model = llama()
        with unchanged(model), apply(model, whole_region(model, find_weights(model)[0]), folder, settings, other=tuning(folder)):
            return float(response_loss(model, DATA, PAD, opening=1e6).detach())

    long = replace(FULL, epochs=8)
    plain, held = opening(long, tmp_path / "a"), opening(replace(long, loss="few-tokens-deep"), tmp_path / "b")
    assert held > plain


def test_the_two_ways_to_weight_tokens_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="give one of the two"):
        Finetune(loss="few-tokens-deep", opening=4.0)
