"""Magnitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brittle_eval import Attribution

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Weight


@dataclass(frozen=True)
class Magnitude(Attribution):
    """`|W|`: the same for every behaviour; it sees no data.

    The baseline of pruning: Han et al. 2015, Learning both weights and connections (arXiv 1506.02626).
    """

    def finish(self, state: Any, weight: Weight) -> Tensor:
        return weight.value.float().abs()
