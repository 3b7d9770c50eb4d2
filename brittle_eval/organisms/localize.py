"""Methods against the truth: what each finds of a plant, and what editing what it found does."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from brittle_eval.behaviour.behaviours import from_prompts
from brittle_eval.engine.attribute import DATA
from brittle_eval.engine.controls import matched_control
from brittle_eval.engine.isolate import checked
from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.responses import Responses
from brittle_eval.methods import Attribution, Isolation
from brittle_eval.organisms.effect import Effect, changes
from brittle_eval.organisms.finding import Find, finder, sized
from brittle_eval.organisms.organism_model import HARMFUL, Organism, load_organism
from brittle_eval.organisms.truth import agreement, average_precision, captured
from brittle_eval.plugins import Plugins
from brittle_eval.regions import Region
from brittle_eval.running.prepare import BEHAVIOUR_TASKS, Chain, chain_of
from brittle_eval.running.record import RunFolder, as_file

Say = Callable[[str], None]
METHODS = (
    "random+top",
    "magnitude+top",
    "wanda+top",
    "wanda+set-difference",
    "wanda+top-outside",
    "wanda+bottom-mass",
    "wanda+n-m",
    "wanda+top:use-diff=true",
    "snip+top",
    "snip+bottom",
    "snip+set-difference",
    "snip+heads",
    "snip+top:compare=global",
    "snip+set-difference:compare=global",
    "snip+top:signed=true,compare=global",
    "actsvd+top-ranks",
    "actsvd+bottom-ranks",
    "actsvd+orthogonal",
    "unit-variance+four-way",
    "prompt-ends+probed-heads",
    "prompt-states+direction",
    "prompt-states+band:search=0",
)
"""Attribution and isolation, with options, as in a plan."""
SIZES = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0)
"""Shares of the entries, units or ranks that the nested regions of the average precision take."""
RANKS = "one of the two takes ranks and the other entries, which no measure compares"
OWN_SIZE = "no option sets its size, so there are no nested regions"
NO_OUTSIDE = "the region is whole weights, and there are no other blocks of the same size"


@dataclass(frozen=True)
class Line:
    """One method on one plant. Rates are of harmful prompts answered coherently, with 95 % intervals; None is not defined."""

    method: str
    size: int | None = None
    """Entries, or ranks."""
    agreement: dict[str, float | None] | None = None
    """Precision, recall, chance (of the precision), IoU and average precision; None for entries against ranks."""
    captured: float | None = None
    """Share of the plant's squared change that lies in the region."""
    random_captured: float | None = None
    answered: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By what was done: ablate, restore, and both of a random region of the same size."""
    undefined: dict[str, str] = field(default_factory=dict)
    """Why figures are not there, by what they are; `all` where the method found no region."""


@dataclass(frozen=True)
class Located:
    """All methods on one plant."""

    plant: str
    answered: dict[str, Any]
    lines: list[Line]


@dataclass(frozen=True)
class _Method:
    text: str
    chain: Chain
    attribution: Attribution
    isolation: Isolation

    @property
    def scores(self) -> tuple[str, str]:
        """Equal for methods that look at the same scores."""
        return str(self.chain.plan.attribution), str(self.chain.scope)

    @property
    def file(self) -> str:
        return f"{hashlib.blake2b(str(self.chain.plan).encode(), digest_size=6).hexdigest()}.json"

    def sized(self, share: float) -> Isolation:
        """At that size, where its options set one and the user gave none."""
        plan = self.chain.plan.isolation
        return sized(self.isolation, share, frozenset(plan.options if plan else ())) or self.isolation


def localize(folders: Sequence[Path], methods: Sequence[str], output: Path, pairs: int, seed: int, say: Say) -> list[Located]:
    """Every method on every plant; finished ones are found again in `output`."""
    plugins = Plugins.load()
    plans = [_method(method, plugins) for method in dict.fromkeys(methods)]
    folder = RunFolder(output, {"plants": [str(path) for path in folders], "pairs": pairs, "seed": seed, "localize": 1})
    with folder.opened():
        return [_Search(path, folder, pairs, seed, say).located(plans) for path in folders]


def _method(text: str, plugins: Plugins) -> _Method:
    words, colon, options = text.partition(":")
    if words.count("+") != 1:
        raise BrittleError(f"--method {text}: expected ATTRIBUTION+ISOLATION[:key=value,…]")
    chain = chain_of(f"{words}+ablate{colon}{options}", plugins)
    assert chain.attribution is not None and chain.isolation is not None
    if chain.scope.order == "sequential":
        raise BrittleError(f"--method {text}: regions are compared as the whole model has them; remove order=sequential")
    if other := [name for name in chain.isolation.behaviours if name not in BEHAVIOUR_TASKS]:
        raise BrittleError(
            f"--method {text} asks for the behaviour '{other[0]}', but a plant has only safety and utility: choose options that "
            "need no other, such as search=0 of band"
        )
    return _Method(text, chain, chain.attribution, chain.isolation)


class _Search:
    def __init__(self, path: Path, folder: RunFolder, pairs: int, seed: int, say: Say) -> None:
        self.path, self.folder, self.pairs, self.seed, self.say = path, folder, pairs, seed, say
        self.plant: dict[str, Any] = RunFolder(path, {}).read_json("plant.json") or {}
        if not self.plant:
            raise BrittleError(f"{path} holds no plant.json: give a folder that `organism build --plant` has made")

    def located(self, methods: Sequence[_Method]) -> Located:
        files = {one.text: f"{as_file(self.plant['plant'])}/{one.file}" for one in methods}
        known = {text: self.folder.read_json(file) for text, file in files.items()}
        waiting = [one for one in methods if known[one.text] is None]
        if waiting:
            of = _Measured(load_organism(self.path, self.seed), self.folder, self.plant["plant"], self.pairs, self.say)
            for scores in dict.fromkeys(one.scores for one in waiting):
                some = [one for one in waiting if one.scores == scores]
                self.say(f"{self.plant['plant']}: {', '.join(one.text for one in some)}")
                for one, line in of.lines(some):
                    self.folder.write_json(files[one.text], asdict(line))
                    known[one.text] = asdict(line)
        return Located(self.plant["plant"], self.plant["answered"], [Line(**(known[one.text] or {})) for one in methods])


class _Measured:
    """The methods on one loaded plant."""

    def __init__(self, organism: Organism, folder: RunFolder, plant: str, pairs: int, say: Say) -> None:
        self.of, self.folder, self.pairs, self.plant, self.say = organism, folder, pairs, plant, say
        self.effect: Effect = organism.effect
        self.modifications = {name: organism.plugins.get("modification", name)() for name in ("ablate", "restore")}
        views = {address.name: address.view(organism.model) for address in organism.addresses}
        self.squares = changes(views, organism.base)
        self.change: Callable[[str], Tensor] = lambda name: views[name] - organism.base[name]
        total = sum(view.numel() for view in views.values())
        ranks = sum(min(view.shape) for view in views.values())
        self.share = organism.truth.count / total if organism.truth.count else organism.truth.ranks / ranks

    def lines(self, methods: Sequence[_Method]) -> Iterator[tuple[_Method, Line]]:
        """Methods that look at the same scores, which are computed once."""
        first = methods[0]
        names = sorted({name for one in methods for name in one.isolation.behaviours})
        sees = first.attribution.needs & DATA
        examples = {name: self._examples(name) if sees else () for name in names}
        scope = first.chain.scope.of(self.of.addresses)
        find = finder(self.of, first.attribution, examples, scope, self.say)
        for one in methods:
            yield one, self._line(one, find)

    def _examples(self, name: str) -> Sequence[Any]:
        of = self.of
        prompts, judge = of.prompts(BEHAVIOUR_TASKS[name]), of.plugins.get("judge", "refusal")()
        evaluation = of.prompts(HARMFUL)
        inside = RunFolder(self.folder.path / as_file(self.plant), {})
        (inside.path / "behaviours").mkdir(parents=True, exist_ok=True)
        kept = Responses(inside.path / "behaviours" / f"responses_{name}.jsonl", str(self.effect.fingerprint), self.say)
        return from_prompts(name, prompts, of.lm, judge, evaluation, self.pairs, inside, of.seed, kept).examples

    def _line(self, method: _Method, find: Find) -> Line:
        scope = method.chain.scope.of(self.of.addresses)
        try:
            isolation = method.sized(self.share)
            region = checked(find(isolation), scope, isolation)
        except BrittleError as error:
            self.say(f"{method.text}: {error}")
            return Line(method.text, undefined={"all": str(error)})
        undefined: dict[str, str] = {}
        found = self._agreement(method, region, find, undefined)
        regions = {"": region}
        control = matched_control("random", region, self.of.model, self.of.addresses, self.of.generator(method.text))
        if control.keys() == region.keys() and all(part.count == math.prod(part.shape) for part in region.values()):
            undefined["random regions"] = NO_OUTSIDE
        else:
            regions[" random"] = control
        answered = {
            f"{name}{ending}": asdict(self.effect.of(part, modification, f"{method.text}: {name}{ending}"))
            for name, modification in self.modifications.items()
            for ending, part in regions.items()
        }
        inside = {ending: captured(part, self.change, self.squares) for ending, part in regions.items()}
        size = region.count or region.ranks
        return Line(method.text, size, found, inside[""], inside.get(" random"), answered, undefined)

    def _agreement(
        self, method: _Method, region: Region, find: Find, undefined: dict[str, str]
    ) -> dict[str, float | None] | None:
        shapes = {one.name: tuple(one.view(self.of.model).shape) for one in method.chain.scope.of(self.of.addresses)}
        own = agreement(region, self.of.truth, shapes)
        if own is None:
            undefined["precision, recall, IoU, AP"] = RANKS
            return None
        grown = [each for size in SIZES if (each := sized(method.isolation, size, nested=True)) is not None]
        if not grown:
            undefined["AP"] = OWN_SIZE
        nested = []
        try:
            nested = [one for each in grown if (one := agreement(find(each), self.of.truth, shapes)) is not None]
        except BrittleError as error:  # such as more directions than the calibration data has
            undefined["AP"] = str(error)
        return {
            "precision": own.precision,
            "recall": own.recall,
            "chance": own.chance,
            "iou": own.iou,
            "average_precision": average_precision(nested) if nested else None,
        }
