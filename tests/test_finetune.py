"""Fine-tuning as a modification: what is frozen stays, in full and by LoRA, and what cannot be is said."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example
from brittle_eval.engine.isolate import whole_region
from brittle_eval.errors import BrittleError
from brittle_eval.methods import Context, Modification
from brittle_eval.regions import Mask, Projector, Region
from brittle_eval.tuning.train import response_loss
from brittle_eval.tuning.trained import applied
from brittle_eval.weights import Fingerprint, find_weights
from brittle_plugins.finetune import Finetune
from brittle_plugins.rewind import Rewind
from brittle_plugins.transplant import Transplant
from tests.architectures import mixtral
from tests.editing import unchanged
from tests.models import PAD, context, examples, gpt2, in_dtype, llama, random_region
from tests.test_hold import ranks
from tests.test_trained import given

DATA = examples([(4, 6), (7, 3), (2, 9), (5, 5), (3, 3), (6, 4)], seed=6)
FULL = Finetune(n=6, epochs=3, lr=1e-2, batch=2)
LORA = replace(FULL, lora_rank=3)


def tuning(folder: Path, data: list[Example] = DATA) -> Context:
    made = given(folder)
    assert made.tuning is not None
    return replace(made, tuning=replace(made.tuning, examples=lambda name, count, seed: data[:count]))


def apply(
    model: PreTrainedModel, region: Region, folder: Path, *chain: Modification, other: Context | None = None
) -> AbstractContextManager[list[str]]:
    return applied(model, find_weights(model)[0], region, chain, other or tuning(folder), Fingerprint(model))


def values(model: PreTrainedModel) -> dict[str, Tensor]:
    return {address.name: address.view(model).clone() for address in find_weights(model)[0]}


@pytest.mark.parametrize("settings", [FULL, LORA, replace(FULL, weights="blocks", weight_decay=0.1)])
@pytest.mark.parametrize("make", [llama, gpt2])
def test_a_free_training_learns_and_is_undone(tmp_path: Path, make: Callable[[], PreTrainedModel], settings: Finetune) -> None:
    model = make()
    before, loss = dict(make().named_parameters()), float(response_loss(model, DATA, PAD).detach())
    with unchanged(model), apply(model, whole_region(model, find_weights(model)[0]), tmp_path, settings) as touched:
        assert float(response_loss(model, DATA, PAD).detach()) < 0.8 * loss
        changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
        linears = {address.parameter_name for address in find_weights(model)[0]}
        assert changed == set(touched) == (set(before) if settings == FULL else linears)


@pytest.mark.parametrize("settings", [replace(FULL, weight_decay=0.1), LORA])
@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_mask_freezes_keeps_its_bytes(
    tmp_path: Path, make: Callable[[], PreTrainedModel], settings: Finetune, dtype: torch.dtype
) -> None:
    """And with train-only everything else."""
    model = in_dtype(make(), dtype)
    region, old = random_region(model, 0.4), values(model)
    for rule, moving in (("freeze", False), ("train-only", True)):
        with unchanged(model), apply(model, region, tmp_path, replace(settings, region=rule)):  # type: ignore[arg-type]
            for name, value in values(model).items():
                inside = region.masks()[name].dense()
                frozen = ~inside if moving else inside
                assert torch.equal(value[frozen].view(torch.uint8), old[name][frozen].view(torch.uint8))
                assert not torch.equal(value[~frozen], old[name][~frozen])


@pytest.mark.parametrize("settings", [replace(FULL, weight_decay=0.1), LORA])
def test_what_a_projector_freezes_does_not_move(tmp_path: Path, settings: Finetune) -> None:
    model = llama()
    region, old = ranks(model), values(model)
    for rule in ("freeze", "train-only"):
        with apply(model, region, tmp_path, replace(settings, region=rule)):  # type: ignore[arg-type]
            for name, value in values(model).items():
                part = region[name]
                assert isinstance(part, Projector)
                basis, change = part.left.double(), (value - old[name]).double()
                inside = basis @ (basis.T @ change)
                wrong = inside if rule == "freeze" else change - inside
                assert wrong.norm() <= 1e-5 * change.norm() and change.norm() > 1e-3


def test_under_lora_the_effective_update_is_held_in_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of each step is that of a plain model with `W + BA − M ⊙ BA`, and the merged model is the last of them."""
    import brittle_plugins.finetune as module

    model, region = llama(), random_region(llama(), 0.4)
    plain, start, compared = llama(), values(llama()), list[float]()
    train = module.fine_tune

    def watched(model: PreTrainedModel, data: Any, settings: Any, pad_id: int, *rest: Any, **also: Any) -> list[float]:
        def loss_of(model: PreTrainedModel, batch: Any) -> Tensor:
            with torch.no_grad():
                for address in find_weights(plain)[0]:
                    layer: Any = model.get_submodule(address.module)
                    change = 16 / 3 * (layer.lora_B["default"].weight @ layer.lora_A["default"].weight)
                    mask = region.masks()[address.name].dense()
                    address.view(plain).copy_(start[address.name] + change * ~mask)
                expected = response_loss(plain, batch, pad_id)
            loss = response_loss(model, batch, pad_id)
            compared.append(float((loss.detach() - expected).abs()))
            return loss

        return train(model, data, settings, pad_id, *rest[:3], loss_of=loss_of)

    monkeypatch.setattr(module, "fine_tune", watched)
    with apply(model, region, tmp_path, replace(LORA, region="freeze")):
        assert len(compared) == 9 and max(compared) < 1e-4
        moved = max(float((value - start[name]).abs().max()) for name, value in values(model).items())
        assert moved > 1e-3


def test_lora_can_train_again_on_the_same_model(tmp_path: Path) -> None:
    """As it does for the controls; a seed repeats it, another one does not."""
    model, region, found = llama(), random_region(llama(), 0.4), []
    for number, seed in enumerate((0, 0, 1)):
        with unchanged(model), apply(model, region, tmp_path / str(number), replace(LORA, seed=seed)):
            found.append(str(Fingerprint(model)))
    assert found[0] == found[1] != found[2]


def test_experts_train_in_full_and_stay_under_lora(tmp_path: Path) -> None:
    model = mixtral()
    old = values(model)
    with apply(model, Region({}), tmp_path, LORA):
        moved = {name for name, value in values(model).items() if not torch.equal(value, old[name])}
    assert moved == {name for name in old if not name.endswith("]")}


@pytest.mark.parametrize("settings", [replace(FULL, weights="blocks", region="freeze"), replace(LORA, region="freeze")])
def test_nothing_is_left_to_train(tmp_path: Path, settings: Finetune) -> None:
    model = llama()
    with unchanged(model), pytest.raises(BrittleError, match="no weight is left to train"):
        apply(model, whole_region(model, find_weights(model)[0]), tmp_path, settings).__enter__()


@pytest.mark.parametrize("settings", [replace(FULL, lr=1e30), replace(LORA, lr=1e30)])
def test_a_loss_that_is_no_number_restores_and_says_the_step(tmp_path: Path, settings: Finetune) -> None:
    model = llama()
    with unchanged(model), pytest.raises(BrittleError, match=r"the training loss is (nan|inf) at step \d of 9: lower"):
        apply(model, Region({}), tmp_path, settings).__enter__()
    assert list(tmp_path.iterdir()) == [] and not [name for name, _ in model.named_parameters() if "lora" in name]


def test_a_region_of_another_model_is_refused(tmp_path: Path) -> None:
    region = Region({"model.layers.0.mlp.up_proj.weight": Mask.from_dense(torch.ones(3, 3, dtype=torch.bool))})
    model = llama()
    with unchanged(model), pytest.raises(BrittleError, match="the region is another model's"):
        apply(model, region, tmp_path, replace(FULL, region="freeze")).__enter__()


@pytest.mark.parametrize("settings", [FULL, LORA])
def test_a_killed_training_goes_on_at_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Finetune) -> None:
    import brittle_plugins.finetune as module
    from brittle_eval.tuning.checkpoint import Checkpoint

    monkeypatch.setattr(module, "Checkpoint", lambda folder: Checkpoint(folder, seconds=0))
    region, steps = random_region(llama(), 0.4), list[int]()
    chain = replace(settings, region="freeze")
    train = module.fine_tune

    def counted(model: Any, data: Any, own: Any, pad: Any, on_step: Any, *rest: Any) -> list[float]:
        def step(number: int, total: int, loss: float) -> None:
            steps.append(number)
            if len(steps) == 5:
                raise KeyboardInterrupt

        return train(model, data, own, pad, step, *rest)

    monkeypatch.setattr(module, "fine_tune", counted)
    model = llama()
    with unchanged(model), pytest.raises(KeyboardInterrupt):
        apply(model, region, tmp_path / "cut", chain).__enter__()
    with apply(model, region, tmp_path / "cut", chain):
        resumed = str(Fingerprint(model))
    assert steps == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9]
    with apply(llama(), region, tmp_path / "whole", chain), apply(model, region, tmp_path / "whole", chain):
        assert str(Fingerprint(model)) == resumed
    assert [file.suffix for file in (tmp_path / "cut").iterdir()] == [".safetensors"]


def test_rewinding_gives_the_region_its_old_bytes_behind_a_training(tmp_path: Path) -> None:
    model, region = llama(), random_region(llama(), 0.4)
    old = values(model)
    with apply(model, region, tmp_path, FULL):
        tuned = values(model)
    with unchanged(model), apply(model, region, tmp_path, FULL, Rewind()):
        for name, value in values(model).items():
            assert torch.equal(value, torch.where(region.masks()[name].dense(), old[name], tuned[name]))


@pytest.mark.parametrize("make_region", [ranks, lambda model: random_region(model, 0.4)])
def test_a_transplant_is_the_donors_region(tmp_path: Path, make_region: Callable[[PreTrainedModel], Region]) -> None:
    model, donor = llama(), values(llama(seed=5))
    region, old = make_region(model), values(model)
    other = replace(context(), weights=lambda which: donor if which == "donor" else {})
    with unchanged(model), apply(model, region, tmp_path, Transplant(), other=other):
        for name, value in values(model).items():
            part = region[name]
            taken = part.dense().float() @ (donor[name] - old[name]) if isinstance(part, Projector) else None
            expected = old[name] + taken if taken is not None else torch.where(part.dense(), donor[name], old[name])  # type: ignore[union-attr]
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_options_out_of_range_are_refused() -> None:
    from brittle_eval.recipe import Component, build

    for key, value in {"n": "0", "lr": "0", "region": "melt", "lora_rank": "-1", "warmup": "2"}.items():
        with pytest.raises(BrittleError, match=re.escape(key.replace("_", "-"))):
            build(Component("modification", "finetune", {key: value}), Finetune)
    assert math.isclose(build(Component("modification", "finetune", {"lr": "5e-5"}), Finetune).lr, 5e-5)
