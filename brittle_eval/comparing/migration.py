"""Units before and after a training: sorted by an isolation on both models, and how many went from which kind to which."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from brittle_eval.engine.anatomy import find_units
from brittle_eval.engine.region_finder import RegionFinder
from brittle_eval.errors import BrittleError
from brittle_eval.options import options_of
from brittle_eval.plugins import Plugins
from brittle_eval.regions import Region
from brittle_eval.running.prepare import Chain, Options, Prepared, output_folder, prepare
from brittle_eval.running.record import RunFolder
from brittle_eval.running.run import configuration, open_session
from brittle_eval.running.session import Session
from brittle_eval.running.table import terminal
from brittle_eval.running.tuner import with_tuning
from brittle_eval.tuning.trained import applied
from brittle_eval.units import Unit

Say = Callable[[str], None]
PART = "part"
"""The option of an isolation that says which kind of units it takes."""


def kind_plans(text: str, plugins: Plugins) -> dict[str, str]:
    """A plan for each kind; BrittleError for what is no attribution and isolation, or sorts nothing into kinds."""
    words, _, options = text.partition(":")
    name = words.rpartition("+")[2]
    if words.count("+") != 1:
        raise BrittleError(f"--kinds {text}: expected ATTRIBUTION+ISOLATION[:key=value,…]")
    known = options_of(plugins.get("isolation", name))
    kinds = get_args(known[PART].annotation) if PART in known else ()
    if not kinds:
        raise BrittleError(f"--kinds {text}: '{name}' has no option {PART} that names kinds of units: take one such as four-way")
    given = f",{options}" if options else ""
    return {kind: f"{words}+ablate:{name}.{PART}={kind}{given}" for kind in kinds}


def migration(options: Options, kinds: str, say: Say = print) -> tuple[dict[str, Any], Path]:
    """Sort the units, train, sort them again on the same pairs; gives what `migration.json` holds, and the folder.

    BrittleError for a plan that trains nothing, or several plans.
    """
    by_kind = kind_plans(kinds, Plugins.load(options.plugins))
    if len(options.modify) != 1:
        raise BrittleError(
            f"{len(options.modify)} plans were given: expected one --modify with a training, such as finetune:n=100"
        )
    prepared = prepare(replace(options, modify=(*by_kind.values(), *options.modify), seeds=1))
    chains = {chain.name: chain for chain in prepared.chains}
    training = chains[options.modify[0]]
    if not any(modification.trains for modification in training.modifications):
        raise BrittleError(f"--modify {training.name} trains nothing: expected a plan with a training, such as finetune:n=100")
    folder = RunFolder(output_folder(prepared), configuration(prepared))
    with folder.opened():
        found = folder.read_json("migration.json")
        if found is None:
            session = open_session(prepared, folder, say)
            sorted_by = {kind: chains[plan] for kind, plan in by_kind.items()}
            found = {"kinds": kinds, "training": training.name, "model": prepared.model_name, "seed": options.seed}
            found |= counted(*_both(prepared, session, folder, sorted_by, training, say))
            folder.write_json("migration.json", found)
    return found, folder.path


Regions = Mapping[str, Region]


def _both(
    prepared: Prepared, session: Session, folder: RunFolder, kinds: Mapping[str, Chain], training: Chain, say: Say
) -> tuple[list[Unit], Regions, Regions]:
    """The units, and the regions of all kinds before and after the training."""
    finder = RegionFinder(prepared, session, folder, say)
    before = {kind: finder.region(chain) for kind, chain in kinds.items()}
    region, context = finder.region(training), with_tuning(finder.context, prepared, session, folder, say)
    scoped = finder.scoped[training.name]
    with applied(session.model, scoped, region, training.modifications, context, session.fingerprint):
        inside = RunFolder(folder.path / "after", folder.config)
        if (folder.path / "behaviours").is_dir():  # the same pairs: what the trained model would answer is another question
            shutil.copytree(folder.path / "behaviours", inside.path / "behaviours", dirs_exist_ok=True)
        again = RegionFinder(prepared, session.within(prepared, inside), inside, say)
        after = {kind: again.region(chain) for kind, chain in kinds.items()}
        units = [unit for kind in ("mlp-channel", "query-head") for unit in find_units(session.model, session.addresses, kind)[0]]
    return units, before, after


def counted(units: Sequence[Unit], before: Regions, after: Regions) -> dict[str, Any]:
    """`matrix[i][j]`: units of kind i before that are of kind j after; `share` the same over those of kind i."""
    old, new = (_kinds(units, regions) for regions in (before, after))
    names = list(before)
    pairs = list(zip(old, new, strict=True))
    matrix = [[pairs.count((one, two)) for two in names] for one in names]
    sums = [sum(line) for line in matrix]
    share = [[count / total if total else None for count in line] for line, total in zip(matrix, sums, strict=True)]
    chance = [sum(column) / max(1, sum(sums)) for column in zip(*matrix, strict=True)]
    return {"parts": names, "matrix": matrix, "share": share, "chance": chance}


def _kinds(units: Sequence[Unit], regions: Regions) -> list[str | None]:
    """The kind of every unit, by the columns of the weight behind it; None for one that is in no region."""
    columns = {kind: {name: mask.dense().all(0) for name, mask in region.masks().items()} for kind, region in regions.items()}

    def kind_of(unit: Unit) -> str | None:
        member = next(one for one in unit.members if one.axis == 1)
        known = (
            kind for kind, of in columns.items() if member.weight in of and bool(of[member.weight][list(member.indices)].all())
        )
        return next(known, None)

    return [kind_of(unit) for unit in units]


def show(found: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the matrix: kinds before down, kinds after across."""
    console = console or terminal()
    console.print(f"\n{found['model']}, {found['kinds']}, before and after {found['training']}", markup=False, soft_wrap=True)
    table = Table(show_edge=False, pad_edge=False, box=SIMPLE_HEAD)
    for name in ("before \\ after", *found["parts"], "units"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, line, shares in zip(found["parts"], found["matrix"], found["share"], strict=True):
        cells = ("–" if share is None else f"{share:.1%} ({count:,})" for share, count in zip(shares, line, strict=True))
        table.add_row(name, *cells, f"{sum(line):,}")
    table.add_row("of all, by chance", *(f"{share:.1%}" for share in found["chance"]), "")
    console.print(table)
