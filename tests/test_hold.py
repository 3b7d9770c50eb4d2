"""Training inside a region: what lies outside keeps its bytes or its directions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from brittle_eval.engine.hold import TrainOnly, within
from brittle_eval.errors import BrittleError
from brittle_eval.organisms.plants import BlocksPlant, MaskPlant, Plant, RankPlant
from brittle_eval.organisms.train import Training, fine_tune
from brittle_eval.regions import Mask, Projector, Whole
from brittle_eval.weights import find_weights
from tests.models import PAD, examples, gpt2, llama, phi3

DATA = examples([(4, 6), (7, 3), (2, 9), (5, 5), (3, 3), (6, 4)], seed=6)
SETTINGS = Training(epochs=3, batch_size=2, learning_rate=1e-2)


@pytest.mark.parametrize("make", [llama, gpt2, phi3])
@pytest.mark.parametrize("plant", [MaskPlant(share=0.1), BlocksPlant(first=1, last=1), RankPlant(r=2)])
def test_only_the_region_trains(make: Callable[[], PreTrainedModel], plant: Plant) -> None:
    model = make()
    addresses, _ = find_weights(model)
    region = plant.region(model, addresses, seed=3)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    views = {address: address.view(model).clone() for address in addresses}
    losses = fine_tune(model, DATA, SETTINGS, PAD, hold=TrainOnly(model, addresses, region))
    assert losses[-1] < losses[0]
    for address, old in views.items():
        new, part = address.view(model), region.get(address.name)
        if part is None:
            assert torch.equal(new, old)
        elif isinstance(part, Mask):
            inside = part.dense()
            assert torch.equal(new[~inside], old[~inside])
            assert float((new != old)[inside].float().mean()) > 0.5
        elif isinstance(part, Projector):
            change = (new - old).double()
            basis = part.left.double()
            assert change.norm() > 0
            assert (change - basis @ (basis.T @ change)).norm() <= 1e-5 * change.norm()
        else:
            assert isinstance(part, Whole) and not torch.equal(new, old)
    stored = {address.parameter_name for address in addresses}
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters() if name not in stored)


def test_adam_leaves_a_subspace_when_gradients_alone_are_projected() -> None:
    """Why weights are projected too."""

    class Gradients(TrainOnly):
        def after_step(self) -> None:
            pass

    model = llama()
    addresses, _ = find_weights(model)
    region = RankPlant(r=2).region(model, addresses, seed=3)
    old = addresses[0].view(model).clone()
    fine_tune(model, DATA, SETTINGS, PAD, hold=Gradients(model, addresses, region))
    change, part = addresses[0].view(model) - old, region[addresses[0].name]
    assert (change - within(part, change)).norm() > 0.01 * change.norm()


def test_two_factors_are_refused() -> None:
    part = Projector.product((6, 4), torch.randn(6, 1), torch.randn(6, 1))
    with pytest.raises(BrittleError, match="two factors"):
        within(part, torch.zeros(6, 4))
