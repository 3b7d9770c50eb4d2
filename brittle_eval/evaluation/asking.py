"""Models that stand before the model: one answers under several decoding settings, one asks itself whether to answer."""

from __future__ import annotations

import copy
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.conditions import AFTER_ANSWERING, BEFORE_ANSWERING, WITHHELD
from brittle_eval.evaluation.generate import Sampling
from brittle_eval.evaluation.lm import Turns

CHECK_TOKENS = 8
"""Length of the answer to a self-check: a yes or no comes at once, or not at all."""
OFF: Mapping[str, float] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
"""The settings that change nothing, for what a point of a sweep does not set."""


class Before:
    """Stands before the model: everything is the model's own but what a subclass answers itself."""

    def __init__(self, lm: Any) -> None:
        self.lm = lm

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lm, name)


def points(sweep: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """The settings of a sweep, one axis at a time: `{temperature: [0.5], top_k: [1, 2]}` has three."""
    if unknown := set(sweep) - set(OFF):
        raise BrittleError(f"a sweep over {sorted(unknown)[0]}: expected {', '.join(OFF)}")
    return [{axis: value} for axis, values in sweep.items() for value in values]


def label(point: Mapping[str, float]) -> str:
    """`temperature=0.05`."""
    return ",".join(f"{axis}={value:g}" for axis, value in point.items())


class Sweeping(Before):
    """The n-th answer to a request is drawn under the n-th setting, each with random numbers of its own."""

    def __init__(self, lm: Any, sweep: Sequence[Mapping[str, float]]) -> None:
        super().__init__(lm)
        self.sweep = sweep

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        seen: dict[int, int] = {}
        places: list[list[int]] = [[] for _ in self.sweep]
        for place, request in enumerate(requests):
            number = seen.setdefault(id(request), 0)
            seen[id(request)] += 1
            places[number].append(place)
        answers = [""] * len(requests)
        for point, own in zip(self.sweep, places, strict=True):
            for place, text in zip(own, self._drawn([requests[place] for place in own], point), strict=True):
                answers[place] = text
        return answers

    def _drawn(self, requests: Sequence[Any], point: Mapping[str, float]) -> list[str]:
        asked = []
        for request in requests:
            asked.append(copy.copy(request))
            asked[-1].arguments = (request.args[0], {**request.args[1], **OFF, **point, "do_sample": True})
        seed = self.lm.seed
        self.lm.seed = zlib.crc32(f"{seed}|{label(point)}".encode())
        try:
            return list(self.lm.generate_until(asked, disable_tqdm=True))
        finally:
            self.lm.seed = seed


class SelfChecking(Before):
    """Asks the model, before it answers or of its answer, whether that would do harm; where it says yes, nothing is answered."""

    def __init__(self, lm: Any, when: Literal["before", "after"]) -> None:
        super().__init__(lm)
        self.when = when

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        if self.when == "after":
            answers = list(self.lm.generate_until(list(requests)))
            starts = [self.lm.prefills.get(request.args[0], "") for request in requests]
            texts = [
                AFTER_ANSWERING.format(request=_asked(request), answer=start + answer)
                for request, start, answer in zip(requests, starts, answers, strict=True)
            ]
            return [WITHHELD if bad else answer for bad, answer in zip(self._says_yes(texts), answers, strict=True)]
        distinct = {id(request): request for request in requests}
        said = self._says_yes([BEFORE_ANSWERING.format(request=_asked(request)) for request in distinct.values()])
        bad = dict(zip(distinct, said, strict=True))
        allowed = [request for request in requests if not bad[id(request)]]
        left = iter(self.lm.generate_until(allowed) if allowed else [])
        return [WITHHELD if bad[id(request)] else next(left) for request in requests]

    def _says_yes(self, questions: Sequence[str]) -> list[bool]:
        """Whether the model's answer to each question names yes before no; one that names neither objects to nothing."""
        lm = self.lm
        with lm.showing(Turns(chat=True), lambda: None):
            prompts = [lm.prompt_ids(lm.apply_chat_template([{"role": "user", "content": text}])) for text in questions]
        lm.check_lengths(prompts, CHECK_TOKENS)
        answers = lm.answers(prompts, Sampling(CHECK_TOKENS))
        return [says_yes(lm.tokenizer.decode(answer, skip_special_tokens=True)) for answer in answers]


def says_yes(text: str) -> bool:
    """Whether the first yes or no of the text is a yes."""
    found = re.search(r"\b(yes|no)\b", text.lower())
    return found is not None and found[1] == "yes"


def _asked(request: Any) -> str:
    """The request as the user sent it."""
    return str(request.doc.get("prompt", request.args[0]))
