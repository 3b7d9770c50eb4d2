"""Regions: a linear map `W ↦ R(W)` on each weight, with exact sizes and set algebra."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from brittle_eval.errors import BrittleError


@dataclass(frozen=True, eq=False)
class Mask:
    """Single entries of a weight: `R(W) = M ⊙ W`, with M one bit an entry, packed (`bits`: uint8, ⌈out·in / 8⌉)."""

    shape: tuple[int, ...]
    bits: Tensor

    @classmethod
    def from_dense(cls, dense: Tensor) -> Mask:
        """From a boolean tensor of the weight's shape."""
        packed = np.packbits(dense.detach().cpu().numpy().reshape(-1))
        return cls(tuple(dense.shape), torch.from_numpy(packed))

    def dense(self) -> Tensor:
        """The boolean tensor of the weight's shape."""
        flat = np.unpackbits(self.bits.numpy(), count=math.prod(self.shape))
        return torch.from_numpy(flat).bool().reshape(self.shape)

    @property
    def count(self) -> int:
        """Entries inside."""
        return int(np.bitwise_count(self.bits.numpy()).sum())

    def apply(self, value: Tensor) -> Tensor:
        """`M ⊙ W`; entries outside are exact zeros, whatever they were."""
        return torch.where(self.dense().to(value.device), value, torch.zeros((), dtype=value.dtype, device=value.device))

    def _combine(self, other: Mask, bits: Tensor) -> Mask:
        if self.shape != other.shape:
            raise BrittleError(f"masks of shapes {self.shape} and {other.shape} cannot be combined: compare one model's regions")
        return Mask(self.shape, bits)

    def __and__(self, other: Mask) -> Mask:
        return self._combine(other, self.bits & other.bits)

    def __or__(self, other: Mask) -> Mask:
        return self._combine(other, self.bits | other.bits)

    def __sub__(self, other: Mask) -> Mask:
        return self._combine(other, self.bits & ~other.bits)

    def __invert__(self) -> Mask:
        return Mask.from_dense(~self.dense())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mask) and self.shape == other.shape and torch.equal(self.bits, other.bits)

    __hash__ = None  # type: ignore[assignment]  # masks compare by content and hold a tensor


@dataclass(frozen=True)
class Whole:
    """Every entry of a weight: `R(W) = W`. The region of a plan without an isolation."""

    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    def apply(self, value: Tensor) -> Tensor:
        return value


Part = Mask | Whole


class Region(Mapping[str, Part]):
    """Parts by weight name; a weight that is not named is untouched."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self._parts = dict(parts)

    def __getitem__(self, name: str) -> Part:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def count(self) -> int:
        """Entries inside, over all weights."""
        return sum(part.count for part in self.values())

    def masks(self) -> dict[str, Mask]:
        """Every part as a mask."""
        return {n: p if isinstance(p, Mask) else Mask.from_dense(torch.ones(p.shape, dtype=torch.bool)) for n, p in self.items()}

    def iou(self, other: Region) -> float:
        """Intersection over union of two regions of one model; 0 for two empty ones."""
        mine, theirs = self.masks(), other.masks()
        both = sum((mine[name] & theirs[name]).count for name in mine.keys() & theirs.keys())
        union = self.count + other.count - both
        return both / union if union else 0.0
