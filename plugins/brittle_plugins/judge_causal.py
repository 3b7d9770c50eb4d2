"""Any causal language model of Hugging Face that answers with a label, as a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from annotated_types import Interval

from brittle_eval import BrittleError, Judge, Record, Verdict
from brittle_plugins.judge_labels import LabelMap, check_template, fill
from brittle_plugins.judge_models import Loaded, load


@dataclass(frozen=True)
class CausalLM(Judge):
    """Positive: the model's greedy answer begins with a label of `positive`; unscored if with none of either list.

    `template` is a text with {prompt} and {response}; `chat` shows request and answer as the turns of the model's own chat
    template, as guard models expect, and `chat-parts` does so where that template wants a list of parts. A text longer than the
    model's context is unscored, never cut. Only safetensors are read, and no code of the model; `adapter` is a LoRA adapter on
    it. Labels: several with +, compared without case. `time-limit` is seconds for a call of several records, loading left out.
    BrittleError for a model that does not load or has no chat template.
    """

    model: str
    positive: str = "yes"
    negative: str = "no"
    template: str = "chat"
    revision: str = "main"
    adapter: str = ""
    adapter_revision: str = "main"
    counts: str = "harmful"
    max_new_tokens: Annotated[int, Interval(ge=1)] = 8
    batch_size: Annotated[int, Interval(ge=1)] = 4
    device: str | None = None
    time_limit: Annotated[float, Interval(gt=0)] | None = 600.0

    separate = True
    at_once = 16
    free = frozenset({"batch_size", "device", "time_limit"})

    def __post_init__(self) -> None:
        LabelMap.read(self.positive, self.negative)
        if self.template not in ("chat", "chat-parts"):
            check_template(self.template)

    @cached_property
    def _loaded(self) -> Loaded:
        from transformers import AutoModelForCausalLM

        loaded = load(AutoModelForCausalLM, self.model, self.revision, self.device, self.adapter, self.adapter_revision)
        if self.template in ("chat", "chat-parts") and not loaded.tokenizer.chat_template:
            raise BrittleError(f"judge: {self.model} has no chat template: give a template with {{prompt}} and {{response}}")
        loaded.tokenizer.padding_side = "left"
        return loaded

    def ready(self) -> None:
        _ = self._loaded

    def judge(self, records: Sequence[Record]) -> list[Verdict]:
        loaded, labels = self._loaded, LabelMap.read(self.positive, self.negative)
        shown = [self._ids(record) for record in records]
        verdicts = [loaded.too_long(len(ids) + self.max_new_tokens) for ids in shown]
        fitting = [index for index, ids in enumerate(shown) if len(ids) + self.max_new_tokens <= loaded.context]
        for start in range(0, len(fitting), self.batch_size):
            batch = fitting[start : start + self.batch_size]
            for index, said in zip(batch, self._answers([shown[index] for index in batch]), strict=True):
                verdicts[index] = labels.verdict(said)
        return verdicts

    def _ids(self, record: Record) -> list[int]:
        tokenizer = self._loaded.tokenizer
        if self.template not in ("chat", "chat-parts"):
            return list(tokenizer(fill(self.template, record))["input_ids"])
        turns = [("user", record.prompt), ("assistant", record.response)]
        parts = self.template == "chat-parts"
        chat = [{"role": role, "content": [{"type": "text", "text": text}] if parts else text} for role, text in turns]
        rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])

    def _answers(self, shown: Sequence[list[int]]) -> list[str]:
        import torch
        from transformers import GenerationConfig

        model, tokenizer = self._loaded.model, self._loaded.tokenizer
        batch: Any = tokenizer.pad({"input_ids": list(shown)}, return_tensors="pt").to(model.device)
        ends = getattr(model.generation_config, "eos_token_id", None) or tokenizer.eos_token_id
        greedy = GenerationConfig(
            do_sample=False, max_new_tokens=self.max_new_tokens, pad_token_id=tokenizer.pad_token_id, eos_token_id=ends
        )
        with torch.inference_mode():
            found = model.generate(**batch, generation_config=greedy)
        width = batch["input_ids"].shape[1]
        return list(tokenizer.batch_decode(found[:, width:], skip_special_tokens=True))
