"""Random directions in weight space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Interval
from torch.nn.functional import normalize

from brittle_eval import Modification
from brittle_plugins.where import Where, replaced

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Context, Part, Weight


@dataclass(frozen=True)
class Perturb(Modification):
    """`W + α D + β E`, D and E random, `‖D‖ = ‖E‖ = ‖W‖` (Frobenius) and `⟨D, E⟩ = 0` in every weight.

    The entries of D are Gaussian, from the run's seed, the number `direction` and the weight's name; E is another draw, less its
    part along D, so that the two are orthogonal in the whole model too. With α = 0.1 a weight changes by a tenth of its norm.
    `where=region` changes the region only, `complement` the rest of its weights: the two changes add up to that of `all`.

    Safety landscape, Peng et al. 2024 (arXiv 2405.17374), whose second direction is not orthogonalised; one direction a score
    there, so that a mean over several is unverified. They perturb embeddings and the output head too.
    """

    alpha: float = 0.1
    beta: float = 0.0
    direction: Annotated[int, Interval(ge=0)] = 0
    where: Where = "region"

    def edit(self, weight: Weight, part: Part, context: Context) -> Tensor:
        value = weight.value.float()
        stream = context.generator(f"perturb {self.direction} {weight.name}")
        first, second = normalize(torch.randn((2, value.numel()), generator=stream), dim=1)
        second = normalize(second - (second @ first) * first, dim=0)
        change = (self.alpha * first + self.beta * second).to(value) * value.norm()
        return replaced(part, value, value + change.reshape(value.shape), self.where)
