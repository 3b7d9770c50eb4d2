"""Extrapolation of what safety training changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from brittle_eval import BrittleError, Modification

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Context, Part, Weight


@dataclass(frozen=True)
class Extrapolate(Modification):
    """`W + R(c · U_k U_kᵀ (W − W_base))`: further along the `k` strongest ranks of what safety training changed.

    U_k are the first left singular vectors of W − W_base, in float32; `k` 0 takes all ranks. Needs a base model of the same
    shape. Standing before a `finetune` it is a defence: LoX (arXiv 2506.15606).
    """

    k: Annotated[int, Interval(ge=0)] = 6
    c: float = 1.25

    needs = frozenset({"base"})

    def edit(self, weight: Weight, part: Part, context: Context) -> Tensor:
        import torch

        if weight.base is None:
            raise BrittleError(f"extrapolate needs the base model's {weight.name}, but none was given: give a base model")
        value = weight.value.float()
        change = value - weight.base.float()
        if self.k:
            vectors = torch.linalg.eigh((change @ change.T).double()).eigenvectors[:, -self.k :].float()
            change = vectors @ (vectors.T @ change)
        return value + self.c * part.apply(change)
