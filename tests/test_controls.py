"""Control regions: as large as the region in every weight, elsewhere, and for magnitude with the same |W|."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.engine.controls import Kind, matched_control, parse_controls
from brittle_eval.engine.isolate import whole_region
from brittle_eval.errors import BrittleError
from brittle_eval.regions import Mask, Region, Whole
from brittle_eval.scores import highest
from brittle_eval.weights import find_weights
from tests.models import MODELS, gpt2, llama, random_region

KINDS = pytest.mark.parametrize("kind", ["random", "magnitude"])
LEVELS = torch.linspace(0, 1, 21)


def large_weights(model: PreTrainedModel, share: float) -> Region:
    """Entries drawn mostly from the large ones, as those with high scores are."""
    parts = {}
    for address in find_weights(model)[0]:
        value = address.view(model).abs()
        noisy = value * torch.rand(value.shape, generator=torch.Generator().manual_seed(1))
        parts[address.name] = Mask.from_dense(highest(noisy.reshape(1, -1), int(share * value.numel())).reshape(value.shape))
    return Region(parts)


def control(kind: Kind, region: Region, model: PreTrainedModel, seed: int = 0) -> Region:
    return matched_control(kind, region, model, find_weights(model)[0], torch.Generator().manual_seed(seed))


@KINDS
@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_same_count_in_every_weight_and_no_needless_overlap(kind: Kind, share: float, name: str) -> None:
    model = MODELS[name]()
    region = random_region(model, share)
    found = control(kind, region, model)
    assert list(found) == list(region)
    for weight, mask in region.masks().items():
        other = found.masks()[weight]
        size = mask.dense().numel()
        assert (other.shape, other.count) == (mask.shape, mask.count)
        assert (mask & other).count == max(0, 2 * mask.count - size)


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(0, 9), st.sampled_from(["random", "magnitude"]))
def test_any_mask_has_a_control(bits: list[bool], seed: int, kind: Kind) -> None:
    address = find_weights(MODEL)[0][0]
    size = address.view(MODEL).numel()
    dense = torch.tensor((bits * size)[:size]).reshape(address.view(MODEL).shape)
    region = Region({address.name: Mask.from_dense(dense)})
    found = control(kind, region, MODEL, seed).masks()[address.name]
    assert found.count == int(dense.sum())
    assert (found & Mask.from_dense(dense)).count == max(0, 2 * found.count - size)


MODEL = llama(layers=1)


def quantiles(region: Region, model: PreTrainedModel, name: str) -> Tensor:
    address = next(address for address in find_weights(model)[0] if address.name == name)
    return address.view(model).abs()[region.masks()[name].dense()].quantile(LEVELS)


def test_magnitudes_are_matched_where_random_ones_are_not() -> None:
    model = llama()
    region = large_weights(model, 0.05)
    matched, uniform = control("magnitude", region, model), control("random", region, model)
    for name in region:
        wanted = quantiles(region, model, name)
        spread = model.get_parameter(name).std()
        assert ((quantiles(matched, model, name) - wanted).abs().mean() / spread) < 0.2
        assert ((quantiles(uniform, model, name) - wanted).abs().mean() / spread) > 0.8


def test_a_bin_without_free_entries_takes_the_next_smaller() -> None:
    """The region is the 20 largest entries: nothing as large is free, so the control is the next 20."""
    model = llama(layers=1)
    address = find_weights(model)[0][0]
    value = address.view(model)
    value.copy_(torch.arange(1, value.numel() + 1).reshape(value.shape))
    inside = value > value.numel() - 20
    found = control("magnitude", Region({address.name: Mask.from_dense(inside)}), model).masks()[address.name].dense()
    assert sorted(value[found].tolist()) == list(range(value.numel() - 39, value.numel() - 19))


def test_smaller_entries_that_run_out_are_made_up_from_larger_ones() -> None:
    model = llama(layers=1)
    address = find_weights(model)[0][0]
    value = address.view(model)
    value.copy_(torch.arange(1, value.numel() + 1).reshape(value.shape))
    inside = value <= 20
    found = control("magnitude", Region({address.name: Mask.from_dense(inside)}), model).masks()[address.name]
    assert found.count == 20 and not bool((found.dense() & inside).any())


@KINDS
def test_seeds_repeat_and_differ(kind: Kind) -> None:
    model = gpt2()
    region = large_weights(model, 0.05)
    one, again, other = (control(kind, region, model, seed).masks() for seed in (0, 0, 1))
    assert one == again
    assert all(one[name] != other[name] for name in one)


def of_blocks(model: PreTrainedModel, blocks: set[int]) -> Region:
    return whole_region(model, [address for address in find_weights(model)[0] if address.block in blocks])


@KINDS
@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])
def test_the_control_of_whole_blocks_is_others_as_far_apart(kind: Kind, name: str) -> None:
    model = MODELS[name]()
    count = model.config.num_hidden_layers
    region = of_blocks(model, {0})
    assert control(kind, Region(region.masks()), model).keys() == control(kind, region, model).keys()
    for seed in range(6):
        found = control(kind, region, model, seed)
        assert any(found.keys() == of_blocks(model, {other}).keys() for other in range(1, count))
        assert all(isinstance(part, Whole) for part in found.values())
        assert found.count == region.count


def test_random_bands_differ_and_the_magnitude_band_is_the_nearest_in_norm() -> None:
    model = llama(layers=7)
    region = of_blocks(model, {2, 3})
    bands = [{0, 1}, {4, 5}, {5, 6}]
    drawn = [control("random", region, model, seed).keys() for seed in range(20)]
    assert all(any(one == of_blocks(model, band).keys() for one in drawn) for band in bands)
    assert all(any(one == of_blocks(model, band).keys() for band in bands) for one in drawn)
    with torch.no_grad():
        for address in find_weights(model)[0]:
            address.view(model).mul_({2: 3.0, 3: 5.0, 5: 5.0, 6: 3.0}.get(address.block, 1.0))
    assert control("magnitude", region, model).keys() == of_blocks(model, {5, 6}).keys()


@KINDS
def test_the_control_of_everything_is_everything(kind: Kind) -> None:
    model = llama(layers=1)
    whole = whole_region(model, find_weights(model)[0])
    assert control(kind, whole, model).masks() == whole.masks()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", []),
        ("random", [("random", 1)]),
        ("random:3,magnitude:1", [("random", 3), ("magnitude", 1)]),
        ("magnitude:12", [("magnitude", 12)]),
    ],
)
def test_controls_are_read(text: str, expected: list[tuple[str, int]]) -> None:
    assert parse_controls(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "randon:3", "random:0", "random:-1", "random:x", "random:²", "random:3,", "random:3, magnitude:1", "none,random:1"],
)
def test_bad_controls_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(BrittleError, match=r"is not random:N or magnitude:N with N ≥ 1; or give none") as caught:
        parse_controls(text)
    assert str(caught.value).startswith(f"--controls {text}: ") and "\n" not in str(caught.value)


def test_a_kind_is_given_once() -> None:
    with pytest.raises(BrittleError, match="'random' is given twice"):
        parse_controls("random:1,random:2")
