"""A sweep: the cells of a grid, run one by one or on a cluster; every finished one is on disk, and a further start goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from brittle_eval.errors import BrittleError
from brittle_eval.running.comparison import against_unedited
from brittle_eval.running.prepare import Options, prepare
from brittle_eval.running.record import Row, RunFolder, versions, write_json, write_lines, write_text
from brittle_eval.sweeps.cells import SCHEMA, Cell, Group, Outcome, as_group, described, kept
from brittle_eval.sweeps.worker import Worker
from brittle_eval.trials.freezing import freezing

Say = Callable[[str], None]


@dataclass(frozen=True)
class Work:
    """The cells of a group that are not finished, without that of the unedited model."""

    group: Group
    waiting: tuple[Cell, ...]


class Executor(Protocol):
    """Runs all work in a sweep's folder; gives what becomes of each cell, as it is kept there."""

    def __call__(self, folder: Path, works: Sequence[Work], say: Say) -> Iterator[Outcome]: ...


def local(folder: Path, works: Sequence[Work], say: Say) -> Iterator[Outcome]:
    """One cell after the other in this process."""
    worker = Worker(folder, say)
    for work in works:
        opened = worker.open(work.group, work.waiting)
        yield opened.outcome
        for cell in work.waiting:
            yield worker.run(work.group, cell, opened)


def default_folder() -> Path:
    """`runs/TIME-sweep`."""
    return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-sweep"


def plan_sweep(asked: Sequence[tuple[Options, Sequence[str]]]) -> list[Group]:
    """The cells of every combination of options (with its command line); every mistake in them ends here."""
    groups: list[Group] = []
    for options, command in asked:
        prepared = prepare(options)
        plans = {chain.name: str(chain.plan) for chain in prepared.chains}
        first = groups[-1].cells[-1].number + 1 if groups else 0
        groups.append(as_group(options, prepared.model_name, prepared.tasks, plans, command, first))
    return groups


def sweep(groups: Sequence[Group], grid: Mapping[str, Any], path: Path, executor: Executor, say: Say) -> dict[int, Outcome]:
    """Run the cells that are not finished; gives what became of all, by number, and writes their rows.

    BrittleError for a folder that holds another sweep.
    """
    cells = [cell for group in groups for cell in group.cells]
    with _opened(path, groups, grid):
        found = {cell.number: known for cell in cells if (known := kept(path, cell)) and known.finished}
        works = [_work(group, found) for group in groups]
        works = [work for work in works if work.waiting or work.group.base.number not in found]
        if found:
            say(f"{path}: {len(found)} of {len(cells)} cells are there")
        names = {cell.number: cell for cell in cells}
        try:
            for outcome in executor(path, works, say) if works else ():
                found[outcome.cell] = outcome
                place = f"cell {outcome.cell} ({len(found)} of {len(cells)} there)"
                say(f"{place}, {names[outcome.cell].recipe}: {_said(outcome)}")
        finally:
            rows = rows_of(groups, found)
            write_lines(path / "rows.jsonl", (asdict(row) for row in rows))
            if tables := freezing(rows):
                write_text(path / "freezing.md", ["\n\n".join(one.markdown() for one in tables), "\n"])
    return found


def _work(group: Group, found: Mapping[int, Outcome]) -> Work:
    return Work(group, tuple(cell for cell in group.cells[1:] if cell.number not in found))


def rows_of(groups: Sequence[Group], found: Mapping[int, Outcome]) -> list[Row]:
    """The rows of all finished cells; McNemar's tests are corrected for all edits of a group together."""
    rows: list[Row] = []
    for group in groups:
        own = [row for cell in group.cells if cell.number in found for row in found[cell.number].rows]
        rows += against_unedited(own) if any(row.kind == "unedited" for row in own) else own
    return rows


def _said(outcome: Outcome) -> str:
    took = f"{outcome.seconds:.1f} s, of which {outcome.edit_seconds:.1f} s edit and undo"
    return f"{outcome.status} in {took}" + (f" ({outcome.reason})" if outcome.reason else "")


@contextmanager
def _opened(path: Path, groups: Sequence[Group], grid: Mapping[str, Any]) -> Iterator[None]:
    """Make or find again the sweep's folder, for this process alone."""
    lock = FileLock(path / ".lock", timeout=0)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise BrittleError(f"another process is writing {path}: wait for it or use another folder") from None
    except OSError as error:
        raise BrittleError(f"cannot write {path}: {error.strerror or error}; give another --output_path") from None
    try:
        _check(path, groups, grid)
        yield
    finally:
        lock.release()


def _check(path: Path, groups: Sequence[Group], grid: Mapping[str, Any]) -> None:
    """BrittleError where the folder holds something else; a new one gets its `sweep.json`."""
    cells = [described(group, cell) for group in groups for cell in group.cells]
    known = RunFolder(path, {}).read_json("sweep.json")
    if known is None and any(child.name != ".lock" and child.suffix != ".part" for child in path.iterdir()):
        raise BrittleError(f"{path} is not empty and holds no sweep: give another --output_path")
    if known is not None and [known.get("schema"), known.get("cells")] != [SCHEMA, cells]:
        raise BrittleError(f"{path} holds a sweep of another grid: give another --output_path or remove the folder")
    if known is None:
        write_json(path / "sweep.json", {"schema": SCHEMA, "grid": dict(grid), "cells": cells, "versions": versions()})
