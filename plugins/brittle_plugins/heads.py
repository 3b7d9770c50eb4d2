"""Whole attention heads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from annotated_types import Interval

from brittle_eval import BrittleError, Isolation, Mask, Share, highest, share, unit_mask

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Context, Part, Unit


@dataclass(frozen=True)
class Heads(Isolation):
    """The heads of the whole model with the highest `Σ S_of` over their query rows and their columns of the output projection.

    Taken are `count` heads, or without it the share `q` (fraction in [0, 1]) of all heads; `score=mean` divides by the
    number of entries. Key and value rows that several heads read are not summed, and taken only where all these heads are.
    Ties go to the lower block and head. BrittleError for a model without a head of a known layout.

    The released code of Wei et al. 2024 (arXiv 2402.05162) masks columns of query, key and value and rows of the output
    projection, which removes no head but disturbs all of them; here ablation makes a head's output zero.
    """

    q: Share = 0.05
    count: Annotated[int, Interval(ge=1)] | None = None
    score: Literal["sum", "mean"] = "sum"
    of: str = "safety"

    @property
    def reach(self) -> Literal["weight", "block", "model"]:
        return "model"

    @property
    def behaviours(self) -> tuple[str, ...]:
        return (self.of,)

    def isolate(self, scores: Mapping[str, Mapping[str, Tensor]], context: Context) -> Mapping[str, Part]:
        own = scores[self.of]
        heads = [unit for unit in context.units("query-head") if any(member.weight in own for member in unit.members)]
        if not heads:
            raise BrittleError("heads found no attention head of a known layout in this plan's scope: use another isolation")
        values = torch.stack([self._score(head, own) for head in heads])
        wanted = self.count if self.count is not None else share(self.q, len(heads))
        taken = highest(values[None], wanted)[0].tolist()
        return masks_of(heads, [head for head, inside in zip(heads, taken, strict=True) if inside], own)

    def _score(self, head: Unit, scores: Mapping[str, Tensor]) -> Tensor:
        parts = [
            scores[member.weight].narrow(member.axis, member.indices.start, len(member.indices))
            for member in head.members
            if member.weight in scores
        ]
        total = torch.stack([part.sum(dtype=torch.float64).cpu() for part in parts]).sum()
        return total / sum(part.numel() for part in parts) if self.score == "mean" else total


def masks_of(heads: Sequence[Unit], chosen: Sequence[Unit], scope: Collection[str]) -> dict[str, Part]:
    """The chosen heads' entries, a mask for each weight in the scope that any of the heads is in."""
    region = unit_mask(chosen)
    shapes = {member.weight: member.shape for head in heads for member in (*head.members, *head.shared)}
    empty = {name: Mask.from_dense(torch.zeros(shape, dtype=torch.bool)) for name, shape in shapes.items() if name in scope}
    return {name: region.get(name, part) for name, part in empty.items()}
