"""Control regions of a region's own size in every weight, disjoint from it where that is possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from brittle_eval.errors import BrittleError
from brittle_eval.regions import Mask, Part, Region
from brittle_eval.weights import Address

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
    """A region with the same count in every weight; with `magnitude` also the same distribution of |W|, up to 64 quantiles."""
    masks = region.masks()
    parts: dict[str, Part] = {}
    for address in addresses:
        if address.name in masks:
            mask = masks[address.name].dense().reshape(-1)
            sizes = address.view(model).float().abs().reshape(-1).cpu()
            chosen = _choose(mask, sizes if kind == "magnitude" else None, generator)
            parts[address.name] = Mask.from_dense(chosen.reshape(masks[address.name].shape))
    return Region(parts)


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
