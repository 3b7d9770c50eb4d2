"""From behaviours to a region: groups of blocks are attributed, isolated and dropped, so that scores never pile up."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import nn
from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example
from brittle_eval.engine.attribute import DATA, Pass, States, accumulate, scores
from brittle_eval.engine.budget import estimate, groups, held, state_sizes
from brittle_eval.engine.kept import Kept
from brittle_eval.engine.sharing import sites
from brittle_eval.engine.walk import begin_walk
from brittle_eval.errors import BrittleError, blaming
from brittle_eval.methods import Attribution, Context, Isolation, Weight
from brittle_eval.pages import trim
from brittle_eval.regions import Part, Region, Whole
from brittle_eval.scores import Scored
from brittle_eval.weights import Address


def as_weight(model: nn.Module, address: Address, context: Context, *, base: bool) -> Weight:
    """What a method sees of a weight; `base` adds the base model's value."""
    other = context.weights("base")[address.name] if base else None
    return Weight(address.name, address.block, address.view(model), other, context.generator(address.name))


class Search:
    """Takes the states of one group of blocks after the other and gives their parts, as soon as the isolation has seen enough."""

    def __init__(
        self,
        model: PreTrainedModel,
        attribution: Attribution,
        isolation: Isolation,
        behaviours: Mapping[str, Sequence[Example]],
        context: Context,
        on_weight: Callable[[int], None] = lambda weights: None,
        on_unreached: Callable[[str, str], None] = lambda behaviour, weight: None,
    ) -> None:
        self.model, self.attribution, self.isolation, self.context = model, attribution, isolation, context
        self.behaviours = {name: behaviours.get(name, ()) for name in isolation.behaviours}
        self._on_weight, self._on_unreached = on_weight, on_unreached
        self._pending: dict[str, dict[str, Scored]] = {name: {} for name in self.behaviours}

    def weigh(self, address: Address) -> Weight:
        """What the attribution sees of a weight."""
        return as_weight(self.model, address, self.context, base="base" in self.attribution.needs)

    def weights(self, group: Sequence[Address]) -> dict[Address, Weight]:
        return {address: self.weigh(address) for address in group}

    def take(self, weights: Mapping[Address, Weight], states: States) -> dict[str, Part]:
        """The parts that whole blocks' states are enough for; a state is dropped when its scores are there.

        A weight without a state for one of the behaviours (an expert that saw no token of it) is reported and left out.
        """
        parts: dict[str, Part] = {}
        group = list(weights)
        for position, (address, weight) in enumerate(weights.items()):
            lacking = [behaviour for behaviour in self._pending if weight.name not in states[behaviour]]
            for behaviour in lacking:
                self._on_unreached(behaviour, weight.name)
            for behaviour, pending in self._pending.items() if not lacking else ():
                pending[weight.name] = scores(self.attribution, weight, states[behaviour].pop(weight.name))
            last_of_block = position + 1 == len(group) or group[position + 1].block != address.block
            if self.isolation.reach == "weight" or (self.isolation.reach == "block" and last_of_block):
                parts |= self.rest()
        return parts

    def rest(self) -> dict[str, Part]:
        """The parts of all weights whose scores wait, for an isolation that must see the whole model."""
        if not any(self._pending.values()):
            return {}
        with blaming(self.isolation):
            parts = dict(self.isolation.isolate(self._pending, self.context))
        for values in self._pending.values():
            self._on_weight(len(values))
            values.clear()
        trim()
        return parts


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
    kept: Kept | None = None,
) -> Region:
    """The region that the isolation takes from the attribution's scores of the model as it is; an empty one is an error.

    With `kept`, finished groups of blocks are kept on disk, and those that are there already are not attributed again.
    """
    search = Search(model, attribution, isolation, behaviours, context, on_weight, on_unreached)
    parts = kept.load() if kept and isolation.reach != "model" else {}
    waiting = [address for address in addresses if address.name not in parts]
    made, states_of = _planned(search, waiting, how)
    for group in made:
        weights = search.weights(group)
        found = search.take(weights, states_of(weights))
        parts |= found
        if kept and isolation.reach != "model":
            kept.add(found)
        gc.collect()
    parts |= search.rest()
    return checked(parts, addresses, isolation)


StatesOf = Callable[[Mapping[Address, Weight]], States]
"""Gives the states of the weights of one group of blocks."""


def _planned(search: Search, waiting: Sequence[Address], how: Pass) -> tuple[list[list[Address]], StatesOf]:
    """The groups of blocks that fit the memory, and what gives their states: several groups take one walk where one can be."""
    model, method, behaviours = search.model, search.attribution, search.behaviours
    together = sites(model, method, waiting, behaviours, how.pad_id)
    sizes = state_sizes(model, method, together, search.weigh, behaviours)
    made, walk = groups(waiting, sizes, len(behaviours), how.memory), None
    if len(made) > 1 and method.needs & DATA and "gradients" not in method.needs:
        walk = begin_walk(model, method, behaviours, how, together)
    room = held(walk.kept) if walk else 0
    made = groups(waiting, sizes, len(behaviours), how.memory - room)
    how.say(str(estimate(model, method, made, sizes, behaviours, how.memory, search.isolation.reach, room)))
    passes: StatesOf = partial(accumulate, model, method, behaviours=behaviours, how=how, sites=together)
    return made, walk.states if walk else passes


def whole_region(model: nn.Module, addresses: Sequence[Address]) -> Region:
    """The region of a plan without an isolation: every weight in scope."""
    return Region({address.name: Whole(tuple(address.view(model).shape)) for address in addresses})


def checked(parts: Mapping[str, Part], addresses: Sequence[Address], isolation: Isolation) -> Region:
    """The parts as a region, in the model's order; an empty one is an error."""
    region = Region({address.name: parts[address.name] for address in addresses if address.name in parts})
    if region.count + region.ranks == 0:
        entries = "raise q, lower p, or compare over more than a row (a row of n entries takes ⌊q·n⌋)"
        few = "take more ranks; a behaviour less itself leaves none"
        raise BrittleError(f"the region of {isolation} is empty: {few if 'directions' in isolation.takes else entries}")
    return region
