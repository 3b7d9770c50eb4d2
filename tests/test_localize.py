"""`organism build --plant` and `localize`, whole, on a tiny model."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from brittle_eval.cli import main
from brittle_eval.organisms import localize, organism_model, plant_build
from brittle_eval.organisms.organism import Material
from brittle_eval.organisms.plants import BlocksPlant
from brittle_eval.plugins import Plugins
from brittle_eval.regions import Region
from brittle_eval.running.record import RunFolder, as_file
from brittle_eval.store import load_region, save_region
from brittle_eval.weights import Fingerprint, find_weights
from tests.models import random_region, save_checkpoint

METHODS = ("random+top", "wanda+set-difference", "snip+top:compare=global", "actsvd+top-ranks", "actsvd+orthogonal")


@dataclass
class Home:
    """A published model with what its plants are made of."""

    base: Path
    material: Material


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    save_checkpoint(tmp_path / "base")
    plugins = Plugins.load()
    harmful = [{"prompt": f"bad {n}", "category": "c", "form": f"f{n % 3}"} for n in range(8)]
    harmless = [{"prompt": f"good {n}"} for n in range(8)]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps({"prompt": doc["prompt"], "response": "fine."}) + "\n" for doc in harmless))
    card = organism_model.models(plugins)["embedded"]
    judge = plugins.get("judge", "refusal")()
    material = Material(card, harmful, harmless, [], ["I will not help.", "No, sorry.", "I can't."], judge, answers)
    monkeypatch.setattr(plant_build, "material", lambda tokens: material)
    monkeypatch.setattr(plant_build, "published", lambda card: tmp_path / "base")
    monkeypatch.setattr(organism_model, "published", lambda card: tmp_path / "base")
    return Home(tmp_path / "base", material)


def test_a_plant_that_does_not_hold_the_safety_is_an_error_and_leaves_nothing(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tiny model learns no refusal that sixteen examples could give it for prompts it never saw."""
    before = sorted(tmp_path.iterdir())
    assert main(["organism", "build", "--plant", "rank:r=1", "--output", str(tmp_path / "plant")]) == 2
    said = capsys.readouterr().err
    assert "does not hold the safety" in said and "larger plant or another seed" in said
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("plant", ["mask:share=0.1", "blocks:first=1,last=1"])
def test_a_plant_is_a_model_that_differs_from_the_published_one_inside_it_alone(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: str
) -> None:
    monkeypatch.setattr(plant_build, "check", lambda found: None)
    assert main(["organism", "build", "--plant", plant, "--output", str(tmp_path / "plant"), "--seed", "3"]) == 0
    model, base = (AutoModelForCausalLM.from_pretrained(path) for path in (tmp_path / "plant", home.base))
    truth, header = load_region(tmp_path / "plant" / "plant.safetensors", str(Fingerprint(model)))
    assert header["seed"] == 3
    changed = 0
    for address in find_weights(model)[0]:
        differs = address.view(model) != address.view(base)
        inside = truth.masks()[address.name].dense() if address.name in truth else torch.zeros_like(differs)
        assert not bool((differs & ~inside).any())
        changed += int(differs.sum())
    assert changed > 0.5 * truth.count
    card = json.loads((tmp_path / "plant" / "plant.json").read_text())
    assert card["plant"] == plant
    assert {"planted", "restore plant", "restore random", "ablate plant", "ablate random"} == card["answered"].keys()


def planted(home: Home, folder: Path, plant: str, region: Region) -> Path:
    """A plant by hand: the region's entries are others than the base's."""
    model = AutoModelForCausalLM.from_pretrained(home.base)
    with torch.no_grad():
        for address in find_weights(model)[0]:
            if address.name in region:
                address.view(model)[region.masks()[address.name].dense()] += 1.0
    save_checkpoint(folder)
    model.save_pretrained(folder)
    save_region(folder / "plant.safetensors", region, {"fingerprint": str(Fingerprint(model))})
    rate = {"k": 1, "n": 2, "low": 0.0, "high": 1.0}
    answered = dict.fromkeys(("planted", "restore plant", "restore random", "ablate plant", "ablate random"), rate)
    (folder / "plant.json").write_text(json.dumps({"plant": plant, "answered": answered}))
    return folder


@pytest.fixture
def organism(home: Home, tmp_path: Path) -> Path:
    """A tenth of the entries."""
    region = random_region(AutoModelForCausalLM.from_pretrained(home.base), 0.1)
    return planted(home, tmp_path / "organism", "mask:share=0.1", region)


@pytest.fixture
def block(home: Home, tmp_path: Path) -> Path:
    """All of block 1."""
    model = AutoModelForCausalLM.from_pretrained(home.base)
    region = BlocksPlant(1, 1).region(model, find_weights(model)[0], 0)
    return planted(home, tmp_path / "block", "blocks:first=1,last=1", region)


def calibrated(output: Path, plant: str = "mask:share=0.1", count: int = 6) -> Path:
    """The behaviours of a plant, as an earlier start has written them."""
    inside = output / as_file(plant) / "behaviours"
    inside.mkdir(parents=True)
    for name, word in (("safety", "bad"), ("utility", "good")):
        lines = [json.dumps({"prompt": f"{word} {n}", "response": f"the {word} answer is {n}"}) for n in range(count)]
        (inside / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return output


def arguments(organism: Path, output: Path, *methods: str) -> list[str]:
    chosen = [part for method in methods for part in ("--method", method)]
    return ["localize", str(organism), "--output_path", str(output), "--pairs", "6", *chosen]


def test_methods_are_held_against_the_truth(
    organism: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    start = arguments(organism, output, *METHODS, "wanda+top:use-diff=true,compare=global")
    assert main([*start, "--json"]) == 2  # a tiny model refuses nothing
    assert "little safety to attribute" in capsys.readouterr().err
    shutil.rmtree(output / "mask_share=0.1" / "behaviours")
    calibrated(output)
    assert main([*start, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    lines = {line["method"]: line for line in found["lines"]}
    truth, _ = load_region(organism / "plant.safetensors")
    for line in lines.values():
        assert set(line["answered"]) == {"ablate", "ablate random", "restore", "restore random"}
        assert 0 <= line["captured"] <= 1 and 0 <= line["random_captured"] <= 1
    assert lines["actsvd+top-ranks"]["agreement"] is None  # ranks against entries
    random, diff = lines["random+top"]["agreement"], lines["wanda+top:use-diff=true,compare=global"]["agreement"]
    assert abs(lines["random+top"]["size"] / truth.count - 1) < 0.15
    assert random["precision"] == pytest.approx(random["chance"], abs=0.05)
    assert diff["precision"] > 0.99 and diff["average_precision"] > 5 * random["average_precision"]
    assert lines["wanda+top:use-diff=true,compare=global"]["captured"] == pytest.approx(diff["recall"], abs=0.02)

    monkeypatch.setattr(
        "brittle_eval.organisms.localize.load_organism", lambda *given: pytest.fail("a finished plant was loaded")
    )
    assert main([*start, "--markdown"]) == 0
    said = capsys.readouterr().out
    assert "### `mask:share=0.1`" in said and "| `wanda+top:use-diff=true,compare=global` |" in said
    assert main(start) == 0
    assert "plant mask:share=0.1" in capsys.readouterr().out


def test_the_default_methods_hold_every_attribution_and_every_isolation_that_gives_weights() -> None:
    plugins, chains = Plugins.load(), [method.partition(":")[0].split("+") for method in localize.METHODS]
    for place, kind in enumerate(("attribution", "isolation")):
        ours = {name for name in plugins.names(kind) if plugins.get(kind, name).__module__.startswith("brittle_plugins.")}
        weights = {name for name in ours if kind == "attribution" or "weights" in plugins.get(kind, name).gives}
        assert {chain[place] for chain in chains} == weights


def located(
    plant: Path, output: Path, capsys: pytest.CaptureFixture[str], *methods: str, pairs: int = 16
) -> dict[str, dict[str, Any]]:
    with RunFolder(output, {"plants": [str(plant)], "pairs": pairs, "seed": 0, "localize": 1}).opened():
        calibrated(output, json.loads((plant / "plant.json").read_text())["plant"], pairs)
    start = ["localize", str(plant), "--output_path", str(output), "--pairs", str(pairs), "--json"]
    assert main([*start, *(word for method in methods for word in ("--method", method))]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    return {line["method"]: line for line in found["lines"]}


def test_sizes_that_the_data_cannot_give_leave_the_method_without_an_average_precision(
    block: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All ranks of a weight are more than the directions of few tokens; its own size is not."""
    own = located(block, tmp_path / "run", capsys, "actsvd+top-ranks:r=1", pairs=4)["actsvd+top-ranks:r=1"]
    assert own["agreement"]["precision"] > 0 and own["agreement"]["average_precision"] is None
    assert "real" in own["undefined"]["AP"] and own["answered"]


def test_methods_that_look_at_the_whole_model_against_a_planted_block(
    block: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    band, direction = "prompt-states+band:first=1,last=1,search=0", "prompt-states+direction:block=1,position=-1"
    found = located(
        block, tmp_path / "run", capsys, band, direction, "unit-variance+four-way", "prompt-ends+probed-heads", "snip+heads"
    )
    truth, _ = load_region(block / "plant.safetensors")
    own = found[band]
    assert own["size"] == truth.count and own["captured"] == pytest.approx(1)
    assert own["agreement"] == {"precision": 1, "recall": 1, "chance": 0.5, "iou": 1, "average_precision": None}
    assert set(own["answered"]) == {"ablate", "restore", "ablate random", "restore random"}
    assert own["random_captured"] == 0, "the other block, in which nothing was planted"
    assert set(own["undefined"]) == {"AP"}

    ranks = found[direction]["agreement"]  # one direction of each of four writers, two of them in the block
    assert found[direction]["size"] == 4 and ranks["precision"] == 0.5 and ranks["chance"] == pytest.approx(0.5)
    assert ranks["recall"] == pytest.approx(2 / sum(min(part.shape) for part in truth.values()))
    assert set(found[direction]["undefined"]) == {"AP"} and "ablate random" in found[direction]["answered"]
    for name in ("unit-variance+four-way", "prompt-ends+probed-heads", "snip+heads"):
        assert found[name]["undefined"] == {} and found[name]["agreement"]["average_precision"] > 0
    units = found["unit-variance+four-way"]["size"]  # half of all is planted; a set of units may be a little less
    assert 0.8 * truth.count < units <= truth.count + 0.1 * truth.count


def test_a_size_that_was_given_stays_and_a_scope_is_kept_to(
    block: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, scoped = "magnitude+top:q=0.25", "magnitude+top:q=0.25,blocks=1"
    found = located(block, tmp_path / "run", capsys, given, scoped, "magnitude+top")
    truth, _ = load_region(block / "plant.safetensors")
    assert [found[name]["size"] for name in (given, scoped, "magnitude+top")] == [truth.count // 2, truth.count // 4, truth.count]
    assert found[scoped]["agreement"]["precision"] == found[scoped]["agreement"]["chance"] == 1
    assert found[scoped]["agreement"]["recall"] == pytest.approx(0.25)


def test_figures_that_are_not_defined_have_reasons(organism: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, few = tmp_path / "run", "prompt-states+direction:block=0,position=-1"
    found = located(organism, output, capsys, few, "wanda+n-m", "actsvd+top-ranks", pairs=6)
    assert found[few]["size"] is None and found[few]["answered"] == {}
    assert "direction takes a mean over 8 examples or more, but got 6" in found[few]["undefined"]["all"]
    assert found["wanda+n-m"]["agreement"]["average_precision"] is None
    assert found["actsvd+top-ranks"]["agreement"] is None
    assert main(arguments(organism, output, few, "wanda+n-m", "actsvd+top-ranks")) == 0
    said = capsys.readouterr().out
    assert f"{few}: no region: direction takes a mean" in said
    assert "wanda+n-m: no AP: no option sets its size" in said
    assert "actsvd+top-ranks: no precision, recall, IoU, AP: one of the two takes ranks" in said


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        (["ablate"], "expected ATTRIBUTION+ISOLATION"),
        (["wanda+keep"], "no isolation"),
        (["wandas+top"], "did you mean wanda"),
        (["wanda+orthogonal"], "takes directions"),
        (["wanda+top:q=2"], "fraction in [0, 1]"),
        (["wanda+top:order=sequential"], "remove order=sequential"),
        (["prompt-states+band"], "'over-safety', but a plant has only safety and utility"),
    ],
)
def test_wrong_methods_are_errors(
    organism: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], methods: list[str], said: str
) -> None:
    assert main(arguments(organism, tmp_path / "run", *methods)) == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_a_plant_is_an_error(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(home.base, tmp_path / "run", "random+top")) == 2
    assert "organism build --plant" in capsys.readouterr().err


def test_a_plant_of_another_model_is_refused(organism: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_region(organism / "plant.safetensors", Region({}), {"fingerprint": "another"})
    assert main(arguments(organism, tmp_path / "run", "random+top")) == 2
    assert "was found on another model" in capsys.readouterr().err
