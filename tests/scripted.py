"""Checkpoints whose answer to every prompt is known, because it is written into the weights."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import LlamaConfig

from tests.models import END, PAD, build, tokenizer

WIDTH = 32


def save_scripted(path: Path, *sentences: str, context: int = 4096) -> None:
    """A chat model that answers with these sentences, one token each, and ends.

    Its blocks do nothing. Each token of the chain (the template's last, then the sentences) has a dimension of its own, and
    the output head gives what follows it.
    """
    words = tokenizer()
    words.add_tokens(list(sentences))
    chain = [words("\n")["input_ids"][-1], *(words(sentence)["input_ids"][0] for sentence in sentences), END]
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    ends: dict[str, Any] = {"pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": END, "tie_word_embeddings": False}
    model = build(LlamaConfig(vocab_size=len(words), max_position_embeddings=context, **sizes, **ends))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        for place, (token, following) in enumerate(pairwise(chain)):
            cast(nn.Embedding, model.get_input_embeddings()).weight[token, place] = 1.0
            cast(nn.Linear, model.get_output_embeddings()).weight[following, place] = 20.0
    model.save_pretrained(path)
    words.save_pretrained(path)
