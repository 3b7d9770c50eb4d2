"""Regions: a linear map `W ↦ R(W)` on each weight, with exact sizes; masks have set algebra, projectors an overlap."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from brittle_eval.errors import BrittleError
from brittle_eval.streams import Streams

NO_SET = (
    "a low-rank projector is no set of entries: compare its basis() with another's by overlap(), and take ~ for what it leaves"
)
TINY = 1e-5
"""A singular value below this share of the largest is none in float32."""


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
        return torch.from_numpy(flat).view(torch.bool).reshape(self.shape)

    @property
    def count(self) -> int:
        """Entries inside."""
        return int(np.bitwise_count(self.bits.numpy()).sum())

    def apply(self, value: Tensor) -> Tensor:
        """`M ⊙ W`; entries outside are exact zeros, whatever they were."""
        return torch.where(self.dense().to(value.device), value, torch.zeros((), dtype=value.dtype, device=value.device))

    def _combine(self, other: Mask | Projector, join: Callable[[Tensor, Tensor], Tensor]) -> Mask:
        if isinstance(other, Projector):
            raise BrittleError(NO_SET)
        if self.shape != other.shape:
            raise BrittleError(f"masks of shapes {self.shape} and {other.shape} cannot be combined: compare one model's regions")
        return Mask(self.shape, join(self.bits, other.bits))

    def __and__(self, other: Mask | Projector) -> Mask:
        return self._combine(other, torch.bitwise_and)

    def __or__(self, other: Mask | Projector) -> Mask:
        return self._combine(other, torch.bitwise_or)

    def __sub__(self, other: Mask | Projector) -> Mask:
        return self._combine(other, lambda mine, theirs: mine & ~theirs)

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


@dataclass(frozen=True, eq=False)
class Projector:
    """Some ranks of what a weight gives: `R(W) = L (Rᵀ W)`, L and R (out, r); `W − L (Rᵀ W)` for a complement.

    Without R it is `L W` with L (out, out). Factors are float32, and so is what `apply` gives. Make one with `onto` or `product`.
    """

    shape: tuple[int, int]
    """(out, in) of the weight."""
    left: Tensor
    right: Tensor | None
    """For an orthogonal projector the very same tensor as `left`."""
    inner: int
    """The rank of `L Rᵀ`."""
    complement: bool = False

    @classmethod
    def onto(cls, shape: tuple[int, int], basis: Tensor) -> Projector:
        """The orthogonal projector `U Uᵀ` onto an orthonormal basis U (out, r)."""
        left = _factor(basis)
        return cls(shape, left, left, left.shape[1])

    @classmethod
    def product(cls, shape: tuple[int, int], left: Tensor, right: Tensor) -> Projector:
        """`L Rᵀ` from factors (out, r) of full rank; dense where that takes less room, which is from r > out / 2 on."""
        out, rank = left.shape
        if 2 * rank > out:
            return cls(shape, _factor(left @ right.T), None, rank)
        return cls(shape, _factor(left), _factor(right), rank)

    @property
    def count(self) -> int:
        """Entries inside: none, a projector has ranks."""
        return 0

    @property
    def rank(self) -> int:
        """Ranks that R takes of a weight of full rank; a complement takes all but the directions that `L Rᵀ` leaves alone."""
        if not self.complement:
            return self.inner
        if self.right is self.left:
            return min(self.shape) - self.inner
        core = self.left if self.right is None else self.right.T @ self.left
        kept = torch.linalg.svdvals(torch.eye(len(core)) - core) < TINY
        return min(self.shape) - int(kept.sum())

    def apply(self, value: Tensor) -> Tensor:
        """`R(W)` in float32; linear, and for `onto` the same again when it is applied twice."""
        value = value.float()
        within = value if self.right is None else self.right.to(value.device).T @ value
        inside: Tensor = self.left.to(value.device) @ within
        return value - inside if self.complement else inside

    def dense(self) -> Tensor:
        """R as a matrix (out, out), float32."""
        return self.apply(torch.eye(self.shape[0]))

    def basis(self) -> Tensor:
        """Orthonormal directions (out, k), float32, of all that R can give."""
        if self.right is self.left and not self.complement:
            return self.left
        matrix = self.dense() if self.complement or self.right is None else self.left
        vectors, sizes, _ = torch.linalg.svd(matrix.double(), full_matrices=False)
        scale = 1.0 if self.complement or not len(sizes) else float(sizes[0])
        spanning: Tensor = vectors[:, sizes > TINY * scale]
        return spanning.float()

    def lora(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """`(A, B)` with `B A = −R(W)` for W = `value`, A (r, in), B (out, r), float32: the ablation as a LoRA pair of scale 1."""
        value = value.float()
        if self.right is not None and not self.complement:
            return self.right.to(value.device).T @ value, -self.left.to(value.device)
        out, width = self.shape
        if out <= width:
            return value, -self.dense().to(value.device)
        return torch.eye(width, device=value.device), -self.apply(value)

    def __invert__(self) -> Projector:
        return replace(self, complement=not self.complement)

    def _no_set(self, other: object) -> Mask:
        raise BrittleError(NO_SET)

    __and__ = __rand__ = __or__ = __ror__ = __sub__ = __rsub__ = _no_set


def _factor(value: Tensor) -> Tensor:
    return value.detach().float().cpu().contiguous()


def overlap(one: Tensor, other: Tensor) -> float:
    """`φ = ‖UᵀV‖_F² / min(k, l)` of orthonormal bases U (d, k) and V (d, l).

    1 if one span holds the other, 0 if they are orthogonal; also called MSO. BrittleError for bases of two spaces, or of none.
    """
    if one.shape[0] != other.shape[0] or not one.shape[1] or not other.shape[1]:
        given = f"{tuple(one.shape)} and {tuple(other.shape)}"
        raise BrittleError(f"no overlap of bases of shapes {given}: expected (d, k) and (d, l), each with a direction")
    return float((one.double().T @ other.double()).square().sum()) / min(one.shape[1], other.shape[1])


def chance_overlap(one: int, other: int, size: int) -> float:
    """`max(k, l) / d`: the mean φ of two random subspaces of k and l of d dimensions."""
    return max(one, other) / size


Part = Mask | Projector | Whole


class Region(Mapping[str, Part]):
    """Parts by weight name; a weight that is not named is untouched. And directions of the residual stream, if it has some."""

    def __init__(self, parts: Mapping[str, Part], streams: Streams | None = None) -> None:
        self._parts, self.streams = dict(parts), streams

    def __getitem__(self, name: str) -> Part:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def count(self) -> int:
        """Entries inside masks and whole weights."""
        return sum(part.count for part in self.values())

    @property
    def ranks(self) -> int:
        """Ranks that the projectors take, over all weights."""
        return sum(part.rank for part in self.values() if isinstance(part, Projector))

    def masks(self) -> dict[str, Mask]:
        """Every part as a mask; BrittleError if one is a projector."""
        if any(isinstance(part, Projector) for part in self.values()):
            raise BrittleError(NO_SET)
        return {n: p if isinstance(p, Mask) else Mask.from_dense(torch.ones(p.shape, dtype=torch.bool)) for n, p in self.items()}

    def iou(self, other: Region) -> float:
        """Intersection over union of two regions of one model; 0 for two empty ones."""
        mine, theirs = self.masks(), other.masks()
        both = sum((mine[name] & theirs[name]).count for name in mine.keys() & theirs.keys())
        union = self.count + other.count - both
        return both / union if union else 0.0
