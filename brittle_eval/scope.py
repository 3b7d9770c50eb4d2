"""The scope of a plan: which of the model's weights it looks at, by module and by block, and in which order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, Protocol, TypeVar

from brittle_eval.errors import BrittleError, UnknownName

EVERY = "all"
SCOPE = "scope"
"""Its name beside the components of a plan: `scope.blocks=0-9`."""
Order = Literal["parallel", "sequential"]
"""Whether all scores are those of the untouched model, or each block's those of the model with the blocks before it modified."""


class Place(Protocol):
    """What is asked of a weight's address."""

    @property
    def path(self) -> str:
        """Its module's name in the model, such as `model.layers.3.self_attn.q_proj`."""
        ...

    @property
    def block(self) -> int:
        """Its decoder block, from 0."""
        ...


AnyPlace = TypeVar("AnyPlace", bound=Place)


@dataclass(frozen=True)
class Scope:
    """The weights whose module is one of `modules` and whose block is one of `blocks`; nothing else is scored or edited.

    `modules` holds names or patterns (`q_proj+o_proj`, `self_attn.*`), each the last part of a module's name in the model;
    `blocks` holds numbers from 0 and spans (`0-9+12`). Shares are of the scope. ValueError for what is neither. With
    `order=sequential` each block is scored with the blocks before it modified, with `parallel` all are on the untouched model.
    """

    modules: str = EVERY
    blocks: str = EVERY
    order: Order = "parallel"

    def __post_init__(self) -> None:
        if "" in self._patterns():
            raise ValueError(f"modules={self.modules} has an empty name: write NAME or NAME+NAME, such as q_proj+o_proj")
        self._spans()

    def _patterns(self) -> list[str]:
        return [pattern.strip() for pattern in self.modules.split("+")] if self.modules != EVERY else ["*"]

    def _spans(self) -> list[tuple[int, int]]:
        """First and last block of each span; none means every block."""
        spans = []
        for text in self.blocks.split("+") if self.blocks != EVERY else ():
            found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", text, re.ASCII)
            if found is None or int(found[2] or found[1]) < int(found[1]):
                raise ValueError(f"blocks={self.blocks}: '{text}' is neither a block's number nor FIRST-LAST, such as 0-9+12")
            spans.append((int(found[1]), int(found[2] or found[1])))
        return spans

    def of(self, places: Sequence[AnyPlace]) -> list[AnyPlace]:
        """Those of the model's weights that are in the scope, in order; UnknownName or BrittleError where there are none."""
        depth, spans, patterns = 1 + max(place.block for place in places), self._spans(), self._patterns()
        for first, last in spans:
            if last >= depth:
                raise BrittleError(f"blocks={self.blocks}: the model has blocks 0 to {depth - 1}, and not {max(first, depth)}")
        for pattern in patterns:
            if not any(_ends(place.path, pattern) for place in places):
                raise UnknownName("module", pattern, {place.path.rpartition(".")[2] for place in places})
        inside = [place for place in places if not spans or any(first <= place.block <= last for first, last in spans)]
        chosen = [place for place in inside if any(_ends(place.path, pattern) for pattern in patterns)]
        if not chosen:
            raise BrittleError(f"no weight is in the scope modules={self.modules},blocks={self.blocks}: widen one of them")
        return chosen


def _ends(path: str, pattern: str) -> bool:
    """Whether the pattern is the whole name or its end after a dot."""
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"*.{pattern}")
