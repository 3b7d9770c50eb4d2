"""Tiny seeded models and a tiny tokenizer, for all tests."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from brittle_eval.behaviour.calibration import Example
from brittle_eval.engine.attribute import Pass, accumulate, scores
from brittle_eval.engine.isolate import as_weight
from brittle_eval.engine.sharing import sites
from brittle_eval.methods import Attribution, Context, Weight
from brittle_eval.regions import Mask, Region
from brittle_eval.scores import Directions
from brittle_eval.weights import Address, find_weights

gc.freeze()  # the driver collects garbage after every pass: without the libraries' own objects that takes no time

VOCABULARY = 320
SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>")
PAD, END = 0, 2
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SAMPLE = [
    "the answer is that the model can and will say what the user asks of it",
    "I am sorry, but this is not something that an assistant should help with",
]


def build(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A model with random weights and biases that are not zero; leaves the global random state alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.2)
    made: PreTrainedModel = model.eval()
    return made


def _shape(layers: int) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "pad_token_id": PAD,
        "bos_token_id": 1,
        "eos_token_id": END,
        "initializer_range": 0.25,
    }


def llama(seed: int = 0, layers: int = 2) -> PreTrainedModel:
    """Grouped-query heads, tied embeddings, no biases."""
    return build(LlamaConfig(**_shape(layers), tie_word_embeddings=True), seed)


def untied(seed: int = 0, layers: int = 2) -> PreTrainedModel:
    """A Llama whose greedy answers do not repeat one token."""
    return build(LlamaConfig(**_shape(layers), tie_word_embeddings=False), seed)


def biased(seed: int = 0) -> PreTrainedModel:
    """A Llama with biases everywhere."""
    return build(LlamaConfig(**_shape(2), tie_word_embeddings=False, attention_bias=True, mlp_bias=True), seed)


def gpt2(seed: int = 0) -> PreTrainedModel:
    """`Conv1D` stores (in, out); query, key and value are one weight."""
    sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.25}
    return build(GPT2Config(vocab_size=VOCABULARY, pad_token_id=PAD, bos_token_id=1, eos_token_id=END, **sizes), seed)


def gemma2(seed: int = 0) -> PreTrainedModel:
    """Norms after the sublayers, a sliding window of 8 in the first block, and logits capped after the output head."""
    caps: dict[str, Any] = {"attn_implementation": "eager", "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8}
    return build(Gemma2Config(**_shape(2), head_dim=8, sliding_window=8, **caps), seed)


def mistral(seed: int = 0) -> PreTrainedModel:
    """A sliding window of 8 in every block."""
    return build(MistralConfig(**_shape(2), sliding_window=8), seed)


def opt(seed: int = 0) -> PreTrainedModel:
    """Its blocks flatten batch and positions before the MLP."""
    sizes: dict[str, Any] = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "max_position_embeddings": 512}
    depth: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4, "init_std": 0.25, "dropout": 0.0}
    ends: dict[str, Any] = {"pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": END}
    return build(OPTConfig(vocab_size=VOCABULARY, **sizes, **depth, **ends), seed)


def phi3(seed: int = 0) -> PreTrainedModel:
    """Query, key and value are one weight, and so are gate and up."""
    return build(Phi3Config(**_shape(2), tie_word_embeddings=False), seed)


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": llama,
    "biased": biased,
    "gpt2": gpt2,
    "gemma2": gemma2,
    "mistral": mistral,
    "opt": opt,
    "phi3": phi3,
}


def in_dtype(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model itself, with all parameters in another dtype."""
    nn.Module.to(model, dtype)
    return model


def examples(lengths: Sequence[tuple[int, int]], seed: int = 0) -> list[Example]:
    """Random ids with (prompt, response) tokens each."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Example(tuple(torch.randint(len(SPECIAL), VOCABULARY, (prompt + response,), generator=generator).tolist()), prompt)
        for prompt, response in lengths
    ]


def context(base: Mapping[str, Tensor] | None = None, seed: int = 0) -> Context:
    """A context whose streams depend on the name only, and whose base weights are the given ones."""

    def generator(name: str) -> torch.Generator:
        return torch.Generator().manual_seed(seed + sum(name.encode()))

    def weights(which: Literal["base", "before"]) -> Mapping[str, Tensor]:
        assert which == "base" and base is not None
        return base

    return Context(generator, weights)


def weights_of(model: PreTrainedModel) -> dict[Address, Weight]:
    """Every editable weight as methods see it."""
    return {address: as_weight(model, address, context(), base=False) for address in find_weights(model)[0]}


def attribute(
    model: PreTrainedModel, method: Attribution, data: Sequence[Example], size: int = 8, only: Sequence[Address] = ()
) -> dict[str, Tensor]:
    """Scores of all weights, or of those in `only`, from one behaviour's examples."""
    found = _attribute(model, method, data, size, only)
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def directions(
    model: PreTrainedModel, method: Attribution, data: Sequence[Example], size: int = 8, only: Sequence[Address] = ()
) -> dict[str, Directions]:
    """Directions of all weights, or of those in `only`, from one behaviour's examples."""
    found = _attribute(model, method, data, size, only)
    return {name: value for name, value in found.items() if isinstance(value, Directions)}


def _attribute(
    model: PreTrainedModel, method: Attribution, data: Sequence[Example], size: int, only: Sequence[Address]
) -> dict[str, Tensor | Directions]:
    weights = {address: weight for address, weight in weights_of(model).items() if not only or address in only}
    together = sites(model, method, list(weights), {"safety": data}, PAD)
    states = accumulate(model, method, weights, {"safety": data}, Pass(PAD, size), together)["safety"]
    return {weight.name: scores(method, weight, states[weight.name]) for weight in weights.values() if weight.name in states}


def random_region(model: PreTrainedModel, share: float, seed: int = 0) -> Region:
    """Each entry of each weight with this probability."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {address.name: address.view(model).shape for address in find_weights(model)[0]}
    return Region({name: Mask.from_dense(torch.rand(shape, generator=generator) < share) for name, shape in shapes.items()})


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with a few merges and a ChatML template: every text is some tokens and comes back."""
    fast = Tokenizer(BPE())
    fast.pre_tokenizer = ByteLevel(add_prefix_space=False)
    fast.decoder = ByteLevelDecoder()
    alphabet = sorted(ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    fast.train_from_iterator(SAMPLE, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=fast, pad_token=SPECIAL[0], bos_token=SPECIAL[1], eos_token=SPECIAL[2])
    made.chat_template = CHATML
    return made


def save_checkpoint(path: Path, seed: int = 0) -> None:
    """A tiny chat model that loads with `pretrained=PATH`: an untied Llama with the tiny tokenizer."""
    untied(seed).save_pretrained(path)
    tokenizer().save_pretrained(path)
