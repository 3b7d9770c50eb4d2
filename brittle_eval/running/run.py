"""One run: the unedited model, every plan, and controls of the same size, on the same tasks; all of it can be resumed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # has no types

from brittle_eval.data import sources
from brittle_eval.engine.controls import matched_control
from brittle_eval.engine.edit import check_digests
from brittle_eval.engine.region_finder import RegionFinder
from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.conditions import TEXTS_VERSION
from brittle_eval.evaluation.lm import BrittleHFLM
from brittle_eval.evaluation.presets import numbers
from brittle_eval.judgement.judges import identity
from brittle_eval.methods import Context
from brittle_eval.regions import Region
from brittle_eval.running.command import of_config, options_of
from brittle_eval.running.comparison import against_unedited
from brittle_eval.running.prepare import Chain, Options, Prepared, load_arguments, output_folder, prepare
from brittle_eval.running.record import Row, RunFolder, versions, write_text
from brittle_eval.running.session import Session
from brittle_eval.running.together import announce, together
from brittle_eval.running.tuner import deltas, with_tuning
from brittle_eval.trials.attack_alone import of_chain
from brittle_eval.tuning.trained import applied, forget_courses

Say = Callable[[str], None]


def run(options: Options, say: Say = print, loaded: BrittleHFLM | None = None) -> tuple[list[Row], Path]:
    """Evaluate the unedited model, each plan of `options.modify` and its controls; gives the rows and the run's folder.

    `loaded` is a model in memory. A finished run gives its rows again without loading one. Of several processes the first has
    the rows, the others none. BrittleError for every mistake in the options.
    """
    prepared = prepare(options, several=loaded is None)
    folder = RunFolder(output_folder(prepared), configuration(prepared))

    def rows() -> list[Row]:
        with folder.opened():
            keep_config(folder, options_of(folder.config))
            if (known := folder.rows()) is not None:
                say(f"resumed: every row of {folder.path} is there")
                return known
            return Production(prepared, open_session(prepared, folder, say, loaded), folder, say).finish()

    return together(prepared, rows) or [], folder.path


def keep_config(folder: RunFolder, chosen: Mapping[str, Any]) -> None:
    """Write what a run or a probe asked for, defaults included, as `config.yaml`: given to `--config` it asks for the same."""
    write_text(folder.path / "config.yaml", [yaml.safe_dump(dict(chosen), sort_keys=False, allow_unicode=True)])


def open_session(prepared: Prepared, folder: RunFolder, say: Say, loaded: BrittleHFLM | None = None) -> Session:
    """The run's model and tasks; `loaded` is the model that another run of the same arguments has loaded."""
    arguments, said = load_arguments(prepared)
    announce(arguments)
    session = Session(prepared, arguments, folder, say, loaded)
    for line in [*said, *session.choices()]:
        say(line)
    return session


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


class Production:
    """Makes the rows of a run in its folder, in which finished ones are found again."""

    def __init__(self, prepared: Prepared, session: Session, folder: RunFolder, say: Say) -> None:
        self.prepared, self.options, self.session, self.folder, self.say = prepared, prepared.options, session, folder, say
        self.finder = RegionFinder(prepared, session, folder, say)
        self.edit_seconds: dict[str, float] = {}
        """By row, how long its edit and undoing it took."""

    def finish(self) -> list[Row]:
        """All rows, each beside the unedited model, written."""
        rows = against_unedited(self.rows())
        self.folder.write_rows(rows)
        forget_courses(deltas(self.folder))
        return rows

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
        if chain.isolation is None or self.session.given_up(chain.folder):
            return
        for kind, seeds in self.prepared.controls:
            if kind == "magnitude" and region.ranks:
                self.say(f"{chain.name}: no magnitude control, since ranks have no |W| to match")
                continue
            for seed in range(seeds):
                name = f"{chain.folder}.{kind}-{seed}"
                generator = self.finder.generator(f"control {kind} {seed}")
                control = matched_control(kind, region, self.session.model, self.session.addresses, generator)
                yield self._edited_row(name, "control", chain, control)

    def _edited_row(self, name: str, kind: Any, chain: Chain, region: Region) -> Row:
        given = self._given()
        row = self._row(name, kind, chain, region, self._timed(name, self.edit(chain, region, given)))
        return replace(row, training=self._training(name, chain, given.tuning.noted if given.tuning else {}))

    def _given(self) -> Context:
        return with_tuning(self.finder.context, self.prepared, self.session, self.folder, self.say)

    def edit(self, chain: Chain, region: Region, given: Context | None = None) -> AbstractContextManager[list[str]]:
        """The model with the plan's modifications on the region; undone bit for bit on leaving."""
        session = self.session
        scoped = {address.name for address in self.finder.scoped[chain.name]} | region.keys()  # a control may lie elsewhere
        addresses = [address for address in session.addresses if address.name in scoped]
        return applied(session.model, addresses, region, chain.modifications, given or self._given(), session.fingerprint)

    def _training(self, name: str, chain: Chain, noted: dict[str, Any]) -> dict[str, Any]:
        """What the row keeps of a training, noted now or by an earlier start of this run."""
        found = of_chain(chain.modifications)
        if found and noted:
            self.folder.write_json(f"{name}/training.json", noted)
        return found | {"noted": self.folder.read_json(f"{name}/training.json") or {}} if found else {}

    @contextmanager
    def _timed(self, name: str, context: AbstractContextManager[list[str]]) -> Iterator[list[str]]:
        started = time.monotonic()
        with context as touched:
            entered = time.monotonic()
            yield touched
            left = time.monotonic()
        self.edit_seconds[name] = entered - started + time.monotonic() - left

    def _row(self, name: str, kind: Any, chain: Chain | None, region: Region, context: AbstractContextManager[list[str]]) -> Row:
        session, started = self.session, time.monotonic()
        given_up = session.given_up(name) if kind == "edited" else None
        waiting = session.waiting(name) if not given_up else []
        fingerprint = self.folder.read_json(f"{name}/model.json")
        if waiting or fingerprint is None:
            with context as touched, session.elsewhere():
                fingerprint = str(session.fingerprint)
                self.folder.write_json(f"{name}/model.json", fingerprint)
                for leaf in waiting:
                    self.say(f"{name}: {leaf.name}")
                    session.produce(name, leaf)
                    if kind == "edited" and (given_up := session.given_up(name)):
                        self.say(f"{name}: cut: {given_up}")
                        break
                check_digests(session.model, session.fingerprint, touched)
        tasks = [session.conclude(name, leaf, given_up) for leaf in session.leaves]
        preset, condition = self.prepared.preset, self.prepared.options.condition
        return Row(
            name,
            kind,
            chain.name if chain else "none",
            str(chain.plan) if chain else "none",
            self.prepared.model_name,
            fingerprint,
            unverified=chain.unverified if chain else [],
            region=self.finder.shares(region) if kind != "unedited" else {},
            tasks=tasks,
            data=sources().digests(),
            judges={name: identity(judge) for name, judge in self.prepared.judges.items()},
            batch_size=int(session.lm.batch_size),
            limited=self.options.limit is not None,
            preset=preset.title if preset else "",
            numbers=numbers(preset, tasks) if preset else {},
            backend=self.prepared.backend.title,
            condition=f"{condition} {TEXTS_VERSION}" if condition else "",
            config=self.folder.digest,
            seconds=round(time.monotonic() - started, 1),
            **of_config(self.folder.config),
            versions=versions(),
            files=self.folder.files(name, self.finder.file(chain) if chain and chain.isolation else None),
        )
