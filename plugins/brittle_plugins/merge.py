"""Merging with another checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from brittle_eval import UNVERIFIED, BrittleError, Modification
from brittle_plugins.where import Where, replaced

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Context, Part, Weight


@dataclass(frozen=True)
class Merge(Modification):
    """`W + t R(W_donor − W)`: linear interpolation with a model of the same architecture; 0 is this model, 1 the donor.

    Any t is taken, so that a path may go on behind the donor. Embeddings, norms and the output head stay this model's.
    BrittleError without a donor, or with one of another shape.

    Vision-language adaptation, Lee et al. 2024 (arXiv 2410.07571), merges an adapted and a safety-tuned model; which operator and
    which weights it uses has not been seen.
    """

    t: Annotated[float, UNVERIFIED] = 0.5
    where: Where = "region"

    needs = frozenset({"donor"})

    def edit(self, weight: Weight, part: Part, context: Context) -> Tensor:
        value, donor = weight.value.float(), context.weights("donor")[weight.name].float()
        if donor.shape != value.shape:
            mine, theirs = tuple(value.shape), tuple(donor.shape)
            raise BrittleError(f"{weight.name} is {mine} but {theirs} in the donor: give a donor of the same shape")
        return replaced(part, value, value + self.t * (donor - value), self.where)
