"""N:M structured sparsity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from brittle_eval import BrittleError, Isolation, Mask, highest

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Context, Part


@dataclass(frozen=True)
class NM(Isolation):
    """The `n` lowest scores for `of` among every `m` consecutive inputs of a row; with `top` the `n` highest.

    The number of a weight's inputs must be a multiple of `m` (BrittleError). Ties go to the lower position.

    The sparsity that accelerators skip, Mishra et al. 2021 (arXiv 2104.08378); with Wanda scores as in Sun et al. 2023
    (arXiv 2306.11695).
    """

    n: Annotated[int, Interval(ge=1)] = 2
    m: Annotated[int, Interval(ge=1)] = 4
    top: bool = False
    of: str = "safety"

    def __post_init__(self) -> None:
        if self.n > self.m:
            raise ValueError(f"n={self.n} of every m={self.m}: n must not be greater than m")

    @property
    def behaviours(self) -> tuple[str, ...]:
        return (self.of,)

    def isolate(self, scores: Mapping[str, Mapping[str, Tensor]], context: Context) -> Mapping[str, Part]:
        return {name: Mask.from_dense(self._chosen(name, value)) for name, value in scores[self.of].items()}

    def _chosen(self, name: str, scores: Tensor) -> Tensor:
        if scores.shape[1] % self.m:
            raise BrittleError(f"{name} has {scores.shape[1]} inputs, no multiple of m={self.m}: give another m, or leave it out")
        groups = scores.reshape(-1, self.m)
        return highest(groups if self.top else -groups, self.n).reshape(scores.shape)
