"""How much two parts of a weight have in common, beside what chance would give."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add

from brittle_eval.errors import BrittleError
from brittle_eval.regions import Mask, Part, Projector, Whole, overlap


@dataclass(frozen=True)
class Overlap:
    """`shared / size`, and `expected_shared / expected_size` for random parts of the same sizes; adds up over weights.

    Sums of several weights give the measure of all their entries together.
    """

    measure: str
    shared: float
    size: float
    expected_shared: float
    expected_size: float

    def __add__(self, other: Overlap) -> Overlap:
        if self.measure != other.measure:
            raise BrittleError(f"{self.measure} and {other.measure} do not add up: compare regions whose parts are of one kind")
        return Overlap(
            self.measure,
            self.shared + other.shared,
            self.size + other.size,
            self.expected_shared + other.expected_shared,
            self.expected_size + other.expected_size,
        )

    @property
    def value(self) -> float | None:
        """In [0, 1]; None for two empty parts."""
        return self.shared / self.size if self.size else None

    @property
    def chance(self) -> float | None:
        """The same of random parts."""
        return self.expected_shared / self.expected_size if self.size else None


def together(overlaps: Iterable[Overlap]) -> Overlap:
    """The sum; there must be one."""
    return reduce(add, overlaps)


def pair_overlap(a: Part | None, b: Part | None) -> Overlap:
    """The measure that belongs to the kind of the parts: `|A ∩ B| / |A ∪ B|` (Jaccard, IoU) of entries, `φ` of low-rank parts.

    None is a weight that a region does not name: an empty part. Of random sets with the same counts in n entries
    `|A ∩ B|` is `|A|·|B| / n` in expectation, exactly; chance is the measure at that intersection. With bases U (d, k) and
    V (d, l) of what two projectors give `φ = ‖UᵀV‖_F² / min(k, l)`; of random subspaces `‖UᵀV‖_F²` is `k·l / d` in expectation.
    """
    parts = [part for part in (a, b) if part is not None]
    if parts and all(isinstance(part, Projector) for part in parts):
        return _directions(a, b) if isinstance(a, Projector) and isinstance(b, Projector) else Overlap("φ", 0, 0, 0, 0)
    if not parts or not all(isinstance(part, Mask | Whole) for part in parts):
        kinds = " and ".join(type(part).__name__ for part in parts) or "nothing"
        raise BrittleError(f"no measure compares {kinds}: give two regions of entries, or two of ranks")
    counts, entries = sum(part.count for part in parts), Whole(parts[0].shape).count
    if a is None or b is None:
        return Overlap("IoU", 0, counts, 0, counts)
    shared, expected = _shared(a, b), a.count * b.count / entries if entries else 0.0
    return Overlap("IoU", shared, counts - shared, expected, counts - expected)


def _directions(a: Projector, b: Projector) -> Overlap:
    one, other = a.basis(), b.basis()
    fewer = min(one.shape[1], other.shape[1])
    shared = overlap(one, other) * fewer if fewer else 0.0
    return Overlap("φ", shared, fewer, one.shape[1] * other.shape[1] / one.shape[0], fewer)


def _shared(a: Part, b: Part) -> int:
    if isinstance(a, Mask) and isinstance(b, Mask):
        return (a & b).count
    return b.count if isinstance(a, Whole) else a.count


def block_of(name: str) -> int | None:
    """The number of the decoder block that a weight's name holds: the first number between points."""
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else None


def kinds_of(names: Iterable[str]) -> dict[str, str]:
    """The kind of each weight: its module's name, with what it lies in where that alone would join different ones.

    `model.layers.3.mlp.up_proj.weight` is an `up_proj`; GPT-2's two are `attn.c_proj` and `mlp.c_proj`.
    """
    paths = {name: _path(name) for name in names}
    homes: dict[str, set[str]] = {}
    for path in paths.values():
        homes.setdefault(path.rpartition(".")[2], set()).add(path)
    return {name: last if len(homes[last := path.rpartition(".")[2]]) == 1 else path for name, path in paths.items()}


def _path(name: str) -> str:
    """The modules' names within the block, without numbers: experts are of one kind."""
    inside = re.sub(r"\[.*?\]", "", name).removesuffix(".weight").split(".")
    start = next((place + 1 for place, part in enumerate(inside) if part.isdecimal()), 0)
    return ".".join(part for part in inside[start:] if not part.isdecimal())
