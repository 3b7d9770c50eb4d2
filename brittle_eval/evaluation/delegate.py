"""Answers from lm-eval's own class for a backend, on a temporary checkpoint of the model as it is now."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from brittle_eval.errors import BrittleError, CannotRun
from brittle_eval.evaluation.asking import Before
from brittle_eval.evaluation.backends import Backend, divided
from brittle_eval.evaluation.evaluate import backend_model
from brittle_eval.evaluation.lm import BrittleHFLM
from brittle_eval.evaluation.lm_requests import as_sampling


class Elsewhere(Before):
    """The model's own prompts and limits; texts and likelihoods are another's."""

    def __init__(self, lm: BrittleHFLM, model: Any) -> None:
        super().__init__(lm)
        self.model = model

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        lm, arguments = self.lm, [request.args for request in requests]
        if lm.turns is None:
            lm.reject_long([(text, int(options.get("max_gen_toks", lm.max_gen_toks))) for text, options in arguments])
        else:
            prompts = [lm.prompt_ids(text) for text, _ in arguments]
            lm.check_lengths(prompts, as_sampling(arguments[0][1], lm.max_gen_toks, lm.seed).max_new_tokens)
            self._check_ids([text for text, _ in arguments], prompts)
        answers = list(self.model.generate_until(requests, disable_tqdm=disable_tqdm))
        for _ in answers:
            lm.on_answer()
        return answers

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self.lm.reject_long([("".join(request.args), -1) for request in requests])
        return list(self.model.loglikelihood(requests, disable_tqdm=disable_tqdm))

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        return list(self.model.loglikelihood_rolling(requests, disable_tqdm=disable_tqdm))

    def _check_ids(self, texts: Sequence[str], prompts: Sequence[Sequence[int]]) -> None:
        """CannotRun where the backend would read other tokens, such as a second token of the beginning."""
        for text, ids in dict(zip(texts, prompts, strict=True)).items():
            if list(self.model.tok_encode(text)) != list(ids):
                raise CannotRun(
                    "this backend would read the prompts as other tokens than the model itself (its special tokens at the "
                    "beginning): take --model hf, or say add_bos_token in --model_args"
                )


@contextmanager
def delegated(lm: BrittleHFLM, backend: Backend, given: Mapping[str, Any]) -> Iterator[BrittleHFLM | Elsewhere]:
    """Gives what answers: the model, or the backend on the model's weights as they are now, in a checkpoint that is then removed.

    `given` are the model's arguments, of which the backend gets its own. BrittleError for a model that is no plain checkpoint
    (an adapter on it), a full disk, and a backend that does not load.
    """
    if not backend.type:
        yield lm
        return
    if not isinstance(lm.model, PreTrainedModel):
        raise BrittleError(
            f"--model {backend.name} needs a whole model, and this one is a {type(lm.model).__name__}: merge its adapter first"
        )
    with tempfile.TemporaryDirectory(prefix="brittle-eval-") as folder:
        try:
            lm.model.save_pretrained(folder)
            lm.tokenizer.save_pretrained(folder)
        except OSError as error:
            raise BrittleError(
                f"the edited model cannot be written to {folder} ({error.strerror or error}): free some space, or point TMPDIR "
                "to where there is some"
            ) from error
        arguments = divided(given)[1] | {"pretrained": folder, "batch_size": int(lm.batch_size)}
        if backend.type == "hf":
            arguments["device"] = str(lm.device)
        found = Elsewhere(lm, backend_model(backend.type, arguments))
        try:
            yield found
        finally:
            del found.model
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
