"""Control regions of a region's own size: in every weight entries, disjoint from it where possible, or ranks; or other blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from brittle_eval.errors import BrittleError
from brittle_eval.regions import Mask, Part, Projector, Region, Whole
from brittle_eval.weights import Address, digest

Kind = Literal["random", "magnitude"]
BINS = 64
"""Quantiles of the region's |W| in which a magnitude-matched control takes the same count."""


def parse_controls(text: str) -> list[tuple[Kind, int]]:
    """`random:3,magnitude:1` as (kind, number of seeds); `none` is empty."""
    if text == "none":
        return []
    out: list[tuple[Kind, int]] = []
    for item in text.split(","):
        kind, _, number = item.partition(":")
        if kind not in ("random", "magnitude") or not (number or "1").isdecimal() or int(number or "1") < 1:
            raise BrittleError(f"--controls {text}: '{item}' is not random:N or magnitude:N with N ≥ 1; or give none")
        if kind in dict(out):
            raise BrittleError(f"--controls {text}: '{kind}' is given twice; give it once, with the sum")
        out.append((kind, int(number or "1")))  # type: ignore[arg-type]
    return out


def matched_control(
    kind: Kind, region: Region, model: nn.Module, addresses: Sequence[Address], generator: torch.Generator
) -> Region:
    """A region with the same count in every weight; with `magnitude` also the same distribution of |W|, up to 64 quantiles.

    For a projector a random subspace of the same rank, and one for all weights from which the region takes one subspace;
    BrittleError where its magnitude should be matched: it has none. Directions of the residual stream become random ones. For
    whole weights those of other blocks, as far apart: any, or with `magnitude` those nearest in norm; only where no such blocks
    are left does the control cover the region.
    """
    if all(map(_whole, region.values())) and (others := _shifted(region, addresses)):
        return _drawn(kind, others, region, model, addresses, generator)
    parts: dict[str, Part] = {}
    bases = _common(region, generator)
    for address in addresses:
        if address.name in region:
            part, value = region[address.name], address.view(model)
            if isinstance(part, Projector):
                parts[address.name] = _subspace(kind, part, value, generator, bases)
            else:
                parts[address.name] = _entries(kind, part, value, generator)
    return Region(parts, region.streams.drawn(generator) if region.streams else None)


def _whole(part: Part) -> bool:
    """Also a mask that leaves nothing out, as which a region file holds a whole weight."""
    return not isinstance(part, Projector) and part.count == math.prod(part.shape)


def _shifted(region: Region, addresses: Sequence[Address]) -> list[list[str]]:
    """The region's weights some blocks earlier or later, each as names: all shifts that lead to like weights outside of it."""
    places = {(address.block, _tail(address)): address for address in addresses}
    own = [address for address in addresses if address.name in region]
    last = max((address.block for address in addresses), default=0)
    found = []
    for shift in range(-last, last + 1):
        moved = [places.get((address.block + shift, _tail(address))) for address in own]
        names = [address.name for address in moved if address is not None and address.name not in region]
        if names and len(names) == len(own):
            found.append(names)
    return found


def _tail(address: Address) -> str:
    """What a weight is called within its block."""
    return address.name.partition(f".{address.block}.")[2] or address.name


def _drawn(
    kind: Kind,
    others: Sequence[list[str]],
    region: Region,
    model: nn.Module,
    addresses: Sequence[Address],
    generator: torch.Generator,
) -> Region:
    if kind == "random":
        chosen = others[int(torch.randint(len(others), (), generator=generator))]
    else:
        norms = {address.name: float(address.view(model).float().norm()) ** 2 for address in addresses}
        wanted = sum(norms[name] for name in region)
        chosen = min(others, key=lambda names: abs(sum(norms[name] for name in names) - wanted))
    shapes = {address.name: tuple(address.view(model).shape) for address in addresses}
    return Region({name: Whole(shapes[name]) for name in chosen})


def _common(region: Region, generator: torch.Generator) -> dict[str, Tensor]:
    """A random basis, by the digest of what it stands for, for every subspace that is taken of more than one weight."""
    same: dict[str, list[Tensor]] = {}
    for part in region.values():
        if isinstance(part, Projector) and part.right is part.left and not part.complement:
            same.setdefault(digest(part.left), []).append(part.left)
    shapes = {key: found[0].shape for key, found in same.items() if len(found) > 1}
    return {key: torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64)).Q for key, shape in shapes.items()}


def _subspace(kind: Kind, part: Projector, value: Tensor, generator: torch.Generator, bases: Mapping[str, Tensor]) -> Projector:
    """Uniform among the subspaces of this rank of what the weight can give; its complement where that is smaller."""
    if kind == "magnitude":
        raise BrittleError("no magnitude control of low-rank parts: ranks have no |W|; give --controls random:N")
    if not part.complement and (common := bases.get(digest(part.left))) is not None:
        return Projector.onto(part.shape, common)
    few = min(part.rank, min(part.shape) - part.rank)
    basis = torch.linalg.qr(torch.randn(min(part.shape), few, generator=generator, dtype=torch.float64)).Q
    if part.shape[0] > part.shape[1]:  # most directions of (out,) are none of the weight's: removing them would do nothing
        basis = torch.linalg.qr(value.double().cpu()).Q @ basis
    projector = Projector.onto(part.shape, basis)
    return projector if few == part.rank else ~projector


def _entries(kind: Kind, part: Mask | Whole, value: Tensor, generator: torch.Generator) -> Mask:
    mask = part.dense().reshape(-1) if isinstance(part, Mask) else torch.ones(part.count, dtype=torch.bool)
    sizes = value.float().abs().reshape(-1).cpu() if kind == "magnitude" else None
    return Mask.from_dense(_choose(mask, sizes, generator).reshape(part.shape))


def _choose(mask: Tensor, sizes: Tensor | None, generator: torch.Generator) -> Tensor:
    count = int(mask.sum())
    chosen = torch.zeros_like(mask)
    if count == 0:
        return chosen
    free = (~mask).nonzero().squeeze(1)
    if sizes is None or len(free) < count:
        order = free[torch.randperm(len(free), generator=generator)]
        chosen[order[:count]] = True
    else:
        chosen[_matched(mask, sizes, free, generator)] = True
    if (short := count - int(chosen.sum())) > 0:  # the region is over half of the weight: overlap cannot be avoided
        inside = mask.nonzero().squeeze(1)
        chosen[inside[torch.randperm(len(inside), generator=generator)[:short]]] = True
    return chosen


def _matched(mask: Tensor, sizes: Tensor, free: Tensor, generator: torch.Generator) -> Tensor:
    """Free positions with the region's |W| histogram; a bin with too few free entries takes from the next smaller ones.

    The outermost bins are open: there, what lies between the region's extremes comes first, then what is nearest to them.
    """
    inside = sizes[mask].sort().values
    edges = inside[torch.linspace(0, len(inside) - 1, min(BINS, len(inside)) + 1).long()[1:-1]].unique()
    wanted = torch.bucketize(sizes[mask], edges).bincount(minlength=len(edges) + 1).tolist()
    bins = torch.bucketize(sizes[free], edges)
    away = (inside[0] - sizes[free]).clamp(min=0) + (sizes[free] - inside[-1]).clamp(min=0)
    order = torch.randperm(len(free), generator=generator)
    for key in (away, bins):
        order = order[key[order].sort(stable=True).indices]
    have = bins.bincount(minlength=len(edges) + 1).tolist()
    take, owed = [0] * len(have), 0
    for number in reversed(range(len(have))):
        take[number] = min(have[number], wanted[number] + owed)
        owed += wanted[number] - take[number]
    for number in range(len(have)):
        more = min(have[number] - take[number], owed)
        take[number], owed = take[number] + more, owed - more
    picked, start = [], 0
    for number, size in enumerate(have):
        picked.append(order[start : start + take[number]])
        start += size
    return free[torch.cat(picked)]
