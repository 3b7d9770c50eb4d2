"""What a report is made of: the folder of a run, a sweep or a probe, read and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from brittle_eval.errors import BrittleError
from brittle_eval.running.record import SCHEMA, Row, TaskResult

Kind = Literal["run", "sweep", "probe"]


@dataclass(frozen=True)
class Cell:
    """One finished cell of a sweep, `options` those of its plan that the grid gave."""

    number: int
    plan: str
    options: Mapping[str, Any]
    seed: int | None
    model: str
    status: str
    reason: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Source:
    """A finished run or probe, or as much of a sweep as there is."""

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

    @property
    def folders(self) -> list[Path]:
        """The folders of runs: with regions, and with samples by row."""
        return [self.path, *sorted(path for path in self.path.glob("runs/*") if path.is_dir())]

    @property
    def regions(self) -> list[Path]:
        """The region files."""
        return [file for folder in self.folders for file in sorted(folder.glob("regions/*.safetensors"))]

    @property
    def unedited(self) -> dict[str, Row]:
        """The unedited row of every model, by its name."""
        return {row.model: row for row in reversed(self.rows) if row.kind == "unedited"}

    def controls(self, row: Row) -> list[Row]:
        """The controls of an edited row: those that a probe names, else those of its plan."""
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
    """The run, sweep or probe in a folder.

    BrittleError for a folder that holds none of them, a run that is not finished, a damaged file, and rows of another schema.
    """
    if not path.is_dir():
        raise BrittleError(f"{path} is no folder: give the folder of a run, a sweep or a probe")
    if (path / "sweep.json").exists():
        return _sweep(path)
    if not (path / "run.json").exists():
        raise BrittleError(f"{path} holds no run, sweep or probe (no run.json or sweep.json): give a folder that one has written")
    rows, run = _rows(path), _json(path / "run.json")
    if not rows:
        raise BrittleError(f"the run in {path} is not finished: repeat its command to finish it, then report it")
    probe = _json(path / "probe.json") if (path / "probe.json").exists() else None
    given = {"config": run.get("config", {}), "versions": run.get("versions", {}), "digest": run.get("digest", "")}
    return Source(path, "probe" if probe else "run", rows, **given, probe=probe)


def _sweep(path: Path) -> Source:
    grid = _json(path / "sweep.json")
    cells = [_cell(file, _json(file)) for file in sorted(path.glob("cells/*.json"), key=lambda file: (len(file.stem), file.stem))]
    rows = {(row.model, row.name, cell.seed): row for cell in cells for row in cell.rows}
    if not rows:
        raise BrittleError(f"no cell of the sweep in {path} is finished: repeat its command, then report it")
    planned = grid.get("cells", ())
    known = {"config": grid, "versions": grid.get("versions", {}), "digest": str(grid.get("digest", ""))}
    return Source(path, "sweep", list(rows.values()), **known, cells=cells, planned=len(planned) or len(cells))


def _cell(file: Path, known: Mapping[str, Any]) -> Cell:
    options = known.get("options") or {}
    if not isinstance(options, Mapping):
        raise BrittleError(f"{file} is damaged (options are no object): remove it, and the sweep makes it again")
    texts = [str(known.get(key) or "") for key in ("plan", "model", "status", "reason")]
    number = known.get("cell")
    rows = [_row(row, file) for row in known.get("rows") or ()]
    place = number if isinstance(number, int) else int(file.stem) if file.stem.isdecimal() else 0
    return Cell(place, texts[0], options, known.get("seed"), texts[1], texts[2], texts[3], rows)


def _rows(path: Path) -> list[Row]:
    file = path / "rows.jsonl"
    if not file.exists():
        return []
    return [_row(line, file, number) for number, line in read_checked(file)]


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


def _row(line: Mapping[str, Any], file: Path, number: int = 0) -> Row:
    where = f"{file}, line {number}" if number else str(file)
    if (schema := line.get("schema", SCHEMA)) != SCHEMA:
        raise BrittleError(
            f"{where}: a row of schema {schema}, and this version reads schema {SCHEMA}: report it with the version that wrote it"
        )
    try:
        return Row(**(dict(line) | {"tasks": [TaskResult(**task) for task in line["tasks"]]}))
    except (KeyError, TypeError) as error:
        raise BrittleError(f"{where}: no row of a run ({error}); repeat the run's command in a new folder") from None


def _json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise BrittleError(f"{file} is damaged ({error}): repeat the command that wrote it") from None
