"""Units of four kinds: for one behaviour, for the other, for both, for neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Literal

import torch

from brittle_eval import UNVERIFIED, BrittleError, Isolation, Share, share
from brittle_plugins.heads import masks_of

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Context, Member, Part, Unit

Kind = Literal["safety", "utility", "redundant", "complex"]


@dataclass(frozen=True)
class FourWay(Isolation):
    """The query heads and MLP channels of one `part`: highest or lowest `I_of − I_minus`, lowest `I_of + I_minus`, or the rest.

    I of a unit is the mean score of its columns in the weight behind it; with `scale=block` scores of a weight's columns first
    become `(s − mean) / spread`, so that blocks, heads and channels compete. `safety` are the units of the highest I_of − I_minus
    that together have the share `safety` of all units' entries; `utility` those of the lowest among the others; `redundant` of
    what is left those of the lowest I_of + I_minus; `complex` all others. With `more`, a part other than these also has the
    complex units of the highest I_of + I_minus that together have the share `more`. Ties go to channels before heads, then to the
    lower block and unit. BrittleError for a model without a unit of a known layout.

    SSAH, Li and Kim 2024 (arXiv 2410.10862): the paper finds the three shares by scanning, at thresholds that it does not give;
    the defaults are those it reports of Llama-2-7B-chat. It freezes the safety units with 6 % of the complex ones (`more=0.06`),
    by an order that has not been seen. That parts are taken in this order, and `scale`, are ours.
    """

    part: Kind = "safety"
    safety: Annotated[Share, UNVERIFIED] = 0.013
    utility: Annotated[Share, UNVERIFIED] = 0.133
    redundant: Annotated[Share, UNVERIFIED] = 0.148
    more: Annotated[Share, UNVERIFIED] = 0.0
    scale: Annotated[Literal["block", "none"], UNVERIFIED] = "block"
    of: str = "safety"
    minus: str = "utility"

    def __post_init__(self) -> None:
        if self.safety + self.utility + self.redundant > 1:
            raise ValueError(
                f"safety={self.safety}, utility={self.utility} and redundant={self.redundant} are more than all units"
            )

    @property
    def reach(self) -> Literal["weight", "block", "model"]:
        return "model"

    @property
    def behaviours(self) -> tuple[str, ...]:
        return (self.of, self.minus)

    def isolate(self, scores: Mapping[str, Mapping[str, Tensor]], context: Context) -> Mapping[str, Part]:
        own = scores[self.of]
        known = [*context.units("mlp-channel"), *context.units("query-head")]
        units = [unit for unit in known if columns(unit).weight in own]
        if not units:
            raise BrittleError(
                "four-way found no unit of a known layout in this plan's scope: it needs the weights behind the units"
            )
        one, other = (self._scores(scores[name], units) for name in self.behaviours)
        sizes = [size(unit) for unit in units]
        kinds = self.split(one - other, one + other, sizes)
        chosen = [number for number, kind in enumerate(kinds) if kind == self.part]
        if self.part != "complex":
            ranked = [number for number in (-one - other).argsort(stable=True).tolist() if kinds[number] == "complex"]
            chosen += self._first(ranked, sizes, share(self.more, sum(sizes)))
        return masks_of(units, [units[number] for number in chosen], own)

    @staticmethod
    def _first(ranked: Sequence[int], sizes: Sequence[int], room: int) -> list[int]:
        """The first units, up to the one that has no room."""
        reached = list(accumulate(sizes[number] for number in ranked))
        return [number for number, total in zip(ranked, reached, strict=True) if total <= room]

    def _scores(self, scores: Mapping[str, Tensor], units: Sequence[Unit]) -> Tensor:
        by_column = {}
        for name in {columns(unit).weight for unit in units}:
            values = scores[name].double().mean(0).cpu()
            spread = values.std(correction=0)
            by_column[name] = (values - values.mean()) / (spread if spread > 0 else 1) if self.scale == "block" else values
        return torch.stack([by_column[member.weight][list(member.indices)].mean() for member in map(columns, units)])

    def split(self, difference: Tensor, total: Tensor, sizes: Sequence[int]) -> list[Kind]:
        """The kind of every unit, from `I_of − I_minus`, `I_of + I_minus` (units,), and how many entries each has."""
        kinds: list[Kind] = ["complex"] * len(sizes)
        ranked: list[tuple[Kind, float, Tensor]] = [
            ("safety", self.safety, -difference),
            ("utility", self.utility, difference),
            ("redundant", self.redundant, total),
        ]
        for kind, wanted, order in ranked:
            left = [unit for unit in order.argsort(stable=True).tolist() if kinds[unit] == "complex"]
            for unit in self._first(left, sizes, share(wanted, sum(sizes))):
                kinds[unit] = kind
        return kinds


def columns(unit: Unit) -> Member:
    """Where the unit's channels enter the weight behind it."""
    return next(member for member in unit.members if member.axis == 1)


def size(unit: Unit) -> int:
    """The unit's own entries; key and value rows that heads share are nobody's."""
    return sum(len(member.indices) * member.shape[1 - member.axis] for member in unit.members)
