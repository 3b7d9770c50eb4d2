"""How far a region that was found is the place that was planted."""

from __future__ import annotations

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
    """|F ∩ T| of random parts of F's sizes."""

    @property
    def precision(self) -> float:
        return self.shared / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        return self.shared / self.true

    @property
    def chance(self) -> float:
        return self.expected / self.found if self.found else 0.0


def agreement(found: Region, truth: Region) -> Agreement | None:
    """The sums over all weights; None for entries against ranks, which no measure compares."""
    shared = size = true = expected = 0.0
    for name in found.keys() | truth.keys():
        one, other = found.get(name), truth.get(name)
        both = _shared(one, other)
        if both is None:
            return None
        ranks = isinstance(one, Projector) or isinstance(other, Projector)
        mine, theirs = _size(one, ranks), _size(other, ranks)
        part = one or other
        assert part is not None
        space = min(part.shape) if ranks else Whole(part.shape).count
        shared, size, true = shared + both, size + mine, true + theirs
        expected += mine * theirs / space
    return Agreement(shared, size, true, expected)


def _size(part: Part | None, ranks: bool) -> float:
    if part is None:
        return 0.0
    if not ranks:
        return part.count
    return part.basis().shape[1] if isinstance(part, Projector) else min(part.shape)


def _shared(one: Part | None, other: Part | None) -> float | None:
    if one is None or other is None:
        return 0.0
    if isinstance(one, Projector) or isinstance(other, Projector):
        if isinstance(one, Mask) or isinstance(other, Mask):
            return None
        if isinstance(one, Whole) or isinstance(other, Whole):
            return min(_size(one, True), _size(other, True))
        return float((one.basis().double().T @ other.basis().double()).square().sum())
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
