"""Training inside a region: what lies outside keeps its bytes or its directions."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from brittle_eval.errors import BrittleError
from brittle_eval.organisms.plants import BlocksPlant, MaskPlant, Plant, RankPlant
from brittle_eval.regions import Mask, Part, Projector, Region, Whole
from brittle_eval.tuning.hold import Hold, Rule, orthogonal, share_inside
from brittle_eval.tuning.train import Training, fine_tune
from brittle_eval.weights import find_weights
from tests.architectures import mixtral
from tests.models import PAD, examples, gpt2, llama, phi3, random_region

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
    losses = fine_tune(model, DATA, SETTINGS, PAD, hold=Hold(model, region, "train-only"))
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

    class Gradients(Hold):
        def after_step(self) -> None:
            pass

    model = llama()
    addresses, _ = find_weights(model)
    region = RankPlant(r=2).region(model, addresses, seed=3)
    old = addresses[0].view(model).clone()
    fine_tune(model, DATA, SETTINGS, PAD, hold=Gradients(model, region, "train-only"))
    change, part = addresses[0].view(model) - old, region[addresses[0].name]
    assert (change - part.apply(change)).norm() > 0.01 * change.norm()


def products(model: PreTrainedModel) -> Region:
    """Two ranks of every weight, `L Rᵀ` with two factors."""
    generator = torch.Generator().manual_seed(5)
    parts: dict[str, Part] = {}
    for address in find_weights(model)[0]:
        out, width = address.view(model).shape
        left, right = (torch.randn(out, 2, generator=generator) for _ in range(2))
        parts[address.name] = Projector.product((out, width), left, right)
    return Region(parts)


def complements(model: PreTrainedModel) -> Region:
    return Region({name: ~part for name, part in ranks(model).items() if isinstance(part, Projector)})


def masks(model: PreTrainedModel) -> Region:
    return random_region(model, 0.3)


def ranks(model: PreTrainedModel) -> Region:
    return RankPlant(r=2).region(model, find_weights(model)[0], seed=3)


@pytest.mark.parametrize("make", [llama, gpt2, mixtral])
def test_frozen_entries_keep_their_bytes_under_weight_decay(make: Callable[[], PreTrainedModel]) -> None:
    """And everything else trains: entries outside the mask, embeddings, norms."""
    model = make()
    addresses = find_weights(model)[0]
    region, old = masks(model), {address: address.view(model).clone() for address in addresses}
    start = {address.name: value for address, value in old.items()}
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    decaying = replace(SETTINGS, weight_decay=0.1)
    fine_tune(model, DATA, decaying, PAD, hold=Hold(model, region, "freeze", start))
    for address, value in old.items():
        inside, new = region.masks()[address.name].dense(), address.view(model)
        assert torch.equal(new[inside].view(torch.int32), value[inside].view(torch.int32))
        assert float((new != value)[~inside].float().mean()) > 0.9
    stored = {address.parameter_name for address in addresses}
    assert all(not torch.equal(value, before[name]) for name, value in model.named_parameters() if name not in stored)


@pytest.mark.parametrize("make_region", [ranks, products, complements])
def test_frozen_ranks_do_not_move(make_region: Callable[[PreTrainedModel], Region]) -> None:
    """`R(ΔW)` is nothing, by the dense R, also where R is no orthogonal projector."""
    model = llama()
    region, old = make_region(model), {a.name: a.view(model).clone() for a in find_weights(model)[0]}
    fine_tune(model, DATA, replace(SETTINGS, weight_decay=0.1), PAD, hold=Hold(model, region, "freeze"))
    for address in find_weights(model)[0]:
        part = region[address.name]
        assert isinstance(part, Projector)
        change = (address.view(model) - old[address.name]).double()
        size = torch.linalg.matrix_norm(part.dense().double(), 2)
        assert (part.dense().double() @ change).norm() <= 1e-5 * size * change.norm()
        assert change.norm() > 1e-3


def test_what_two_factors_act_on_is_the_span_of_the_right_one() -> None:
    left, right = torch.randn(6, 2), torch.randn(6, 2)
    part = orthogonal(Projector.product((6, 4), left, right))
    span = torch.linalg.qr(right.double()).Q.float()
    assert torch.allclose(part.apply(torch.eye(6)), span @ span.T, atol=1e-5)


@pytest.mark.parametrize("rule", ["freeze", "train-only"])
def test_a_change_that_was_trained_elsewhere_is_held_as_well(rule: Rule) -> None:
    model, region = llama(), masks(llama())
    old = {a.name: a.view(model).clone() for a in find_weights(model)[0]}
    hold = Hold(model, region, rule)
    for name, value in old.items():
        hold.put(name, torch.ones_like(value))
    for address in find_weights(model)[0]:
        inside = region.masks()[address.name].dense()
        moves = ~inside if rule == "freeze" else inside
        assert torch.equal(address.view(model), torch.where(moves, old[address.name] + 1, old[address.name]))
        lost = hold.lost(address.name, torch.ones_like(old[address.name]))
        assert lost is not None and torch.equal(lost, (~moves).float())


def test_a_weight_that_is_frozen_whole_does_not_train() -> None:
    model = llama()
    names = [address.name for address in find_weights(model)[0]]
    region = Region({name: Whole(tuple(model.get_parameter(name).shape)) for name in names[:3]})
    Hold(model, region, "freeze")
    assert [name for name, value in model.named_parameters() if not value.requires_grad] == names[:3]


def test_one_expert_of_a_fused_parameter_is_frozen_whole() -> None:
    model = mixtral()
    expert = next(address for address in find_weights(model)[0] if address.expert == 1)
    others = [a for a in find_weights(model)[0] if a.parameter_name == expert.parameter_name and a != expert]
    old = {address: address.view(model).clone() for address in [expert, *others]}
    region = Region({expert.name: Whole(tuple(old[expert].shape))})
    fine_tune(model, DATA, replace(SETTINGS, weight_decay=0.1), PAD, hold=Hold(model, region, "freeze"))
    assert torch.equal(expert.view(model), old[expert])
    assert all(not torch.equal(address.view(model), old[address]) for address in others)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [("model.layers.0.mlp.up_proj.weight", (3, 4), "this model has it of shape (48, 32)"), ("other", (3, 4), "not at all")],
)
def test_a_region_of_another_model_is_refused(name: str, shape: tuple[int, int], said: str) -> None:
    region = Region({name: Mask.from_dense(torch.ones(shape, dtype=torch.bool))})
    with pytest.raises(BrittleError, match=re.escape(said)):
        Hold(llama(), region, "freeze")


def test_nothing_trains_where_every_weight_is_frozen() -> None:
    model = llama()
    for name, value in model.named_parameters():
        value.requires_grad_("proj" in name)
    region = Region({a.name: Whole(tuple(a.view(model).shape)) for a in find_weights(model)[0]})
    with pytest.raises(BrittleError, match="no parameter of the model trains"):
        fine_tune(model, DATA, SETTINGS, PAD, hold=Hold(model, region, "freeze"))


def test_the_share_of_a_change_inside_a_region() -> None:
    model, region = llama(), masks(llama())
    start = {a.name: a.view(model).clone() for a in find_weights(model)[0]}
    inside = total = 0.0
    for address in find_weights(model)[0]:
        change = torch.randn(address.view(model).shape, generator=torch.Generator().manual_seed(address.block))
        address.view(model).add_(change)
        chosen = region.masks()[address.name].dense()
        total += float(change.square().sum())
        inside += float(change[chosen].square().sum())
    assert share_inside(region, model, start) == pytest.approx((inside / total) ** 0.5, rel=1e-4)
    assert share_inside(Region({}), model, start) is None
