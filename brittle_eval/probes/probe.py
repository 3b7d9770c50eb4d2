"""`brittle-eval probe`: nested regions of rising size with controls of the same sizes, and the size at which safety gives way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.showing import own_metadata
from brittle_eval.plugins import Plugins
from brittle_eval.probes.curve import Limits, Size, area_of, b50, curves, power
from brittle_eval.running.command import options_of
from brittle_eval.running.prepare import Options, Prepared, output_folder, prepare
from brittle_eval.running.record import Row, RunFolder
from brittle_eval.running.run import Production, configuration, keep_config, open_session
from brittle_eval.running.session import Session
from brittle_eval.sweeps.grid import numbers

SCHEMA = 1
Say = Callable[[str], None]
PLANS: Mapping[str, Callable[[str, str, str], str]] = {
    "weight-scores": lambda p, share, compare: f"top-outside+ablate:top-outside.p={p},q={share},compare={compare}",
    "directions": lambda p, share, compare: f"orthogonal+ablate:r-u={1 - Decimal(p)},r-s={1 - Decimal(share)}",
}
"""By what an attribution gives: the plan of a size, from the share that utility keeps and the share that is taken."""

RANGES: Mapping[str, tuple[float, float]] = {"weight-scores": (0.0001, 0.1), "directions": (0.005, 0.4)}
"""The smallest and the largest share, where none is asked for; a weight of a few hundred ranks has none below 0.005."""


@dataclass(frozen=True)
class Wanted:
    """What is to be probed."""

    attribution: str = "snip"
    """With options as in a plan: `snip:signed=true`."""
    p: float = 0.01
    sizes: int = 12
    smallest: float | None = None
    largest: float | None = None
    compare: str = "global"
    attack: str | None = None
    limits: Limits = field(default_factory=Limits)


def shares(wanted: Wanted, gives: str) -> list[str]:
    """The sizes as decimals, at equal ratios; BrittleError for sizes that are none."""
    smallest, largest = (
        usual if asked is None else asked for asked, usual in zip((wanted.smallest, wanted.largest), RANGES[gives], strict=True)
    )
    if not 0 < smallest < largest <= 1:
        raise BrittleError(f"--smallest {smallest} and --largest {largest}: expected shares with 0 < smallest < largest ≤ 1")
    found = [str(one) for one in numbers(f"{_plain(smallest)}..{_plain(largest)}/{wanted.sizes}log")]
    if len(set(found)) < wanted.sizes:
        raise BrittleError(f"--sizes {wanted.sizes}: so many sizes cannot be told apart; give fewer, or a wider range")
    return found


def plans(wanted: Wanted, plugins: Plugins) -> dict[str, str]:
    """The plan of every size by its share; BrittleError for an attribution that cannot be probed, or a `p` that is none."""
    name, colon, options = wanted.attribution.partition(":")
    gives = plugins.get("attribution", name).gives
    if gives not in PLANS:
        raise BrittleError(f"attribution '{name}' gives {gives}, expected one that gives {' or '.join(PLANS)}: take another")
    if not 0 < wanted.p < 1:
        raise BrittleError(f"--p {wanted.p}: expected the share that utility keeps, above 0 and below 1")
    own = "".join(f",{name}.{item.strip()}" for item in options.split(",") if colon and item.strip())
    return {share: f"{name}+{PLANS[gives](_plain(wanted.p), share, wanted.compare)}{own}" for share in shares(wanted, gives)}


def probe(options: Options, wanted: Wanted, say: Say = print) -> tuple[dict[str, Any], Path]:
    """Run every size and its controls, or find them again; gives what `probe.json` holds, and the folder."""
    by_share = plans(wanted, Plugins.load(options.plugins))
    prepared = prepare(replace(options, modify=tuple(by_share.values())))
    folder = RunFolder(output_folder(prepared), configuration(prepared))
    with folder.opened():
        keep_config(folder, asked(wanted) | {key: one for key, one in options_of(folder.config).items() if key != "modify"})
        rows = folder.rows()
        if rows is None:
            session = open_session(prepared, folder, say)
            attack_of(session, wanted.attack)
            rows = Production(prepared, session, folder, say).finish()
        found = concluded(rows, by_share, prepared, wanted)
        folder.write_json("probe.json", found)
    return found, folder.path


def asked(wanted: Wanted) -> dict[str, Any]:
    """The probe's own options, by their names on the command line."""
    limits = wanted.limits
    own = asdict(wanted) | {"epsilon": limits.epsilon, "ppl-factor": limits.perplexity, "max-kl": limits.divergence}
    return {key: value for key, value in own.items() if value is not None and key != "limits"}


def attack_of(session: Session, name: str | None) -> str:
    """The attack whose rate makes the curve; BrittleError where the run has none, or none of that name."""
    roles = {
        leaf.name: (own_metadata(session.tasks[leaf.name]) or {}).get("role")
        for leaf in session.leaves
        if leaf.name in session.tasks
    }
    return chosen([task for task, role in roles.items() if role == "attack"], name)


def chosen(attacks: Sequence[str], name: str | None) -> str:
    """The attack of that name, else the first; BrittleError where there is none."""
    if not attacks or (name is not None and name not in attacks):
        asked = f"--attack {name}: " if name else ""
        known = ", ".join(attacks) or "none"
        raise BrittleError(f"{asked}expected an attack among the run's tasks, which has {known}: name one with --tasks")
    return name or attacks[0]


def concluded(rows: Sequence[Row], by_share: Mapping[str, str], prepared: Prepared, wanted: Wanted) -> dict[str, Any]:
    """What the rows say."""
    unedited = next(row for row in rows if row.kind == "unedited")
    attacks = [task.task for task in unedited.tasks if task.role == "attack" and "not_refused_coherent" in task.values]
    attack, sizes = chosen(attacks, wanted.attack), _sizes(rows, by_share)
    points, known = curves(sizes, unedited, attack, wanted.limits), power(unedited)
    return {
        "schema": SCHEMA,
        "model": prepared.model_name,
        "attribution": wanted.attribution,
        "attack": attack,
        "p": wanted.p,
        "epsilon": wanted.limits.epsilon,
        "limits": asdict(wanted.limits),
        "unit": "ranks" if any("ranks" in size.rows["edited"].region for size in sizes) else "entries",
        "sizes": [_described(size) for size in sizes],
        "points": points,
        "b50": b50(sizes, points["edited"], unedited, attack),
        "area": {name: area_of(of) for name, of in points.items() if len(of) > 1},
        "utility_power": known.known,
        "utility": known.text,
        "seeds": [prepared.options.seed],
    }


def _sizes(rows: Sequence[Row], by_share: Mapping[str, str]) -> list[Size]:
    """The regions of different sizes, by what they really take; a size at which no more is left takes no more."""
    found: dict[int, Size] = {}
    for plan in by_share.values():
        own = [row for row in rows if row.recipe == plan]
        edited = next(row for row in own if row.kind == "edited")
        controls = {row.name.removeprefix(f"{edited.name}."): row for row in own if row.kind == "control"}
        region = edited.region
        count = int(region.get("ranks", region.get("count", 0)))
        found.setdefault(
            count, Size(region.get("of_ranks", region.get("of_block_linears", 0.0)), count, {"edited": edited} | controls)
        )
    return list(found.values())


def _described(size: Size) -> dict[str, Any]:
    controls = {name: row.name for name, row in size.rows.items() if name != "edited"}
    return {"share": size.share, "count": size.count, "edited": size.rows["edited"].name, "controls": controls}


def _plain(number: float) -> str:
    """As one would type it, without an exponent."""
    return f"{Decimal(repr(number)).normalize():f}"
