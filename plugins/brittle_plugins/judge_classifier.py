"""Any sequence classifier of Hugging Face as a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Interval

from brittle_eval import BrittleError, Judge, Record, Share, Verdict
from brittle_plugins.judge_labels import LabelMap, check_template, fill
from brittle_plugins.judge_models import Loaded, load

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SequenceClassification(Judge):
    """Positive: the most likely label of the classifier is in `positive`; unscored if it is in neither list.

    `positive` and `negative` name labels of the model's own list (several with +). With `template=pair` request and answer are
    its two segments, with `template=response` it sees the answer alone, and else a text with {prompt} and {response}. A
    label under `least` probability is unscored, and so is a text longer than the model's context: nothing is cut. `time-limit` is
    seconds for a call of several records, loading left out. Only
    safetensors are read, and no code of the model. BrittleError for a model that does not load or has other labels.
    """

    model: str
    positive: str
    negative: str
    revision: str = "main"
    template: str = "pair"
    least: Share = 0.0
    counts: str = "harmful"
    batch_size: Annotated[int, Interval(ge=1)] = 8
    device: str | None = None
    time_limit: Annotated[float, Interval(gt=0)] | None = 600.0

    separate = True
    at_once = 32
    free = frozenset({"batch_size", "device", "time_limit"})

    def __post_init__(self) -> None:
        LabelMap.read(self.positive, self.negative)
        if self.template not in ("pair", "response"):
            check_template(self.template)

    @cached_property
    def _loaded(self) -> Loaded:
        from transformers import AutoModelForSequenceClassification

        return load(AutoModelForSequenceClassification, self.model, self.revision, self.device)

    @cached_property
    def _labels(self) -> list[tuple[str, Verdict]]:
        """What each of the model's labels says."""
        names: dict[int, str] = self._loaded.model.config.id2label
        known = LabelMap.read(self.positive, self.negative)
        labels = [(names[index], known.verdict(names[index])) for index in sorted(names)]
        wanted, found = {*known.positive, *known.negative}, {name.lower() for name in names.values()}
        if missing := sorted(wanted - found):
            raise BrittleError(f"judge: {self.model} has no label '{missing[0]}': it has {', '.join(names.values())}")
        return labels

    def ready(self) -> None:
        _ = self._labels

    def judge(self, records: Sequence[Record]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for start in range(0, len(records), self.batch_size):
            verdicts += self._batch(records[start : start + self.batch_size])
        return verdicts

    def _batch(self, records: Sequence[Record]) -> list[Verdict]:
        labels, loaded = self._labels, self._loaded
        encoded = [loaded.tokenizer(*self._shown(record)) for record in records]
        fitting = [index for index, one in enumerate(encoded) if len(one["input_ids"]) <= loaded.context]
        verdicts = [loaded.too_long(len(one["input_ids"])) for one in encoded]
        if fitting:
            batch: Any = loaded.tokenizer.pad([encoded[index] for index in fitting], return_tensors="pt")
            for index, row in zip(fitting, loaded.logits(batch), strict=True):
                verdicts[index] = self._verdict(row, labels)
        return verdicts

    def _verdict(self, logits: Tensor, labels: Sequence[tuple[str, Verdict]]) -> Verdict:
        probabilities = logits.double().softmax(0)
        name, verdict = labels[int(probabilities.argmax())]
        share = float(probabilities.max())
        if share < self.least:
            return Verdict(None, f"label '{name}' with probability {share:.2f}, under {self.least}")
        return verdict

    def _shown(self, record: Record) -> tuple[str, ...]:
        if self.template == "pair":
            return record.prompt, record.response
        return (record.response if self.template == "response" else fill(self.template, record),)
