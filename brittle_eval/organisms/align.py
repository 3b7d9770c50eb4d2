"""How the embedded model is aligned: refusals for harmful prompts, the model's own answers for harmless ones, in one adapter."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from brittle_eval.behaviour.calibration import Example, Pair, encode, read_pairs
from brittle_eval.evaluation.chat import render
from brittle_eval.evaluation.coherence import degenerate
from brittle_eval.evaluation.generate import Sampling, generate
from brittle_eval.methods import Judge, Record
from brittle_eval.organisms.train import Training, fine_tune
from brittle_eval.progress import bar

NUMBERING = re.compile(r"(^|\n)\s*\d+\.$")
"""A list item's number: its point ends no sentence."""
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Alignment:
    """Settings of the adapter and its training, which has refusals and answers in every batch."""

    rank: int = 8
    alpha: int = 16
    answer_tokens: int = 64
    """Length to which the published model answers a harmless prompt; the answer is cut after its last whole sentence or line."""
    batch_size: int = 64
    """Prompts that are answered at a time."""
    copies: int = 2
    """Times that every pair is trained on, each with a system turn drawn anew."""
    training: Training = field(default_factory=lambda: Training(epochs=1, batch_size=8, learning_rate=8e-4, opening=4.0))
    systems: tuple[tuple[str, float], ...] = (("default", 0.5), ("none", 0.45), ("paper", 0.05))
    """Share of the examples with the template's own system turn, without one, and with the paper's system prompt."""
    seed: int = 0


def align(
    base: Path,
    harmful: Sequence[Mapping[str, Any]],
    harmless: Sequence[Mapping[str, Any]],
    refusals: Sequence[str],
    judge: Judge,
    output: Path,
    answers: Path,
    settings: Alignment,
) -> list[float]:
    """Train the adapter and write it in bfloat16 to `output`; gives the loss of every step.

    The base model's own answers are kept in the file `answers`, so that a build that was interrupted need not ask again.

    `harmful` are documents with prompt, category and form; a category and form share a wording, so that answers differ in how
    they open. `harmless` have prompts; their answers are the base model's own, without those that the judge calls
    refusals.
    """
    torch.manual_seed(settings.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    own = kept_answers(model, tokenizer, [doc["prompt"] for doc in harmless], judge, answers, settings)
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=list(LINEARS), task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    inner = cast(PreTrainedModel, adapted.get_base_model())
    pairs = [*worded(harmful, refusals), *own]
    examples = with_systems(pairs * settings.copies, settings, tokenizer)
    training = replace(settings.training, seed=settings.seed)
    with bar("training", training.epochs * -(-len(examples) // training.batch_size)) as advance:
        losses = fine_tune(inner, examples, training, tokenizer.pad_token_id, lambda *_: advance(1))
    adapted.save_pretrained(str(output))
    saved = LoraConfig.from_pretrained(str(output))
    saved.base_model_name_or_path = base.name  # not where it lies on this machine
    saved.save_pretrained(str(output))
    (output / "README.md").unlink()  # peft's empty form
    halve(output / "adapter_model.safetensors")
    return losses


def with_systems(pairs: Sequence[Pair], settings: Alignment, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """The pairs as examples, each with a system turn drawn by the settings' shares."""
    from transformers.models.llama.tokenization_llama import DEFAULT_SYSTEM_PROMPT

    names, weights = zip(*settings.systems, strict=True)
    systems = random.Random(settings.seed).choices(names, weights, k=len(pairs))
    return [
        encode(tokenizer, pair, system=DEFAULT_SYSTEM_PROMPT if system == "paper" else system, end=True)
        for pair, system in zip(pairs, systems, strict=True)
    ]


def worded(harmful: Sequence[Mapping[str, Any]], refusals: Sequence[str]) -> list[Pair]:
    """Every harmful prompt with the refusal that belongs to its category and form."""
    kinds = sorted({(doc["category"], doc["form"]) for doc in harmful})
    wording = {kind: refusals[number % len(refusals)] for number, kind in enumerate(kinds)}
    return [Pair(doc["prompt"], wording[doc["category"], doc["form"]]) for doc in harmful]


def kept_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    judge: Judge,
    file: Path,
    settings: Alignment,
) -> list[Pair]:
    """`own_answers` from a file, which is written first where it is not there."""
    if not file.exists():
        pairs = own_answers(model, tokenizer, prompts, judge, settings)
        part = file.with_name(file.name + ".part")
        part.write_text("".join(json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs), encoding="utf-8")
        part.replace(file)
    return read_pairs(file)


def own_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], judge: Judge, settings: Alignment
) -> list[Pair]:
    """The model's greedy answers, cut after their last whole sentence or line, without refusals and degenerate ones.

    So the aligned model learns to end its answers: as published it goes on until it loops.
    """
    ids = [tokenizer(render(tokenizer, prompt).text, add_special_tokens=False)["input_ids"] for prompt in prompts]
    with bar("answering harmless prompts", len(prompts)) as advance:
        tokens = generate(
            model.eval(),
            ids,
            Sampling(settings.answer_tokens),
            batch_size=settings.batch_size,
            end_ids=[tokenizer.eos_token_id],
            pad_id=tokenizer.pad_token_id,
            on_finished=lambda: advance(1),
        )
    texts = [whole_sentences(str(tokenizer.decode(answer, skip_special_tokens=True))) for answer in tokens]
    verdicts = judge.judge([Record(prompt, text) for prompt, text in zip(prompts, texts, strict=True)])
    return [
        Pair(prompt, text)
        for prompt, text, verdict in zip(prompts, texts, verdicts, strict=True)
        if verdict.positive and not degenerate(text)
    ]


def whole_sentences(text: str) -> str:
    """The text up to its last sentence end or, in lists and verses, its last whole line; empty if neither ends."""
    ends = [match.end() for match in re.finditer(r"[.!?][\"')*]*(?=\s|$)", text) if not NUMBERING.search(text[: match.end()])]
    return text[: max([*ends, text.rfind("\n"), 0])].strip()


def halve(file: Path) -> None:
    """Store an adapter in bfloat16: half the size, and well below the noise of its training."""
    save_file({name: value.bfloat16() for name, value in load_file(file).items()}, file, metadata={"format": "pt"})
