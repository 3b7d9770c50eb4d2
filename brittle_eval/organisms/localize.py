"""Attributions against the truth: what each method finds of a plant, and what editing what it found does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from brittle_eval.behaviour.behaviours import from_prompts
from brittle_eval.cards import recipes
from brittle_eval.engine.attribute import Pass, accumulate, scores
from brittle_eval.engine.budget import by_block
from brittle_eval.engine.controls import matched_control
from brittle_eval.engine.isolate import as_weight
from brittle_eval.engine.sharing import sites
from brittle_eval.errors import BrittleError, blaming
from brittle_eval.evaluation.responses import Responses
from brittle_eval.methods import Attribution, Isolation
from brittle_eval.options import options_of
from brittle_eval.organisms.effect import Effect, changes
from brittle_eval.organisms.organism_model import HARMFUL, Organism, load_organism
from brittle_eval.organisms.truth import Agreement, agreement, average_precision, captured
from brittle_eval.plugins import Plugins
from brittle_eval.progress import bar
from brittle_eval.recipe import Plan, build, check, parse
from brittle_eval.regions import Part, Region
from brittle_eval.running.prepare import BEHAVIOUR_TASKS
from brittle_eval.running.record import RunFolder, as_file

Say = Callable[[str], None]
Scores = Mapping[str, Mapping[str, Any]]
METHODS = (
    "random+top",
    "magnitude+top",
    "wanda+top",
    "wanda+set-difference",
    "wanda+top:use-diff=true",
    "snip+top",
    "snip+set-difference",
    "snip+top:compare=global",
    "snip+set-difference:compare=global",
    "snip+top:signed=true,compare=global",
    "actsvd+top-ranks",
    "actsvd+orthogonal",
)
"""Attribution and isolation, with options, as in a plan."""
SIZES = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0)
"""Shares of the entries or ranks that the nested regions of the average precision take."""


ALMOST_ALL = 0.9999
"""The largest share of ranks: from 1 on the option is their number."""


@dataclass(frozen=True)
class Line:
    """One method on one plant. Rates are of harmful prompts answered coherently, with 95 % intervals."""

    method: str
    size: float
    """Entries, or ranks."""
    agreement: dict[str, float] | None
    """Precision, recall, chance (of the precision) and average precision; None for entries against ranks."""
    captured: float
    """Share of the plant's squared change that lies in the region."""
    random_captured: float
    answered: dict[str, dict[str, Any]]
    """By what was done: ablate, restore, and both of a random region of the same size."""


@dataclass(frozen=True)
class Located:
    """All methods on one plant."""

    plant: str
    answered: dict[str, Any]
    lines: list[Line]


def localize(folders: Sequence[Path], methods: Sequence[str], output: Path, pairs: int, seed: int, say: Say) -> list[Located]:
    """Every method on every plant; finished ones are found again in `output`."""
    plugins = Plugins.load()
    plans = [_plan(method, plugins) for method in dict.fromkeys(methods)]
    folder = RunFolder(output, {"plants": [str(path) for path in folders], "pairs": pairs, "seed": seed, "localize": 1})
    with folder.opened():
        return [_Search(path, folder, pairs, seed, say).located(plans) for path in folders]


def _plan(method: str, plugins: Plugins) -> Plan:
    chain, colon, options = method.partition(":")
    if chain.count("+") != 1:
        raise BrittleError(f"--method {method}: expected ATTRIBUTION+ISOLATION[:key=value,…]")
    plan = parse(f"{chain}+ablate{colon}{options}", plugins, recipes(plugins))
    check(plan, plugins)
    return replace(plan, text=method)


class _Search:
    def __init__(self, path: Path, folder: RunFolder, pairs: int, seed: int, say: Say) -> None:
        self.path, self.folder, self.pairs, self.seed, self.say = path, folder, pairs, seed, say
        self.plant: dict[str, Any] = RunFolder(path, {}).read_json("plant.json") or {}
        if not self.plant:
            raise BrittleError(f"{path} holds no plant.json: give a folder that `organism build --plant` has made")

    def located(self, plans: Sequence[Plan]) -> Located:
        files = {plan.text: f"{as_file(self.plant['plant'])}/{self._file(plan)}" for plan in plans}
        known = {text: self.folder.read_json(file) for text, file in files.items()}
        waiting = [plan for plan in plans if known[plan.text] is None]
        if waiting:
            of = _Measured(load_organism(self.path, self.seed), self.folder, self.plant["plant"], self.pairs, self.say)
            for attribution in dict.fromkeys(str(plan.attribution) for plan in waiting):
                some = [plan for plan in waiting if str(plan.attribution) == attribution]
                self.say(f"{self.plant['plant']}: {', '.join(plan.text for plan in some)}")
                for plan, line in of.lines(some):
                    self.folder.write_json(files[plan.text], asdict(line))
                    known[plan.text] = asdict(line)
        return Located(self.plant["plant"], self.plant["answered"], [Line(**(known[plan.text] or {})) for plan in plans])

    @staticmethod
    def _file(plan: Plan) -> str:
        return f"{hashlib.blake2b(str(plan).encode(), digest_size=6).hexdigest()}.json"


class _Measured:
    """The methods on one loaded plant."""

    def __init__(self, organism: Organism, folder: RunFolder, plant: str, pairs: int, say: Say) -> None:
        self.of, self.folder, self.pairs, self.plant, self.say = organism, folder, pairs, plant, say
        effect: Effect = organism.effect
        self.effect = effect
        self.modifications = {name: organism.plugins.get("modification", name)() for name in ("ablate", "restore")}
        views = {address.name: address.view(organism.model) for address in organism.addresses}
        self.squares = changes(views, organism.base)
        self.change: Callable[[str], Tensor] = lambda name: views[name] - organism.base[name]
        total = sum(view.numel() for view in views.values())
        ranks = sum(min(view.shape) for view in views.values())
        self.share = organism.truth.count / total if organism.truth.count else organism.truth.ranks / ranks

    def lines(self, plans: Sequence[Plan]) -> Iterator[tuple[Plan, Line]]:
        """The plans of one attribution, whose scores are computed once."""
        first = plans[0].attribution
        assert first is not None
        attribution = build(first, self.of.plugins.get("attribution", first.name))
        isolations = [plan.isolation for plan in plans if plan.isolation]
        made = [build(one, self.of.plugins.get("isolation", one.name)) for one in isolations]
        found = self._scores(attribution, sorted({name for isolation in made for name in isolation.behaviours}))
        for plan, isolation in zip(plans, made, strict=True):
            yield plan, self._line(plan, isolation, found)

    def _scores(self, attribution: Attribution, behaviours: Sequence[str]) -> Scores:
        examples = {name: self._examples(name) for name in behaviours if attribution.needs - {"base"}}
        blocks = len(by_block(self.of.addresses))
        with bar(f"attributing with {type(attribution).__name__}", blocks * sum(map(len, examples.values()))) as advance:
            how = Pass(self.of.lm.pad_id, on_batch=advance)
            base = "base" in attribution.needs
            weights = {one: as_weight(self.of.model, one, self.of.context, base=base) for one in self.of.addresses}
            asked = examples or dict.fromkeys(behaviours, ())
            known = sites(self.of.model, attribution, self.of.addresses, asked, how.pad_id)
            states = accumulate(self.of.model, attribution, weights, asked, how, known)
            return {
                name: {w.name: scores(attribution, w, states[name].pop(w.name)) for w in weights.values()} for name in behaviours
            }

    def _examples(self, name: str) -> Sequence[Any]:
        of = self.of
        if name not in BEHAVIOUR_TASKS:
            raise BrittleError(f"a method asks for the behaviour '{name}', but a plant has only safety and utility")
        prompts, judge = of.prompts(BEHAVIOUR_TASKS[name]), of.plugins.get("judge", "refusal")()
        evaluation = of.prompts(HARMFUL)
        inside = RunFolder(self.folder.path / as_file(self.plant), {})
        (inside.path / "behaviours").mkdir(parents=True, exist_ok=True)
        kept = Responses(inside.path / "behaviours" / f"responses_{name}.jsonl", str(self.effect.fingerprint), self.say)
        return from_prompts(name, prompts, of.lm, judge, evaluation, self.pairs, inside, of.seed, kept).examples

    def _line(self, plan: Plan, isolation: Isolation, found: Scores) -> Line:
        region = self._region(_sized(isolation, self.share), found)
        control = matched_control("random", region, self.of.model, self.of.addresses, self.of.generator(plan.text))
        answered = {
            f"{name}{ending}": asdict(self.effect.of(part, modification, f"{plan.text}: {name}{ending}"))
            for name, modification in self.modifications.items()
            for ending, part in (("", region), (" random", control))
        }
        close, random = (captured(part, self.change, self.squares) for part in (region, control))
        return Line(plan.text, region.count or region.ranks, self._agreement(isolation, region, found), close, random, answered)

    def _agreement(self, isolation: Isolation, region: Region, found: Scores) -> dict[str, float] | None:
        own = agreement(region, self.of.truth)
        if own is None:
            return None
        sized = (_sized(isolation, size, nested=True) for size in SIZES)
        nested = [
            one for one in (agreement(self._region(each, found), self.of.truth) for each in sized) if isinstance(one, Agreement)
        ]
        return {
            "precision": own.precision,
            "recall": own.recall,
            "chance": own.chance,
            "average_precision": average_precision(nested),
        }

    def _region(self, isolation: Isolation, found: Scores) -> Region:
        names = [address.name for address in self.of.addresses]
        blocks = [[address.name for address in group] for group in by_block(self.of.addresses).values()]
        groups = {"weight": [[name] for name in names], "block": blocks, "model": [names]}[isolation.reach]
        parts: dict[str, Part] = {}
        for group in groups:
            with blaming(isolation):
                given = {behaviour: {name: found[behaviour][name] for name in group} for behaviour in isolation.behaviours}
                parts |= isolation.isolate(given, self.of.context)
        return Region(parts)


def _sized(isolation: Isolation, share: float, *, nested: bool = False) -> Isolation:
    """The isolation at a size: q (and p, unless `nested`), r or 1 − r_s is that share of the entries or ranks."""
    options = options_of(type(isolation))
    if "r_s" in options:
        return replace(isolation, r_s=1 - share)  # type: ignore[type-var]  # one with options is a dataclass
    given = {name: limit for name, limit in (("q", share), ("r", min(share, ALMOST_ALL))) if name in options}
    if "p" in options and not nested:
        given["p"] = share
    return replace(isolation, **given)  # type: ignore[type-var]  # one with options is a dataclass
