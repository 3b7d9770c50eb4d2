"""Isolations of directions against their definitions, and low-rank regions from attribution to edit, control and file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval import BrittleError, Directions, Isolation, Projector, Region
from brittle_eval.behaviour.calibration import Example
from brittle_eval.engine.attribute import Pass
from brittle_eval.engine.controls import matched_control
from brittle_eval.engine.isolate import find_region
from brittle_eval.recipe import Component, build
from brittle_eval.store import load_region, save_region
from brittle_eval.weights import find_weights
from brittle_plugins.ablate import Ablate
from brittle_plugins.actsvd import ActSVD
from brittle_plugins.bottom_ranks import BottomRanks
from brittle_plugins.orthogonal import Orthogonal
from brittle_plugins.restore import Restore
from brittle_plugins.top_ranks import TopRanks
from tests.editing import content, edit, unchanged
from tests.models import MODELS, PAD, context, examples, in_dtype, llama
from tests.test_actsvd import inputs_of

BEHAVIOURS = {"safety": examples([(4, 30), (7, 33), (5, 35)], 1), "utility": examples([(3, 38), (6, 32), (2, 34)], 2)}
SHAPES = [(6, 9), (9, 6), (7, 7)]
W = "blocks.0.w"


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_outputs(value: Tensor, inputs: Tensor) -> Directions:
    """The directions of W X by the decomposition itself, X given as (tokens, in)."""
    u, sizes, _ = torch.linalg.svd(value @ inputs.T, full_matrices=False)
    real = int((sizes > 1e-6 * sizes[0]).sum())
    rest = value - u[:, :real] @ (u[:, :real].T @ value)
    unseen = torch.linalg.svd(rest, full_matrices=False).U[:, : min(value.shape) - real]
    return Directions(W, (value.shape[0], value.shape[1]), u[:, :real], sizes[:real].square(), unseen, len(inputs))


def drawn(shape: tuple[int, int], seed: int, tokens: int = 30) -> tuple[Tensor, dict[str, dict[str, Directions]]]:
    value = normal(*shape, seed=seed)
    behaviours = {"safety": seed + 1, "utility": seed + 2, "third": seed + 3}
    return value, {name: {W: of_outputs(value, normal(tokens, shape[1], seed=one))} for name, one in behaviours.items()}


def part(method: Isolation, found: dict[str, dict[str, Directions]]) -> Projector:
    (made,) = method.isolate({name: found[name] for name in method.behaviours}, context()).values()
    assert isinstance(made, Projector)
    return made


def projector(found: Directions, count: int) -> Tensor:
    return found.vectors[:, :count] @ found.vectors[:, :count].T


def close(found: Tensor, expected: Tensor) -> bool:
    return float((found.double() - expected).norm()) <= 1e-5 * max(float(expected.norm()), 1.0)


def rank_of(value: Tensor) -> int:
    return int((torch.linalg.svdvals(value) > 1e-5).sum())


@given(st.sampled_from(SHAPES), st.integers(0, 7), st.integers(0, 7), st.integers(0, 99))
def test_orthogonal_is_what_one_keeps_and_the_other_does_not(shape: tuple[int, int], r_u: int, r_s: int, seed: int) -> None:
    """(I − Π_u) Π_s W, with r_u and r_s ranks removed, in every form: thin, from the weak vectors of utility, and dense."""
    ranks = min(shape)
    r_u, r_s = min(r_u, ranks), min(r_s, ranks)
    value, found = drawn(shape, seed)
    safe, useful = found["safety"][W], found["utility"][W]
    made = part(Orthogonal(r_u, r_s), found)
    expected = (torch.eye(shape[0]) - projector(useful, ranks - r_u)) @ projector(safe, ranks - r_s) @ value
    assert close(made.apply(value), expected)
    weak, kept = useful.vectors[:, ranks - r_u :], safe.vectors[:, : ranks - r_s]
    assert close(made.apply(value), weak @ ((weak.T @ kept) @ (kept.T @ value)))
    assert close(made.dense(), (torch.eye(shape[0]) - projector(useful, ranks - r_u)) @ kept @ kept.T)
    assert made.rank == rank_of(expected) == min(r_u, ranks - r_s)  # the paper's bound, which random data reach
    assert (made.right is None) == (2 * made.rank > shape[0])


def test_orthogonal_of_other_behaviours() -> None:
    value, found = drawn((6, 9), 3)
    made = part(Orthogonal(2, 5, of="utility", minus="third"), found)
    expected = (torch.eye(6) - projector(found["third"][W], 4)) @ projector(found["utility"][W], 1) @ value
    assert close(made.apply(value), expected)
    assert Orthogonal(of="x", minus="y").behaviours == ("x", "y")
    assert (TopRanks(of="x").behaviours, BottomRanks(of="x").behaviours) == (("x",), ("x",))


@given(st.sampled_from(SHAPES), st.integers(0, 9), st.integers(0, 99))
def test_top_and_bottom_ranks(shape: tuple[int, int], r: int, seed: int) -> None:
    r = min(r, min(shape))
    value, found = drawn(shape, seed)
    top, bottom = part(TopRanks(r), found), part(BottomRanks(r), found)
    assert close(top.apply(value), projector(found["safety"][W], r) @ value)
    assert close(bottom.apply(value), value - projector(found["safety"][W], min(shape) - r) @ value)
    assert (top.rank, bottom.rank) == (r, r)
    assert rank_of(value - top.apply(value).double()) == rank_of(value - bottom.apply(value).double()) == min(shape) - r
    assert bottom.right is bottom.left and 2 * bottom.left.shape[1] <= min(shape)  # the thinner of the two forms


def test_what_is_left_of_the_bottom_is_the_best_fit_of_the_outputs() -> None:
    """Eckart and Young: no matrix of rank k is nearer to W X than Π_k W X, whose error is the energy that is left out."""
    value, inputs = normal(6, 9), normal(30, 9, seed=1)
    found = of_outputs(value, inputs)
    made = part(BottomRanks(2), {"safety": {W: found}})
    lost = made.apply(value).double() @ inputs.T
    assert float(lost.square().sum()) == pytest.approx(float(found.energies[4:].sum()), rel=1e-5)


def test_a_fraction_is_of_each_weights_own_ranks() -> None:
    for shape in SHAPES:
        value, found = drawn(shape, 4)
        ranks = min(shape)
        for percent in (0, 29, 50, 90):
            assert part(TopRanks(percent / 100), found).rank == percent * ranks // 100
        expected = Orthogonal(int(0.5 * ranks), int(0.7 * ranks))
        assert close(part(Orthogonal(0.5, 0.7), found).apply(value), part(expected, found).apply(value).double())


def test_the_defaults_are_the_papers_counts() -> None:
    none = torch.empty(4096, 0)
    large = Directions(W, (4096, 11008), none, torch.empty(0), none, 1)
    assert (large.count(Orthogonal().r_u), large.count(Orthogonal().r_s)) == (3950, 4090)
    assert TopRanks().r == 1


@pytest.mark.parametrize("method", [Orthogonal(8, 2), Orthogonal(2, 8), TopRanks(8), BottomRanks(8)])
def test_more_ranks_than_there_are(method: Isolation) -> None:
    with pytest.raises(BrittleError, match=r"8 ranks of blocks\.0\.w were asked for, .* min\(out, in\) = 6: .* fraction below 1"):
        part(method, drawn((6, 9), 0)[1])


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "all"])
def test_what_is_no_number_of_ranks(value: str) -> None:
    said = f"option r of top-ranks: '{value}' was given, expected a number of ranks, or below 1 a fraction of them"
    with pytest.raises(BrittleError, match=said):
        build(Component("isolation", "top-ranks", {"r": value}), TopRanks)


def test_half_a_rank() -> None:
    with pytest.raises(BrittleError, match=r"2\.5 ranks of blocks\.0\.w were asked for, expected a whole number"):
        part(TopRanks(2.5), drawn((6, 9), 0)[1])


@pytest.mark.parametrize("method", [Orthogonal(0.3, 0.9), Orthogonal(0.9, 0.3), TopRanks(4), BottomRanks(2)])
def test_fewer_real_directions_than_are_kept(method: Isolation) -> None:
    said = r"directions of blocks\.0\.w are to be kept, but its outputs over 3 response tokens have only 3 real ones"
    with pytest.raises(BrittleError, match=said):
        part(method, drawn((6, 9), 0, tokens=3)[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_few_real_directions_are_enough_where_no_more_are_kept(shape: tuple[int, int]) -> None:
    value, found = drawn(shape, 0, tokens=3)
    bottom = part(BottomRanks(min(shape) - 2), found)
    assert close(bottom.apply(value), value - projector(found["safety"][W], 2) @ value)
    assert bottom.rank == rank_of(bottom.apply(value).double()) == min(shape) - 2
    made = part(Orthogonal(min(shape) - 3, min(shape) - 2), found)
    expected = (torch.eye(shape[0]) - projector(found["utility"][W], 3)) @ projector(found["safety"][W], 2) @ value
    assert close(made.apply(value), expected)


def test_the_weakest_of_what_no_token_showed_go_first() -> None:
    """Three tokens that repeat show three directions of six: of the other three, the two go that the weight gives least."""
    value = normal(6, 9)
    found = of_outputs(value, normal(3, 9, seed=1).repeat(9, 1))
    made = part(BottomRanks(2), {"safety": {W: found}})
    rest = value - projector(found, 3) @ value
    u, sizes, v = torch.linalg.svd(rest, full_matrices=False)
    assert len(found.energies) == 3 and made.rank == 2
    assert close(made.apply(value), u[:, 1:3] @ torch.diag(sizes[1:3]) @ v[1:3])


def region_of(model: PreTrainedModel, method: Isolation, data: dict[str, list[Example]] | None = None) -> Region:
    return find_region(model, ActSVD(), method, data or BEHAVIOURS, find_weights(model)[0], context(), Pass(PAD, 2))


@pytest.mark.parametrize("name", MODELS)
def test_from_behaviours_to_the_edited_model_and_back(name: str) -> None:
    """Every weight of every tiny model, grouped-query ones among them: the definition in float64, and every byte back."""
    model = MODELS[name]()
    addresses = find_weights(model)[0]
    region = region_of(model, Orthogonal(0.6, 0.8))
    expected = {}
    for address in addresses:
        value = address.view(model).double()
        ranks = min(value.shape)
        safe, useful = (
            of_outputs(value, inputs_of(model, address.module, BEHAVIOURS[behaviour]).double())
            for behaviour in ("safety", "utility")
        )
        kept_s, kept_u = ranks - int(0.8 * ranks), ranks - int(0.6 * ranks)
        change = projector(safe, kept_s) @ value
        expected[address.name] = change - projector(useful, kept_u) @ change
        assert region[address.name].shape == tuple(value.shape)
    assert list(region) == list(expected) and region.count == 0
    assert region.ranks == sum(min(int(0.6 * r), r - int(0.8 * r)) for r in (min(a.view(model).shape) for a in addresses))
    before = {address.name: address.view(model).clone() for address in addresses}
    with unchanged(model), edit(model, region, Ablate()) as touched:
        assert touched == list(region)
        for address in addresses:
            change = (before[address.name] - address.view(model)).double()
            assert (change - expected[address.name]).norm() <= 1e-4 * expected[address.name].norm()
            assert rank_of(change) <= region[address.name].rank  # type: ignore[union-attr]


@pytest.mark.parametrize("method", [TopRanks(3), BottomRanks(0.4), BottomRanks(0.9), Orthogonal(0.9, 0.3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_form_comes_off_without_a_trace(method: Isolation, dtype: torch.dtype) -> None:
    model = in_dtype(llama(), dtype)
    region = region_of(model, method)
    with unchanged(model), edit(model, region, Ablate(), Ablate()):
        edited = content(model)
    assert edited != content(model)


def test_restore_puts_the_bases_ranks_in_their_place() -> None:
    model, base = llama(), llama(seed=1)
    values = {address.name: address.view(base).clone() for address in find_weights(base)[0]}
    region = region_of(model, TopRanks(4))
    expected = {
        address.name: address.view(model) - region[address.name].apply(address.view(model) - values[address.name])
        for address in find_weights(model)[0]
    }
    with unchanged(model), edit(model, region, Restore(), given=context(values)):
        for address in find_weights(model)[0]:
            torch.testing.assert_close(address.view(model), expected[address.name], rtol=1e-4, atol=1e-5)


def test_a_behaviour_less_itself_is_empty() -> None:
    with pytest.raises(BrittleError, match=r"the region of Orthogonal\(.*\) is empty: take more ranks"):
        region_of(llama(), Orthogonal(0.5, 0.6, minus="safety"))


def test_too_few_response_tokens_on_a_model() -> None:
    few = {name: examples([(4, 5)], 1) for name in BEHAVIOURS}
    with pytest.raises(BrittleError, match=r"of model\.layers\.0\.self_attn\.q_proj\.weight .* over 5 response tokens"):
        region_of(llama(), Orthogonal(0.5, 0.9), few)


@pytest.mark.parametrize("method", [TopRanks(3), TopRanks(0.05), BottomRanks(0.1), BottomRanks(0.9), Orthogonal(0.9, 0.3)])
def test_the_control_takes_as_many_ranks_of_every_weight(method: Isolation) -> None:
    """None of the key and value weights, where a twentieth of their ranks is less than one."""
    model = llama()
    addresses, region = find_weights(model)[0], region_of(model, method)
    controls = [matched_control("random", region, model, addresses, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    for address in addresses:
        value, wanted = address.view(model), region[address.name]
        one, again, other = (control[address.name] for control in controls)
        assert isinstance(wanted, Projector) and isinstance(one, Projector)
        assert (one.shape, one.rank) == (wanted.shape, wanted.rank)
        assert rank_of((value - one.apply(value)).double()) == min(value.shape) - wanted.rank  # also where out > in
        assert close(one.apply(one.apply(value)), one.apply(value).double())
        assert torch.equal(one.apply(value), again.apply(value))
        assert torch.equal(one.apply(value), other.apply(value)) == (wanted.rank == 0)
    with pytest.raises(BrittleError, match="no magnitude control of low-rank parts"):
        matched_control("magnitude", region, model, addresses, torch.Generator())


@pytest.mark.parametrize("method", [TopRanks(3), BottomRanks(0.9), Orthogonal(0.9, 0.3), Orthogonal(0.5, 0.9)])
def test_a_region_comes_back_from_its_file_bit_for_bit(method: Isolation, tmp_path: Path) -> None:
    model, path = llama(layers=1), tmp_path / "region.safetensors"
    region = region_of(model, method)
    save_region(path, region, {"plan": "actsvd"})
    found, header = load_region(path)
    assert header == {"plan": "actsvd"} and list(found) == list(region) and found.ranks == region.ranks
    for name, was in region.items():
        now = found[name]
        assert isinstance(was, Projector) and isinstance(now, Projector)
        assert torch.equal(now.dense(), was.dense())
        assert (now.shape, now.rank, now.right is now.left) == (was.shape, was.rank, was.right is was.left)
    stored = {name: {id(f): f.numel() * 4 for f in (p.left, p.right) if f is not None} for name, p in region.items()}  # type: ignore[union-attr]
    size = sum(sum(factors.values()) for factors in stored.values())
    assert size <= path.stat().st_size < size + 3000
