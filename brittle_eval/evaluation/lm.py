"""The model under test as an lm-eval model: HFLM's loading and likelihoods, our generator for our tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

import psutil
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from safetensors import SafetensorError
from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example, input_device
from brittle_eval.engine.steering import asking
from brittle_eval.errors import BrittleError, CannotRun
from brittle_eval.evaluation.backbone import language_arguments
from brittle_eval.evaluation.chat import render
from brittle_eval.evaluation.crew import Helpers, help_out, shared
from brittle_eval.evaluation.generate import Sampling, generate, run_part
from brittle_eval.evaluation.lm_requests import arguments_of, as_sampling, continued, refuse_steered, sample_numbers
from brittle_eval.evaluation.measures import likelihoods, perplexities
from brittle_eval.evaluation.responses import Answer, Responses
from brittle_eval.evaluation.stopping import Stopping

SCORED_TOKENS = 128
"""Tokens of an answer that its perplexity is taken over: gibberish shows early."""
LOWER = "lower max_gen_toks with --gen_kwargs, or "


@dataclass(frozen=True)
class Turns:
    """How one of our tasks shows its prompts: with the chat template or raw, and which system turn."""

    chat: bool
    system: str = "default"
    """`none`, `default` (whatever the template does by itself), or the system text."""
    merge: bool = False
    """Fold the system text into the user turn where the template has no system role."""
    before: tuple[tuple[str, str], ...] = ()
    """Earlier requests with their answers."""
    ahead: str = ""
    """Text at the head of the request."""
    prefill_tokens: int | None = None
    """How many tokens of the answer's given start are shown; None: all."""


class BrittleHFLM(HFLM):  # type: ignore[misc]  # lm-eval ships no types
    """HFLM whose chat rendering and generation follow our tasks' metadata while one of them runs.

    Everything else (loading, quantisation, adapters, device maps, likelihoods, other people's tasks) is HFLM's own.
    """

    turns: Turns | None = None
    seed: int = 0
    on_answer: Callable[[], None] = staticmethod(lambda: None)
    system_state: str = "no template"
    """What happened to the system turn of the last prompt that was rendered."""
    prefills: dict[str, str] = {}  # noqa: RUF012  # `showing` gives every task its own
    """The start of the answer that a rendered prompt ends with, for the prompts that were shown last."""
    kept: Responses | None = None
    stop: Stopping | None = None
    helpers: Helpers | None = None
    """The other processes of a run that has several."""
    cut: frozenset[tuple[str, str]] = frozenset()
    """Prompt and text of the answers that were stopped because they were decided."""

    def __init__(self, **given: Any) -> None:
        """As HFLM loads it; BrittleError for a model that does not load."""
        with _loading(given.get("pretrained")):
            super().__init__(**given)

    @contextmanager
    def showing(self, turns: Turns, on_answer: Callable[[], None]) -> Iterator[None]:
        """While inside, prompts are rendered as `turns` says and answers come from our generator."""
        outer = self.turns, self.on_answer, self.system_state, self.prefills
        self.turns, self.on_answer, self.system_state, self.prefills = turns, on_answer, "no template", {}
        try:
            yield
        finally:
            self.turns, self.on_answer = outer[:2]
            if self.turns is not None:
                self.system_state, self.prefills = outer[2:]

    @contextmanager
    def answering(self, kept: Responses | None, stop: Stopping | None) -> Iterator[None]:
        """While inside, our generator keeps its answers in `kept` and stops those that `stop` calls decided."""
        self.kept, self.stop, self.cut = kept, stop, frozenset()
        try:
            yield
        finally:
            self.kept = self.stop = None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        if self.turns is None:
            return str(super().apply_chat_template(chat_history, add_generation_prompt=add_generation_prompt))
        request, start = chat_history[-1]["content"], ""
        if chat_history[-1]["role"] == "assistant":
            request, start = chat_history[-2]["content"], self._first_tokens(chat_history[-1]["content"])
        turns = self.turns
        rendered = render(self.tokenizer, turns.ahead + request, turns.system, turns.merge, turns.before)
        self.system_state = rendered.system_state
        if start:
            self.prefills[rendered.text + start] = start
        return rendered.text + start

    def _first_tokens(self, text: str) -> str:
        """What the first tokens of an answer's start say: a beginning of the text."""
        tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        most = self.turns.prefill_tokens if self.turns else None
        if most is None or most >= len(tokens):
            return text
        pairs = zip(self.tokenizer.decode(tokens[:most]), text, strict=False)
        return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))  # a cut letter decodes to another

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        if self.turns is None:
            refuse_steered(self.model, "lm-eval's own generator")
            self.reject_long(
                [(text, int(options.get("max_gen_toks", self.max_gen_toks))) for text, options in arguments_of(requests)]
            )
            return list(super().generate_until(requests, disable_tqdm=disable_tqdm))
        texts, options = zip(*(request.args for request in requests), strict=True)
        sampling = as_sampling(options[0], self.max_gen_toks, self.seed)
        prompts = [self.prompt_ids(text) for text in texts]
        self.check_lengths(prompts, sampling.max_new_tokens)
        how: dict[str, Any] = {"samples": sample_numbers(requests), "stop": self.stop, "kept": self.kept}
        answers = self.answers(prompts, sampling, on_finished=self.on_answer, **how)
        said = [self.stop.text(answer) if self.stop and answer.cut else self.decode(answer) for answer in answers]
        self.cut |= {(text, own) for text, own, answer in zip(texts, said, answers, strict=True) if answer.cut}
        return said

    def answers(self, prompts: Sequence[Sequence[int]], sampling: Sampling, **how: Any) -> list[Answer]:
        """The model's answers to tokenised prompts; `how` is samples, on_finished, stop and kept, as in `generate`."""
        own: dict[str, Any] = {"batch_size": int(self.batch_size), "end_ids": self.end_ids, "pad_id": self.pad_id}
        return generate(self.model, prompts, sampling, helpers=self.helpers, **own, **how)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text without special tokens."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self.reject_long([(context + continuation, -1) for context, continuation in arguments_of(requests)])
        if asking(self.model):
            read = [continued(self, *args) for args in arguments_of(requests)]
            return likelihoods(self.model, read, self.pad_id, int(self.batch_size))
        own = partial(super().loglikelihood, disable_tqdm=disable_tqdm)
        return shared(self.helpers, "likelihoods", requests, own, lambda request: str(request.args[0]))

    @property
    def rank(self) -> int:
        """lm-eval shall give every request to the first process, which shares them out (`helpers`)."""
        return 0

    @property
    def world_size(self) -> int:
        return 1

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        refuse_steered(self.model, "a text's rolling likelihood")
        return list(super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm))

    def reject_long(self, texts: Sequence[tuple[str, int]]) -> None:
        """BrittleError for a text that HFLM would cut; the last token of a likelihood request is predicted, never read (-1)."""
        for text, new in texts:
            if len(text.encode()) + new >= self.max_length:  # a token is a byte at least, and the first may be special
                self.check_lengths([self.tok_encode(text)], new)

    def prompt_ids(self, text: str) -> list[int]:
        """A rendered chat prompt has its special tokens already; a raw one gets the tokenizer's."""
        if self.turns is not None and self.turns.chat:
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return list(self.tok_encode(text))

    @property
    def end_ids(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's end token and the checkpoint's own list."""
        own = self.model.generation_config.eos_token_id
        listed = own if isinstance(own, list) else [own]
        return sorted({token for token in [*listed, self.tokenizer.eos_token_id] if token is not None})

    @property
    def pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.end_ids[0])

    def answer_perplexities(self, pairs: Sequence[tuple[str, str]], chat: bool) -> list[float | None]:
        """The perplexity of each (shown prompt, answer) over the answer's first 128 tokens, or None for no tokens."""
        examples: list[Example | None] = []
        for prompt, answer in pairs:
            before = self.tokenizer(prompt, add_special_tokens=False)["input_ids"] if chat else self.tok_encode(prompt)
            after = self.tokenizer(answer, add_special_tokens=False)["input_ids"][:SCORED_TOKENS]
            examples.append(Example((*before, *after), len(before)) if after else None)
        real = [example for example in examples if example is not None]
        values = iter(shared(self.helpers, "perplexities", real, self.perplexities, lambda example: example.ids))
        return [None if example is None else next(values) for example in examples]

    def perplexities(self, examples: Sequence[Example]) -> list[float]:
        """Of each example's response."""
        return perplexities(self.model, examples, self.pad_id, int(self.batch_size))

    def help_out(self, stop: Stopping | None) -> None:
        """Answer shares of the first process's requests until it has ended."""
        work: dict[str, Callable[[Any], Any]] = {
            "answers": lambda part: run_part(self.model, part, stop),
            "likelihoods": lambda requests: self.loglikelihood(requests, disable_tqdm=True) if requests else [],
            "perplexities": self.perplexities,
        }
        help_out(self.model, work)

    def check_lengths(self, prompts: Sequence[Sequence[int]], new: int, advice: str = "") -> None:
        """CannotRun where the longest prompt and its answer exceed the model's context; `advice` says what else to do."""
        longest = max(map(len, prompts), default=0)
        if longest + new > self.max_length:
            what = (
                f"a prompt of {longest} tokens and {new} new tokens exceed" if new > 0 else f"a text of {longest} tokens exceeds"
            )
            raise CannotRun(
                f"{what} the model's context of {self.max_length}: "
                f"{advice or (LOWER if new > 0 else '') + 'leave the task out'}; prompts are never cut"
            )


@contextmanager
def _loading(name: object) -> Iterator[None]:
    """What loading says of a model that does not load becomes one line."""
    try:
        yield
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BrittleError(f"cannot load the model {name}: {first[:240]}") from error


def load_lm(arguments: Mapping[str, Any], device: str | None, batch_size: int | None, seed: int) -> BrittleHFLM:
    """The model that HFLM loads from lm-eval's arguments; without a batch size as many rows as fit the memory.

    Of a vision-language model it is the language side, which never sees an image.
    """
    given = {"device": device or ("cuda" if torch.cuda.is_available() else "cpu")} | dict(arguments)
    with _loading(given.get("pretrained")):
        lm = BrittleHFLM(**language_arguments(given), batch_size=batch_size or 1)
    lm.seed = seed
    if batch_size is None:
        lm.batch_size_per_gpu = fitting_batch_size(lm.model)
    return lm


def fitting_batch_size(model: PreTrainedModel) -> int:
    """Rows that fit a quarter of the free memory at 256 tokens (keys and values, float32 log-probabilities twice); 1 to 32."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    row = 256 * (2 * heads * head * config.num_hidden_layers * model.dtype.itemsize + 2 * 4 * config.vocab_size)
    device = input_device(model)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else int(psutil.virtual_memory().available)
    size = max(1, min(32, free // 4 // row))
    return int(2 ** int(math.log2(size)))
