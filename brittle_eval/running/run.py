"""One run: the unedited model, every plan, and controls of the same size, on the same tasks; all of it can be resumed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from brittle_eval.data import sources
from brittle_eval.engine.controls import matched_control
from brittle_eval.engine.edit import check_digests
from brittle_eval.engine.region_finder import RegionFinder
from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.conditions import TEXTS_VERSION
from brittle_eval.evaluation.presets import numbers
from brittle_eval.judgement.judges import identity
from brittle_eval.regions import Region
from brittle_eval.running.comparison import against_unedited
from brittle_eval.running.prepare import Chain, Options, Prepared, load_arguments, output_folder, prepare
from brittle_eval.running.record import Row, RunFolder
from brittle_eval.running.session import Session
from brittle_eval.running.tuner import with_tuning
from brittle_eval.tuning.trained import applied

Say = Callable[[str], None]


def run(options: Options, say: Say = print) -> tuple[list[Row], Path]:
    """Evaluate the unedited model, each plan of `options.modify` and its controls; gives the rows and the run's folder.

    A finished run gives its rows again without loading a model. BrittleError for every mistake in the options.
    """
    prepared = prepare(options)
    folder = RunFolder(output_folder(prepared), configuration(prepared))
    with folder.opened():
        if (known := folder.rows()) is not None:
            say(f"resumed: every row of {folder.path} is there")
            return known, folder.path
        rows = against_unedited(_Run(prepared, folder, say).rows())
        folder.write_rows(rows)
        return rows, folder.path


def configuration(prepared: Prepared) -> dict[str, Any]:
    """What makes two runs the same: everything that was asked for but where it goes."""
    chosen = asdict(prepared.options)
    for free in ("output_path", "memory", "given"):
        chosen.pop(free)
    for plural in ("plugins", "include_path"):
        chosen[plural] = [str(path) for path in chosen[plural]]
    plans = {chain.name: str(chain.plan) for chain in prepared.chains}
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in prepared.behaviour_files.items()}
    card = prepared.model_card.adapter_sha256 if prepared.model_card else None
    plain: dict[str, Any] = json.loads(json.dumps(chosen, default=str))
    return plain | {
        "tasks": list(prepared.tasks),
        "plans": plans,
        "behaviour_digests": digests,
        "model_name": prepared.model_name,
        "adapter": card,
        "preset": prepared.preset.title if prepared.preset else None,
    }


class _Run:
    def __init__(self, prepared: Prepared, folder: RunFolder, say: Say) -> None:
        self.prepared, self.options, self.folder, self.say = prepared, prepared.options, folder, say
        arguments, said = load_arguments(prepared)
        self.session = Session(prepared, arguments, folder, say)
        for line in [*said, *self.session.choices()]:
            say(line)
        self.finder = RegionFinder(prepared, self.session, folder, say)

    def rows(self) -> list[Row]:
        """Unedited, then every plan with its controls."""
        self._check_model()
        rows = [self._row("unedited", "unedited", None, Region({}), nullcontext([]))]
        for chain in self.prepared.chains:
            if chain.plan.modifications:
                rows.extend(self._chain(chain))
        return rows

    def _check_model(self) -> None:
        """BrittleError where the folder's results are those of another checkpoint of that name."""
        known, here = self.folder.read_json("unedited/model.json"), str(self.session.fingerprint)
        if known not in (None, here):
            raise BrittleError(
                f"{self.folder.path} holds results of another model (fingerprint {known}, now {here}): "
                "give another --output_path, or that model"
            )

    def _chain(self, chain: Chain) -> Iterator[Row]:
        region = self.finder.region(chain)
        self.say(f"{chain.name}: {self.finder.size(region)}")
        yield self._edited_row(chain.folder, "edited", chain, region)
        if chain.isolation is None:
            return
        for kind, seeds in self.prepared.controls:
            if kind == "magnitude" and region.ranks:
                self.say(f"{chain.name}: no magnitude control, since ranks have no |W| to match")
                continue
            for seed in range(seeds):
                name = f"{chain.folder}.{kind}-{seed}"
                generator = self.finder.generator(f"control {kind} {seed}")
                control = matched_control(kind, region, self.session.model, self.finder.scoped[chain.name], generator)
                yield self._edited_row(name, "control", chain, control)

    def _edited_row(self, name: str, kind: Any, chain: Chain, region: Region) -> Row:
        session = self.session
        addresses = self.finder.scoped[chain.name]
        given = with_tuning(self.finder.context, self.prepared, session, self.folder, self.say)
        context = applied(session.model, addresses, region, chain.modifications, given, session.fingerprint)
        return self._row(name, kind, chain, region, context)

    def _row(self, name: str, kind: Any, chain: Chain | None, region: Region, context: AbstractContextManager[list[str]]) -> Row:
        session, started = self.session, time.monotonic()
        waiting = session.waiting(name)
        fingerprint = self.folder.read_json(f"{name}/model.json")
        if waiting or fingerprint is None:
            with context as touched:
                fingerprint = str(session.fingerprint)
                self.folder.write_json(f"{name}/model.json", fingerprint)
                for leaf in waiting:
                    self.say(f"{name}: {leaf.name}")
                    session.produce(name, leaf)
                check_digests(session.model, session.fingerprint, touched)
        tasks = [session.conclude(name, leaf) for leaf in session.leaves]
        preset, condition = self.prepared.preset, self.prepared.options.condition
        return Row(
            name,
            kind,
            chain.name if chain else "none",
            str(chain.plan) if chain else "none",
            self.prepared.model_name,
            fingerprint,
            region=self.finder.shares(region) if kind != "unedited" else {},
            tasks=tasks,
            data=sources().digests(),
            judges={name: identity(judge) for name, judge in self.prepared.judges.items()},
            batch_size=int(session.lm.batch_size),
            limited=self.options.limit is not None,
            preset=preset.title if preset else "",
            numbers=numbers(preset, tasks) if preset else {},
            condition=f"{condition} {TEXTS_VERSION}" if condition else "",
            config=self.folder.digest,
            seconds=round(time.monotonic() - started, 1),
        )
