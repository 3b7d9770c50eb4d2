"""Adapters that somebody trained: merged as peft merges them, into the region alone, and only on their base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from brittle_eval.engine.isolate import whole_region
from brittle_eval.errors import BrittleError
from brittle_eval.weights import find_weights
from brittle_plugins.adapter import Adapter
from tests.editing import unchanged
from tests.models import gpt2, llama, random_region, untied
from tests.test_finetune import apply, values


def save(folder: Path, model: PreTrainedModel, base: str = "mine") -> dict[str, torch.Tensor]:
    """An adapter with random pairs; gives the weights with it merged."""
    module = "c_fc" if "transformer.wte.weight" in dict(model.named_parameters()) else "up_proj"
    made = get_peft_model(model, LoraConfig(target_modules=[module], r=2, lora_alpha=6, fan_in_fan_out=module == "c_fc"))
    for name, value in made.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(value, generator=torch.Generator().manual_seed(len(name)))
    made.save_pretrained(str(folder), save_embedding_layers=False)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": f"somewhere/{base}"}))
    merged: PreTrainedModel = made.merge_and_unload()
    return values(merged)


@pytest.fixture
def mine() -> PreTrainedModel:
    model = llama()
    model.name_or_path = "elsewhere/mine"
    return model


@pytest.mark.parametrize("make", [llama, gpt2])
def test_it_is_merged_as_peft_merges_it(tmp_path: Path, make: Callable[[], PreTrainedModel]) -> None:
    model, merged = make(), save(tmp_path / "adapter", make())
    model.name_or_path = "elsewhere/mine"
    every, region, old = whole_region(model, find_weights(model)[0]), random_region(model, 0.5), values(model)
    chain = Adapter(str(tmp_path / "adapter"))
    with unchanged(model), apply(model, every, tmp_path, chain) as touched:
        assert len(touched) == 2
        for name, value in values(model).items():
            torch.testing.assert_close(value, merged[name])
    with unchanged(model), apply(model, region, tmp_path, chain):
        for name, value in values(model).items():
            torch.testing.assert_close(value, torch.where(region.masks()[name].dense(), merged[name], old[name]))


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, mine: PreTrainedModel) -> None:
    save(tmp_path / "named", llama(), "other")
    save(tmp_path / "deeper", untied(layers=3))
    every = whole_region(mine, find_weights(mine)[0])
    with unchanged(mine), pytest.raises(BrittleError, match="is of the base 'other', the model is 'mine': give any-base=true"):
        apply(mine, every, tmp_path, Adapter(str(tmp_path / "named"))).__enter__()
    with (
        unchanged(mine),
        pytest.raises(BrittleError, match=r"changes model\.layers\.2\.mlp.* not at all: give an adapter of this"),
    ):
        apply(mine, every, tmp_path, Adapter(str(tmp_path / "deeper"))).__enter__()
    with unchanged(mine), apply(mine, every, tmp_path, Adapter(str(tmp_path / "named"), any_base=True)) as touched:
        assert len(touched) == 2


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("use_dora", True, "no plain LoRA"), ("peft_type", "IA3", "no plain LoRA"), (None, None, "cannot read")],
)
def test_what_is_no_plain_lora_is_refused(
    tmp_path: Path, mine: PreTrainedModel, key: str | None, value: object, said: str
) -> None:
    save(tmp_path / "adapter", llama())
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}) if key else "{")
    with unchanged(mine), pytest.raises(BrittleError, match=said):
        apply(mine, whole_region(mine, find_weights(mine)[0]), tmp_path, Adapter(str(tmp_path / "adapter"))).__enter__()
