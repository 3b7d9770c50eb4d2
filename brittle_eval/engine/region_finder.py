"""The region of each plan of a run: calibrated, found in the plan's order, kept in the run's folder, and its size in words."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from brittle_eval.behaviour.behaviours import Behaviour, from_file, from_prompts, sizes
from brittle_eval.engine.anatomy import find_units
from brittle_eval.engine.attribute import DATA, Pass
from brittle_eval.engine.isolate import find_region, whole_region
from brittle_eval.engine.kept import Kept
from brittle_eval.engine.sequential import find_region_in_order
from brittle_eval.errors import BrittleError
from brittle_eval.methods import Context
from brittle_eval.progress import bar
from brittle_eval.regions import Region
from brittle_eval.running.prepare import BEHAVIOUR_TASKS, Chain, Prepared
from brittle_eval.running.record import RunFolder
from brittle_eval.running.session import Session
from brittle_eval.store import load_region, save_region
from brittle_eval.units import Unit, UnitKind


class RegionFinder:
    """Finds the regions of a run's plans on its unedited model."""

    def __init__(self, prepared: Prepared, session: Session, folder: RunFolder, say: Callable[[str], None]) -> None:
        self.prepared, self.options, self.session, self.folder, self.say = prepared, prepared.options, session, folder, say
        self.scoped = {chain.name: chain.scope.of(session.addresses) for chain in prepared.chains}
        """The weights that each plan looks at."""
        self.units: dict[str, dict[str, Any]] = {}
        folder.write_json("coverage.json", session.coverage.report())

    def region(self, chain: Chain) -> Region:
        """The plan's region: as an earlier start of this run found it, or found now."""
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
        save_region(file, region, {**kept.header, "size": self.shares(region), "coverage": coverage})
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
        seed = int.from_bytes(hashlib.blake2b(f"{self.options.seed}|{name}".encode(), digest_size=8).digest(), "big") >> 1
        return torch.Generator().manual_seed(seed)

    @cached_property
    def context(self) -> Context:
        """What isolations and modifications may ask for."""
        return Context(self.generator, self._weights, self._units)

    def _weights(self, which: str) -> Mapping[str, Tensor]:
        if which in ("base", "donor"):
            return self.session.base if which == "base" else self.session.donor
        raise BrittleError(f"no '{which}' weights outside a chain of modifications")

    def shares(self, region: Region) -> dict[str, float]:
        """How many entries and ranks a region has, and their shares of the model's."""
        coverage, count, ranks = self.session.coverage, region.count, region.ranks
        sizes: dict[str, float] = {}
        if count or not ranks:
            sizes = {"count": count, "of_block_linears": count / coverage.editable, "of_all_parameters": count / coverage.total}
        if ranks:
            most = sum(min(address.view(self.session.model).shape) for address in self.session.addresses)
            sizes |= {"ranks": ranks, "of_ranks": ranks / most}
        return sizes

    def size(self, region: Region) -> str:
        """The same in words."""
        said, sizes = [], self.shares(region)
        if "count" in sizes:
            said.append(
                f"{sizes['count']:,} weights, {sizes['of_block_linears']:.2%} of the block linears, "
                f"{sizes['of_all_parameters']:.2%} of all parameters"
            )
        if "ranks" in sizes:
            said.append(f"{sizes['ranks']:,} ranks, {sizes['of_ranks']:.2%} of the block linears' ranks")
        return f"region of {' and '.join(said)}"
