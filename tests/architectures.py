"""More tiny models: fused experts of every layout, and fused query, key and value of every layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from transformers import (
    BloomConfig,
    FalconConfig,
    GPTNeoXConfig,
    GptOssConfig,
    MixtralConfig,
    MptConfig,
    NemotronHConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
)

from tests.models import END, PAD, VOCABULARY, _shape, build


def mixtral(seed: int = 0, experts: int = 4) -> PreTrainedModel:
    """Fused experts, stored (experts, out, in); two of them for a token."""
    return build(MixtralConfig(**_shape(2), num_local_experts=experts, num_experts_per_tok=2, tie_word_embeddings=False), seed)


def qwen3_moe(seed: int = 0) -> PreTrainedModel:
    """A plain first block and then fused experts; queries and keys have norms of their own."""
    sizes: dict[str, Any] = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "mlp_only_layers": [0],
        "head_dim": 8,
    }
    return build(Qwen3MoeConfig(**_shape(2), tie_word_embeddings=False, **sizes), seed)


def gpt_oss(seed: int = 0) -> PreTrainedModel:
    """Fused experts with biases, stored (experts, in, out), gate and up interleaved; attention with sinks."""
    sizes: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 8}
    eager: dict[str, Any] = {"attn_implementation": "eager"}
    return build(GptOssConfig(**_shape(2), tie_word_embeddings=False, **eager, **sizes), seed)


def nemotron(seed: int = 0) -> PreTrainedModel:
    """Fused experts without a gate after an attention block."""
    sizes: dict[str, Any] = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8}
    return build(NemotronHConfig(**_shape(2), layers_block_type=["attention", "moe"], tie_word_embeddings=False, **sizes), seed)


def gpt_neox(seed: int = 0) -> PreTrainedModel:
    """Query, key and value are one weight, head by head; attention and MLP side by side."""
    sizes = _shape(2) | {"tie_word_embeddings": False}
    sizes.pop("num_key_value_heads")
    return build(GPTNeoXConfig(**sizes), seed)


def falcon(heads: Literal["own", "one", "groups"] = "groups", seed: int = 0) -> PreTrainedModel:
    """Query, key and value are one weight: head by head, with one key for all heads, or group by group."""
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends: dict[str, Any] = {"pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": END, "initializer_range": 0.25}
    kind: dict[str, Any] = {"new_decoder_architecture": heads == "groups", "multi_query": heads == "one"}
    kind["num_kv_heads"] = 2 if heads == "groups" else 4
    return build(FalconConfig(**sizes, **ends, **kind, ffn_hidden_size=48, bias=False), seed)


def bloom(seed: int = 0) -> PreTrainedModel:
    """Query, key and value are one weight, head by head."""
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.25}
    return build(BloomConfig(**sizes, pad_token_id=PAD, bos_token_id=1, eos_token_id=END), seed)


def mpt(seed: int = 0) -> PreTrainedModel:
    """Query, key and value are one weight, one after the other."""
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2}
    return build(MptConfig(**sizes, initializer_range=0.25, pad_token_id=PAD, bos_token_id=1, eos_token_id=END), seed)


EXPERTS: dict[str, Callable[[], PreTrainedModel]] = {
    "mixtral": mixtral,
    "qwen3-moe": qwen3_moe,
    "gpt-oss": gpt_oss,
    "nemotron": nemotron,
}
"""Models with fused experts."""
