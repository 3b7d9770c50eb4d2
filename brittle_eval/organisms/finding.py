"""What an attribution shows of a model, asked once, and the region that isolations of any size take from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from brittle_eval.behaviour.calibration import Example
from brittle_eval.engine.attribute import Pass, accumulate, scores
from brittle_eval.engine.budget import by_block
from brittle_eval.engine.isolate import as_weight
from brittle_eval.engine.sharing import sites
from brittle_eval.engine.whole_model import find_whole
from brittle_eval.errors import blaming
from brittle_eval.methods import Attribution, Isolation, ModelAttribution
from brittle_eval.options import options_of
from brittle_eval.organisms.organism_model import Organism
from brittle_eval.progress import bar
from brittle_eval.regions import Part, Region
from brittle_eval.weights import Address

Find = Callable[[Isolation], Region]
"""Gives an isolation's region, which may be empty."""
Examples = Mapping[str, Sequence[Example]]
ALMOST_ALL = 0.9999
"""The largest share of ranks: from 1 on the option is their number."""


def finder(
    of: Organism, attribution: Attribution, examples: Examples, scope: Sequence[Address], say: Callable[[str], None]
) -> Find:
    """Gives the regions of one attribution and scope; `examples` by behaviour, empty ones for a method that sees no data.

    What isolations note goes to `say`. BrittleError where a method finds no region.
    """
    name = f"attributing with {type(attribution).__name__}"
    steps = len(by_block(scope)) * sum(map(len, examples.values()))
    if not isinstance(attribution, ModelAttribution):
        with bar(name, steps) as advance:
            return _ByWeight(of, _scores(of, attribution, examples, scope, Pass(of.lm.pad_id, on_batch=advance)), scope)
    context = replace(of.context, note=say)

    def whole(isolation: Isolation) -> Region:
        with bar(name, steps) as advance:
            how, mark = Pass(of.lm.pad_id, on_batch=advance), of.effect.fingerprint
            return find_whole(of.model, attribution, isolation, examples, scope, of.addresses, context, mark, how)

    return whole


Scores = Mapping[str, Mapping[str, Any]]


def _scores(of: Organism, attribution: Attribution, examples: Examples, scope: Sequence[Address], how: Pass) -> Scores:
    base = "base" in attribution.needs
    weights = {one: as_weight(of.model, one, of.context, base=base) for one in scope}
    together = sites(of.model, attribution, scope, examples, how.pad_id)
    states = accumulate(of.model, attribution, weights, examples, how, together)
    return {name: {w.name: scores(attribution, w, own.pop(w.name)) for w in weights.values()} for name, own in states.items()}


class _ByWeight:
    """Isolates from scores of all weights, handed over as the isolation's reach asks."""

    def __init__(self, of: Organism, found: Scores, scope: Sequence[Address]) -> None:
        self.of, self.found = of, found
        self.names = [address.name for address in scope]
        self.blocks = [[address.name for address in group] for group in by_block(scope).values()]

    def __call__(self, isolation: Isolation) -> Region:
        groups = {"weight": [[name] for name in self.names], "block": self.blocks, "model": [self.names]}[isolation.reach]
        parts: dict[str, Part] = {}
        for group in groups:
            with blaming(isolation):
                given = {behaviour: {name: self.found[behaviour][name] for name in group} for behaviour in isolation.behaviours}
                parts |= isolation.isolate(given, self.of.context)
        return Region(parts)


def sized(isolation: Isolation, share: float, kept: frozenset[str] = frozenset(), *, nested: bool = False) -> Isolation | None:
    """The isolation at a size: q (and p, unless `nested`), r, 1 − r_s or the units of `part=safety` are that share of all.

    Options in `kept` stay as they are. None for an isolation whose options set no size.
    """
    options = options_of(type(isolation))
    values: dict[str, float] = {}
    if "r_s" in options:
        values = {"r_s": 1 - share}
    elif getattr(isolation, "part", None) == "safety":  # the other kinds come after it, and would not leave it all units
        values = {"safety": share, "utility": 0.0, "redundant": 0.0}
    elif getattr(isolation, "count", None) is None:
        values = {name: limit for name, limit in (("q", share), ("r", min(share, ALMOST_ALL))) if name in options}
        if "p" in options and not nested:
            values["p"] = share
    if not values:
        return None
    left = {name: value for name, value in values.items() if name not in kept}
    return replace(isolation, **left) if left else isolation  # type: ignore[type-var]  # one with options is a dataclass
