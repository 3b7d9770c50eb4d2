"""SSAH: unit scores against a plain pass over all tokens, the four kinds against a loop, the removed units against the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval import BrittleError, Context, Unit, UnitKind, unit_mask
from brittle_eval.cli import main
from brittle_eval.engine.anatomy import find_units
from brittle_eval.engine.attribute import Pass
from brittle_eval.engine.isolate import find_region
from brittle_eval.methods import Seen
from brittle_eval.options import unverified
from brittle_eval.plugins import Plugins
from brittle_eval.weights import find_weights
from brittle_plugins.ablate import Ablate
from brittle_plugins.four_way import FourWay, Kind
from brittle_plugins.unit_variance import UnitVariance
from tests.editing import edit
from tests.models import MODELS, PAD, attribute, examples, gpt2, llama
from tests.test_attribute import distance, inputs_of
from tests.test_builtin_methods import generator, weight
from tests.test_run import arguments, checkpoint, pairs, rows  # noqa: F401  # fixtures

DATA = examples([(7, 5), (3, 9), (12, 1), (5, 5), (4, 11)])
KINDS: tuple[Kind, ...] = ("safety", "utility", "redundant", "complex")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [1, 3])
def test_scores_are_the_variance_of_all_inputs_times_the_columns_norm(name: str, size: int) -> None:
    model = MODELS[name]()
    found = attribute(model, UnitVariance(), DATA, size)
    for address in find_weights(model)[0]:
        entered = torch.cat([inputs_of(model, address.module, one)[one.start :] for one in DATA]).double()
        column = entered.var(dim=0, correction=1) * address.view(model).double().square().sum(0)
        assert distance(found[address.name].double(), column.expand(address.view(model).shape)) < 1e-5


def seen(inputs: Tensor) -> Seen:
    return Seen(inputs, None, torch.zeros(len(inputs)), None)


def test_the_variance_survives_a_mean_far_from_zero() -> None:
    """Σx² − (Σx)²/N in float32 would be noise here; batches of one, of none and of many tokens."""
    inputs, own = torch.randn(50, 6, generator=generator(0)).double() + 1e6, weight((4, 6))
    state = UnitVariance().start(own)
    for batch in inputs.split([1, 0, 20, 29]):
        state = UnitVariance().update(state, seen(batch))
    expected = inputs.var(dim=0) * own.value.double().square().sum(0)
    assert distance(UnitVariance().finish(state, own)[0].double(), expected) < 1e-6
    once = UnitVariance().update(UnitVariance().start(own), seen(inputs[:1]))
    assert torch.equal(UnitVariance().finish(once, own), torch.zeros(4, 6))


MODEL = llama()
ADDRESSES = find_weights(MODEL)[0]


def units(kind: UnitKind) -> Sequence[Unit]:
    return find_units(MODEL, ADDRESSES, kind)[0]


CONTEXT = Context(generator, lambda which: {}, units)
ALL = [*units("mlp-channel"), *units("query-head")]


def drawn(seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """Scores of every weight, the same along each column."""
    found: dict[str, dict[str, Tensor]] = {}
    for number, name in enumerate(("safety", "utility")):
        random = generator(seed + number)
        found[name] = {
            address.name: torch.rand(1, address.view(MODEL).shape[1], generator=random).expand(address.view(MODEL).shape)
            for address in ADDRESSES
        }
    return found


def scored(scores: Mapping[str, Mapping[str, Tensor]], unit: Unit, behaviour: str, scaled: bool = True) -> float:
    name = f"model.layers.{unit.block}." + ("mlp.down_proj" if unit.kind == "mlp-channel" else "self_attn.o_proj") + ".weight"
    values = scores[behaviour][name][0].double()
    if scaled:
        values = (values - values.mean()) / ((values - values.mean()) ** 2).mean().sqrt()
    width = 1 if unit.kind == "mlp-channel" else 8
    return float(values[unit.index * width : unit.index * width + width].mean())


def slow(scores: Mapping[str, Mapping[str, Tensor]], shares: Mapping[Kind, float], scaled: bool) -> dict[Kind, list[Unit]]:
    """The definition, one unit after the other."""

    def score(unit: Unit, behaviour: str) -> float:
        return scored(scores, unit, behaviour, scaled)

    keys = {
        "safety": lambda unit: score(unit, "utility") - score(unit, "safety"),
        "utility": lambda unit: score(unit, "safety") - score(unit, "utility"),
        "redundant": lambda unit: score(unit, "safety") + score(unit, "utility"),
    }
    entries = {"mlp-channel": 3 * 32, "query-head": 2 * 8 * 32}
    left, found = list(ALL), dict[Kind, list[Unit]]()
    for kind in KINDS[:3]:
        room, found[kind] = shares[kind] * sum(entries[unit.kind] for unit in ALL), []
        for unit in sorted(left, key=keys[kind]):
            room -= entries[unit.kind]
            if room < 0:
                break
            found[kind].append(unit)
        left = [unit for unit in left if unit not in found[kind]]
    return found | {"complex": left}


@pytest.mark.parametrize("scale", ["block", "none"])
@pytest.mark.parametrize("shares", [(0.1, 0.2, 0.3), (0.5, 0.0, 0.5), (0.013, 0.133, 0.148)])
def test_units_of_four_kinds(scale: str, shares: tuple[float, float, float]) -> None:
    scores, wanted = drawn(), dict(zip(KINDS, shares, strict=False))
    expected = slow(scores, wanted, scale == "block")
    assert sum(map(len, expected.values())) == len(ALL)
    for part in KINDS:
        method = FourWay(part, *shares, scale=scale)  # type: ignore[arg-type]
        found = method.isolate(scores, CONTEXT)
        region = unit_mask(expected[part])
        assert set(found) == {address.name for address in ADDRESSES}
        assert all(mask.count == 0 if name not in region else mask == region[name] for name, mask in found.items())


def test_a_part_with_the_strongest_of_the_complex_units() -> None:
    """Those of the highest sum, up to their share of all entries; the other parts stay what they are."""
    scores, wanted = drawn(), dict(zip(KINDS, (0.1, 0.2, 0.3), strict=False))
    kinds, entries = slow(scores, wanted, True), {"mlp-channel": 3 * 32, "query-head": 2 * 8 * 32}
    everything = FourWay("complex", 0.1, 0.2, 0.3).isolate(scores, CONTEXT)
    room, added = 0.25 * sum(entries[unit.kind] for unit in ALL), list[Unit]()
    sums = {unit: scored(scores, unit, "safety") + scored(scores, unit, "utility") for unit in kinds["complex"]}
    for unit in sorted(kinds["complex"], key=lambda unit: -sums[unit]):
        room -= entries[unit.kind]
        if room < 0:
            break
        added.append(unit)
    region = unit_mask([*kinds["safety"], *added])
    found = FourWay("safety", 0.1, 0.2, 0.3, more=0.25).isolate(scores, CONTEXT)
    assert added and all(mask.count == 0 if name not in region else mask == region[name] for name, mask in found.items())
    assert FourWay("complex", 0.1, 0.2, 0.3, more=0.25).isolate(scores, CONTEXT) == everything


@pytest.mark.parametrize(("rule", "part"), [("freeze", "safety"), ("train-only", "redundant")])
def test_fine_tuning_around_or_within_a_kind_of_units(
    arguments: list[str],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rule: str,
    part: str,
) -> None:
    """What is inside the region of that part stays, or is all that moves, as the run says of the change."""
    recipe = {"freeze": "ssah-freeze", "train-only": "ssah-budget"}[rule]
    line = [*arguments, "--controls", "none", "--seeds", "1"]
    for name in ("harmful", "refusals"):
        line += ["--behaviour", f"{name}={pairs(tmp_path / f'{name}.jsonl', name)}"]
    assert main([*line, "--modify", f"{recipe}:n=4,batch=2,weights=blocks,safety=0.2,redundant=0.3"]) == 0
    row = next(row for row in rows(tmp_path / "run").values() if row["kind"] == "edited")
    assert f"four-way.part={part}" in row["plan"] and f"finetune.region={rule}" in row["plan"]
    (said,) = [text for text in capsys.readouterr().err.splitlines() if "‖ΔW in the region‖" in text]
    inside = float(said.rpartition("= ")[2])
    assert inside == pytest.approx(0 if rule == "freeze" else 1, abs=1e-3)


def test_the_parts_are_disjoint() -> None:
    masks = [FourWay(part).isolate(drawn(3), CONTEXT) for part in KINDS]
    for name in masks[0]:
        dense = torch.stack([part[name].dense().int() for part in masks]).sum(0)  # type: ignore[union-attr]
        assert int(dense.max()) <= 1
        whole = int(dense.min())  # shared keys and values are in a part only where it has all heads of the group
        assert whole == 1 or "k_proj" in name or "v_proj" in name


def outputs(model: PreTrainedModel, module: str) -> Tensor:
    return inputs_of(model, module, DATA[1])


@pytest.mark.parametrize("make", [llama, gpt2])
def test_removed_units_give_nothing(make: object) -> None:
    """In the model's own pass: what enters the weight behind them no longer matters, or is zero."""
    model: PreTrainedModel = make()  # type: ignore[operator]
    addresses = find_weights(model)[0]
    context = Context(generator, lambda which: {}, lambda kind: find_units(model, addresses, kind)[0])
    data = {"safety": DATA, "utility": examples([(4, 6), (6, 8), (3, 3)], 5)}
    region = find_region(model, UnitVariance(), FourWay(safety=0.2), data, addresses, context, Pass(PAD, 2))
    masks = {name: mask.dense() for name, mask in region.masks().items()}
    behind = {
        name: mask.all(0)
        for name, mask in masks.items()
        if mask.all(0).any() and ("down_proj" in name or "o_proj" in name or "c_proj" in name)
    }
    assert behind
    with edit(model, region, Ablate()):
        for address in addresses:
            if address.name in behind:
                assert not address.view(model)[:, behind[address.name]].any()


@pytest.mark.parametrize(
    ("given", "said"),
    [({"safety": 0.5, "utility": 0.4, "redundant": 0.2}, "are more than all units"), ({"safety": 1.0}, "more than all")],
)
def test_shares_that_are_more_than_all(given: Mapping[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FourWay(**given)  # type: ignore[arg-type]


def test_a_scope_without_units_is_said() -> None:
    few = {name: {key: value for key, value in own.items() if "q_proj" in key} for name, own in drawn().items()}
    with pytest.raises(BrittleError, match="four-way found no unit of a known layout in this plan's scope"):
        FourWay().isolate(few, CONTEXT)


def test_unverified_options_are_marked_where_they_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "ssah", "--json"]) == 0
    (card,) = json.loads(capsys.readouterr().out)
    marked = {option["key"] for option in card["options"] if option["type"].endswith(", unverified")}
    assert marked == {"safety", "utility", "redundant", "more", "scale"}
    assert unverified(FourWay(safety=0.5)) == ["safety=0.5", "utility=0.133", "redundant=0.148", "more=0.0", "scale=block"]
    assert unverified(Plugins.load().get("isolation", "top")()) == []


def test_the_recipe_from_command_to_rows(arguments: list[str], tmp_path: Path) -> None:  # noqa: F811
    assert main([*arguments, "--modify", "ssah:safety=0.1,part=safety"]) == 0
    found = rows(tmp_path / "run")
    assert [row["kind"] for row in found.values()] == ["unedited", "edited", "control", "control"]
    shares = ["four-way.safety=0.1", "four-way.utility=0.133", "four-way.redundant=0.148", "four-way.more=0.0"]
    wanted = [*shares, "four-way.scale=block"]
    assert [row["unverified"] for row in found.values()] == [[], wanted, wanted, wanted]
    total = 2 * (4 * 2 * 8 * 32 + 48 * 3 * 32)
    edited = next(row for row in found.values() if row["kind"] == "edited")
    assert 0 < edited["region"]["count"] <= 0.1 * total + 2 * 2 * 2 * 8 * 32
