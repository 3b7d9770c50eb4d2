"""Low-rank regions: the linear map and its forms, against dense matrices in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from brittle_eval import BrittleError, Mask, Projector, Region, Whole, chance_overlap, overlap

SHAPES = [(6, 9), (9, 6), (7, 7), (5, 1), (1, 5)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(size: int, count: int, seed: int = 0) -> Tensor:
    basis: Tensor = torch.linalg.qr(normal(size, count, seed=seed)).Q
    return basis


def matrix(part: Projector) -> Tensor:
    """R by its definition, (out, out), float64."""
    inner = part.left.double() if part.right is None else part.left.double() @ part.right.double().T
    return torch.eye(part.shape[0], dtype=torch.float64) - inner if part.complement else inner


def close(found: Tensor, expected: Tensor) -> bool:
    """Within 1e-5, norm-wise, of the result or of the entries of order 1 that it was made from."""
    return float((found.double() - expected).norm()) <= 1e-5 * max(float(expected.norm()), 1.0)


def rank_of(value: Tensor) -> int:
    sizes = torch.linalg.svdvals(value)
    return int((sizes > 1e-5 * float(normal(*value.shape).norm())).sum())


@st.composite
def projectors(draw: st.DrawFn) -> Projector:
    """Orthogonal and oblique ones of every rank, thin, dense and complements."""
    shape = draw(st.sampled_from(SHAPES))
    rank, seed = draw(st.integers(0, min(shape))), draw(st.integers(0, 99))
    if draw(st.booleans()):
        made = Projector.onto(shape, orthonormal(shape[0], rank, seed))
    else:
        made = Projector.product(shape, normal(shape[0], rank, seed=seed), normal(shape[0], rank, seed=seed + 1))
    return ~made if draw(st.booleans()) else made


@given(projectors(), st.integers(0, 99))
def test_it_is_the_matrix_times_the_weight_and_linear(part: Projector, seed: int) -> None:
    one, other = normal(*part.shape, seed=seed), normal(*part.shape, seed=seed + 1)
    assert part.apply(one).dtype == torch.float32
    assert close(part.apply(one), matrix(part) @ one)
    assert close(part.apply(2 * one + other), 2 * part.apply(one).double() + part.apply(other).double())
    assert close(part.dense(), matrix(part))


@given(projectors())
def test_a_part_and_its_complement_make_the_weight(part: Projector) -> None:
    value = normal(*part.shape, seed=3)
    assert close(part.apply(value) + (~part).apply(value), value)
    assert torch.equal((~~part).apply(value), part.apply(value))


@given(projectors(), st.integers(0, 99))
def test_a_lora_pair_is_the_ablation(part: Projector, seed: int) -> None:
    value = normal(*part.shape, seed=seed).float()
    down, up = part.lora(value)
    assert down.dtype == up.dtype == torch.float32
    assert down.shape[1] == part.shape[1] and up.shape[0] == part.shape[0] and down.shape[0] == up.shape[1] <= min(part.shape)
    assert close(value + up @ down, (value - part.apply(value)).double())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_rank_is_that_of_what_it_takes(shape: tuple[int, int]) -> None:
    """Directions are the weight's own, as a method finds them."""
    value = normal(*shape, seed=5)
    own = torch.linalg.svd(value, full_matrices=False).U
    for rank in range(min(shape) + 1):
        some = Projector.onto(shape, own[:, :rank])
        assert some.rank == rank_of(some.apply(value).double()) == rank
        assert (~some).rank == rank_of((~some).apply(value).double()) == min(shape) - rank
        assert close(some.apply(some.apply(value)), some.apply(value).double())
        skew = Projector.product(shape, own[:, :rank] @ normal(rank, rank, seed=6), own[:, :rank])
        assert skew.rank == rank_of(skew.apply(value).double()) == rank
        assert (~skew).rank == rank_of((~skew).apply(value).double())
    assert Region({"a": some, "b": ~some, "c": Whole((2, 3))}).ranks == min(shape)


def test_the_complement_of_a_part_that_leaves_some_directions_alone() -> None:
    """(I − Π_u) Π_s leaves alone what is in S and orthogonal to U: its complement takes all ranks but those."""
    axes = torch.eye(6, dtype=torch.float64)
    wanted, shared = axes[:, :3], axes[:, 2:4]
    part = ~Projector.product((6, 8), wanted - shared @ (shared.T @ wanted), wanted)
    assert part.rank == rank_of(part.apply(normal(6, 8)).double()) == 4


@pytest.mark.parametrize(("rank", "dense"), [(3, False), (4, True), (6, True)])
def test_the_smaller_form_is_kept(rank: int, dense: bool) -> None:
    left, right = normal(7, rank), normal(7, rank, seed=1)
    part = Projector.product((7, 9), left, right)
    sizes = [factor.numel() for factor in (part.left, part.right) if factor is not None]
    assert (part.right is None) == dense and sum(sizes) == min(2 * 7 * rank, 7 * 7)
    assert part.rank == rank and close(part.dense(), left @ right.T)


@given(projectors())
def test_a_basis_spans_all_that_it_gives(part: Projector) -> None:
    basis = part.basis().double()
    assert basis.shape[1] == rank_of(matrix(part))
    assert close(basis.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64))
    assert close(basis @ (basis.T @ matrix(part)), matrix(part))


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_the_overlap_is_the_mean_cosine_squared_of_the_angles_between_spans(k: int, size: int, seed: int) -> None:
    one, other = orthonormal(6, k, seed), orthonormal(6, size, seed + 1)
    cosines = [float(one[:, i] @ other[:, j]) ** 2 for i in range(k) for j in range(size)]
    found = overlap(one, other)
    assert found == pytest.approx(sum(cosines) / min(k, size))
    assert found == pytest.approx(overlap(other, one)) and -1e-9 <= found <= 1 + 1e-9
    turned = one @ orthonormal(k, k, seed + 2)
    assert overlap(turned, other) == pytest.approx(found)
    assert overlap(one, one[:, :1]) == pytest.approx(1)


def test_the_overlap_of_random_subspaces_is_the_one_by_chance() -> None:
    found = [overlap(orthonormal(8, 2, seed), orthonormal(8, 3, seed + 500)) for seed in range(400)]
    assert sum(found) / len(found) == pytest.approx(chance_overlap(2, 3, 8), abs=0.02)
    assert overlap(torch.eye(8)[:, :3], torch.eye(8)[:, 3:5]) == 0


@pytest.mark.parametrize(("one", "other"), [((6, 2), (5, 2)), ((6, 0), (6, 2)), ((6, 2), (6, 0))])
def test_no_overlap_of_two_spaces_or_of_nothing(one: tuple[int, int], other: tuple[int, int]) -> None:
    with pytest.raises(BrittleError, match="no overlap of bases of shapes"):
        overlap(torch.zeros(one), torch.zeros(other))


def test_projectors_are_no_sets() -> None:
    part, mask = Projector.onto((3, 4), orthonormal(3, 1)), Mask.from_dense(torch.ones(3, 4, dtype=torch.bool))
    region = Region({"w": part})
    for attempt in (
        lambda: part & part,
        lambda: part | mask,
        lambda: mask - part,
        lambda: mask & part,
        region.masks,
        lambda: Region({"w": mask}).iou(region),
    ):
        with pytest.raises(BrittleError, match=r"is no set of entries: .* overlap\(\)"):
            attempt()
    assert (region.count, region.ranks) == (0, 1)
