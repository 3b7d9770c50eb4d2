"""Where regions lie by block and kind of weight, and how far those of one source agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brittle_eval.comparing.compare import Comparison, compare, spread
from brittle_eval.comparing.compare_table import overlap
from brittle_eval.comparing.overlaps import block_of, kinds_of
from brittle_eval.regions import Part, Projector, Region, Whole
from brittle_eval.reporting.charts import Drawing, Heat, Table
from brittle_eval.reporting.report_source import Source
from brittle_eval.store import load_region

MAPS, COMPARED = 4, 8
"""Regions that are drawn, and that are compared pair by pair; of a large sweep the first ones."""


@dataclass(frozen=True)
class Found:
    """A region file, with the plan's name as the user gave it."""

    name: str
    file: Path
    region: Region
    header: Mapping[str, Any]

    @property
    def size(self) -> str:
        return f"{self.region.ranks:,} ranks" if self.region.ranks else f"{self.region.count:,} weights"

    @property
    def kin(self) -> tuple[Any, bool]:
        """Regions that can be compared share it."""
        return self.header.get("fingerprint"), bool(self.region.ranks)


@dataclass(frozen=True)
class Places:
    """What a source's regions show."""

    regions: Sequence[Found]
    total: int
    maps: Sequence[Drawing]
    agreement: Sequence[Drawing]
    pairs: Table | None
    stability: Table | None
    sides: bool
    """Whether a region of safety stands beside one of utility."""


def places(source: Source) -> Places:
    """The regions that the source has kept; BrittleError for a damaged file."""
    names = {row.plan: row.recipe for row in source.rows}
    files = source.regions
    loaded = [(file, *load_region(file)) for file in files[:COMPARED]]
    regions = [
        Found(names.get(str(header.get("plan")), str(header.get("plan"))), file, region, header)
        for file, region, header in loaded
    ]
    maps = [heat for number, one in enumerate(regions[:MAPS], 1) if (heat := region_map(one, f"region-{number}"))]
    sides = len({"of=utility" in str(one.header.get("plan")) for one in regions}) == 2
    compared = [found for kin in dict.fromkeys(one.kin for one in regions) if (found := _compared(regions, kin))]
    agreement = [_by_block(comparison, regions, number) for number, comparison in enumerate(compared, 1)]
    return Places(regions, len(files), maps, agreement, _pairs(compared, regions), _stability(compared, regions), sides)


def region_map(found: Found, key: str) -> Heat | None:
    """The share of each block's weights of a kind that the region takes; None for a region of no known block."""
    names = [name for name in found.region if block_of(name) is not None]
    kinds = kinds_of(names)
    blocks = sorted({block for name in names if (block := block_of(name)) is not None})
    if not names:
        return None
    taken: dict[tuple[str, int | None], list[tuple[int, int]]] = {}
    for name in names:
        taken.setdefault((kinds[name], block_of(name)), []).append(_taken(found.region[name]))
    rows = list(dict.fromkeys(kinds.values()))
    values = [[_share(taken.get((kind, block), [])) for block in blocks] for kind in rows]
    shares = {
        (kind, block): value for kind, line in zip(rows, values, strict=True) for block, value in zip(blocks, line, strict=True)
    }
    kind, block = max(shares, key=lambda place: shares[place] or 0.0)
    top = shares[kind, block] or 0.0
    told = f"{found.size} in all. The densest is {kind} of block {block}, of which the region takes {top * 100:.2g} %."
    what = "ranks" if found.region.ranks else "entries"
    caption = f"Share of the {what} of every weight that the region of {found.name} takes, by block and kind of weight. {told}"
    columns = [str(block) for block in blocks]
    return Heat(
        key,
        f"Where {found.name} lies",
        caption,
        f"Heat map. {told}",
        "kind",
        "block",
        rows,
        columns,
        values,
        top,
        "share",
        share=True,
    )


def _taken(part: Part) -> tuple[int, int]:
    """Entries, or ranks, inside a part, and of how many."""
    return (part.rank, min(part.shape)) if isinstance(part, Projector) else (part.count, Whole(part.shape).count)


def _share(taken: Sequence[tuple[int, int]]) -> float | None:
    return sum(inside for inside, _ in taken) / most if (most := sum(size for _, size in taken)) else None


def _compared(regions: Sequence[Found], kin: tuple[Any, bool]) -> Comparison | None:
    """The pairs among the regions of one model and measure; a plan's number is the name of its group."""
    plans = list(dict.fromkeys(one.name for one in regions))
    own = [f"{plans.index(one.name) + 1}={one.file}" for one in regions if one.kin == kin]
    return compare(own) if len(own) > 1 else None


def _name(file: Path, regions: Sequence[Found]) -> str:
    """The plan of a file, with the file's name where the plan has several."""
    (own,) = (one for one in regions if one.file == file)
    return (
        own.name if [one.name for one in regions].count(own.name) == 1 else f"{own.name} ({file.parent.parent.name}/{file.stem})"
    )


def _pairs(compared: Sequence[Comparison], regions: Sequence[Found]) -> Table | None:
    rows = [
        [_name(pair.a.path, regions), _name(pair.b.path, regions), pair.total.measure, overlap(pair.total)]
        for comparison in compared
        for pair in comparison.pairs
    ]
    return Table(["region", "and", "measure", "overlap (chance)"], rows) if rows else None


def _stability(compared: Sequence[Comparison], regions: Sequence[Found]) -> Table | None:
    """Mean and range over the regions of one plan, if it has several."""
    rows: list[list[str]] = []
    for comparison in compared:
        for group in dict.fromkeys(region.group for region in comparison.regions):
            own = [pair for pair in comparison.pairs if pair.a.group == pair.b.group == group]
            if (found := spread(pair.total for pair in own)) is not None:
                name = next(one.name for one in regions if one.file == own[0].a.path)
                shown = f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"
                rows.append([name, str(len(own)), shown, f"{found.chance:.3f}"])
    return Table(["plan", "pairs", "overlap: mean [lowest, highest]", "chance"], rows) if rows else None


def _by_block(comparison: Comparison, regions: Sequence[Found], number: int) -> Heat:
    """The overlap of every pair by block."""
    columns = [key for key in dict.fromkeys(comparison.blocks.values()) if key.isdecimal()]
    found = [pair.by(comparison.blocks) for pair in comparison.pairs]
    values = [[parts[key].value if key in parts else None for key in columns] for parts in found]
    names = [f"{regions_of(pair.a.path, regions)}–{regions_of(pair.b.path, regions)}" for pair in comparison.pairs]
    measure = comparison.pairs[0].total.measure
    caption = f"{measure} of every two regions by block; their numbers are those of the list of regions."
    told = f"Heat map of {len(names)} pairs over {len(columns)} blocks; the table has the numbers."
    return Heat(f"overlap-{number}", "Overlap of regions", caption, told, "pair", "block", names, columns, values, 1.0, measure)


def regions_of(file: Path, regions: Sequence[Found]) -> int:
    """The number of a file in the list of regions."""
    return next(number for number, one in enumerate(regions, 1) if one.file == file)
