"""lm-eval's requests in our words: how answers are drawn, prompts with continuations, and what a steered model cannot do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example
from brittle_eval.engine.steering import asking
from brittle_eval.errors import BrittleError, CannotRun
from brittle_eval.evaluation.generate import Sampling

GENERATION_KEYS = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"}


def arguments_of(requests: Sequence[Any]) -> list[Any]:
    """What each request says."""
    return [request.args for request in requests]


def as_sampling(options: Mapping[str, Any], default_new: int, seed: int) -> Sampling:
    """lm-eval's generation options as ours; an option that would change nothing is an error."""
    if unknown := set(options) - GENERATION_KEYS:
        raise BrittleError(f"generation option {sorted(unknown)[0]} is not one of {', '.join(sorted(GENERATION_KEYS))}")
    if options.get("until"):
        raise BrittleError(f"stop strings {options['until']} would cut answers: our tasks need until: []")
    drawn = bool(options.get("do_sample")) and float(options.get("temperature", 1.0)) > 0
    return Sampling(
        max_new_tokens=int(options.get("max_gen_toks", default_new)),
        temperature=float(options.get("temperature", 1.0)) if drawn else 0.0,
        top_p=float(options.get("top_p", 1.0)),
        top_k=int(options.get("top_k", 0)),
        seed=seed,
    )


def sample_numbers(requests: Sequence[Any]) -> list[int]:
    """Repeats of one request come as the same object: the n-th is sample n."""
    seen: dict[int, int] = {}
    numbers = []
    for request in requests:
        numbers.append(seen.get(id(request), 0))
        seen[id(request)] = numbers[-1] + 1
    return numbers


def continued(lm: Any, context: str, continuation: str) -> Example:
    """Both as lm-eval reads them: tokenised together, blanks at the context's end with what follows.

    No context at all is lm-eval's prefix token.
    """
    blanks = len(context) - len(context.rstrip())
    if blanks:
        context, continuation = context[:-blanks], context[-blanks:] + continuation
    if not context:
        own = list(lm.tok_encode(continuation, add_special_tokens=False))
        return Example(tuple(own if own[0] == lm.prefix_token_id else [lm.prefix_token_id, *own]), 1)
    return Example(tuple(lm.tok_encode(context + continuation)), len(lm.tok_encode(context)))


def refuse_steered(model: PreTrainedModel, what: str) -> None:
    """CannotRun where the model is steered by its prompts, and `what` does not say where they end."""
    if asking(model):
        raise CannotRun(f"{what} does not say where prompts end, and the model is steered by them: leave the task out")
