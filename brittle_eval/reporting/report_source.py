"""What a report is made of: the folder of a run, a sweep, a probe or a landscape, read and checked."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from brittle_eval.errors import BrittleError
from brittle_eval.recipe import NONE
from brittle_eval.reporting import measured
from brittle_eval.running.comparison import against_unedited
from brittle_eval.running.record import Row
from brittle_eval.running.row import read_row

Kind = Literal["run", "sweep", "probe", "landscape"]


@dataclass(frozen=True)
class Cell:
    """One finished cell of a sweep, `options` those of its plan that the grid gave."""

    number: int
    recipe: str
    """The plan as the grid has it; that of the unedited model is `none`."""
    options: Mapping[str, Any]
    seed: int | None
    model: str
    status: str
    reason: str
    run: str
    """Its run's folder within the sweep's."""
    command: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Source:
    """A finished run, probe or landscape, or as much of a sweep as there is."""

    path: Path
    kind: Kind
    rows: Sequence[Row]
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""
    cells: Sequence[Cell] = ()
    planned: int = 0
    """Cells of the sweep, finished or not."""
    probe: Mapping[str, Any] | None = None
    landscape: Mapping[str, Any] | None = None

    @cached_property
    def regions(self) -> list[Path]:
        """The region files; of those of one content, which a sweep keeps in several places, the first."""
        folders = [self.path, *sorted(path for path in self.path.glob("runs/*") if path.is_dir())]
        found: dict[str, Path] = {}
        for file in (file for folder in folders for file in sorted(folder.glob("regions/*.safetensors"))):
            with file.open("rb") as raw:
                found.setdefault(hashlib.file_digest(raw, "blake2b").hexdigest(), file)
        return list(found.values())

    @cached_property
    def attack(self) -> str | None:
        """The task whose rate is the headline: that of a probe or a landscape, else the first."""
        asked = (self.probe or self.landscape or {}).get("attack")
        known = measured.attacks(self.rows)
        return asked if asked in known else known[0] if known else None

    @cached_property
    def _cells(self) -> dict[int, Cell]:
        return {id(row): cell for cell in self.cells for row in cell.rows}

    @cached_property
    def _unedited(self) -> dict[tuple[str, str, int | None], Row]:
        found = {(row.model, row.condition, self.seed(row)): row for row in reversed(self.rows) if row.kind == "unedited"}
        return {(row.model, row.condition, None): row for row in found.values()} | found

    def cell(self, row: Row) -> Cell | None:
        """The cell that a row of a sweep comes from."""
        return self._cells.get(id(row))

    def seed(self, row: Row) -> int | None:
        """The seed of a row's cell."""
        cell = self.cell(row)
        return cell.seed if cell else None

    def before(self, row: Row) -> Row | None:
        """The unedited row that a row is compared with."""
        shown = (row.model, row.condition)
        return self._unedited.get((*shown, self.seed(row)), self._unedited.get((*shown, None)))

    def folder(self, row: Row) -> Path:
        """Where a row's samples lie."""
        cell = self.cell(row)
        return (self.path / cell.run if cell else self.path) / row.name

    def controls(self, row: Row) -> list[Row]:
        """The controls of an edited row: those of its cell, those that a probe names, or those of its plan."""
        if (cell := self.cell(row)) is not None:
            return [other for other in cell.rows if other.kind == "control"]
        if self.probe is not None:
            sizes = [size for size in self.probe.get("sizes", ()) if size.get("edited") == row.name]
            named = {name for size in sizes for name in (size.get("controls") or {}).values()}
            return [other for other in self.rows if other.name in named]
        return [
            other for other in self.rows if other.kind == "control" and (other.recipe, other.model) == (row.recipe, row.model)
        ]

    def edits(self) -> list[Row]:
        """The edited rows, without controls."""
        return [row for row in self.rows if row.kind == "edited"]


def read_source(path: Path) -> Source:
    """The run, sweep, probe or landscape in a folder.

    BrittleError for a folder that holds none of them, a run that is not finished, a damaged file, and rows of another schema.
    """
    if not path.is_dir():
        raise BrittleError(f"{path} is no folder: give the folder of a run, a sweep, a probe or a landscape")
    if (path / "sweep.json").exists():
        return _sweep(path)
    if not (path / "run.json").exists():
        raise BrittleError(f"{path} holds no run, sweep or probe (no run.json or sweep.json): give a folder that one has written")
    run = _json(path / "run.json")
    rows = _rows(path, run)
    if not rows:
        raise BrittleError(f"the run in {path} is not finished: repeat its command to finish it, then report it")
    probe, landscape = (_json(file) if file.exists() else None for file in (path / "probe.json", path / "landscape.json"))
    kind: Kind = "probe" if probe else "landscape" if landscape else "run"
    given = {"config": run.get("config", {}), "versions": run.get("versions", {}), "digest": run.get("digest", "")}
    return Source(path, kind, rows, **given, probe=probe, landscape=landscape)


def _sweep(path: Path) -> Source:
    """Of each group of cells, which begins with the unedited model, the rows beside it, tests corrected for all its edits."""
    grid = _json(path / "sweep.json")
    cells = [_cell(file, _json(file)) for file in sorted(path.glob("cells/*.json"), key=lambda file: (len(file.stem), file.stem))]
    groups: list[list[Cell]] = []
    for cell in cells:
        if not groups or cell.recipe == NONE:
            groups.append([])
        groups[-1].append(cell)
    compared = [cell for group in groups for cell in _compared(group)]
    rows = [row for cell in compared for row in cell.rows]
    if not rows:
        raise BrittleError(f"no cell of the sweep in {path} is finished: repeat its command, then report it")
    config = {key: value for key, value in grid.items() if key not in ("cells", "versions")}
    known = {"config": config, "versions": grid.get("versions", {})}
    return Source(path, "sweep", rows, **known, cells=compared, planned=len(grid.get("cells", ())) or len(cells))


def _compared(group: Sequence[Cell]) -> list[Cell]:
    """The cells with their rows compared with the unedited model, if that is among them."""
    rows = [row for cell in group for row in cell.rows]
    if any(row.kind == "unedited" for row in rows):
        rows = against_unedited(rows)
    each = iter(rows)
    return [replace(cell, rows=[next(each) for _ in cell.rows]) for cell in group]


def _cell(file: Path, known: Mapping[str, Any]) -> Cell:
    options = known.get("options") or {}
    if not isinstance(options, Mapping):
        raise BrittleError(f"{file} is damaged (options are no object): remove it, and the sweep makes it again")
    recipe, model, status, reason, run = (str(known.get(key) or "") for key in ("recipe", "model", "status", "reason", "run"))
    number = known.get("cell")
    place = number if isinstance(number, int) else int(file.stem) if file.stem.isdecimal() else 0
    rows = [_row(row, file) for row in known.get("rows") or ()]
    command = shlex.join(map(str, known.get("command") or ()))
    return Cell(place, recipe, options, known.get("seed"), model, status, reason, run, command, rows)


def _rows(path: Path, run: Mapping[str, Any]) -> list[Row]:
    file = path / "rows.jsonl"
    if not file.exists():
        return []
    return [_row(line, file, number, run) for number, line in read_checked(file)]


def read_checked(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The numbered objects of a jsonl file, one at a time; BrittleError for a line that is none."""
    number = 0
    try:
        with file.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, dict(json.loads(line))
    except OSError as error:
        raise BrittleError(f"cannot read {file}: {error.strerror or error}; repeat the run's command to make it again") from None
    except (ValueError, TypeError) as error:
        raise BrittleError(
            f"{file}, line {number or 1}: not a JSON object ({error}); repeat the run's command in a new folder"
        ) from None


def _row(line: Mapping[str, Any], file: Path, number: int = 0, known: Mapping[str, Any] | None = None) -> Row:
    return read_row(json.dumps(line).encode(), f"{file}, line {number}" if number else str(file), known)


def _json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise BrittleError(f"{file} is damaged ({error}): repeat the command that wrote it") from None
