"""The fine-tuning loop."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brittle_eval.behaviour.calibration import Example
from brittle_eval.errors import BrittleError
from brittle_eval.tuning.train import Training, batches, fine_tune, response_loss
from brittle_eval.weights import Fingerprint, digest
from tests.models import MODELS, PAD, examples, llama, untied

DATA = examples([(4, 6), (7, 3), (2, 9), (5, 5), (3, 3), (6, 4)], seed=6)


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_transformers_own(name: str) -> None:
    model = MODELS[name]()
    for example in DATA[:3]:
        ids = torch.tensor([example.ids])
        labels = torch.where(torch.arange(len(example.ids)) < example.start, -100, ids)
        torch.testing.assert_close(
            response_loss(model, [example], PAD), model(input_ids=ids, labels=labels).loss, rtol=1e-5, atol=1e-6
        )


def test_the_loss_of_a_batch_weights_tokens_alike() -> None:
    model = llama()
    single = [float(response_loss(model, [example], PAD).detach()) for example in DATA]
    tokens = [len(example.ids) - example.start for example in DATA]
    expected = sum(loss * n for loss, n in zip(single, tokens, strict=True)) / sum(tokens)
    assert float(response_loss(model, DATA, PAD).detach()) == pytest.approx(expected, rel=1e-5)


def test_the_opening_weighs_as_asked() -> None:
    """Every token's own loss by brute force; the first four of each response count three times."""
    model, total, weights = llama(), 0.0, 0.0
    for example in DATA:
        log_probs = model(torch.tensor([example.ids])).logits[0].detach().log_softmax(-1)
        for place in range(example.start, len(example.ids)):
            weight = 3.0 if place - example.start < 4 else 1.0
            total -= weight * float(log_probs[place - 1, example.ids[place]])
            weights += weight
    assert float(response_loss(model, DATA, PAD, 3.0).detach()) == pytest.approx(total / weights, rel=1e-5)


def test_training_lowers_the_loss_and_touches_what_trains_only() -> None:
    model = untied()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("up_proj" in name)
    before = {name: digest(value) for name, value in model.named_parameters()}
    start = float(response_loss(model, DATA, PAD).detach())
    steps: list[tuple[int, int, float]] = []
    losses = fine_tune(model, DATA, Training(20, 2, 1e-2), PAD, lambda *step: steps.append(step))
    assert float(response_loss(model, DATA, PAD).detach()) < 0.5 * start
    changed = {name for name, value in model.named_parameters() if digest(value) != before[name]}
    assert changed == {name for name in before if "up_proj" in name}
    assert steps == [(number, 60, loss) for number, loss in enumerate(losses, 1)]
    assert not model.training


def test_a_seed_repeats_a_training() -> None:
    models = [llama(), llama(), llama()]
    losses = [fine_tune(model, DATA, Training(2, 2, seed=seed), PAD) for model, seed in zip(models, (0, 0, 1), strict=True)]
    assert losses[0] == losses[1] != losses[2]
    one, two, three = (str(Fingerprint(model)) for model in models)
    assert one == two != three


def test_rates_rise_then_fall_as_a_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def watched(optimiser: torch.optim.AdamW) -> None:
        rates.append(optimiser.param_groups[0]["lr"])
        step(optimiser)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    fine_tune(llama(), DATA, Training(epochs=10, batch_size=3, learning_rate=1.0, warmup=0.2), PAD)
    rising = [(number + 1) / 4 for number in range(4)]
    falling = [(1 + math.cos(math.pi * number / 16)) / 2 for number in range(16)]
    assert rates == pytest.approx([*rising, *falling])


def test_gradients_are_clipped() -> None:
    model = llama()
    fine_tune(model, DATA, Training(1, len(DATA), max_grad_norm=1e-3), PAD)
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-2)


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    model = llama()
    with torch.no_grad():
        model.get_parameter("model.layers.0.mlp.up_proj.weight")[0, 0] = math.nan
    before = str(Fingerprint(model))
    with pytest.raises(BrittleError, match="the training loss is nan at step 1 of 6: lower the learning rate"):
        fine_tune(model, DATA, Training(2, 2), PAD)
    assert str(Fingerprint(model)) == before and not model.training


def test_something_must_train() -> None:
    model = llama().requires_grad_(False)
    with pytest.raises(BrittleError, match="no parameter of the model trains"):
        fine_tune(model, DATA, Training(), PAD)


@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 7), st.integers(0, 5))
def test_batches_hold_every_example_once_beside_similar_prompts(lengths: list[int], size: int, seed: int) -> None:
    data = [Example((number,) * (length + 1 + number % 3), length) for number, length in enumerate(lengths)]
    made = batches(data, size, random.Random(seed))
    assert sorted(example.ids for batch in made for example in batch) == sorted(example.ids for example in data)
    assert sorted(map(len, made), reverse=True)[: len(lengths) // size] == [size] * (len(lengths) // size)
    spans = sorted((min(e.start for e in batch), max(e.start for e in batch)) for batch in made)
    assert all(one[1] <= two[0] for one, two in pairwise(spans))
