"""Regions side by side: every pair's overlap by block and kind of weight, and how stable the regions of a group are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from brittle_eval.comparing.overlaps import Overlap, block_of, kinds_of, pair_overlap, together
from brittle_eval.errors import BrittleError
from brittle_eval.regions import Region
from brittle_eval.store import load_region

EVERY, BETWEEN = "all regions", "between groups"


@dataclass(frozen=True)
class Named:
    """A region to compare."""

    label: str
    group: str | None
    """The name that the user gave to it, and perhaps to others."""
    path: Path
    region: Region
    header: Mapping[str, Any]


@dataclass(frozen=True)
class Agreement:
    """What two regions have in common, by weight."""

    a: Named
    b: Named
    weights: Mapping[str, Overlap]

    @property
    def total(self) -> Overlap:
        return together(self.weights.values())

    def by(self, keys: Mapping[str, str]) -> dict[str, Overlap]:
        """The overlap of the weights that share a key, in the order of the keys."""
        shared: dict[str, list[Overlap]] = {key: [] for key in keys.values()}
        for name, overlap in self.weights.items():
            shared[keys[name]].append(overlap)
        return {key: together(overlaps) for key, overlaps in shared.items() if overlaps}


@dataclass(frozen=True)
class Spread:
    """Mean and range over pairs of regions, and the mean of what chance would give; None where all are empty."""

    mean: float
    low: float
    high: float
    chance: float


@dataclass(frozen=True)
class Comparison:
    """All pairs of the regions; `blocks` and `kinds` say for every weight where it belongs."""

    regions: Sequence[Named]
    pairs: Sequence[Agreement]
    blocks: Mapping[str, str]
    kinds: Mapping[str, str]

    @property
    def keys(self) -> dict[str, Mapping[str, str]]:
        """What the weights are grouped by."""
        return {"block": self.blocks, "kind": self.kinds}

    def groups(self) -> dict[str, list[Agreement]]:
        """Pairs within each name that was given to several regions, pairs between such names, and all; {} for a single pair."""
        found: dict[str, list[Agreement]] = {}
        for pair in self.pairs:
            if pair.a.group is not None and pair.a.group == pair.b.group:
                found.setdefault(pair.a.group, []).append(pair)
        if len(found) > 1:
            found[BETWEEN] = [
                pair for pair in self.pairs if pair.a.group != pair.b.group and {pair.a.group, pair.b.group} <= {*found}
            ]
        apart = {name: pairs for name, pairs in found.items() if len(pairs) < len(self.pairs)}
        return apart | ({EVERY: list(self.pairs)} if len(self.pairs) > 1 else {})


def spread(overlaps: Iterable[Overlap]) -> Spread | None:
    """How much the overlaps differ, over those that are not of empty parts."""
    some = [(one.value, one.chance) for one in overlaps if one.value is not None and one.chance is not None]
    if not some:
        return None
    values = [value for value, _ in some]
    return Spread(fmean(values), min(values), max(values), fmean(chance for _, chance in some))


def spreads(pairs: Sequence[Agreement], keys: Mapping[str, str]) -> dict[str, Spread | None]:
    """The spread over the pairs for every key."""
    parts = [pair.by(keys) for pair in pairs]
    return {key: spread(part[key] for part in parts if key in part) for key in dict.fromkeys(keys.values())}


def compare(texts: Sequence[str], across_models: bool = False) -> Comparison:
    """The regions that `[NAME=]PATH` name, and every pair's overlap.

    PATH is a region file, or a run's folder with all its regions; regions of one NAME are a group. BrittleError: fewer
    than two regions, regions of two models (unless `across_models`), or weights of two shapes.
    """
    regions = _labelled([region for text in texts for region in _read(text)])
    if len(regions) < 2:
        raise BrittleError(f"region compare: {len(regions)} region in {' '.join(texts)}; give two or more")
    shapes: dict[str, tuple[int, ...]] = {}
    for region in regions:
        _check_model(regions[0], region, across_models)
        for name, part in region.region.items():
            if shapes.setdefault(name, part.shape) != part.shape:
                raise BrittleError(
                    f"{region.path}: {name} has the shape {part.shape}, in another of the regions {shapes[name]}: "
                    "only regions of models of one shape can be compared"
                )
    pairs = [Agreement(a, b, _overlaps(a.region, b.region)) for a, b in combinations(regions, 2)]
    names = sorted(shapes, key=lambda name: (block_of(name) is None, block_of(name)))
    return Comparison(regions, pairs, {name: _block(name) for name in names}, kinds_of(shapes))


def _overlaps(a: Region, b: Region) -> dict[str, Overlap]:
    return {name: pair_overlap(a.get(name), b.get(name)) for name in dict.fromkeys([*a, *b])}


def _block(name: str) -> str:
    number = block_of(name)
    return "none" if number is None else str(number)


def _read(text: str) -> list[Named]:
    name, equals, rest = text.partition("=")
    named = bool(name and equals and rest) and not Path(text).exists()
    path = Path(rest if named else text)
    files = sorted(path.glob("regions/*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise BrittleError(f"{path} holds no regions/*.safetensors: give a region file or the folder of a run with a region")
    group = name if named else None
    return [Named(group or text, group, file, *load_region(file)) for file in files]


def _labelled(regions: Sequence[Named]) -> list[Named]:
    """The regions of one label with numbers behind it."""
    total, seen = Counter(region.label for region in regions), Counter[str]()
    labelled = []
    for region in regions:
        seen[region.label] += 1
        number = f"-{seen[region.label]}" if total[region.label] > 1 else ""
        labelled.append(replace(region, label=f"{region.label}{number}"))
    return labelled


def _check_model(first: Named, other: Named, across_models: bool) -> None:
    one, two = first.header.get("fingerprint"), other.header.get("fingerprint")
    if one != two and not across_models:
        raise BrittleError(
            f"{first.path} and {other.path} were found on two models (fingerprints {one} and {two}): "
            "add --across-models to compare them all the same"
        )
    if one != two and not first.region.keys() & other.region.keys():
        raise BrittleError(f"{first.path} and {other.path} have no weight in common: give regions of models of one shape")


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything that was compared, by label."""
    regions = [
        {"label": r.label, "group": r.group, "path": str(r.path), "count": r.region.count, "ranks": r.region.ranks}
        | {key: r.header.get(key) for key in ("plan", "model", "fingerprint", "behaviours")}
        for r in comparison.regions
    ]
    pairs = [
        {"a": pair.a.label, "b": pair.b.label, **_numbers(pair.total)}
        | {f"by_{name}": {key: _numbers(one) for key, one in pair.by(keys).items()} for name, keys in comparison.keys.items()}
        for pair in comparison.pairs
    ]
    stability = {
        group: {"all": _spread_numbers(spread(pair.total for pair in pairs))}
        | {
            f"by_{name}": {key: _spread_numbers(one) for key, one in spreads(pairs, keys).items()}
            for name, keys in comparison.keys.items()
        }
        for group, pairs in comparison.groups().items()
    }
    return {"regions": regions, "pairs": pairs, "stability": stability}


def _numbers(overlap: Overlap) -> dict[str, Any]:
    return {"measure": overlap.measure, "value": overlap.value, "chance": overlap.chance}


def _spread_numbers(found: Spread | None) -> dict[str, float] | None:
    return asdict(found) if found else None
