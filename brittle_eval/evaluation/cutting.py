"""When a model is so far gone that what is left to evaluate is not worth its time: `--stop-when 'ppl>50'`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from brittle_eval.errors import BrittleError, UnknownName
from brittle_eval.listing import DIVERGENCE, PERPLEXITY, WIKITEXT

SHORT: Mapping[str, Sequence[str]] = {"ppl": (PERPLEXITY, WIKITEXT), "kl": (DIVERGENCE,)}
"""Short names of measures; the first that the run has is meant."""
RULE = re.compile(r"\s*([\w.-]+?)\s*([<>])\s*(\d+(?:\.\d+)?)\s*")


@dataclass(frozen=True)
class Bound:
    """`task > limit` or `task < limit`, of the task's own number in the table."""

    task: str
    sign: Literal["<", ">"]
    limit: float

    def met(self, value: float | None) -> bool:
        """Whether the model is given up; what is no number is beyond every bound."""
        return value is None or (value > self.limit if self.sign == ">" else value < self.limit)

    def reason(self, value: float | None) -> str:
        """`embedded_perplexity 73.2 > 50`."""
        return f"{self.task} {'is no number' if value is None else f'{value:.4g} {self.sign} {self.limit:g}'}"


def bound(text: str) -> Bound:
    """`ppl>50`, `kl>2`, `embedded_choice<0.4`; BrittleError for what is none."""
    found = RULE.fullmatch(text)
    if found is None:
        raise BrittleError(f"--stop-when {text}: expected MEASURE>NUMBER or TASK<NUMBER, such as 'ppl>50' or 'kl>2'")
    return Bound(found[1], "<" if found[2] == "<" else ">", float(found[3]))


def of_run(texts: Iterable[str], measured: Iterable[str]) -> list[Bound]:
    """The bounds with the names of the run's tasks; UnknownName for a task that it has not, or that has answers to judge."""
    known, bounds = list(measured), list[Bound]()
    for one in map(bound, texts):
        named = next((task for task in SHORT.get(one.task, (one.task,)) if task in known), None)
        if named is None:
            raise UnknownName("measure or likelihood task of --stop-when", one.task, [*known, *SHORT])
        bounds.append(Bound(named, one.sign, one.limit))
    return bounds
