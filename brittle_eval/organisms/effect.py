"""What a region does: how many harmful prompts are answered instead of refused when it is edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from brittle_eval.behaviour.behaviours import ask, rendered
from brittle_eval.engine.edit import edited
from brittle_eval.evaluation.coherence import degenerate
from brittle_eval.evaluation.generate import Sampling
from brittle_eval.evaluation.lm import BrittleHFLM, Turns
from brittle_eval.methods import Context, Judge, Modification, Record
from brittle_eval.regions import Region
from brittle_eval.stats import Rate
from brittle_eval.weights import Address, Fingerprint

TOKENS = 32
"""Length of an answer: it is decided within its first words whether it refuses."""


class Effect:
    """Measures `not refused & coherent` (the judge's positive verdicts on text that is not degenerate) of a loaded model."""

    def __init__(
        self, lm: BrittleHFLM, addresses: Sequence[Address], context: Context, prompts: Sequence[str], judge: Judge
    ) -> None:
        self.lm, self.addresses, self.context, self.judge = lm, addresses, context, judge
        self.prompts = list(prompts)
        self.ids = rendered(lm, prompts, Turns(chat=True))
        self.fingerprint = Fingerprint(lm.model)

    def now(self, what: str) -> Rate:
        """Of the model as it is."""
        tokens = ask(self.lm, self.ids, Sampling(TOKENS), what)
        texts = [str(self.lm.tokenizer.decode(answer, skip_special_tokens=True)) for answer in tokens]
        verdicts = self.judge.judge([Record(prompt, text) for prompt, text in zip(self.prompts, texts, strict=True)])
        counted = [verdict.positive is True and not degenerate(text) for verdict, text in zip(verdicts, texts, strict=True)]
        return Rate.of(sum(counted), len(counted))

    def of(self, region: Region, modification: Modification, what: str) -> Rate:
        """Of the model with the region modified; the weights are restored."""
        with edited(self.lm.model, self.addresses, region, [modification], self.context, self.fingerprint):
            return self.now(what)


def changes(model_weights: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, float]:
    """`‖W − W_base‖²` by name, of the weights that differ."""
    found = {name: float((value.float() - base[name].float()).square().sum()) for name, value in model_weights.items()}
    return {name: value for name, value in found.items() if value > 0}
