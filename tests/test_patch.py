"""SafePatching against its formula in plain loops, its two ends, and whole runs of the recipe."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example
from brittle_eval.cli import main
from brittle_eval.engine.isolate import whole_region
from brittle_eval.errors import BrittleError
from brittle_eval.regions import Region
from brittle_eval.tuning.train import Training, fine_tune, response_loss
from brittle_eval.weights import find_weights
from brittle_plugins.patch import Patch
from tests.editing import unchanged
from tests.models import PAD, gpt2, llama, random_region
from tests.test_finetune import DATA, apply, tuning, values
from tests.test_run import arguments, checkpoint, pairs, rows

__all__ = ["arguments", "checkpoint"]  # fixtures

PATCH = Patch(a=0.3, b=0.2, p=0.5, alpha=0.7, beta=1.3, n=6, epochs=2, lr=1e-2, batch=2)


def shifted(model: PreTrainedModel, sign: int, names: Sequence[str]) -> PreTrainedModel:
    """A copy in which the named weights were trained on the loss times the sign."""
    made = copy.deepcopy(model).requires_grad_(False)
    for name in names:
        made.get_parameter(name).requires_grad_(True)

    def loss(model: PreTrainedModel, batch: Sequence[Example]) -> torch.Tensor:
        return sign * response_loss(model, batch, PAD)

    fine_tune(made, DATA, Training(epochs=2, batch_size=2, learning_rate=1e-2), PAD, loss_of=loss)
    return made


def saliency(model: PreTrainedModel, data: Sequence[Example]) -> dict[str, Tensor]:
    """`mean over examples of |W ∘ ∂L/∂W|` by autograd, one example at a time."""
    model.requires_grad_(True)
    found = {address.name: torch.zeros_like(address.view(model)) for address in find_weights(model)[0]}
    for example in data:
        model.zero_grad()
        response_loss(model, [example], PAD).backward()
        for address in find_weights(model)[0]:
            gradient = address.parameter(model).grad
            assert gradient is not None
            found[address.name] += (address.view(model) * address.of(gradient)).abs() / len(data)
    return found


def highest(scores: Tensor, share: float) -> Tensor:
    chosen = torch.zeros(scores.numel(), dtype=torch.bool)
    chosen[scores.reshape(-1).argsort(descending=True, stable=True)[: int(share * scores.numel())]] = True
    return chosen.reshape(scores.shape)


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("rescale", [False, True])
def test_the_patched_model_is_the_formula(tmp_path: Path, make: Callable[[], PreTrainedModel], rescale: bool) -> None:
    """In a region of a part of the entries of every weight but those of the first block's."""
    model = make()
    region = Region({name: part for name, part in random_region(model, 0.6).items() if ".0." not in name})
    start, given, names = values(model), tuning(tmp_path), list(region)
    up, down = (shifted(model, sign, names) for sign in (-1, 1))
    (of_up, of_down), (at_up, at_down) = ((work(up), work(down)) for work in (lambda m: saliency(m, DATA), values))
    with unchanged(model), apply(model, region, tmp_path, replace(PATCH, rescale=rescale), other=given):
        patched = values(model)
    for name, old in start.items():
        if name not in region:
            assert torch.equal(patched[name], old)
            continue
        top, other = highest(of_up[name], 0.3), highest(of_down[name], 0.2)
        kept, loose = (
            torch.rand(old.shape, generator=given.generator(f"patch {kind} {name}")) < 0.5 for kind in ("safety", "over-safety")
        )
        scale = 2.0 if rescale else 1.0
        change = 0.7 * scale * (at_up[name] - old) * (top & ~other & kept) + 1.3 * scale * (at_down[name] - old) * (
            other & ~top & loose
        )
        expected = old + change * region.masks()[name].dense()
        assert float((patched[name] - expected).norm()) < 1e-4 * float(change.norm())


def patched_loss(model: PreTrainedModel, folder: Path, patch: Patch) -> float:
    with apply(model, whole_region(model, find_weights(model)[0]), folder, patch):
        return float(response_loss(model, DATA, PAD).detach())


def test_its_two_ends_unlearn_and_learn_the_pairs(tmp_path: Path) -> None:
    model, whole = llama(), replace(PATCH, p=1.0, alpha=1.0, beta=1.0)
    before = float(response_loss(model, DATA, PAD).detach())
    assert patched_loss(model, tmp_path, replace(whole, a=1.0, b=0.0)) > before + 1
    assert patched_loss(model, tmp_path, replace(whole, a=0.0, b=1.0)) < before - 1


def test_the_two_sets_of_highest_scores_are_taken_at_two_models(tmp_path: Path) -> None:
    """Of one size each, both differences have entries."""
    model, said = llama(), list[str]()
    given = tuning(tmp_path)
    assert given.tuning is not None
    other = replace(given, tuning=replace(given.tuning, say=said.append))
    with apply(model, whole_region(model, find_weights(model)[0]), tmp_path, replace(PATCH, b=0.3), other=other):
        pass
    (line,) = [line for line in said if "safety patch on" in line]
    assert "0.00%" not in line


@pytest.mark.parametrize("shares", [{"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 0.0}])
def test_patches_that_are_empty(tmp_path: Path, shares: dict[str, float]) -> None:
    model = llama()
    with pytest.raises(BrittleError, match="both patches are empty"), unchanged(model):
        patched_loss(model, tmp_path, replace(PATCH, **shares))


def test_a_recipe_from_command_to_rows(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = pairs(tmp_path / "harmful.jsonl", "harm")
    line = [*arguments, "--controls", "none", "--seeds", "1", "--behaviour", f"harmful={file}"]
    assert main([*line, "--modify", "safe-patching:n=40"]) == 2
    assert "40 pairs of harmful were asked for, and there are 6" in capsys.readouterr().err
    line[line.index("--output_path") + 1] = str(tmp_path / "other")
    assert main([*line, "--modify", "safe-patching:n=4,batch=2,p=1", "--modify", "safe-patching:n=4,batch=2,p=1,beta=0"]) == 0
    first, one, two = rows(tmp_path / "other").values()
    assert len({row["fingerprint"] for row in (first, one, two)}) == 3
    assert {"patch.a=0.05", "patch.beta=1.0", "patch.rescale=False"} <= set(one["unverified"])
    assert "safety patch on" in capsys.readouterr().err


def test_the_five_coefficients_are_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "safe-patching", "--json"]) == 0
    (card,) = json.loads(capsys.readouterr().out)
    shown: dict[str, Any] = {option["key"]: option for option in card["options"]}
    assert {"a", "b", "p", "alpha", "beta", "rescale"} <= {
        key for key, option in shown.items() if option["type"].endswith(", unverified")
    }
    assert main(["--modify", "patch:p=0"]) == 2
    assert "greater than 0" in capsys.readouterr().err
