"""From behaviours to a region: groups of blocks are attributed, isolated and dropped, so that scores never pile up."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from brittle_eval.attribute import Pass, States, accumulate, groups, scores
from brittle_eval.calibration import Example
from brittle_eval.errors import BrittleError, blaming
from brittle_eval.methods import Attribution, Context, Isolation, Weight
from brittle_eval.regions import Part, Region, Whole
from brittle_eval.scores import Directions
from brittle_eval.weights import Address


def as_weight(model: nn.Module, address: Address, context: Context, *, base: bool) -> Weight:
    """What a method sees of a weight; `base` adds the base model's value."""
    other = context.weights("base")[address.name] if base else None
    return Weight(address.name, address.block, address.view(model), other, context.generator(address.name))


def find_region(
    model: PreTrainedModel,
    attribution: Attribution,
    isolation: Isolation,
    behaviours: Mapping[str, Sequence[Example]],
    addresses: Sequence[Address],
    context: Context,
    how: Pass,
    on_weight: Callable[[int], None] = lambda weights: None,
    on_unreached: Callable[[str, str], None] = lambda behaviour, weight: None,
) -> Region:
    """The region that the isolation takes from the attribution's scores; an empty one is an error.

    A weight without a score for one of the behaviours (an expert that saw no token of it) is reported and left out.
    """
    asked = {name: behaviours.get(name, ()) for name in isolation.behaviours}
    parts: dict[str, Part] = {}
    pending: dict[str, dict[str, Tensor | Directions]] = {name: {} for name in asked}

    def flush() -> None:
        if not any(pending.values()):
            return
        with blaming(isolation):
            parts.update(isolation.isolate(pending, context))
        for values in pending.values():
            on_weight(len(values))
            values.clear()

    for group in groups(addresses, model, attribution, len(asked), how.memory):
        weights = {address: as_weight(model, address, context, base="base" in attribution.needs) for address in group}
        states: States = accumulate(model, attribution, weights, asked, how)
        for position, (address, weight) in enumerate(weights.items()):
            lacking = [behaviour for behaviour in asked if weight.name not in states[behaviour]]
            for behaviour in lacking:
                on_unreached(behaviour, weight.name)
            for behaviour in asked if not lacking else ():
                pending[behaviour][weight.name] = scores(attribution, weight, states[behaviour].pop(weight.name))
            last_of_block = position + 1 == len(group) or group[position + 1].block != address.block
            if isolation.reach == "weight" or (isolation.reach == "block" and last_of_block):
                flush()
        gc.collect()
    if isolation.reach == "model":
        flush()
    return _checked(Region(parts), isolation)


def whole_region(model: nn.Module, addresses: Sequence[Address]) -> Region:
    """The region of a plan without an isolation: every weight in scope."""
    return Region({address.name: Whole(tuple(address.view(model).shape)) for address in addresses})


def _checked(region: Region, isolation: Isolation) -> Region:
    if region.count + region.ranks == 0:
        entries = "raise q, lower p, or compare over more than a row (a row of n entries takes ⌊q·n⌋)"
        few = "take more ranks; a behaviour less itself leaves none"
        raise BrittleError(f"the region of {isolation} is empty: {few if 'directions' in isolation.takes else entries}")
    return region
