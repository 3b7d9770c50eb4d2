"""How far a region that was found is the place that was planted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from brittle_eval.regions import Mask, Part, Projector, Region, Whole


@dataclass(frozen=True)
class Agreement:
    """`precision = |F ∩ T| / |F|`, `recall = |F ∩ T| / |T|` of the found F and the true T; `chance` is a random F's precision.

    Sizes are entries, or for ranks dimensions: `|U ∩ V| = ‖UᵀV‖_F²` of orthonormal bases, `|U|` their number.
    """

    shared: float
    found: float
    true: float
    expected: float
    """|F ∩ T| of a random F of this size."""

    @property
    def precision(self) -> float:
        return self.shared / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        return self.shared / self.true

    @property
    def iou(self) -> float:
        return self.shared / (self.found + self.true - self.shared)

    @property
    def chance(self) -> float:
        return self.expected / self.found if self.found else 0.0


def agreement(found: Region, truth: Region, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Agreement | None:
    """The sums over all weights; None for entries against ranks, which no measure compares.

    `shapes` (out, in) are those of all weights that F could lie in, among which a random F lies anywhere; without them those
    of the weights that either region names.
    """
    found, truth = (Region({name: _plain(part) for name, part in region.items()}) for region in (found, truth))
    kinds = {type(part) for region in (found, truth) for part in region.values()}
    if {Mask, Projector} <= kinds:
        return None
    ranks = Projector in kinds
    places = shapes if shapes is not None else {name: part.shape for name, part in (*found.items(), *truth.items())}
    space = sum(min(shape) if ranks else math.prod(shape) for shape in places.values())
    size, true = (sum(_size(part, ranks) for part in region.values()) for region in (found, truth))
    there = sum(_size(part, ranks) for name, part in truth.items() if name in places)
    shared = sum(_shared(found[name], truth[name]) for name in found.keys() & truth.keys())
    return Agreement(shared, size, true, size * there / space)


def _plain(part: Part) -> Part:
    """A mask of every entry as the whole weight, which it is: in a file the two are one."""
    return Whole(part.shape) if part.count == math.prod(part.shape) else part


def _size(part: Part, ranks: bool) -> float:
    if not ranks:
        return part.count
    return part.basis().shape[1] if isinstance(part, Projector) else min(part.shape)


def _shared(one: Part, other: Part) -> float:
    """Of parts that can be compared: entries that both have, or what their spans share."""
    if isinstance(one, Projector) or isinstance(other, Projector):
        if isinstance(one, Projector) and isinstance(other, Projector):
            return float((one.basis().double().T @ other.basis().double()).square().sum())
        return min(_size(one, True), _size(other, True))
    if isinstance(one, Mask) and isinstance(other, Mask):
        return (one & other).count
    return other.count if isinstance(one, Whole) else one.count


def average_precision(nested: Sequence[Agreement]) -> float:
    """`Σ (recallᵢ − recallᵢ₋₁) · precisionᵢ` over nested regions of growing size; what none of them reaches adds nothing."""
    total, before = 0.0, 0.0
    for one in nested:
        total += max(0.0, one.recall - before) * one.precision
        before = max(before, one.recall)
    return total


def captured(found: Region, change: Callable[[str], Tensor], squares: Mapping[str, float]) -> float:
    """`Σ ‖P(ΔW)‖² / Σ ‖ΔW‖²`: the share of a change that lies in the region, P the orthogonal projector of each part.

    `squares` are ‖ΔW‖² by weight name, of all weights that changed.
    """
    inside = 0.0
    for name in found.keys() & squares.keys():
        part, moved = found[name], change(name)
        if isinstance(part, Projector):
            inside += float((part.basis().T @ moved.float()).square().sum())
        else:
            inside += float(part.apply(moved).float().square().sum())
    return inside / sum(squares.values())
