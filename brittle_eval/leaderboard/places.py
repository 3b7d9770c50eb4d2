"""From what a user names to rows with their run's folders: RUN, RUN:ROW, FILE, FILE:ROW or FILE:LINE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from brittle_eval.errors import BrittleError, UnknownName
from brittle_eval.leaderboard.gather import Found, gather
from brittle_eval.running.record import Row, RunFolder


def named(text: str) -> list[Found]:
    """The rows that a user names; BrittleError for a place without rows, UnknownName for a row that it has not."""
    path, name = Path(text), ""
    if not path.exists():
        head, _, name = text.rpartition(":")
        path = Path(head)
        if not (head and path.exists()):
            raise BrittleError(f"{text} is not there: give RUN, RUN:ROW, or a rows.jsonl file with :ROW or :LINE behind it")
    found = gather([path], lambda line: None, items=True)
    if not name:
        return found
    if name.isdecimal() and path.is_file():
        if not 1 <= int(name) <= len(found):
            raise BrittleError(f"{path} has {len(found)} rows, and no row {name}")
        return [found[int(name) - 1]]
    chosen = [one for one in found if one.row.name == name]
    if not chosen:
        raise UnknownName(f"row of {path}", name, {one.row.name for one in found})
    return chosen


def folder_of(one: Found, given: Sequence[Path] = ()) -> RunFolder | None:
    """The folder of the run that made a row: the file's own, one of a sweep, or one that was given; by its configuration."""
    for path in _candidates([one.file.parent, *given]):
        folder = RunFolder.stored(path)
        if not one.row.config or folder.digest == one.row.config:
            return folder
        if path in (one.file.parent, *given) and not (path / "sweep.json").exists() and _has(folder, one.row):
            return folder
    return None


def _candidates(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        places = [path, *sorted(path.glob("runs/*"))]
        yield from (place for place in places if (place / "run.json").exists())


def _has(folder: RunFolder, row: Row) -> bool:
    """Whether a run whose configuration is another has the row all the same: verify then says so."""
    return (folder.path / row.name / "model.json").exists()
