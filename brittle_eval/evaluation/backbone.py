"""Models from a path as causal language models; of a vision-language model its language side."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
)

from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.backends import LOADING

LOG = logging.getLogger(__name__)
KEYS = ("revision", "subfolder", "trust_remote_code")
"""What says which files are meant."""


def sees_images(path: str, **given: Any) -> bool:
    """Whether the model at the path is a vision-language model with a language model inside."""
    try:
        config = AutoConfig.from_pretrained(path, **{key: given[key] for key in KEYS if key in given})
    except (OSError, ValueError):  # whoever loads it says what is wrong
        return False
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and config.get_text_config() is not config


def load_causal(path: str, **given: Any) -> PreTrainedModel:
    """The causal language model at the path, or the language side of the vision-language model there."""
    if not sees_images(path, **given):
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, **given)
        return model
    return language_side(AutoModelForImageTextToText.from_pretrained(path, **given))


def language_arguments(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments of HFLM, with the language side in a vision-language model's place.

    BrittleError for what only a whole model can follow.
    """
    path = given.get("pretrained")
    if not isinstance(path, str) or not sees_images(path, **given):
        return given
    if other := sorted(set(given) - {*LOADING, "device"}):
        raise BrittleError(f"{path} is a vision-language model, whose language side alone is read: leave out {', '.join(other)}")
    loading = {key: given[key] for key in KEYS if key in given}
    model = load_causal(path, dtype=given.get("dtype", "auto"), **loading)
    torch.nn.Module.to(model, given["device"])
    LOG.warning("%s is a vision-language model: its language side is evaluated, without images", path)
    return {"pretrained": model, "tokenizer": given.get("tokenizer", path), "device": given["device"]}


def language_side(whole: PreTrainedModel) -> PreTrainedModel:
    """A causal language model of the decoder and the output head of a vision-language model, with its very weights.

    For tokens without images it gives the logits of the whole; its weights have the names that they have in a model which never
    saw images. ValueError for a language model that transformers has no causal class for.
    """
    with torch.device("meta"):  # its own weights are not used
        made: PreTrainedModel = AutoModelForCausalLM.from_config(whole.config.get_text_config())
    setattr(made, made.base_model_prefix, whole.get_decoder())
    made.set_output_embeddings(whole.get_output_embeddings())
    made.generation_config = whole.generation_config
    made.eval()
    return made
