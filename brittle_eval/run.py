"""One run: the unedited model, every plan, and controls of the same size, on the same tasks; all of it can be resumed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from brittle_eval.anatomy import find_units
from brittle_eval.attribute import DATA, Pass
from brittle_eval.behaviours import Behaviour, from_file, from_prompts, sizes
from brittle_eval.controls import matched_control
from brittle_eval.data import sources
from brittle_eval.edit import check_digests, edited
from brittle_eval.errors import BrittleError
from brittle_eval.isolate import find_region, whole_region
from brittle_eval.kept import Kept
from brittle_eval.methods import Context
from brittle_eval.prepare import BEHAVIOUR_TASKS, Chain, Options, Prepared, load_arguments, output_folder, prepare
from brittle_eval.progress import bar
from brittle_eval.record import Row, RunFolder, TaskResult
from brittle_eval.regions import Region
from brittle_eval.sequential import find_region_in_order
from brittle_eval.session import Session
from brittle_eval.store import load_region, save_region
from brittle_eval.units import Unit, UnitKind

Say = Callable[[str], None]


def run(options: Options, say: Say = print) -> tuple[list[Row], Path]:
    """Evaluate the unedited model, each plan of `options.modify` and its controls; gives the rows and the run's folder.

    A finished run gives its rows again without loading a model. BrittleError for every mistake in the options.
    """
    prepared = prepare(options)
    folder = RunFolder(output_folder(prepared), configuration(prepared))
    with folder.opened():
        if (known := finished_rows(folder)) is not None:
            say(f"resumed: every row of {folder.path} is there")
            return known, folder.path
        rows = _Run(prepared, folder, say).rows()
        folder.write_rows(rows)
        return rows, folder.path


def configuration(prepared: Prepared) -> dict[str, Any]:
    """What makes two runs the same: everything that was asked for but where it goes."""
    chosen = asdict(prepared.options)
    for free in ("output_path", "memory"):
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
    }


def finished_rows(folder: RunFolder) -> list[Row] | None:
    """The rows of a run that is done."""
    file = folder.path / "rows.jsonl"
    if not file.exists():
        return None
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [Row(**(row | {"tasks": [TaskResult(**task) for task in row["tasks"]]})) for row in rows]


class _Run:
    def __init__(self, prepared: Prepared, folder: RunFolder, say: Say) -> None:
        self.prepared, self.options, self.folder, self.say = prepared, prepared.options, folder, say
        arguments, said = load_arguments(prepared)
        self.session = Session(prepared, arguments, folder, say)
        for line in [*said, *self.session.choices()]:
            say(line)
        self.scoped = {chain.name: chain.scope.of(self.session.addresses) for chain in prepared.chains}
        self.units: dict[str, dict[str, Any]] = {}
        self.folder.write_json("coverage.json", self.session.coverage.report())

    def rows(self) -> list[Row]:
        """Unedited, then every plan with its controls."""
        rows = [self._row("unedited", "unedited", None, Region({}), nullcontext([]))]
        for chain in self.prepared.chains:
            if chain.plan.modifications:
                rows.extend(self._chain(chain))
        return rows

    def _chain(self, chain: Chain) -> Iterator[Row]:
        region = self._region(chain)
        self.say(f"{chain.name}: {self._size(region)}")
        yield self._edited_row(chain.folder, "edited", chain, region)
        if chain.isolation is None:
            return
        for kind, seeds in self.prepared.controls:
            if kind == "magnitude" and region.ranks:
                self.say(f"{chain.name}: no magnitude control, since ranks have no |W| to match")
                continue
            for seed in range(seeds):
                name = f"{chain.folder}.{kind}-{seed}"
                generator = self._generator(f"control {kind} {seed}")
                control = matched_control(kind, region, self.session.model, self.scoped[chain.name], generator)
                yield self._edited_row(name, "control", chain, control)

    def _edited_row(self, name: str, kind: Any, chain: Chain, region: Region) -> Row:
        session = self.session
        addresses = self.scoped[chain.name]
        context = edited(session.model, addresses, region, chain.modifications, self.context, session.fingerprint)
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
        return Row(
            name,
            kind,
            chain.name if chain else "none",
            str(chain.plan) if chain else "none",
            self.prepared.model_name,
            fingerprint,
            region=self._shares(region) if kind != "unedited" else {},
            tasks=tasks,
            data=sources().digests(),
            batch_size=int(session.lm.batch_size),
            limited=self.options.limit is not None,
            config=self.folder.digest,
            seconds=round(time.monotonic() - started, 1),
        )

    def _region(self, chain: Chain) -> Region:
        session, plan = self.session, chain.plan
        if chain.attribution is None or chain.isolation is None:
            self._cover(chain, {})
            return whole_region(session.model, self.scoped[chain.name])
        parts = [plan.attribution, plan.isolation, plan.scope]
        found = "|".join(map(str, parts if chain.scope.order == "parallel" else [*parts, *plan.modifications]))
        file = self.folder.path / "regions" / f"{hashlib.blake2b(found.encode(), digest_size=6).hexdigest()}.safetensors"
        if file.exists():
            region, header = load_region(file, str(session.fingerprint))
            self._cover(chain, header["coverage"])
            return region
        needed = chain.isolation.behaviours if chain.attribution.needs & DATA else ()
        behaviours = {name: self._behaviour(name) for name in needed}
        if behaviours:
            self.say(f"{chain.name}: calibration on {sizes(behaviours)}")
        kept, unreached = Kept(file.with_suffix(".parts"), self._header(chain, behaviours)), dict[str, list[str]]()
        self.units.clear()
        region = self._found(chain, behaviours, kept, lambda name, weight: unreached.setdefault(name, []).append(weight))
        coverage = {"unreached": unreached, "units": dict(self.units)}
        save_region(file, region, {**kept.header, "size": self._shares(region), "coverage": coverage})
        kept.remove()
        self._cover(chain, coverage)
        return region

    def _found(
        self, chain: Chain, behaviours: Mapping[str, Behaviour], kept: Kept, on_unreached: Callable[[str, str], None]
    ) -> Region:
        """The region that the plan's attribution and isolation find, in the plan's order."""
        assert chain.attribution is not None and chain.isolation is not None
        session, addresses = self.session, self.scoped[chain.name]
        examples = {name: behaviour.examples for name, behaviour in behaviours.items()}
        blocks = len({address.block for address in addresses})
        with bar(f"attributing {chain.name}", blocks * sum(map(len, examples.values()))) as advance:
            how = Pass(session.lm.pad_id, memory=int(self.options.memory * 2**30), on_batch=advance, say=self.say)
            given = (examples, addresses, self.context)
            also: dict[str, Any] = {"kept": kept, "on_unreached": on_unreached}
            if chain.scope.order == "parallel":
                return find_region(session.model, chain.attribution, chain.isolation, *given, how, **also)
            return find_region_in_order(
                session.model, chain.attribution, chain.isolation, chain.modifications, *given, session.fingerprint, how, **also
            )

    def _header(self, chain: Chain, behaviours: Mapping[str, Behaviour]) -> dict[str, Any]:
        return {
            "plan": str(chain.plan),
            "order": chain.scope.order,
            "model": self.prepared.model_name,
            "fingerprint": str(self.session.fingerprint),
            "behaviours": {name: behaviour.digest for name, behaviour in behaviours.items()},
        }

    def _cover(self, chain: Chain, found: Mapping[str, Any]) -> None:
        """Say and write what the plan looked at and what it had to leave out."""
        for line in self.session.coverage.add(chain.name, self.session.model, self.scoped[chain.name], found):
            self.say(f"{chain.name}: {line}")
        self.folder.write_json("coverage.json", self.session.coverage.report())

    def _units(self, kind: UnitKind) -> list[Unit]:
        units, left_out = find_units(self.session.model, self.session.addresses, kind)
        self.units[kind] = {"count": len(units), "left_out": left_out}
        return units

    def _behaviour(self, name: str) -> Behaviour:
        session, evaluation = self.session, self.session.evaluation_prompts
        if name in self.prepared.behaviour_files:
            return from_file(name, self.prepared.behaviour_files[name], session.lm, evaluation)
        if name not in BEHAVIOUR_TASKS:
            raise BrittleError(f"behaviour '{name}' has no default: give pairs with --behaviour {name}=FILE")
        prompts = session.prompts(BEHAVIOUR_TASKS[name])
        judge = self.prepared.judges["refusal"]
        return from_prompts(name, prompts, session.lm, judge, evaluation, self.options.pairs, self.folder, self.options.seed)

    def _generator(self, name: str) -> torch.Generator:
        seed = int.from_bytes(hashlib.blake2b(f"{self.options.seed}|{name}".encode(), digest_size=8).digest(), "big") >> 1
        return torch.Generator().manual_seed(seed)

    @cached_property
    def context(self) -> Context:
        return Context(self._generator, self._weights, self._units)

    def _weights(self, which: str) -> Mapping[str, Tensor]:
        if which == "base":
            return self.session.base
        raise BrittleError(f"no '{which}' weights outside a chain of modifications")

    def _shares(self, region: Region) -> dict[str, float]:
        coverage, count, ranks = self.session.coverage, region.count, region.ranks
        sizes: dict[str, float] = {}
        if count or not ranks:
            sizes = {"count": count, "of_block_linears": count / coverage.editable, "of_all_parameters": count / coverage.total}
        if ranks:
            most = sum(min(address.view(self.session.model).shape) for address in self.session.addresses)
            sizes |= {"ranks": ranks, "of_ranks": ranks / most}
        return sizes

    def _size(self, region: Region) -> str:
        said, sizes = [], self._shares(region)
        if "count" in sizes:
            said.append(
                f"{sizes['count']:,} weights, {sizes['of_block_linears']:.2%} of the block linears, "
                f"{sizes['of_all_parameters']:.2%} of all parameters"
            )
        if "ranks" in sizes:
            said.append(f"{sizes['ranks']:,} ranks, {sizes['of_ranks']:.2%} of the block linears' ranks")
        return f"region of {' and '.join(said)}"
