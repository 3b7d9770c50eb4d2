"""`brittle-eval landscape`: the model at steps along random directions or towards a donor, and the scores of that path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from brittle_eval.errors import BrittleError, UnknownName
from brittle_eval.landscapes.visage import area_above, visage_coded, visage_stated
from brittle_eval.probes.probe import attack_of, chosen
from brittle_eval.reporting import measured
from brittle_eval.running.prepare import Options, Prepared, output_folder, prepare
from brittle_eval.running.record import Row, RunFolder
from brittle_eval.running.run import Production, configuration, open_session

SCHEMA = 1
Say = Callable[[str], None]
Where = Literal["region", "complement"]
COHERENT = "not-refused-coherent"
"""What `--count` calls the headline's number."""
SCORES = ("coded", "stated", "area")
NO_CENTRE = "the steps do not lie evenly around the model itself"
OF_A_LINE = "it is a score of a line, and this is a plane"
UNVERIFIED = (
    "directions a score: one in the code of Peng et al. 2024; whether their numbers are means over several has not been seen",
    "what --count takes for an answered request: their code looks for phrases in 512 tokens, and lets babble pass",
)


@dataclass(frozen=True)
class Wanted:
    """What path is to be gone."""

    points: int = 21
    """Of each axis."""
    lowest: float | None = None
    highest: float | None = None
    """Steps of the first and the last point: −0.5 and 0.5 of each weight's norm, or 0 and 1 of the way to a donor."""
    plane: bool = False
    directions: int = 1
    region: str | None = None
    """Attribution and isolation with options: the steps are taken in what they find, all block weights without."""
    where: tuple[Where, ...] = ("region",)
    attack: str | None = None
    count: str = "refusal"
    """A judge of the run, or `not-refused-coherent`: whose positive verdicts are the rate."""


@dataclass(frozen=True)
class Place:
    """A point: where it lies on which curve, and the plan that goes there; None is the model itself."""

    curve: str
    where: Where
    alpha: float
    beta: float
    plan: str | None


def steps(wanted: Wanted, merging: bool) -> list[float]:
    """Evenly spaced, as one would type them; BrittleError for a path that is none."""
    usual = (0.0, 1.0) if merging else (-0.5, 0.5)
    low, high = (own if own is not None else other for own, other in zip((wanted.lowest, wanted.highest), usual, strict=True))
    if not low < high:
        raise BrittleError(f"--lowest {low:g} and --highest {high:g}: expected a path with lowest < highest")
    if wanted.points < 3 or (not merging and -low == high and wanted.points % 2 == 0):
        raise BrittleError(
            f"--points {wanted.points}: expected an odd number from 3 on, so that the model itself is in the middle"
        )
    first, last = Fraction(str(low)), Fraction(str(high))
    return [float(f"{float(first + (last - first) * n / (wanted.points - 1)):.6g}") for n in range(wanted.points)]


def places(wanted: Wanted, merging: bool) -> list[Place]:
    """All points of all curves; BrittleError for options that do not go together."""
    _check(wanted, merging)
    own = steps(wanted, merging)
    words, _, options = (wanted.region or "").partition(":")
    method = "merge" if merging else "perturb"
    chain, more = (f"{words}+" if words else "") + method, f",{options}" if options else ""
    found = []
    for where in wanted.where:
        for direction in range(wanted.directions):
            name = _name(wanted, where, direction, merging)
            for beta in own if wanted.plane else [0.0]:
                for alpha in own:
                    step = f"{method}.t={alpha:g}" if merging else f"{method}.alpha={alpha:g},{method}.beta={beta:g}"
                    step += f",{method}.where={where}" + ("" if merging else f",{method}.direction={direction}")
                    plan = f"{chain}:{step}{more}" if alpha or beta else None
                    found.append(Place(name, where, alpha, beta, plan))
    return found


def _check(wanted: Wanted, merging: bool) -> None:
    if merging and (wanted.plane or wanted.directions != 1):
        raise BrittleError("--donor is one direction: leave out --plane and --directions, or the donor for random ones")
    if wanted.directions < 1:
        raise BrittleError(f"--directions {wanted.directions}: expected 1 or more")
    if wanted.region is None and wanted.where != ("region",):
        raise BrittleError(f"--where {wanted.where[-1]} is of a region: give --region ATTRIBUTION+ISOLATION[:key=value,…]")
    if wanted.region is not None and wanted.region.partition(":")[0].count("+") != 1:
        raise BrittleError(f"--region {wanted.region}: expected ATTRIBUTION+ISOLATION[:key=value,…]")


def _name(wanted: Wanted, where: Where, direction: int, merging: bool) -> str:
    parts = [where if wanted.region else "all block weights"]
    return ", ".join(parts if merging else [*parts, f"direction {direction}"])


def landscape(options: Options, wanted: Wanted, say: Say = print) -> tuple[dict[str, Any], Path]:
    """Run every point, or find it again; gives what `landscape.json` holds, and the folder.

    The unedited model is the point of no step, so that a path of n points costs n evaluations.
    """
    path = places(wanted, options.donor is not None)
    plans = tuple(dict.fromkeys(place.plan for place in path if place.plan))
    prepared = prepare(replace(options, modify=plans))
    _number(wanted, prepared)
    folder = RunFolder(output_folder(prepared), configuration(prepared))
    with folder.opened():
        rows = folder.rows()
        if rows is None:
            session = open_session(prepared, folder, say)
            attack_of(session, wanted.attack)
            rows = Production(prepared, session, folder, say).finish()
        found = concluded(rows, path, prepared, wanted)
        folder.write_json("landscape.json", found)
    return found, folder.path


def _number(wanted: Wanted, prepared: Prepared) -> str:
    """The name of the rate in a row's values."""
    known = [*prepared.judges, *([COHERENT] if "refusal" in prepared.judges else [])]
    if wanted.count not in known:
        raise UnknownName("number of --count", wanted.count, known)
    return measured.ANSWERED if wanted.count == COHERENT else f"judge_{wanted.count}"


def concluded(rows: Sequence[Row], path: Sequence[Place], prepared: Prepared, wanted: Wanted) -> dict[str, Any]:
    """What the rows say of the path."""
    unedited = next(row for row in rows if row.kind == "unedited")
    number, merging = _number(wanted, prepared), prepared.options.donor is not None
    attack = chosen([task.task for task in measured.done(unedited, "attack") if number in task.values], wanted.attack)
    points: dict[str, list[dict[str, Any]]] = {}
    for place in path:
        for name, row in _at(place, rows, unedited):
            points.setdefault(name, []).append(_point(place, row, attack, number))
    scores = {name: scored(of, wanted.plane) for name, of in points.items()}
    return {
        "schema": SCHEMA,
        "model": prepared.model_name,
        "attack": attack,
        "count": wanted.count,
        "path": "donor" if merging else "random",
        "region": wanted.region,
        "plane": wanted.plane,
        "steps": steps(wanted, merging),
        "points": points,
        "scores": scores,
        "mean": _means(path, scores) if wanted.directions > 1 else {},
        "unverified": [] if merging else list(UNVERIFIED),
        "seeds": [prepared.options.seed],
    }


def _at(place: Place, rows: Sequence[Row], unedited: Row) -> Iterator[tuple[str, Row]]:
    """The rows of a place by curve: the edited one and its controls, or for all of them the unedited model."""
    controls = dict.fromkeys(row.name.rpartition(".")[2] for row in rows if row.kind == "control")
    for row in rows:
        if place.plan is not None and row.recipe == place.plan:
            control = row.name.removeprefix(f"{row.folder}.") if row.kind == "control" else ""
            yield (f"{place.curve}, {control}" if control else place.curve), row
    if place.plan is None:
        yield from ((name, unedited) for name in (place.curve, *(f"{place.curve}, {one}" for one in controls)))


def _point(place: Place, row: Row, attack: str, number: str) -> dict[str, Any]:
    task = measured.result(row, attack)
    rate = measured.rate(task.values.get(number)) if task else None
    if rate is None:
        raise BrittleError(f"{row.name} has no rate of {attack}: run it again without what kept the task from being run")
    broken, attempts = measured.degenerate(row, attack)
    return {
        "alpha": place.alpha,
        "beta": place.beta,
        "row": row.name,
        "rate": rate.k / rate.n,
        "low": rate.low,
        "high": rate.high,
        "degenerate": broken / max(1, attempts),
        "utility": measured.utility(row),
        "perplexity": measured.perplexity(row),
        "kl": measured.divergence(row),
    }


def scored(points: Sequence[Mapping[str, Any]], plane: bool) -> dict[str, Any]:
    """VISAGE as coded and as stated and the area above the curve, in [0, 1], or why one is not defined."""
    alphas, rates = [one["alpha"] for one in points], [one["rate"] for one in points]
    found: dict[str, Any] = dict.fromkeys(SCORES) | {"undefined": {}}
    if plane:
        found["undefined"] = {"coded": OF_A_LINE, "area": OF_A_LINE}
    else:
        found["area"] = area_above(alphas, rates)
    if any(abs(low + high) > 1e-9 for low, high in zip(alphas, reversed(alphas), strict=True)) and not plane:
        found["undefined"] = {"coded": NO_CENTRE, "stated": NO_CENTRE}
        return found
    return found | {"stated": visage_stated(rates)} | ({} if plane else {"coded": visage_coded(rates)})


def _means(path: Sequence[Place], scores: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Over the random directions, for the region and its complement; controls are not among them."""
    found: dict[str, dict[str, float | None]] = {}
    for where in dict.fromkeys(place.where for place in path):
        own = [scores[name] for name in dict.fromkeys(place.curve for place in path if place.where == where)]
        values = {key: [one[key] for one in own if one[key] is not None] for key in SCORES}
        found[where] = {key: sum(of) / len(of) if of else None for key, of in values.items()}
    return found
