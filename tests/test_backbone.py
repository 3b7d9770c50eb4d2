"""Vision-language models: a real class built small, its language side evaluated, and merged with the model it came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)

from brittle_eval.cli import main
from brittle_eval.engine.isolate import whole_region
from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.backbone import language_side, load_causal, sees_images
from brittle_eval.evaluation.lm import load_lm
from brittle_eval.running.base import weights_of
from brittle_eval.weights import find_weights
from brittle_plugins.merge import Merge
from tests.editing import edit
from tests.models import context, llama, tokenizer, untied
from tests.test_run import arguments, checkpoint, rows

__all__ = ["arguments", "checkpoint"]  # fixtures
IDS = torch.tensor([[5, 9, 30, 200, 17]])


def seeing(base: PreTrainedModel, change: float = 0.0) -> PreTrainedModel:
    """A LLaVA around a Llama: the adaptation moves each of the language model's weights at random."""
    vision: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlavaConfig(
        text_config=LlamaConfig(**base.config.to_dict()),
        vision_config=CLIPVisionConfig(**vision, image_size=8, patch_size=4),
        image_token_index=3,
        tie_word_embeddings=base.config.tie_word_embeddings,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made: PreTrainedModel = AutoModelForImageTextToText.from_config(config).eval()
        made.get_decoder().load_state_dict(base.get_decoder().state_dict())
        made.get_output_embeddings().load_state_dict(base.get_output_embeddings().state_dict())
        with torch.no_grad():
            for address in find_weights(made)[0]:
                address.view(made).add_(change * torch.randn(address.view(made).shape))
    return made


def save(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("make", [untied, llama])
def test_the_language_side_is_the_whole_without_images(tmp_path: Path, make: Any) -> None:
    whole = seeing(make(), 0.1)
    side = language_side(whole)
    stored = load_causal(str(save(whole, tmp_path / "whole")), dtype=torch.float32)
    with torch.no_grad():
        expected = whole(input_ids=IDS).logits
        assert torch.allclose(side(input_ids=IDS).logits, expected, atol=1e-5)
        assert torch.allclose(stored(input_ids=IDS).logits, expected, atol=1e-5)
    names = [address.name for address in find_weights(make())[0]]
    assert [address.name for address in find_weights(side)[0]] == names
    assert not [name for name, value in side.named_parameters() if value.is_meta]
    assert sees_images(str(tmp_path / "whole")) and not sees_images(str(save(make(), tmp_path / "plain")))


def test_a_model_is_merged_with_what_an_adaptation_made_of_it(tmp_path: Path) -> None:
    base, adapted = untied(), seeing(untied(), 0.1)
    addresses = find_weights(base)[0]
    donor = weights_of(str(save(adapted, tmp_path / "seeing")), base, addresses, "donor")
    whole = {address.name: address.view(language_side(adapted)) for address in addresses}
    assert all(torch.equal(donor[name], value) for name, value in whole.items())
    region = whole_region(base, addresses)
    old = {address.name: address.view(base).clone() for address in addresses}
    with edit(base, region, Merge(t=0.25), given=replace(context(), weights=lambda which: donor)):
        for address in addresses:
            expected = 0.75 * old[address.name] + 0.25 * whole[address.name]
            assert torch.allclose(address.view(base), expected, atol=1e-6)


def test_both_ways_from_command_to_rows(arguments: list[str], tmp_path: Path) -> None:
    """A vision-language model as the donor, and as the model itself with its base as the donor."""
    base, adapted = untied(), seeing(untied(), 0.1)
    folders = {name: str(save(model, tmp_path / name)) for name, model in (("base", base), ("seeing", adapted))}
    found = {}
    for name, other in (("base", "seeing"), ("seeing", "base")):
        line = [*arguments, "--controls", "none", "--tasks", "embedded_kl", "--donor", folders[other]]
        line[line.index("--model_args") + 1] = f"pretrained={folders[name]},dtype=float32"
        line[line.index("--output_path") + 1] = str(tmp_path / f"run-{name}")
        assert main([*line, "--modify", "transplant", "--modify", "merge:t=0.5"]) == 0
        found[name] = [row["fingerprint"] for row in rows(tmp_path / f"run-{name}").values()]
    own, other = found["base"], found["seeing"]
    assert (own[0], own[1]) == (other[1], other[0]), "with all of the other's weights each is the other"
    assert len({*own, *other}) >= 3 and own[2] not in own[:2]


def test_what_is_no_language_model(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4)).save_pretrained(tmp_path / "vit")
    with pytest.raises(BrittleError, match=r"cannot load the model .*vit"):
        load_lm({"pretrained": str(tmp_path / "vit")}, "cpu", 1, 0)
    whole = str(save(seeing(untied()), tmp_path / "seeing"))
    with pytest.raises(BrittleError, match="vision-language model, whose language side alone is read: leave out parallelize"):
        load_lm({"pretrained": whole, "parallelize": True}, "cpu", 1, 0)
