"""The executor `ray`: cells are Ray tasks; every worker process loads the model once and keeps it for its next cells.

All nodes must see the sweep's folder, the model and the data under the same paths, and have the same packages.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from brittle_eval.errors import BrittleError
from brittle_eval.sweeps.cells import Cell, Group, Outcome, keep
from brittle_eval.sweeps.sweep import Say, Work
from brittle_eval.sweeps.worker import Opened, Worker

RETRIES = 1
"""How often a cell is tried again whose worker died."""
SECONDS = 10.0
"""How long a cluster may take to answer."""
_WORKERS: dict[str, Worker] = {}
"""Of this process, by the sweep's folder: tasks that come to one process find its model loaded."""


@dataclass(frozen=True)
class Place:
    """Where a task works, and with how many threads."""

    folder: str
    cwd: str
    threads: int

    def worker(self) -> Worker:
        """This process's own."""
        if self.folder not in _WORKERS:
            import torch

            os.chdir(self.cwd)
            torch.set_num_threads(self.threads)
            _WORKERS[self.folder] = Worker(Path(self.folder), lambda line: print(line, file=sys.stderr))
        return _WORKERS[self.folder]


@dataclass(frozen=True)
class Ran:
    """What a task gives back, and when its process was at it (seconds since the epoch)."""

    outcome: Outcome
    process: tuple[str, int]
    began: float
    ended: float = field(default_factory=time.time)


def _process() -> tuple[str, int]:
    return os.uname().nodename, os.getpid()


def open_group(place: Place, group: Group, waiting: Sequence[Cell]) -> tuple[Ran, Opened]:
    """The task that every cell of the group waits for."""
    began = time.time()
    opened = place.worker().open(group, waiting)
    return Ran(opened.outcome, _process(), began), opened


def run_cell(place: Place, group: Group, cell: Cell, opened: Opened) -> Ran:
    """The task of one cell."""
    began = time.time()
    return Ran(place.worker().run(group, cell, opened), _process(), began)


@dataclass(frozen=True)
class Cluster:
    """Runs cells on the Ray cluster at `address`, or on one of this machine's own that ends with the sweep."""

    address: str | None
    cpus: float
    gpus: float
    memory: float
    """GiB that a cell declares; 0 declares none."""

    def __call__(self, folder: Path, works: Sequence[Work], say: Say) -> Iterator[Outcome]:
        """What becomes of each cell, in the order in which they end."""
        ray, ran = _imported(), list[Ran]()
        place = Place(str(folder.resolve()), str(Path.cwd()), max(1, int(self.cpus)))
        with self._connected(ray):
            running = self._started(ray, place, works)
            try:
                while running:
                    (ready,), _ = ray.wait(list(running), num_returns=1)
                    group, cell = running.pop(ready)
                    try:
                        ran.append(ray.get(ready))
                        yield ran[-1].outcome
                    except ray.exceptions.RayError as error:
                        yield _lost(folder, group, cell, error)
            finally:
                for left in running:
                    ray.cancel(left, force=True)
        say(overhead(ran))

    def _started(self, ray: Any, place: Place, works: Sequence[Work]) -> dict[Any, tuple[Group, Cell]]:
        """The task of every cell; Ray holds those of a group back until it is open."""
        declared: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": RETRIES}
        if self.memory:
            declared["memory"] = int(self.memory * 2**30)
        task: Callable[..., Any] = lambda function, **more: ray.remote(**declared, **more)(function)  # noqa: E731
        opening, running = task(open_group, num_returns=2), task(run_cell)
        found: dict[Any, tuple[Group, Cell]] = {}
        for work in works:
            ran, opened = opening.remote(place, work.group, work.waiting)
            found[ran] = (work.group, work.group.base)
            found |= {running.remote(place, work.group, cell, opened): (work.group, cell) for cell in work.waiting}
        return found

    @contextmanager
    def _connected(self, ray: Any) -> Iterator[None]:
        """BrittleError where there is no cluster at the address."""
        own: dict[str, Any] = {} if self.address else {"include_dashboard": False}
        try:
            _reach(self.address)
            ray.init(address=self.address or "local", log_to_driver=False, **own)
        except Exception as error:  # whatever Ray makes of a cluster that is none, or does not start
            first = " ".join(str(error).split())[:160]
            raise BrittleError(
                f"no Ray cluster answers at {self.address or 'this machine'} ({first}): start one with `ray start --head` and "
                "give its --address, or use --executor local"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


def _imported() -> Any:
    try:
        import ray
    except ImportError:
        raise BrittleError("--executor ray needs Ray, which is not installed: pip install 'brittle-eval[ray]'") from None
    return ray


def _reach(address: str | None) -> None:
    """OSError where nothing listens at HOST:PORT: Ray itself would end the program."""
    if found := re.fullmatch(r"(?:ray://)?([^/]+):(\d+)", address or ""):
        socket.create_connection((found[1], int(found[2])), timeout=SECONDS).close()


def _lost(folder: Path, group: Group, cell: Cell, error: Exception) -> Outcome:
    """The outcome of a cell whose worker died every time."""
    first = " ".join(str(error).split())[:160]
    outcome = Outcome(cell.number, "failed", f"its worker died {1 + RETRIES} times ({type(error).__name__}: {first})")
    keep(folder, group, cell, outcome)
    return outcome


def overhead(ran: Sequence[Ran]) -> str:
    """In words, how long processes waited between one cell and the next."""
    by_process: dict[tuple[str, int], list[Ran]] = {}
    for one in sorted(ran, key=lambda one: one.began):
        by_process.setdefault(one.process, []).append(one)
    gaps = [after.began - before.ended for own in by_process.values() for before, after in pairwise(own)]
    mean = f"{sum(gaps) / len(gaps):.2f} s between one cell and the next" if gaps else "one cell each"
    return f"ray: {len(ran)} cells in {len(by_process)} processes, {mean}"
