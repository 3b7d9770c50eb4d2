"""Units: the pieces of a block that work together, and the region that a set of them is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from brittle_eval.regions import Mask, Region

UnitKind = Literal["query-head", "mlp-channel"]


@dataclass(frozen=True, slots=True)
class Member:
    """Rows (`axis` 0) or columns (`axis` 1) of a weight (out, in)."""

    weight: str
    shape: tuple[int, int]
    """The whole weight's."""
    axis: Literal[0, 1]
    indices: range


@dataclass(frozen=True, slots=True)
class Unit:
    """One query head or one MLP channel of a block.

    A channel is its gate row, its up row and its down column. A query head is its query rows and its columns of the output
    projection. Key and value rows are the head's own where no other head reads them; else they are `shared` by the `sharing`
    heads of its `group`, and belong to a set of heads only where all of these do. Biases belong to no unit.
    """

    kind: UnitKind
    block: int
    index: int
    """From 0 within the block."""
    members: tuple[Member, ...]
    shared: tuple[Member, ...] = ()
    group: int = 0
    sharing: int = 1


def unit_mask(chosen: Iterable[Unit]) -> Region:
    """The entries of the given units, a mask a weight; shared key and value rows only where every head of the group is given."""
    units = {(unit.kind, unit.block, unit.index): unit for unit in chosen}.values()
    heads = Counter((unit.kind, unit.block, unit.group) for unit in units if unit.shared)
    dense: dict[str, torch.Tensor] = {}
    for unit in units:
        whole = bool(unit.shared) and heads[unit.kind, unit.block, unit.group] == unit.sharing
        for member in _members(unit, whole):
            inside = dense.setdefault(member.weight, torch.zeros(member.shape, dtype=torch.bool))
            inside.narrow(member.axis, member.indices.start, len(member.indices)).fill_(True)
    return Region({name: Mask.from_dense(inside) for name, inside in dense.items()})


def _members(unit: Unit, whole: bool) -> Sequence[Member]:
    return (*unit.members, *unit.shared) if whole else unit.members
