"""How much of a change lies in a region: against sums over entries and spans, chance against draws, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from brittle_eval.cli import main
from brittle_eval.comparing.displacement import displacements
from brittle_eval.errors import BrittleError
from brittle_eval.regions import Mask, Part, Projector, Region, Whole
from brittle_eval.store import save_region
from brittle_eval.weights import Fingerprint, find_weights
from tests.models import random_region, untied


def adapted(tmp_path: Path) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A model, and one whose weights moved by as much as the number of the weight; both are saved."""
    before, after = untied(), untied()
    with torch.no_grad():
        for number, address in enumerate(find_weights(after)[0]):
            view, stream = address.view(after), torch.Generator().manual_seed(number)
            view.add_(0.01 * (1 + number) * torch.randn(view.shape, generator=stream))
    before.save_pretrained(tmp_path / "before")
    after.save_pretrained(tmp_path / "after")
    return before, after


def kept(tmp_path: Path, region: Region, model: PreTrainedModel, name: str = "region") -> Path:
    file = tmp_path / f"{name}.safetensors"
    save_region(file, region, {"plan": name, "fingerprint": str(Fingerprint(model)), "model": str(tmp_path / "before")})
    return file


def test_entries_and_ranks(tmp_path: Path) -> None:
    before, after = adapted(tmp_path)
    change = {one.name: (one.view(after) - one.view(before)).double() for one in find_weights(before)[0]}
    total = sum(float(value.square().sum()) for value in change.values())
    masks, ranks, inside = random_region(before, 0.3), dict[str, Part](), 0.0
    for number, (name, value) in enumerate(change.items()):
        basis = torch.linalg.qr(torch.randn(value.shape[0], 3, generator=torch.Generator().manual_seed(number))).Q
        ranks[name] = Projector.onto((value.shape[0], value.shape[1]), basis)
        inside += float((basis.double().T @ value).square().sum())
    files = [kept(tmp_path, masks, before, "entries"), kept(tmp_path, Region(ranks), before, "ranks")]
    entries, spans = displacements(files, str(tmp_path / "after"))
    squares = sum(float(change[name][mask.dense()].square().sum()) for name, mask in masks.masks().items())
    assert entries.inside == pytest.approx((squares / total) ** 0.5)
    assert spans.inside == pytest.approx((inside / total) ** 0.5)
    shares = sum(3 / value.shape[0] * float(value.square().sum()) for value in change.values())
    assert spans.chance == pytest.approx((shares / total) ** 0.5)
    weights = sum(float(one.view(before).double().square().sum()) for one in find_weights(before)[0])
    assert entries.change == pytest.approx((total / weights) ** 0.5, rel=1e-4)


def test_chance_is_what_random_regions_of_the_size_hold(tmp_path: Path) -> None:
    before, _ = adapted(tmp_path)
    regions = [random_region(before, 0.1, seed) for seed in range(8)]
    found = displacements([kept(tmp_path, one, before, f"r{n}") for n, one in enumerate(regions)], str(tmp_path / "after"))
    mean = sum(one.inside**2 for one in found) / len(found)
    assert mean == pytest.approx(sum(one.chance**2 for one in found) / len(found), rel=0.05)


def test_from_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A region of one moved weight of all holds its share; one found in bfloat16 is known by its fingerprint."""
    _, after = adapted(tmp_path)
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "before", dtype=torch.bfloat16)
    name, *_ = (address.name for address in find_weights(after)[0])
    file = kept(tmp_path, Region({name: Whole((32, 32))}), half)
    assert main(["region", "displacement", str(file), "--after", str(tmp_path / "after"), "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert 0 < one["inside"] == pytest.approx(one["chance"]) and one["plan"] == "region"
    assert main(["region", "displacement", str(file), "--after", str(tmp_path / "after")]) == 0
    assert "by chance" in capsys.readouterr().out


def test_what_has_no_displacement(tmp_path: Path) -> None:
    before, after = adapted(tmp_path)
    region = Region({"model.layers.0.mlp.up_proj.weight": Mask.from_dense(torch.ones(48, 32, dtype=torch.bool))})
    with pytest.raises(BrittleError, match="was not found on"):
        displacements([kept(tmp_path, region, after)], str(tmp_path / "after"))
    with pytest.raises(BrittleError, match="has the very weights of the one before"):
        displacements([kept(tmp_path, region, before)], str(tmp_path / "before"))
    with pytest.raises(BrittleError, match="no regions/"):
        displacements([tmp_path / "before"], str(tmp_path / "after"))
    untied(layers=1).save_pretrained(tmp_path / "short")
    with pytest.raises(BrittleError, match=r"has no weight model\.layers\.1\.self_attn\.q_proj\.weight"):
        displacements([kept(tmp_path, region, before)], str(tmp_path / "short"))
