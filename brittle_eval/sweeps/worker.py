"""One process that runs cells: the model is loaded once, and restored bit for bit between them."""

from __future__ import annotations

import os
import shutil
import time
import traceback
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from brittle_eval.engine.region_finder import TOOK, RegionFinder
from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.lm import BrittleHFLM
from brittle_eval.recipe import NONE
from brittle_eval.running.prepare import Chain, Prepared, prepare
from brittle_eval.running.record import RunFolder
from brittle_eval.running.run import Production, configuration, open_session
from brittle_eval.running.session import Session
from brittle_eval.sweeps.cells import Cell, Group, Outcome, keep

Say = Callable[[str], None]


@dataclass(frozen=True)
class Opened:
    """What the cells of a group share: the unedited model's row, and the regions; or why there are none."""

    outcome: Outcome
    errors: dict[str, str] = field(default_factory=dict)
    """By recipe, why it has no region."""


class Worker:
    """Runs cells in a sweep's folder."""

    def __init__(self, folder: Path, say: Say) -> None:
        self.folder, self.say = folder, say
        self._model: tuple[Any, BrittleHFLM] | None = None
        self._at: tuple[Group, Prepared, Session] | None = None

    def open(self, group: Group, waiting: Sequence[Cell]) -> Opened:
        """Evaluate the unedited model, and attribute once for all waiting plans whose order is not sequential."""
        started, errors = time.monotonic(), dict[str, str]()
        try:
            prepared, session = self._session(group)
            folder = self._run_folder(prepared, group.base)
            with folder.opened():
                one = _only(prepared, NONE)
                rows = folder.rows() or Production(one, session.within(one, folder), folder, self.say).finish()
                errors = self._regions(prepared, session, folder, {cell.recipe for cell in waiting})
            outcome = Outcome(group.base.number, "done", rows=rows, seconds=round(time.monotonic() - started, 2))
        except Exception as error:  # a bug as well: it is said with its traceback, and the other cells go on
            outcome = self._failed(group.base, error, started)
        keep(self.folder, group, group.base, outcome)
        return Opened(outcome, errors)

    def _regions(self, prepared: Prepared, session: Session, folder: RunFolder, recipes: Set[str]) -> dict[str, str]:
        """Find the regions of these plans; why some have none."""
        errors, chains = dict[str, str](), list[Chain]()
        for chain in prepared.chains:
            try:
                if chain.name in recipes and chain.scope.of(session.addresses):
                    chains.append(chain)
            except BrittleError as error:
                errors[chain.name] = str(error)
        some = replace(prepared, chains=tuple(chains))
        return errors | RegionFinder(some, session.within(some, folder), folder, self.say).find_all()

    def run(self, group: Group, cell: Cell, opened: Opened) -> Outcome:
        """Run one cell and keep what became of it; a failure is an outcome too."""
        started = time.monotonic()
        reason = opened.outcome.reason if opened.outcome.status == "failed" else opened.errors.get(cell.recipe)
        try:
            outcome = Outcome(cell.number, "failed", reason) if reason else self._run(group, cell)
            outcome.seconds = round(time.monotonic() - started, 2)
        except Exception as error:  # a bug as well: it is said with its traceback, and the other cells go on
            outcome = self._failed(cell, error, started)
        keep(self.folder, group, cell, outcome)
        return outcome

    def _run(self, group: Group, cell: Cell) -> Outcome:
        prepared, session = self._session(group)
        own = _only(prepared, cell.recipe)
        (chain,) = own.chains
        folder = self._run_folder(prepared, cell)
        with folder.opened():
            production = Production(own, session.within(own, folder), folder, self.say)
            base = self.folder / "runs" / group.base.name
            region = base / "regions" / production.finder.file(chain).name
            shared = [*base.glob("unedited/*"), *base.glob("behaviours/*"), *base.glob("deltas/*"), region, base / TOOK]
            for file in shared:
                _link(file, folder.path / file.relative_to(base))
            rows = production.finish()
            for file in folder.path.glob("deltas/*"):  # a free training serves other cells: rewinds of other sizes
                _link(file, base / "deltas" / file.name)
            given_up = production.session.given_up(chain.folder)
        return Outcome(
            cell.number,
            "cut" if given_up else "done",
            given_up or "",
            [row for row in rows if row.kind != "unedited"],
            production.finder.seconds.get(chain.name, 0.0),
            round(production.edit_seconds.get(chain.folder, 0.0), 3),
        )

    def _session(self, group: Group) -> tuple[Prepared, Session]:
        """The group's session; the model is loaded only if the last one was another."""
        if self._at is None or self._at[0] != group:
            prepared = prepare(group.options)
            options = prepared.options
            key = (prepared.model_name, options.model_args, options.device, options.batch_size)
            loaded = self._model[1] if self._model and self._model[0] == key else None
            self._at = self._model = None  # two models at once may not fit
            session = open_session(prepared, self._run_folder(prepared, group.base), self.say, loaded)
            self._at, self._model = (group, prepared, session), (key, session.lm)
        return self._at[1:]

    def _run_folder(self, prepared: Prepared, cell: Cell) -> RunFolder:
        return RunFolder(self.folder / "runs" / cell.name, configuration(_only(prepared, cell.recipe)))

    def _failed(self, cell: Cell, error: Exception, started: float) -> Outcome:
        """The outcome of an error; after one that is a bug the model is loaded anew."""
        said = str(error)
        if not isinstance(error, BrittleError):
            self.say("".join(traceback.format_exception(error)).rstrip())
            self._at = self._model = None
            said = f"{type(error).__name__}: {error}"
        return Outcome(cell.number, "failed", said, seconds=round(time.monotonic() - started, 2))


def _only(prepared: Prepared, recipe: str) -> Prepared:
    """The run of one plan."""
    chains = tuple(chain for chain in prepared.chains if chain.name == recipe)
    return replace(prepared, options=replace(prepared.options, modify=(recipe,)), chains=chains)


def _link(file: Path, to: Path) -> None:
    """The same file under another name, or a copy where that cannot be; files of runs are replaced, never changed."""
    if to.exists() or not file.exists():
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, to)
    except OSError:
        shutil.copy2(file, to)
