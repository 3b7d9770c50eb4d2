"""What two parts have in common, against sets of entries and against every random part there is."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from brittle_eval.comparing.overlaps import Overlap, block_of, kinds_of, pair_overlap, together
from brittle_eval.errors import BrittleError
from brittle_eval.regions import Mask, Part, Projector, Whole

SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, max_side=6)
PAIRS = SHAPES.flatmap(lambda shape: st.tuples(arrays.arrays(bool, shape), arrays.arrays(bool, shape)))


def mask(dense: np.ndarray) -> Mask:
    return Mask.from_dense(torch.from_numpy(dense))


def jaccard(a: set[int], b: set[int]) -> float | None:
    return len(a & b) / len(a | b) if a | b else None


def entries(dense: np.ndarray) -> set[int]:
    return {place for place, inside in enumerate(dense.reshape(-1)) if inside}


@given(PAIRS)
def test_masks_are_compared_as_sets(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    found = pair_overlap(mask(a), mask(b))
    assert found.value == jaccard(entries(a), entries(b))
    assert (found.shared, found.size) == (len(entries(a) & entries(b)), len(entries(a) | entries(b)))
    assert pair_overlap(mask(b), mask(a)) == found


@given(SHAPES.flatmap(lambda shape: arrays.arrays(bool, shape)))
def test_a_whole_weight_is_a_full_mask(dense: np.ndarray) -> None:
    whole, full = Whole(dense.shape), mask(np.ones_like(dense))
    pairs: list[tuple[Part, Part]] = [(whole, full), (full, whole), (whole, whole)]
    for one, other in pairs:
        assert pair_overlap(one, other) == pair_overlap(full, full)
    assert pair_overlap(whole, mask(dense)) == pair_overlap(mask(dense), whole) == pair_overlap(full, mask(dense))


@given(SHAPES.flatmap(lambda shape: arrays.arrays(bool, shape)))
def test_a_weight_that_is_not_named_is_empty(dense: np.ndarray) -> None:
    assert pair_overlap(mask(dense), None) == pair_overlap(None, mask(dense)) == pair_overlap(mask(dense), mask(dense & False))


@pytest.mark.parametrize("a", range(6))
@pytest.mark.parametrize("b", range(6))
def test_chance_is_the_mean_over_every_pair_of_such_masks(a: int, b: int) -> None:
    places = range(5)
    shared = [len({*one} & {*other}) for one in combinations(places, a) for other in combinations(places, b)]
    expected = Fraction(sum(shared), len(shared))
    dense = [np.array([[place < count for place in places]]) for count in (a, b)]
    found = pair_overlap(mask(dense[0]), mask(dense[1]))
    assert found.expected_shared == pytest.approx(float(expected))
    if a + b:
        assert found.chance == pytest.approx(float(expected / (a + b - expected)))
    else:
        assert found.chance is found.value is None


@given(st.lists(PAIRS, min_size=1, max_size=4))
def test_a_sum_over_weights_is_the_measure_of_all_entries(weights: list[tuple[np.ndarray, np.ndarray]]) -> None:
    found = together(pair_overlap(mask(a), mask(b)) for a, b in weights)
    sides = [{(n, place) for n, pair in enumerate(weights) for place in entries(pair[side])} for side in (0, 1)]
    assert found.value == (len(sides[0] & sides[1]) / len(sides[0] | sides[1]) if sides[0] | sides[1] else None)


def test_what_has_no_measure_is_refused() -> None:
    class Odd:
        shape = (2, 2)

    with pytest.raises(BrittleError, match="no measure compares Odd and Whole"):
        pair_overlap(cast(Part, Odd()), Whole((2, 2)))
    with pytest.raises(BrittleError, match="no measure compares nothing"):
        pair_overlap(None, None)
    with pytest.raises(BrittleError, match="IoU and phi do not add up"):
        _ = Overlap("IoU", 1, 2, 0, 2) + Overlap("phi", 1, 2, 0, 2)


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("model.layers.3.mlp.up_proj.weight", 3),
        ("transformer.h.11.attn.c_attn.weight", 11),
        ("model.language_model.layers.2.mlp.experts.5.up_proj.weight", 2),
        ("lm_head.weight", None),
    ],
)
def test_blocks_are_read_from_names(name: str, block: int | None) -> None:
    assert block_of(name) == block


def test_kinds_are_module_names_and_longer_where_they_would_join() -> None:
    llama = [
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
    ]
    assert list(kinds_of(llama).values()) == ["q_proj", "q_proj", "up_proj"]
    gpt2 = ["transformer.h.0.attn.c_proj.weight", "transformer.h.0.mlp.c_proj.weight", "transformer.h.0.mlp.c_fc.weight"]
    assert list(kinds_of(gpt2).values()) == ["attn.c_proj", "mlp.c_proj", "c_fc"]
    experts = ["model.layers.0.mlp.experts.0.up_proj.weight", "model.layers.0.mlp.experts.gate_up_proj[7]", "lm_head.weight"]
    assert list(kinds_of(experts).values()) == ["up_proj", "gate_up_proj", "lm_head"]


def subspace(ranks: int, seed: int, size: int = 12) -> Projector:
    drawn = torch.randn(size, ranks, generator=torch.Generator().manual_seed(seed))
    return Projector.onto((size, 5), torch.linalg.qr(drawn).Q)


@pytest.mark.parametrize(("k", "m"), [(1, 1), (2, 5), (4, 3), (0, 2)])
def test_low_rank_parts_are_compared_by_the_angles_between_their_spans(k: int, m: int) -> None:
    one, other = subspace(k, 1), subspace(m, 2)
    cosines = torch.linalg.svdvals(one.left.T.double() @ other.left.double())
    found = pair_overlap(one, other)
    assert (found.measure, found.size, found.expected_shared) == ("φ", min(k, m), pytest.approx(k * m / 12))
    assert found.shared == pytest.approx(float((cosines**2).sum()), rel=1e-5)
    itself = pair_overlap(other, other).value
    assert itself == pytest.approx(1)


def test_chance_is_the_mean_over_random_subspaces() -> None:
    fixed = subspace(3, 0)
    drawn = [pair_overlap(fixed, subspace(4, seed)) for seed in range(1, 400)]
    assert drawn[0].chance == pytest.approx(4 / 12)
    assert np.mean([one.value for one in drawn]) == pytest.approx(4 / 12, abs=0.02)


def test_ranks_and_entries_do_not_compare_and_a_missing_part_has_no_ranks() -> None:
    part = subspace(2, 1)
    with pytest.raises(BrittleError, match="two regions of entries, or two of ranks"):
        pair_overlap(part, Whole((12, 5)))
    assert pair_overlap(part, None).value is None
