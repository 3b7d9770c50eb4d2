"""An edit of a finished run written to local disk: found again, proved to be the measured one, and described by a card."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import save_file

from brittle_eval.engine.edit import editing
from brittle_eval.engine.isolate import whole_region
from brittle_eval.errors import BrittleError, UnknownName
from brittle_eval.evaluation.lm import BrittleHFLM, load_lm
from brittle_eval.exporting.deltas import FILES, Delta, Form, adapter_config, fitting, taker
from brittle_eval.exporting.export_card import card
from brittle_eval.exporting.licences import licence_of
from brittle_eval.judgement.rejudge import finished
from brittle_eval.leaderboard.gather import Found
from brittle_eval.methods import Context
from brittle_eval.organisms.organism import free
from brittle_eval.regions import Region
from brittle_eval.running.base import base_weights, stream
from brittle_eval.running.prepare import Chain, Options, Prepared, load_arguments, prepare
from brittle_eval.running.record import Row, RunFolder, sha256, write_json
from brittle_eval.store import load_region
from brittle_eval.weights import Address, Fingerprint, find_weights

Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """The command's arguments."""

    run: Path
    output: Path
    row: str | None = None
    form: Form | None = None
    full_weights: bool = False
    licence: str | None = None


def export(asked: Asked, say: Say = print) -> Path:
    """Write the edit of a run's row into a new folder, readable by its owner only, whole or not at all.

    BrittleError: a run that is not finished, a row that is no edit, a region file or a model that is not the run's, a form
    that cannot hold the edit, a folder that exists or cannot be written.
    """
    free(asked.output)
    folder = RunFolder.stored(asked.run)
    rows = finished(folder)
    row = _row(rows, asked)
    prepared = _prepared(folder, row)
    region = _region(folder, row, prepared.chains[0])
    form = asked.form or (fitting(region) if region is not None else "sparse")
    licence = licence_of(prepared.model_name, prepared.model_card, asked.licence)
    if not licence.known:
        say(f"licence of {prepared.model_name}: {licence.words}; --licence TEXT puts it into the card")
    with _made(asked.output) as part:
        lm = load_lm(load_arguments(prepared)[0], prepared.options.device, 1, prepared.options.seed)
        _write(part, lm, prepared, row, rows, region, Delta(form), full=asked.full_weights)
        for file in licence.files:
            shutil.copyfile(file, part / file.name)
        digests = {f"`{file.name}`": sha256(file) for file in sorted(part.glob("*.safetensors"))}
        digests |= {f"the run's {name}": digest for name, digest in row.files.items() if name.startswith("regions/")}
        shown = [Found(one, folder.path) for one in rows if one.kind == "unedited" or one.recipe == row.recipe]
        dtype = str(lm.model.dtype).removeprefix("torch.")
        text = card(row, shown, "full" if asked.full_weights else form, licence, dtype, digests)
        (part / "README.md").write_text(text, encoding="utf-8")
    return asked.output


def _row(rows: list[Row], asked: Asked) -> Row:
    edits = {row.name: row for row in rows if row.kind == "edited"}
    if asked.row is not None and asked.row not in edits:
        raise UnknownName(f"edit of {asked.run}", asked.row, edits)
    if asked.row is None and len(edits) != 1:
        known = ", ".join(edits) or "none"
        raise BrittleError(f"{asked.run} has {len(edits)} edits ({known}): name one as {asked.run}:NAME")
    return edits[asked.row or next(iter(edits))]


def _prepared(folder: RunFolder, row: Row) -> Prepared:
    """The run as it was asked for, of this row's plan alone, and without what only an evaluation needs."""
    names = {one.name for one in fields(Options)}
    known = {key: value for key, value in folder.config.items() if key in names}
    options = TypeAdapter(Options).validate_python(known | {"modify": [row.recipe], "preset": None})
    prepared = prepare(
        replace(options, data=(), behaviours=(), judges=("refusal",), stop_when_decided=False, condition=None, metadata=None)
    )
    if prepared.chains[0].hooks:
        raise BrittleError(f"row {row.name} of {row.recipe} acts while the model runs and changes no weights: nothing to export")
    if str(prepared.chains[0].plan) != row.plan:
        raise BrittleError(
            f"'{row.recipe}' is {prepared.chains[0].plan} in this installation, and the run's was {row.plan}: install its version"
        )
    return prepared


def _region(folder: RunFolder, row: Row, chain: Chain) -> Region | None:
    """The plan's region, or None for one without an isolation."""
    if chain.isolation is None:
        return None
    name = next((name for name in row.files if name.startswith("regions/")), None)
    if name is None:
        raise BrittleError(f"row {row.name} names no region file, as rows of schema 1 do not: repeat the run in a new folder")
    file = folder.path / name
    if file.is_file() and (found := sha256(file)) != row.files[name]:
        raise BrittleError(f"{file} has sha256 {found}, and the row was measured with {row.files[name]}: repeat the run")
    return load_region(file)[0]


def _write(
    part: Path, lm: BrittleHFLM, prepared: Prepared, row: Row, rows: list[Row], region: Region | None, delta: Delta, *, full: bool
) -> None:
    """The edit's file, or with `full` the edited model and its tokenizer; the edit must give the very model that was measured."""
    model, fingerprint = lm.model, Fingerprint(lm.model)
    _same(str(fingerprint), next(one.fingerprint for one in rows if one.kind == "unedited"), prepared.model_name)
    addresses = find_weights(model)[0]
    (chain,) = prepared.chains
    scoped = chain.scope.of(addresses)
    region = whole_region(model, scoped) if region is None else region
    touched = [address for address in scoped if address.name in region]
    take = taker(delta)
    with editing(model, _context(prepared, lm, addresses), fingerprint) as edit:
        for address in touched:
            before = address.view(model).clone()
            edit(address, region[address.name], chain.modifications)
            if not full:
                take(model, address, region[address.name], before)
        fingerprint.refresh(list(dict.fromkeys(address.parameter_name for address in touched)))
        _same(str(fingerprint), row.fingerprint, f"{prepared.model_name} edited by {row.recipe}")
        if full:
            model.save_pretrained(part)
            lm.tokenizer.save_pretrained(part)
    if not full:
        save_file(delta.tensors, part / FILES[delta.form], metadata=delta.metadata)
        if delta.form == "lora":
            write_json(part / "adapter_config.json", adapter_config(delta, prepared.model_name))


def _context(prepared: Prepared, lm: BrittleHFLM, addresses: list[Address]) -> Context:
    """What modifications may ask for, as in the run."""

    def weights(which: str) -> Any:
        return base_weights(prepared, lm.model, addresses)

    return Context(lambda name: stream(prepared.options.seed, name), weights)


def _same(found: str, measured: str, what: str) -> None:
    if found != measured:
        raise BrittleError(
            f"{what} has the fingerprint {found}, and the run measured {measured}: export on the machine and with the versions "
            "of the run, or run again"
        )


@contextmanager
def _made(output: Path) -> Iterator[Path]:
    """A folder that takes its place when it is whole, readable by its owner only."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as name:
            part = Path(name) / "part"
            part.mkdir(mode=0o700)
            yield part
            for file in part.rglob("*"):
                file.chmod(0o700 if file.is_dir() else 0o600)
            part.rename(output)
    except (OSError, SafetensorError) as error:
        raise BrittleError(f"cannot write {output}: {error}; free some space or give another --output") from error
