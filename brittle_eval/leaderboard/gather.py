"""Rows of many runs: from folders of runs and sweeps, from rows.jsonl files, and from folders that are searched for them."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from brittle_eval.errors import BrittleError
from brittle_eval.running.record import RunFolder, numbered_lines, write_lines
from brittle_eval.running.row import Row, read_row

Say = Callable[[str], None]
ROWS = "rows.jsonl"
MARKS = ("run.json", "sweep.json")
"""What tells the folder of a run or a sweep from others."""


@dataclass(frozen=True)
class Found:
    """A row and the file that has it."""

    row: Row
    file: Path

    @property
    def run(self) -> tuple[Path, str]:
        """What rows of one run have in common."""
        return self.file, self.row.config


def gather(paths: Sequence[Path], say: Say, *, items: bool = False) -> list[Found]:
    """The rows in the order of the paths, each once however many files have it; `items` are left out unless asked for.

    What cannot be read of several inputs (a run that was stopped, a damaged file, rows of an unknown schema) is said and left
    out; BrittleError where the only input cannot be read, and where no input has a row.
    """
    places = [place for path in paths for place in _places(path)]
    found: dict[object, Found] = {}
    with _no_pauses():
        for place in places:
            try:
                for one in _read(place, items):
                    found.setdefault(_identity(one), one)
            except BrittleError as error:
                if len(places) == 1:
                    raise
                say(f"left out: {error}")
    if not found:
        raise BrittleError(
            f"no rows in {', '.join(map(str, paths))}: give folders of finished runs or sweeps, or rows.jsonl files"
        )
    return list(found.values())


def add(file: Path, rows: Sequence[Found]) -> int:
    """Put the rows that a file does not have behind those that it has, and give their number.

    BrittleError, and nothing is written: rows without the command that made them, and a file that cannot be read or written.
    """
    if bare := [one for one in rows if not one.row.command]:
        raise BrittleError(f"row {bare[0].row.name} of {bare[0].file} has no command that makes it again: repeat the run")
    known = [Found(row, file) for row in _rows(file, items=True)] if file.exists() else []
    have = {_identity(one) for one in known}
    new = [one for one in rows if _identity(one) not in have]
    if new:
        write_lines(file, (asdict(one.row) for one in [*known, *new]))
    return len(new)


def _identity(one: Found) -> object:
    """Equal for one row of one run, wherever it lies; rows without a configuration are their file's own."""
    row = one.row
    return (row.config, row.name, row.fingerprint, row.preset) if row.config else (one.file, row.name, id(one))


@contextmanager
def _no_pauses() -> Iterator[None]:
    """Without the collector, which would look again and again at everything that was read."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _places(path: Path) -> list[Path]:
    """The files and folders that an input stands for."""
    if not path.is_dir() or _marked(path):
        return [path]
    found: list[Path] = []
    for name, folders, files in os.walk(path):
        folder = Path(name)
        if _marked(folder):
            found.append(folder)
            folders.clear()  # a sweep's own runs are in its rows
        else:
            folders.sort()
            found += [folder / file for file in sorted(files) if file == ROWS]
    return found


def _marked(folder: Path) -> bool:
    return any((folder / mark).exists() for mark in MARKS)


def _read(place: Path, items: bool) -> Iterator[Found]:
    if not place.exists():
        raise BrittleError(f"{place} is not there: give the folder of a run or a sweep, or a rows.jsonl file")
    if place.is_dir() and not (place / ROWS).exists() and (place / "sweep.json").exists():
        yield from _cells(place)
        return
    file = place / ROWS if place.is_dir() else place
    if not file.exists():
        raise BrittleError(f"the run in {place} is not finished (it has no {ROWS}): repeat its command to finish it")
    yield from (Found(row, file) for row in _rows(file, items))


def _rows(file: Path, items: bool) -> Iterator[Row]:
    known = RunFolder(file.parent, {}).read_json("run.json")
    for number, line in numbered_lines(file):
        yield read_row(line, f"{file}, line {number}", known, items=items)


def _cells(sweep: Path) -> Iterator[Found]:
    """What is done of a sweep that goes on."""
    for file in sorted(sweep.glob("cells/*.json")):
        cell = RunFolder(sweep, {}).read_json(f"cells/{file.name}") or {}
        for number, row in enumerate(cell.get("rows") or (), 1):
            yield Found(read_row(json.dumps(row).encode(), f"{file}, row {number}"), file)
