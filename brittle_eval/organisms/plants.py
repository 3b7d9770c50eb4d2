"""Plants: places for safety to be trained into, so that what an attribution finds can be compared with the truth."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval

from brittle_eval.errors import BrittleError, UnknownName
from brittle_eval.methods import Share
from brittle_eval.recipe import Component, build
from brittle_eval.regions import Mask, Part, Projector, Region, Whole
from brittle_eval.weights import Address

Positive = Annotated[int, Interval(ge=1)]
Number = Annotated[int, Interval(ge=0)]


class Plant(ABC):
    """A place in a model. Its fields are its options; `rate` is the learning rate at which it takes refusals up."""

    rate: ClassVar[float]

    def chosen(self, address: Address) -> bool:
        """Whether the weight has a part of the place."""
        return True

    @abstractmethod
    def part(self, shape: tuple[int, int], generator: torch.Generator) -> Part:
        """The part of a chosen weight (out, in)."""

    def region(self, model: torch.nn.Module, addresses: Sequence[Address], seed: int) -> Region:
        """The place in this model; BrittleError for one that holds nothing."""
        generator = torch.Generator().manual_seed(seed)
        parts = {}
        for address in addresses:
            if self.chosen(address):
                out, width = address.view(model).shape
                parts[address.name] = self.part((out, width), generator)
        region = Region(parts)
        if region.count + region.ranks == 0:
            raise BrittleError(f"the plant {self} holds no weight of this model: give a larger share, or blocks that it has")
        return region


@dataclass(frozen=True)
class MaskPlant(Plant):
    """`share` of the entries of every weight, drawn at random."""

    share: Share = 0.01

    rate = 1e-3

    def part(self, shape: tuple[int, int], generator: torch.Generator) -> Mask:
        size = math.prod(shape)
        chosen = torch.zeros(size, dtype=torch.bool)
        chosen[torch.randperm(size, generator=generator)[: int(self.share * size)]] = True
        return Mask.from_dense(chosen.reshape(shape))


@dataclass(frozen=True)
class BlocksPlant(Plant):
    """All weights of the decoder blocks from `first` to `last`, both counted from 0 and included."""

    first: Number = 10
    last: Number = 12

    rate = 1e-4

    def chosen(self, address: Address) -> bool:
        return self.first <= address.block <= self.last

    def part(self, shape: tuple[int, int], generator: torch.Generator) -> Whole:
        return Whole(shape)


@dataclass(frozen=True)
class RankPlant(Plant):
    """`r` random directions of every weight's output."""

    r: Positive = 4

    rate = 4e-3

    def part(self, shape: tuple[int, int], generator: torch.Generator) -> Projector:
        if self.r > min(shape):
            raise BrittleError(f"a plant of {self.r} ranks was asked for, but a weight has min(out, in) = {min(shape)}: lower r")
        directions = torch.randn(shape[0], self.r, generator=generator, dtype=torch.float64)
        return Projector.onto(shape, torch.linalg.qr(directions).Q)


PLANTS: dict[str, type[Plant]] = {"mask": MaskPlant, "blocks": BlocksPlant, "rank": RankPlant}


def read_plant(text: str) -> Plant:
    """`mask`, `blocks:first=10,last=12`, `rank:r=4` as a plant; BrittleError for other words and for values out of range."""
    name, colon, rest = text.partition(":")
    if name not in PLANTS:
        raise UnknownName("plant", name, PLANTS)
    options = {}
    for item in rest.split(",") if colon else ():
        key, equals, value = (piece.strip() for piece in item.partition("="))
        if not equals:
            raise BrittleError(f"--plant {text}: '{item}' was given, expected key=value,key=value")
        options[key.replace("-", "_")] = value
    return build(Component("scope", name, options), PLANTS[name])
