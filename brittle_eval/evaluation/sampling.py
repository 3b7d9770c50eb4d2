"""lm-eval's generation options and requests as our generator takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.generate import Sampling

KEYS = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"}


def as_sampling(options: dict[str, Any], default_new: int, seed: int) -> Sampling:
    """lm-eval's generation options as ours; an option that would change nothing is an error."""
    if unknown := set(options) - KEYS:
        raise BrittleError(f"generation option {sorted(unknown)[0]} is not one of {', '.join(sorted(KEYS))}")
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
