"""From behaviours to regions: groups of blocks are attributed once, isolated and dropped, so that scores never pile up."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn
from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example
from brittle_eval.engine.attribute import DATA, Pass, States, accumulate, scores
from brittle_eval.engine.budget import Reach, estimate, groups, held, state_sizes
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


@dataclass(frozen=True)
class Wanted:
    """A region that is to be found: what takes it from the scores, of which weights, and where finished parts are kept."""

    isolation: Isolation
    addresses: Sequence[Address]
    context: Context
    kept: Kept | None = None
    on_unreached: Callable[[str, str], None] = lambda behaviour, weight: None


class Taker:
    """Takes scores weight by weight and gives one region's parts, as soon as its isolation has seen enough."""

    def __init__(self, wanted: Wanted, on_weight: Callable[[int], None]) -> None:
        self.wanted, self.isolation, self._on_weight = wanted, wanted.isolation, on_weight
        self._kept = wanted.kept if self.isolation.reach != "model" else None
        self._parts: dict[str, Part] = {}
        known = self._kept.load() if self._kept else {}
        self._lacking = {address.name for address in wanted.addresses if address.name not in known}
        self._pending: dict[str, dict[str, Scored]] = {name: {} for name in self.isolation.behaviours}
        self.error: BrittleError | None = None
        """Why there will be no region; other takers of the same scores go on."""

    @property
    def waiting(self) -> list[Address]:
        """The weights whose scores it has not seen."""
        return [address for address in self.wanted.addresses if address.name in self._lacking]

    def take(self, name: str, found: Mapping[str, Scored]) -> dict[str, Part]:
        """A weight without a score for one of the behaviours (an expert that saw no token of it) is reported and left out."""
        if self.error or name not in self._lacking:
            return {}
        self._lacking.remove(name)
        unreached = [behaviour for behaviour in self._pending if behaviour not in found]
        for behaviour in unreached:
            self.wanted.on_unreached(behaviour, name)
        for behaviour, pending in self._pending.items() if not unreached else ():
            pending[name] = found[behaviour]
        return self.rest() if self.isolation.reach == "weight" else {}

    def rest(self) -> dict[str, Part]:
        """The parts of all weights whose scores wait, as at the end of a block."""
        if not any(self._pending.values()):
            return {}
        try:
            with blaming(self.isolation):
                parts = dict(self.isolation.isolate(self._pending, self.wanted.context))
        except BrittleError as error:
            self.error, parts = error, {}
        for values in self._pending.values():
            self._on_weight(len(values))
            values.clear()
        trim()
        return parts

    def keep(self, parts: Mapping[str, Part]) -> None:
        """Keep a group's parts, on disk if that was asked for."""
        if self._kept:
            self._kept.add(parts)
        else:
            self._parts |= parts

    def region(self) -> Region | BrittleError:
        """The region, in the model's order, or why there is none."""
        parts = {**(self._kept.load() if self._kept else self._parts), **self.rest()}
        try:
            return self.error or checked(parts, self.wanted.addresses, self.isolation)
        except BrittleError as error:
            return error


class Search:
    """Scores the weights of one group of blocks after the other, once for all the regions that are wanted."""

    def __init__(
        self,
        model: PreTrainedModel,
        attribution: Attribution,
        wanted: Sequence[Wanted],
        behaviours: Mapping[str, Sequence[Example]],
        context: Context,
        on_weight: Callable[[int], None] = lambda weights: None,
    ) -> None:
        self.model, self.attribution, self.context = model, attribution, context
        asked = dict.fromkeys(name for one in wanted for name in one.isolation.behaviours)
        self.behaviours = {name: behaviours.get(name, ()) for name in asked}
        self.takers = [Taker(one, on_weight) for one in wanted]

    @property
    def reach(self) -> Reach:
        """How much the isolation that must see most must see at once."""
        return max((taker.isolation.reach for taker in self.takers), key=("weight", "block", "model").index)

    def weigh(self, address: Address) -> Weight:
        """What the attribution sees of a weight."""
        return as_weight(self.model, address, self.context, base="base" in self.attribution.needs)

    def weights(self, group: Sequence[Address]) -> dict[Address, Weight]:
        return {address: self.weigh(address) for address in group}

    def take(self, weights: Mapping[Address, Weight], states: States) -> list[dict[str, Part]]:
        """For each wanted region the parts that whole blocks' states are enough for; a state is dropped when it is scored."""
        parts: list[dict[str, Part]] = [{} for _ in self.takers]
        group = list(weights)
        for position, (address, weight) in enumerate(weights.items()):
            found = {
                behaviour: scores(self.attribution, weight, known.pop(weight.name))
                for behaviour, known in states.items()
                if weight.name in known
            }
            last_of_block = position + 1 == len(group) or group[position + 1].block != address.block
            for taker, own in zip(self.takers, parts, strict=True):
                own |= taker.take(weight.name, found)
                if last_of_block and taker.isolation.reach == "block":
                    own |= taker.rest()
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
    """The region that the isolation takes from the attribution's scores of the model as it is; an empty one is an error."""
    wanted = [Wanted(isolation, addresses, context, kept, on_unreached)]
    (found,) = find_regions(model, attribution, wanted, behaviours, context, how, on_weight)
    if isinstance(found, BrittleError):
        raise found
    return found


def find_regions(
    model: PreTrainedModel,
    attribution: Attribution,
    wanted: Sequence[Wanted],
    behaviours: Mapping[str, Sequence[Example]],
    context: Context,
    how: Pass,
    on_weight: Callable[[int], None] = lambda weights: None,
) -> Iterator[Region | BrittleError]:
    """All wanted regions from one attribution of the model as it is, in order; for one that cannot be, the reason.

    With `kept`, finished groups of blocks are kept on disk, and those that all wanted regions have there already are not
    attributed again.
    """
    search = Search(model, attribution, wanted, behaviours, context, on_weight)
    waiting = list(dict.fromkeys(address for taker in search.takers for address in taker.waiting))
    made, states_of = _planned(search, waiting, how)
    for group in made:
        weights = search.weights(group)
        for taker, parts in zip(search.takers, search.take(weights, states_of(weights)), strict=True):
            taker.keep(parts)
        gc.collect()
    for taker in search.takers:
        yield taker.region()


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
    how.say(str(estimate(model, method, made, sizes, behaviours, how.memory, search.reach, room)))
    passes: StatesOf = partial(accumulate, model, method, behaviours=behaviours, how=how, sites=together)
    return made, walk.states if walk else passes


def whole_region(model: nn.Module, addresses: Sequence[Address]) -> Region:
    """The region of a plan without an isolation: every weight in scope."""
    return Region({address.name: Whole(tuple(address.view(model).shape)) for address in addresses})


def checked(parts: Mapping[str, Part], addresses: Sequence[Address], isolation: Isolation) -> Region:
    """The parts as a region, in the model's order; an empty one is an error."""
    streams = parts.streams if isinstance(parts, Region) else None
    region = Region({address.name: parts[address.name] for address in addresses if address.name in parts}, streams)
    if region.count + region.ranks == 0 and not (streams and streams.places):
        entries = "raise q, lower p, or compare over more than a row (a row of n entries takes ⌊q·n⌋)"
        few = "take more ranks; a behaviour less itself leaves none"
        raise BrittleError(f"the region of {isolation} is empty: {few if 'directions' in isolation.takes else entries}")
    return region
