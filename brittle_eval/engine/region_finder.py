"""The region of each plan of a run: calibrated, found in the plan's order, kept in the run's folder, and its size in words."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from brittle_eval.behaviour.behaviours import Behaviour, from_file, from_prompts, sizes
from brittle_eval.behaviour.calibration import Example, plain_ids
from brittle_eval.engine.anatomy import find_units
from brittle_eval.engine.attribute import DATA, Pass
from brittle_eval.engine.isolate import Wanted, find_regions, whole_region
from brittle_eval.engine.kept import Kept
from brittle_eval.engine.sequential import find_region_in_order
from brittle_eval.engine.whole_model import find_whole
from brittle_eval.errors import BrittleError
from brittle_eval.methods import Context, ModelAttribution
from brittle_eval.progress import bar
from brittle_eval.regions import Region
from brittle_eval.running.base import stream
from brittle_eval.running.prepare import BEHAVIOUR_TASKS, Chain, Prepared
from brittle_eval.running.record import RunFolder
from brittle_eval.running.session import Session
from brittle_eval.store import load_region, save_region
from brittle_eval.units import Unit, UnitKind

TOOK = "attributions.json"
"""Seconds of the attribution that each region came from: not in its file, since the same region shall be the same bytes."""


@dataclass
class _Wanted:
    """A plan whose region is to be found, and what is noted of it on the way."""

    chain: Chain
    file: Path
    header: dict[str, Any]
    coverage: dict[str, Any] = field(default_factory=lambda: {"unreached": {}, "units": {}})

    @property
    def kept(self) -> Kept:
        return Kept(self.file.with_suffix(".parts"), self.header)


def _shared(chain: Chain, other: Chain) -> bool:
    """Whether the other plan's region comes from the very same scores."""
    return other.isolation is not None and other.scope.order == "parallel" and other.plan.attribution == chain.plan.attribution


class RegionFinder:
    """Finds the regions of a run's plans on its unedited model."""

    def __init__(self, prepared: Prepared, session: Session, folder: RunFolder, say: Callable[[str], None]) -> None:
        self.prepared, self.options, self.session, self.folder, self.say = prepared, prepared.options, session, folder, say
        self.scoped = {chain.name: chain.scope.of(session.addresses) for chain in prepared.chains}
        """The weights that each plan looks at."""
        self._errors: dict[Path, BrittleError] = {}
        """Why a region, by its file, cannot be."""
        self.seconds: dict[str, float] = {}
        """How long the attribution took that a plan's region comes from; other plans may share it."""
        folder.write_json("coverage.json", session.coverage.report())

    def region(self, chain: Chain) -> Region:
        """The plan's region: as an earlier start of this run found it, or found now.

        One attribution gives the regions of all plans of the run that share it, unless their order is sequential.
        """
        if chain.attribution is None or chain.isolation is None:
            self._cover(chain, {})
            return whole_region(self.session.model, self.scoped[chain.name])
        file = self.file(chain)
        if not file.exists() and file not in self._errors:
            self._find(chain)
        if file in self._errors:
            raise self._errors[file]
        region, header = load_region(file, str(self.session.fingerprint))
        self._cover(chain, header["coverage"])
        took = self.folder.read_json(TOOK) or {}
        self.seconds[chain.name] = took.get(file.stem, 0.0)
        return region

    def find_all(self) -> dict[str, str]:
        """Find the regions of all plans but those of sequential order, one attribution after the other; why some have none."""
        failed: dict[str, str] = {}
        for chain in self.prepared.chains:
            if chain.isolation is None or chain.scope.order == "sequential":
                continue
            try:
                if not self.file(chain).exists() and self.file(chain) not in self._errors:
                    self._find(chain)
                if (error := self._errors.get(self.file(chain))) is not None:
                    raise error
            except BrittleError as error:
                failed[chain.name] = str(error)
        return failed

    def file(self, chain: Chain) -> Path:
        """Where the plan's region is kept."""
        plan = chain.plan
        parts = [plan.attribution, plan.isolation, plan.scope]
        found = "|".join(map(str, parts if chain.scope.order == "parallel" else [*parts, *plan.modifications]))
        return self.folder.path / "regions" / f"{hashlib.blake2b(found.encode(), digest_size=6).hexdigest()}.safetensors"

    def _find(self, chain: Chain) -> None:
        """Attribute, and write the regions of all plans that wait for this attribution; why one is none is remembered."""
        together = {self.file(chain): chain}
        if chain.scope.order == "parallel":
            for other in self.prepared.chains:
                file = self.file(other)
                if _shared(chain, other) and not file.exists() and file not in self._errors:
                    together.setdefault(file, other)
        behaviours = self._behaviours(list(together.values()))
        wanted = [_Wanted(other, file, self._header(other, behaviours)) for file, other in together.items()]
        names = chain.name + (f" and {len(wanted) - 1} more" if len(wanted) > 1 else "")
        if behaviours:
            self.say(f"{names}: calibration on {sizes(behaviours)}")
        started = time.monotonic()
        for one, region in zip(wanted, self._found(wanted, behaviours, names), strict=True):
            if isinstance(region, BrittleError):
                self._errors[one.file] = region
            else:
                save_region(one.file, region, {**one.kept.header, "size": self.shares(region), "coverage": one.coverage})
                took = self.folder.read_json(TOOK) or {}
                self.folder.write_json(TOOK, took | {one.file.stem: round(time.monotonic() - started, 2)})
            one.kept.remove()

    def _behaviours(self, chains: Sequence[Chain]) -> dict[str, Behaviour]:
        """Those that the isolations of plans with one attribution ask for."""
        asked = [name for chain in chains if chain.isolation for name in chain.isolation.behaviours]
        sees = chains[0].attribution is not None and chains[0].attribution.needs & DATA
        return {name: self._behaviour(name) for name in dict.fromkeys(asked)} if sees else {}

    def _found(
        self, wanted: Sequence[_Wanted], behaviours: Mapping[str, Behaviour], names: str
    ) -> Iterator[Region | BrittleError]:
        """The regions that one attribution gives, in the plans' order."""
        chain, session = wanted[0].chain, self.session
        assert chain.attribution is not None
        examples = {name: behaviour.examples for name, behaviour in behaviours.items()}
        blocks = len({address.block for one in wanted for address in self.scoped[one.chain.name]})
        with bar(f"attributing {names}", blocks * sum(map(len, examples.values()))) as advance:
            lm, memory = session.lm, int(self.options.memory * 2**30)
            how = Pass(lm.pad_id, memory=memory, on_batch=advance, say=self.say, tokens=partial(plain_ids, lm.tokenizer))
            if isinstance(chain.attribution, ModelAttribution):
                yield from (self._whole(one, examples, how) for one in wanted)
                return
            asked = [self._asked(one) for one in wanted]
            if chain.scope.order == "parallel":
                yield from find_regions(session.model, chain.attribution, asked, examples, self.context, how)
            else:
                yield self._in_order(chain, asked[0], examples, how)

    def _whole(self, one: _Wanted, examples: Mapping[str, Sequence[Example]], how: Pass) -> Region | BrittleError:
        """The region of an attribution that looks at the model as a whole."""
        session, chain = self.session, one.chain
        assert isinstance(chain.attribution, ModelAttribution) and chain.isolation is not None
        context = replace(self.context, note=one.coverage.setdefault("notes", []).append)
        asked = (examples, self.scoped[chain.name], session.addresses, context, session.fingerprint, how)
        try:
            return find_whole(session.model, chain.attribution, chain.isolation, *asked)
        except BrittleError as error:
            return error

    def _in_order(
        self, chain: Chain, asked: Wanted, examples: Mapping[str, Sequence[Example]], how: Pass
    ) -> Region | BrittleError:
        assert chain.attribution is not None
        try:
            return find_region_in_order(
                self.session.model,
                chain.attribution,
                asked.isolation,
                chain.modifications,
                examples,
                asked.addresses,
                asked.context,
                self.session.fingerprint,
                how,
                asked.kept,
                asked.on_unreached,
            )
        except BrittleError as error:
            return error

    def _asked(self, one: _Wanted) -> Wanted:
        assert one.chain.isolation is not None
        context = replace(self.context, units=partial(self._units, one.coverage["units"]))
        unreached: dict[str, list[str]] = one.coverage["unreached"]
        return Wanted(
            one.chain.isolation,
            self.scoped[one.chain.name],
            context,
            one.kept,
            lambda name, weight: unreached.setdefault(name, []).append(weight),
        )

    def _header(self, chain: Chain, behaviours: Mapping[str, Behaviour]) -> dict[str, Any]:
        asked = chain.isolation.behaviours if chain.isolation else ()
        return {
            "plan": str(chain.plan),
            "order": chain.scope.order,
            "model": self.prepared.model_name,
            "fingerprint": str(self.session.fingerprint),
            "behaviours": {name: behaviour.digest for name, behaviour in behaviours.items() if name in asked},
        }

    def _cover(self, chain: Chain, found: Mapping[str, Any]) -> None:
        """Say and write what the plan looked at and what it had to leave out."""
        for line in self.session.coverage.add(chain.name, self.session.model, self.scoped[chain.name], found):
            self.say(f"{chain.name}: {line}")
        self.folder.write_json("coverage.json", self.session.coverage.report())

    def _units(self, coverage: dict[str, Any], kind: UnitKind) -> list[Unit]:
        units, left_out = find_units(self.session.model, self.session.addresses, kind)
        coverage[kind] = {"count": len(units), "left_out": left_out}
        return units

    def _behaviour(self, name: str) -> Behaviour:
        session, evaluation = self.session, self.session.evaluation_prompts
        if name in self.prepared.behaviour_files:
            file, options = self.prepared.behaviour_files[name], self.options
            return from_file(name, file, session.lm, evaluation, options.pairs, options.seed)
        if name not in BEHAVIOUR_TASKS:
            raise BrittleError(f"behaviour '{name}' has no default: give pairs with --behaviour {name}=FILE")
        prompts = session.prompts(BEHAVIOUR_TASKS[name])
        judge = self.prepared.plugins.get("judge", "refusal")()
        given = (self.options.pairs, self.folder, self.options.seed, session.kept(f"behaviours/responses_{name}"))
        return from_prompts(name, prompts, session.lm, judge, evaluation, *given)

    def generator(self, name: str) -> torch.Generator:
        """A random stream of the run's seed and the name."""
        return stream(self.options.seed, name)

    @cached_property
    def context(self) -> Context:
        """What isolations and modifications may ask for."""
        return Context(self.generator, self._weights, partial(self._units, {}))

    def _weights(self, which: str) -> Mapping[str, Tensor]:
        if which in ("base", "donor"):
            return self.session.base if which == "base" else self.session.donor
        raise BrittleError(f"no '{which}' weights outside a chain of modifications")

    def shares(self, region: Region) -> dict[str, float]:
        """How many entries and ranks a region has, and their shares of the model's."""
        return self.session.coverage.shares(region)

    def size(self, region: Region) -> str:
        """The same in words."""
        said, sizes = [], self.shares(region)
        if "directions" in sizes:
            said.append(f"directions at {sizes['directions']} places of the residual stream")
        if "count" in sizes:
            said.append(
                f"{sizes['count']:,} weights, {sizes['of_block_linears']:.2%} of the block linears, "
                f"{sizes['of_all_parameters']:.2%} of all parameters"
            )
        if "ranks" in sizes:
            said.append(f"{sizes['ranks']:,} ranks, {sizes['of_ranks']:.2%} of the block linears' ranks")
        return f"region of {' and '.join(said)}"
