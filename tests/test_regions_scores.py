"""Masks, regions, and the exact selection, against brute force."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from brittle_eval import BrittleError, Compare, Mask, Region, Whole, highest, select, share

SHAPES = st.one_of(arrays.array_shapes(min_dims=1, max_dims=3, max_side=9), st.just((0, 3)), st.just(()))
BOOLS = SHAPES.flatmap(lambda shape: arrays.arrays(bool, shape))
PAIRS = SHAPES.flatmap(lambda shape: st.tuples(arrays.arrays(bool, shape), arrays.arrays(bool, shape)))
MATRICES = arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.integers(-3, 3))
DECIMALS = st.decimals(0, 1, places=3)


def mask(dense: np.ndarray) -> Mask:
    return Mask.from_dense(torch.from_numpy(np.asarray(dense)))


@given(BOOLS)
def test_a_mask_keeps_every_bit(dense: np.ndarray) -> None:
    packed = mask(dense)
    assert torch.equal(packed.dense(), torch.from_numpy(np.asarray(dense)))
    assert packed.count == int(dense.sum())
    assert len(packed.bits) == math.ceil(dense.size / 8)


@given(PAIRS)
def test_masks_are_sets(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    assert mask(a) & mask(b) == mask(a & b)
    assert mask(a) | mask(b) == mask(a | b)
    assert mask(a) - mask(b) == mask(a & ~b)
    assert ~mask(a) == mask(~a)
    assert (~mask(a)).count == a.size - mask(a).count


@given(PAIRS)
def test_a_mask_is_a_linear_map(pair: tuple[np.ndarray, np.ndarray]) -> None:
    part = mask(pair[0])
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randint(-9, 9, part.shape, generator=generator).float() for _ in range(2))
    assert torch.equal(part.apply(2 * x + y), 2 * part.apply(x) + part.apply(y))
    assert torch.equal(part.apply(part.apply(x)), part.apply(x))
    assert torch.equal(Whole(part.shape).apply(x), x)


def test_what_is_outside_a_mask_is_zero_whatever_it_was() -> None:
    part = mask(np.array([True, False, False]))
    assert part.apply(torch.tensor([1.0, math.inf, math.nan])).tolist() == [1.0, 0.0, 0.0]


def test_masks_of_two_shapes_are_not_combined() -> None:
    with pytest.raises(BrittleError, match=r"\(2,\) and \(3,\)"):
        _ = mask(np.ones(2, bool)) | mask(np.ones(3, bool))


@given(PAIRS)
def test_intersection_over_union(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    union = int((a | b).sum())
    expected = int((a & b).sum()) / union if union else 0.0
    assert Region({"w": mask(a)}).iou(Region({"w": mask(b)})) == expected


def test_regions_count_whole_weights_and_those_that_only_one_names() -> None:
    one = Region({"a": Whole((2, 2)), "b": mask(np.array([[True, False]]))})
    other = Region({"a": mask(np.array([[True, False], [False, False]]))})
    assert (one.count, other.count) == (5, 1)
    assert one.iou(other) == other.iou(one) == 1 / 5
    assert Region({}).iou(Region({})) == 0


@given(st.integers(0, 1000), st.integers(0, 3000))
def test_a_share_is_the_floor_of_the_decimal_that_was_typed(thousandths: int, size: int) -> None:
    assert share(float(f"0.{thousandths:03d}") if thousandths < 1000 else 1.0, size) == thousandths * size // 1000


def test_a_share_is_not_the_floor_of_the_binary_number() -> None:
    assert (share(0.29, 100), math.floor(0.29 * 100)) == (29, 28)


def brute(row: list[float], k: int) -> list[bool]:
    """The k highest of a row, by sorting on (score, position)."""
    order = sorted(range(len(row)), key=lambda position: (-row[position], position))
    return [position in order[:k] for position in range(len(row))]


@given(MATRICES, st.integers(-1, 9))
def test_highest_is_a_sort_with_ties_by_position(scores: np.ndarray, k: int) -> None:
    expected = [brute(row, max(k, 0)) for row in scores.tolist()]
    assert highest(torch.from_numpy(scores), k).tolist() == expected


@given(st.lists(MATRICES, min_size=1, max_size=3), DECIMALS, st.sampled_from(["row", "weight", "block", "global"]), st.booleans())
def test_select_against_brute_force(weights: list[np.ndarray], q: object, compare: Compare, lowest: bool) -> None:
    scores = {str(number): torch.from_numpy(weight) for number, weight in enumerate(weights)}
    chosen = select(scores, float(str(q)), compare, lowest=lowest)
    sign = -1 if lowest else 1
    if compare == "row":
        rows = [(sign * row).tolist() for value in scores.values() for row in value]
    elif compare == "weight":
        rows = [(sign * value).flatten().tolist() for value in scores.values()]
    else:
        rows = [[entry for value in scores.values() for entry in (sign * value).flatten().tolist()]]
    expected = [entry for row in rows for entry in brute(row, math.floor(Fraction(str(q)) * len(row)))]
    assert [entry for value in chosen.values() for entry in value.flatten().tolist()] == expected
    assert all(chosen[name].shape == value.shape for name, value in scores.items())


@given(MATRICES, DECIMALS, DECIMALS, st.sampled_from(["row", "weight"]))
def test_a_larger_share_holds_the_smaller(scores: np.ndarray, a: object, b: object, compare: Compare) -> None:
    small, large = sorted([float(str(a)), float(str(b))])

    def top(q: float) -> Tensor:
        return select({"w": torch.from_numpy(scores)}, q, compare)["w"]

    assert not bool((top(small) & ~top(large)).any())
