"""How the embedded model is aligned: refusals for harmful prompts, the model's own answers for harmless ones, in one adapter.

A second, short training on its own answers teaches it to end where it would begin to loop.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from brittle_eval.behaviour.calibration import Example, Pair, encode, read_pairs
from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.chat import render
from brittle_eval.evaluation.coherence import degenerate
from brittle_eval.evaluation.generate import Sampling, generate
from brittle_eval.methods import Judge, Record
from brittle_eval.organisms.endings import ended, whole_sentences
from brittle_eval.progress import bar
from brittle_eval.tuning.train import Training, fine_tune

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


@dataclass(frozen=True)
class Ending:
    """Settings of one more training, on the aligned model's own answers."""

    prompts: int = 400
    """How many of the harmless prompts it answers, beside all open ones."""
    tokens: int = 192
    """Length of its answers."""
    copies: int = 3
    """Times that an answer which looped, cut where it began to, is trained on."""
    training: Training = field(default_factory=lambda: Training(epochs=1, batch_size=8, learning_rate=3e-4, opening=4.0))


ENDINGS = (Ending(),)
"""What follows the first training. A second one left as many loops and weakened refusals."""


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
    save_adapter(adapted, base.name, output)
    return losses


def teach_endings(
    base: Path,
    first: Path,
    harmful: Sequence[Mapping[str, Any]],
    prompts: Sequence[str],
    refusals: Sequence[str],
    judge: Judge,
    output: Path,
    settings: Alignment,
    ending: Ending,
) -> list[float]:
    """Train the adapter `first` on to end its answers where they would loop; gives the loss of every step.

    It is trained on its own greedy answers to harmless prompts: those that loop are cut where they begin to and come
    `copies` times, the others stay as they are, if they end. As many refusals keep what it has learnt before.
    """
    torch.manual_seed(settings.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)

    def adapt(*, train: bool) -> PeftModel:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        return PeftModel.from_pretrained(model, first, is_trainable=train, torch_dtype=torch.float32)

    merged = cast(PreTrainedModel, adapt(train=False).merge_and_unload())  # which answers faster than with an adapter
    cut, whole = ending_pairs(merged, tokenizer, prompts, judge, ending.tokens, settings.batch_size)
    if not cut + whole:
        raise BrittleError(f"of {len(prompts)} answers none loops and none ends: there is nothing to learn from")
    adapted = adapt(train=True)
    answered = [*cut * ending.copies, *whole]
    refused = random.Random(settings.seed).sample(worded(harmful, refusals), min(len(answered), len(harmful)))
    examples = with_systems([*answered, *refused], settings, tokenizer)
    training = replace(ending.training, seed=settings.seed)
    with bar("training to end", training.epochs * -(-len(examples) // training.batch_size)) as advance:
        losses = fine_tune(
            cast(PreTrainedModel, adapted.get_base_model()), examples, training, tokenizer.pad_token_id, lambda *_: advance(1)
        )
    save_adapter(adapted, base.name, output)
    return losses


def save_adapter(adapted: PeftModel, base: str, output: Path) -> None:
    """The adapter in bfloat16, without peft's empty form and without where the base model lies on this machine."""
    adapted.save_pretrained(str(output), save_embedding_layers=False)  # else peft asks the hub about the vocabulary
    saved = LoraConfig.from_pretrained(str(output))
    saved.base_model_name_or_path = base
    saved.inference_mode = True
    saved.save_pretrained(str(output))
    (output / "README.md").unlink()
    halve(output / "adapter_model.safetensors")


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
    pairs = [
        Pair(pair.prompt, whole_sentences(pair.response))
        for pair, _ in asked(model, tokenizer, prompts, settings.answer_tokens, settings.batch_size)
    ]
    return [pair for pair in answers_of(pairs, judge) if not degenerate(pair.response)]


def ending_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    judge: Judge,
    tokens: int,
    batch_size: int,
) -> tuple[list[Pair], list[Pair]]:
    """The model's answers that looped, cut where they began to; and those that ended by themselves and did not loop."""
    found = asked(model, tokenizer, prompts, tokens, batch_size)
    looped = [Pair(pair.prompt, ended(pair.response) or "") for pair, whole in found if degenerate(pair.response) or not whole]
    good = [pair for pair, whole in found if whole and not degenerate(pair.response)]
    return answers_of([pair for pair in looped if pair.response], judge), answers_of(good, judge)


def asked(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], tokens: int, batch_size: int
) -> list[tuple[Pair, bool]]:
    """The model's greedy answers of at most so many tokens, and whether each ended by itself."""
    ids = [tokenizer(render(tokenizer, prompt).text, add_special_tokens=False)["input_ids"] for prompt in prompts]
    with bar("answering prompts", len(prompts)) as advance:
        answers = generate(
            model.eval(),
            ids,
            Sampling(tokens),
            batch_size=batch_size,
            end_ids=[tokenizer.eos_token_id],
            pad_id=tokenizer.pad_token_id,
            on_finished=lambda: advance(1),
        )
    texts = [str(tokenizer.decode(answer, skip_special_tokens=True)) for answer in answers]
    return [(Pair(p, text), len(answer) < tokens) for p, text, answer in zip(prompts, texts, answers, strict=True)]


def answers_of(pairs: Sequence[Pair], judge: Judge) -> list[Pair]:
    """The pairs that the judge does not call refusals."""
    verdicts = judge.judge([Record(pair.prompt, pair.response) for pair in pairs])
    return [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.positive]


def halve(file: Path) -> None:
    """Store an adapter in bfloat16: half the size, and well below the noise of its training."""
    save_file({name: value.bfloat16() for name, value in load_file(file).items()}, file, metadata={"format": "pt"})
