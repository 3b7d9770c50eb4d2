"""Loading a judge's model: safetensors only, none of its code, on the accelerator if there is one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer
from transformers.utils.peft_utils import find_adapter_config_file

from brittle_eval import BrittleError, Verdict
from brittle_plugins.judge_labels import unloadable

NO_LIMIT = 10**9
"""Tokenizers write a huge number where they know no limit."""


@dataclass(frozen=True)
class Loaded:
    """A judge's model, in evaluation mode, with its tokenizer."""

    model: Any
    tokenizer: Any
    context: int
    """The longest text in tokens."""

    def too_long(self, tokens: int) -> Verdict:
        """For a text that is never cut."""
        return Verdict(None, f"{tokens} tokens, over the judge's context of {self.context}")

    @torch.inference_mode()
    def logits(self, batch: Any) -> Tensor:
        """Of a padded batch."""
        found: Tensor = self.model(**batch.to(self.model.device)).logits
        return found.float().cpu()


def load(family: Any, name: str, revision: str, device: str | None, adapter: str = "", adapter_revision: str = "main") -> Loaded:
    """`family.from_pretrained` of a path or hub id, with a LoRA adapter on it if one is named.

    BrittleError where that fails, for weights that are not safetensors, and for an adapter in the model's place.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    common: dict[str, Any] = {"trust_remote_code": False}
    try:
        if find_adapter_config_file(name, revision=revision) is not None:
            raise BrittleError(f"judge: {name} is an adapter: give its base as model and {name} as adapter")
        model = family.from_pretrained(name, revision=revision, use_safetensors=True, dtype=dtype, **common)
        tokenizer = AutoTokenizer.from_pretrained(adapter or name, revision=adapter_revision if adapter else revision, **common)
    except (OSError, ValueError, ImportError) as error:
        raise unloadable(name, error) from error
    if adapter:
        model = _with_adapter(model, adapter, adapter_revision)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    model.config.pad_token_id = tokenizer.pad_token_id
    limits = (tokenizer.model_max_length, getattr(model.config.get_text_config(), "max_position_embeddings", None))
    context = min(limit for limit in (*limits, NO_LIMIT) if limit)
    return Loaded(model.eval().to(device), tokenizer, context)


def _with_adapter(model: Any, adapter: str, revision: str) -> Any:
    from peft import PeftModel

    if Path(adapter).is_dir() and not (Path(adapter) / "adapter_model.safetensors").is_file():
        raise BrittleError(f"judge: {adapter} has no adapter_model.safetensors: other formats are not read")
    try:
        return PeftModel.from_pretrained(model, adapter, revision=revision, use_safetensors=True).merge_and_unload()
    except (OSError, ValueError) as error:
        raise unloadable(f"adapter {adapter}", error) from error
