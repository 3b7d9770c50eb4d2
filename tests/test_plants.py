"""Plants and the comparison with them, against brute force."""

from __future__ import annotations

import math

import pytest
import torch

from brittle_eval.errors import BrittleError, UnknownName
from brittle_eval.organisms.plants import BlocksPlant, MaskPlant, RankPlant, read_plant
from brittle_eval.organisms.truth import Agreement, agreement, average_precision, captured
from brittle_eval.regions import Mask, Projector, Region, Whole
from brittle_eval.weights import find_weights
from tests.models import llama


def orthonormal(out: int, rank: int, seed: int) -> torch.Tensor:
    random = torch.randn(out, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(random).Q


def test_plants_are_read_as_they_are_typed() -> None:
    assert read_plant("mask") == MaskPlant(0.01)
    assert read_plant("mask:share=0.2") == MaskPlant(0.2)
    assert read_plant("blocks:first=1,last=2") == BlocksPlant(1, 2)
    assert read_plant("rank:r=3") == RankPlant(3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("masks", "did you mean 'mask'|mask"),
        ("mask:share=2", "fraction in \\[0, 1\\]"),
        ("mask:share", "expected key=value"),
        ("mask:r=2", "option of mask"),
        ("rank:r=0", "greater than or equal to 1"),
        ("blocks:first=-1", "greater than or equal to 0"),
    ],
)
def test_other_words_are_errors(text: str, said: str) -> None:
    with pytest.raises((BrittleError, UnknownName), match=said):
        read_plant(text)


def test_a_place_has_its_size_in_every_weight_and_depends_on_the_seed() -> None:
    model = llama()
    addresses, _ = find_weights(model)
    mask = MaskPlant(0.1).region(model, addresses, seed=0)
    assert {name: part.count for name, part in mask.items()} == {
        address.name: int(0.1 * address.view(model).numel()) for address in addresses
    }
    assert mask.iou(MaskPlant(0.1).region(model, addresses, seed=0)) == 1
    assert mask.iou(MaskPlant(0.1).region(model, addresses, seed=1)) < 0.2
    assert {address.block for address in addresses if address.name in BlocksPlant(1, 1).region(model, addresses, 0)} == {1}
    assert RankPlant(3).region(model, addresses, 0).ranks == 3 * len(addresses)


def test_a_place_that_the_model_has_not_is_an_error() -> None:
    model = llama()
    addresses, _ = find_weights(model)
    with pytest.raises(BrittleError, match="holds no weight"):
        BlocksPlant(7, 9).region(model, addresses, 0)
    with pytest.raises(BrittleError, match="lower r"):
        RankPlant(400).region(model, addresses, 0)


def test_entries_agree_as_sets_do() -> None:
    found, truth = torch.zeros(4, 5, dtype=torch.bool), torch.zeros(4, 5, dtype=torch.bool)
    found[0], truth[0, :2], truth[3] = True, True, True
    one = agreement(Region({"w": Mask.from_dense(found)}), Region({"w": Mask.from_dense(truth), "v": Whole((2, 3))}))
    assert one is not None
    assert (one.precision, one.recall) == (2 / 5, 2 / 13)
    assert one.chance == pytest.approx(13 / 26) and one.iou == pytest.approx(2 / (5 + 13 - 2))
    everywhere = agreement(
        Region({"w": Mask.from_dense(found)}), Region({"w": Mask.from_dense(truth)}), {"w": (4, 5), "u": (2, 20)}
    )
    assert everywhere is not None and everywhere.chance == pytest.approx(7 / 60)


def test_ranks_agree_as_spans_do() -> None:
    basis = orthonormal(8, 4, 0)
    truth = Region({"w": Projector.onto((8, 9), basis[:, :3])})
    same = agreement(Region({"w": Projector.onto((8, 9), basis[:, 1:4])}), truth)
    assert same is not None
    assert same.precision == pytest.approx(2 / 3) and same.recall == pytest.approx(2 / 3)
    draws = [agreement(Region({"w": Projector.onto((8, 9), orthonormal(8, 2, seed))}), truth) for seed in range(400)]
    precisions = [one.precision for one in draws if one]
    assert sum(precisions) / len(precisions) == pytest.approx(draws[0].chance if draws[0] else -1, abs=0.03)
    inside = agreement(Region({"w": Projector.onto((8, 9), basis[:, :2])}), Region({"w": Whole((8, 9))}))
    assert inside is not None and (inside.precision, inside.recall) == (1, 2 / 8)
    assert agreement(Region({"w": Whole((8, 9))}), truth) is not None
    apart = agreement(Region({"w": Projector.onto((8, 9), basis[:, :2])}), Region({"w": Whole((8, 9)), "v": Whole((6, 4))}))
    assert apart is not None and apart.recall == 2 / (8 + 4), "a whole weight beside ranks counts its ranks, not its entries"
    assert agreement(Region({"w": Mask.from_dense(torch.rand(8, 9) < 0.5)}), truth) is None
    every = agreement(Region({"w": Mask.from_dense(torch.ones(8, 9, dtype=torch.bool))}), truth)
    assert every == agreement(Region({"w": Whole((8, 9))}), truth), "a mask of every entry is the whole weight"


def test_average_precision_is_the_step_integral() -> None:
    """Scores that order all true entries first give 1; random ones about the share of true entries."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(40, 50, generator=generator) < 0.1
    region = Region({"w": Mask.from_dense(truth)})

    def nested(scores: torch.Tensor) -> list[Agreement]:
        order = scores.reshape(-1).argsort(descending=True)
        found = []
        for size in range(1, 2001):
            mask = torch.zeros(2000, dtype=torch.bool)
            mask[order[:size]] = True
            one = agreement(Region({"w": Mask.from_dense(mask.reshape(40, 50))}), region)
            assert one is not None
            found.append(one)
        return found

    assert average_precision(nested(truth.float())) == pytest.approx(1)
    assert average_precision(nested(torch.rand(40, 50, generator=generator))) == pytest.approx(
        float(truth.float().mean()), abs=0.04
    )


def test_what_a_region_captures_of_a_change() -> None:
    change = {"w": torch.randn(6, 7, generator=torch.Generator().manual_seed(1)), "v": torch.ones(2, 2)}
    squares = {name: float(value.square().sum()) for name, value in change.items()}
    total, mask, basis = sum(squares.values()), torch.rand(6, 7) < 0.5, orthonormal(6, 2, 5)
    entries = captured(Region({"w": Mask.from_dense(mask)}), change.__getitem__, squares)
    assert entries == pytest.approx(float(change["w"][mask].square().sum()) / total)
    ranks = captured(Region({"w": Projector.onto((6, 7), basis)}), change.__getitem__, squares)
    assert ranks == pytest.approx(float((basis.T @ change["w"].double()).norm() ** 2) / total)
    assert captured(Region({"w": Whole((6, 7)), "v": Whole((2, 2))}), change.__getitem__, squares) == pytest.approx(1)
    assert math.isclose(captured(Region({"u": Whole((1, 1))}), change.__getitem__, squares), 0)
