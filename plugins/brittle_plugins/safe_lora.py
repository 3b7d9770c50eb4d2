"""Projection of a fine-tune onto what safety training changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from brittle_eval import Modification

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Context, Part, Weight


@dataclass(frozen=True)
class SafeLoRA(Modification):
    """`W_before + C ΔW` where `cos(C ΔW, ΔW) ≤ tau`, `C = V Vᵀ / ‖V‖_F`, `V = W_before − W_base`; other weights stay `W`.

    ΔW = W − W_before is what the chain did so far, such as a `finetune` that stands ahead; cosines of whole weights, in float32.
    A region limits what is replaced. C is no projector: it scales ΔW down where V is small. Needs a base model of the same shape.
    Safe LoRA (arXiv 2405.16833), with its threshold; a weight that safety training did not change has no C and loses its ΔW.
    """

    tau: Annotated[float, Interval(ge=-1, le=1)] = 0.5

    needs = frozenset({"base", "before"})

    def edit(self, weight: Weight, part: Part, context: Context) -> Tensor:
        import torch

        value, before = weight.value.float(), context.weights("before")[weight.name].float()
        safety = before - context.weights("base")[weight.name].float()
        change = value - before
        projected = safety @ (safety.T @ change) / safety.norm().clamp(min=torch.finfo(torch.float32).tiny)
        cosine = (projected * change).sum() / (projected.norm() * change.norm()).clamp(min=torch.finfo(torch.float32).tiny)
        return value + part.apply(projected - change) if float(cosine) <= self.tau else value
