"""Signed directions of the residual stream: what a region may have beside weights, for what acts while the model runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from brittle_eval.errors import BrittleError


@dataclass(frozen=True, eq=False)
class Streams:
    """A direction at places of the residual stream, from what enters block 0 to what leaves the last block."""

    along: Tensor
    """(blocks + 1, width), float32: the direction at what enters each block, and at what leaves the last; zeros for none."""
    behind: tuple[int, ...] = ()
    """Tokens that are read behind a prompt, unsteered, before a steered pass that depends on the prompt."""
    known: Mapping[str, Tensor] = field(default_factory=dict)
    """What prompts are compared with, float32, by the names that the isolation and the modification agree on."""

    @classmethod
    def single(cls, blocks: int, place: int, direction: Tensor) -> Streams:
        """One direction (width,) at one place."""
        along = torch.zeros(blocks + 1, len(direction))
        along[place] = direction
        return cls(along)

    @property
    def places(self) -> list[int]:
        """Where there is a direction."""
        return [place for place, norm in enumerate(self.along.norm(dim=1).tolist()) if norm > 0]

    @property
    def only(self) -> Tensor:
        """The one direction (width,), of length 1; BrittleError for several."""
        if len(places := self.places) != 1:
            raise BrittleError(
                f"one direction of the residual stream was expected, and the region has {len(places)}: use the isolation "
                "'direction', which gives one"
            )
        return torch.nn.functional.normalize(self.along[places[0]], dim=0)

    def drawn(self, generator: torch.Generator) -> Streams:
        """A control: random directions of the same lengths at the same places; what prompts are compared with stays."""
        random = torch.nn.functional.normalize(torch.randn(self.along.shape, generator=generator, dtype=torch.float64), dim=1)
        return replace(self, along=(random * self.along.double().norm(dim=1, keepdim=True)).float())
