"""Perturbation, scaling, quantisation, merging: against their formulas; VISAGE against loops over the curve."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from brittle_eval import BrittleError, Context, Mask, Modification, Part, Projector, Weight, Whole
from brittle_eval.cli import main
from brittle_eval.landscapes.visage import area_above, visage_coded, visage_stated
from brittle_plugins.ablate import Ablate
from brittle_plugins.merge import Merge
from brittle_plugins.perturb import Perturb
from brittle_plugins.quantize import Quantize
from brittle_plugins.scale import Scale
from brittle_plugins.where import Where
from tests.models import save_checkpoint, untied
from tests.test_builtin_methods import generator, weight
from tests.test_run import arguments, checkpoint, rows  # noqa: F401  # fixtures

SHAPES = [(6, 10), (10, 6), (1, 7), (5, 1)]
PLACES: tuple[Where, ...] = ("region", "complement", "all")


def mask(shape: tuple[int, int], share: float = 0.4) -> Mask:
    return Mask.from_dense(torch.rand(shape, generator=generator(3)) < share)


def parts(shape: tuple[int, int]) -> list[Part]:
    basis = torch.linalg.qr(torch.randn(shape[0], 1, generator=generator(5))).Q
    return [Whole(shape), mask(shape), mask(shape, 0.0), Projector.onto(shape, basis), ~Projector.onto(shape, basis)]


def context(donor: Mapping[str, Tensor] | None = None, seed: int = 0) -> Context:
    return Context(lambda name: generator(f"{seed} {name}"), lambda which: donor or {})


def changed(method: Modification, own: Weight, part: Part, donor: Tensor | None = None) -> Tensor:
    return method.edit(own, part, context({own.name: donor} if donor is not None else None))


@dataclass(frozen=True)
class Case:
    method: Any
    new: Callable[[Tensor, Tensor], Tensor]
    """From the old value and the donor's to the value of `where=all`."""


def slowly_rounded(value: Tensor, bits: int) -> Tensor:
    out = torch.zeros_like(value)
    for i, row in enumerate(value.tolist()):
        step = max(map(abs, row)) / (2 ** (bits - 1) - 1)
        for j, entry in enumerate(row):
            out[i, j] = round(entry / step) * step if step else 0.0
    return out


CASES = {
    "scale": Case(Scale(alpha=1.7), lambda value, donor: 1.7 * value),
    "quantize": Case(Quantize(bits=3), lambda value, donor: slowly_rounded(value, 3)),
    "merge": Case(Merge(t=0.3), lambda value, donor: 0.7 * value + 0.3 * donor),
    "extrapolate": Case(Merge(t=-0.5), lambda value, donor: 1.5 * value - 0.5 * donor),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("where", PLACES)
def test_the_region_its_complement_or_all(name: str, shape: tuple[int, int], where: Where) -> None:
    own, donor = weight(shape), torch.randn(shape, generator=generator(9))
    new = CASES[name].new(own.value, donor)
    for part in parts(shape):
        inside = part.apply(new) - part.apply(own.value)
        expected = {"region": own.value + inside, "complement": new - inside, "all": new}[where]
        found = changed(replace(CASES[name].method, where=where), own, part, donor)
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantised_rows_have_few_values_and_kept_entries_all_their_bits(bits: int) -> None:
    own, kept = weight((6, 4000)), mask((6, 4000), 0.1)
    found = changed(Quantize(bits=bits), own, Whole((6, 4000)))
    assert all(2 <= len(row.unique()) <= 2**bits - 1 for row in found)
    half = own.value.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1) / 2
    assert bool(((found - own.value).abs() <= half * 1.0001).all())
    around = changed(Quantize(bits=bits, where="complement"), own, kept)
    assert torch.equal(around[kept.dense()], own.value[kept.dense()]) and torch.equal(around[~kept.dense()], found[~kept.dense()])
    zeros = replace(own, value=torch.zeros(6, 4000))
    assert torch.equal(changed(Quantize(bits=bits), zeros, Whole((6, 4000))), zeros.value)


def test_scaling_by_nothing_ablates() -> None:
    own = weight((6, 10))
    assert torch.equal(changed(Scale(alpha=0.0), own, mask((6, 10))), changed(Ablate(), own, mask((6, 10))))
    assert torch.equal(changed(Scale(alpha=1.0), own, mask((6, 10))), own.value)


def directions(shape: tuple[int, int], **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """W, D and E of a weight, from what unit steps add to it."""
    own = weight(shape)
    steps = [Perturb(alpha=1.0, **options), Perturb(alpha=0.0, beta=1.0, **options)]
    return own.value, *(changed(step, own, Whole(shape)) - own.value for step in steps)  # type: ignore[return-value]


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (1, 7), (40, 30)])
def test_two_directions_as_long_as_the_weight_and_orthogonal(shape: tuple[int, int]) -> None:
    value, first, second = directions(shape)
    assert float(first.norm()) == pytest.approx(float(value.norm()), rel=1e-4)
    assert float(second.norm()) == pytest.approx(float(value.norm()), rel=1e-4)
    assert abs(float((first * second).sum())) < 1e-4 * float(value.norm()) ** 2
    other = directions(shape, direction=1)[1]
    assert abs(float((first * other).sum())) > 1e-4 * float(value.norm()) ** 2, "two draws are not orthogonal by themselves"


def test_a_step_is_linear_and_seeded() -> None:
    own, shape = weight((6, 10)), (6, 10)
    _, first, second = directions(shape)
    for alpha, beta in [(0.2, 0.0), (-0.4, 0.1), (0.0, 0.3)]:
        found = changed(Perturb(alpha=alpha, beta=beta), own, Whole(shape))
        assert torch.allclose(found, own.value + alpha * first + beta * second, atol=1e-5)
    assert torch.equal(changed(Perturb(), own, Whole(shape)), changed(Perturb(), own, Whole(shape)))
    assert not torch.allclose(changed(Perturb(), own, Whole(shape)), Perturb().edit(own, Whole(shape), context(seed=1)))
    assert not torch.allclose(changed(Perturb(), own, Whole(shape)), changed(Perturb(), replace(own, name="other"), Whole(shape)))
    assert torch.equal(changed(Perturb(alpha=0.0), own, Whole(shape)), own.value)


@pytest.mark.parametrize("shape", SHAPES)
def test_steps_in_a_region_and_outside_add_up(shape: tuple[int, int]) -> None:
    own = weight(shape)
    for part in parts(shape):
        inside, outside, both = (changed(Perturb(0.3, 0.2, where=where), own, part) - own.value for where in PLACES)
        assert torch.allclose(inside + outside, both, atol=1e-5)
        assert torch.allclose(inside, part.apply(both), atol=1e-5)


def test_entries_are_gaussian() -> None:
    _, first, _ = directions((200, 300))
    scaled = first / first.std()
    assert abs(float(scaled.mean())) < 0.02 and float(scaled.pow(4).mean()) == pytest.approx(3, abs=0.1)


def test_a_donor_of_another_shape() -> None:
    with pytest.raises(
        BrittleError, match=r"blocks\.0\.w is \(6, 10\) but \(6, 9\) in the donor: give a donor of the same shape"
    ):
        changed(Merge(), weight((6, 10)), Whole((6, 10)), torch.zeros(6, 9))


RATES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]), min_size=3, max_size=25)


@given(RATES)
def test_visage_by_hand(rates: list[float]) -> None:
    start, end = 0, len(rates) - 1
    while start < len(rates) and rates[start] == 1:
        start += 1
    while end >= 0 and rates[end] == 1:
        end -= 1
    inside = [1 - rate for rate in rates[start : end + 1]]
    assert visage_coded(rates) == pytest.approx(sum(inside) / len(inside) if inside else 0)
    below = [1 - rate for rate in rates if rate < 1]
    assert visage_stated(rates) == pytest.approx(sum(below) / len(below) if below else 0)
    steps = [0.1 * n * n for n in range(len(rates))]
    area = sum((steps[n + 1] - steps[n]) * (2 - rates[n] - rates[n + 1]) / 2 for n in range(len(rates) - 1))
    assert area_above(steps, rates) == pytest.approx(area / steps[-1])


def test_visage_differs_where_a_basin_has_a_hole() -> None:
    assert visage_coded([1, 0.5, 1, 0.5, 1]) == pytest.approx(1 / 3)
    assert visage_stated([1, 0.5, 1, 0.5, 1]) == pytest.approx(1 / 2)
    assert visage_coded([0.2, 0, 0.2]) == visage_stated([0.2, 0, 0.2]) == pytest.approx(2.6 / 3)


@pytest.mark.parametrize("rates", [[0.1, 0.2], [0.1, 1.2, 0.3], [0.5, float("nan"), 0.5], [50, 0, 50]])
def test_what_is_no_curve(rates: list[float]) -> None:
    for score in (visage_coded, visage_stated):
        with pytest.raises(ValueError, match="no curve of rates"):
            score(rates)
    with pytest.raises(ValueError, match=r"3 steps for 3 rates: expected one each, rising"):
        area_above([0, 2, 1], [0, 0, 0])


def run_of(arguments: list[str], *plans: str) -> list[str]:  # noqa: F811
    return [*arguments, *(word for plan in plans for word in ("--modify", plan))]


def test_a_landscape_is_one_run(arguments: list[str], tmp_path: Path) -> None:  # noqa: F811
    """The point in the middle is the unedited model, and the others are models of their own."""
    points = [f"perturb:alpha={alpha}" for alpha in ("-0.5", "0.00", "0.5")]
    assert main(run_of([*arguments, "--controls", "none"], *points, "perturb:alpha=0.5,direction=1")) == 0
    found = rows(tmp_path / "run")
    prints = [row["fingerprint"] for row in found.values()]
    assert len(prints) == 5 and prints[2] == prints[0] and len(set(prints)) == 4


def test_a_merge_with_a_donor_from_command_to_rows(
    arguments: list[str],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_checkpoint(tmp_path / "donor", seed=4)
    assert main(run_of(arguments, "merge:t=0.25")) == 2
    assert "'merge:t=0.25' needs a donor: give --donor PATH_OR_HUB_ID" in capsys.readouterr().err
    plans = [
        "merge:t=0",
        "merge:t=0.25",
        "random+top+merge:q=0.5,t=1,where=complement",
        "random+top+quantize:bits=3,where=complement",
    ]
    assert main(run_of([*arguments, "--controls", "none", "--donor", str(tmp_path / "donor")], *plans)) == 0
    found = list(rows(tmp_path / "run").values())
    assert found[0]["fingerprint"] == found[1]["fingerprint"] and len({row["fingerprint"] for row in found}) == 4
    assert [row["unverified"] for row in found] == [[], ["merge.t=0.0"], ["merge.t=0.25"], ["merge.t=1.0"], []]


def test_a_donor_that_does_not_fit(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    untied(layers=1).save_pretrained(tmp_path / "short")
    assert main(run_of([*arguments, "--donor", str(tmp_path / "short")], "merge")) == 2
    assert (
        "has no weight model.layers.1.self_attn.q_proj.weight: give a donor of the same architecture" in capsys.readouterr().err
    )


def test_the_recipe_is_a_point(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "landscape", "--json"]) == 0
    (card,) = json.loads(capsys.readouterr().out)
    assert {option["key"]: option["default"] for option in card["options"]}["alpha"] == "0.1"
