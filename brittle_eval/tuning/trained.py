"""Chains with a training in them: what came before is kept, what comes out is kept, and all of it is undone bit for bit."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example
from brittle_eval.engine.attribute import Pass, accumulate, scores
from brittle_eval.engine.edit import edited, prove, uninterrupted
from brittle_eval.engine.isolate import as_weight
from brittle_eval.engine.sharing import sites
from brittle_eval.engine.steering import steered
from brittle_eval.errors import BrittleError, blaming
from brittle_eval.hooks import HookModification
from brittle_eval.methods import Attribution, Context, Modification
from brittle_eval.regions import Region
from brittle_eval.store import region_digest
from brittle_eval.tuning.delta import apply_delta, save_delta
from brittle_eval.tuning.hold import share_inside
from brittle_eval.tuning.snapshot import Snapshot
from brittle_eval.weights import Address, Fingerprint, find_weights

COURSE = ".checkpoint"


@contextmanager
def applied(
    model: PreTrainedModel,
    addresses: Sequence[Address],
    region: Region,
    modifications: Sequence[Modification],
    context: Context,
    fingerprint: Fingerprint,
) -> Iterator[list[str]]:
    """The model with a chain of modifications applied; gives the touched parameters. Undone bit for bit, as `edited` is.

    Neighbours that `edit` are one edit with one cast. One that trains sees what those before it made, and those after it edit
    what it made. Hooks come last.
    """
    hooks = [modification for modification in modifications if isinstance(modification, HookModification)]
    weights = [modification for modification in modifications if modification not in hooks]
    with ExitStack() as stack:
        names = stack.enter_context(_changed(model, addresses, region, weights, context, fingerprint)) if weights else []
        if hooks:
            stack.enter_context(steered(model, find_weights(model)[0], region, hooks, fingerprint))
        yield names


@contextmanager
def _changed(
    model: PreTrainedModel,
    addresses: Sequence[Address],
    region: Region,
    modifications: Sequence[Modification],
    context: Context,
    fingerprint: Fingerprint,
) -> Iterator[list[str]]:
    """The same of modifications that change weights."""
    if not any(modification.trains for modification in modifications):
        with edited(model, addresses, region, modifications, context, fingerprint) as names:
            yield names
        return
    if context.tuning is None:
        raise BrittleError(f"{modifications} trains a model, which only a run of brittle-eval can do")
    with snapshot(model, context, fingerprint) as known, ExitStack() as stack:
        every, _ = find_weights(model)
        touched: dict[str, None] = {}
        for trains, group in groupby(modifications, key=lambda modification: modification.trains):
            for part in [[one] for one in group] if trains else [list(group)]:
                if trains:
                    start = stack.enter_context(snapshot(model, context, fingerprint)) if touched else known
                    names = _train(model, region, part[0], context, fingerprint, start.weights(every))
                else:
                    now = known.weights(every)
                    names = stack.enter_context(edited(model, addresses, region, part, context, fingerprint, now))
                touched |= dict.fromkeys(names)
        yield list(touched)


@contextmanager
def snapshot(model: PreTrainedModel, context: Context, fingerprint: Fingerprint) -> Iterator[Snapshot]:
    """A snapshot of the model, which is that again on leaving, by an exception and Ctrl-C as well, as all digests prove."""
    assert context.tuning is not None
    parameters = dict(model.named_parameters())
    entered = {name: fingerprint.content(name) for name in parameters}
    known = Snapshot(model, context.tuning.memory, context.tuning.folder)
    try:
        yield known
    finally:
        with uninterrupted(), torch.no_grad():
            known.restore(parameters)
            prove(entered, fingerprint)


@contextmanager
def in_training(model: PreTrainedModel) -> Iterator[None]:
    """All parameters in float32 and ready to train; on leaving, modules, dtypes and flags are what they were."""
    modules = [(module, name, child) for module in model.modules() for name, child in module.named_children()]
    parameters = [(value, value.dtype, value.requires_grad) for value in model.parameters()]
    try:
        for value, _, _ in parameters:
            value.data = value.data.float()
            value.requires_grad_(True)
        yield
    finally:
        with uninterrupted():
            for module, name, child in modules:
                if module.get_submodule(name) is not child:
                    module.register_module(name, child)
            for value, dtype, trained in parameters:
                value.grad = None
                value.data = value.data.to(dtype)
                value.requires_grad_(trained)
            model.eval()


def _train(
    model: PreTrainedModel,
    region: Region,
    modification: Modification,
    context: Context,
    fingerprint: Fingerprint,
    start: Mapping[str, Tensor],
) -> list[str]:
    """Train, or take what this very training gave before; the names of the parameters that changed."""
    assert context.tuning is not None
    tuning, names = context.tuning, [name for name, _ in model.named_parameters()]
    entered = {name: fingerprint.part(name) for name in names}
    header = _header(modification, region, tuning.seed, str(fingerprint))
    file, course = tuning.folder / f"{_named(header)}.safetensors", _course(tuning.folder, header, modification)
    known = apply_delta(file, model, header["before"]) if file.exists() else None
    if known is None:
        own = replace(
            tuning,
            folder=course,
            start=start,
            now=Live(model),
            attribute=partial(_attributed, model, context, tuning.pad_id),
        )
        header["notes"] = _apply(model, region, modification, replace(context, tuning=own))
    fingerprint.refresh(names)
    changed = [name for name in names if fingerprint.part(name) != entered[name]]
    if known is None:
        _check(model, changed, modification)
        save_delta(file, model, changed, header | {"after": str(fingerprint)})
        if modification == modification.course:
            shutil.rmtree(course, ignore_errors=True)
    elif known["after"] != str(fingerprint):
        raise BrittleError(f"the trained weights of {file} do not fit their fingerprint: remove the file to train again")
    else:
        tuning.say(f"{type(modification).__name__.lower()}: trained before, taken from {file}")
    inside = share_inside(region, model, start)
    if inside is not None:
        tuning.say(f"{type(modification).__name__.lower()}: ‖ΔW in the region‖ / ‖ΔW‖ = {inside:.3g}")
    notes = header["notes"] if known is None else known["notes"]
    tuning.noted[type(modification).__name__.lower()] = {**notes, "inside": inside}
    return changed


class Live(Mapping[str, Tensor]):
    """Every weight (out, in) of a model by name, as it is when it is asked for; shares memory with the model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model, self._addresses = model, {address.name: address for address in find_weights(model)[0]}

    def __getitem__(self, name: str) -> Tensor:
        return self._addresses[name].view(self._model)

    def __iter__(self) -> Iterator[str]:
        return iter(self._addresses)

    def __len__(self) -> int:
        return len(self._addresses)


def _attributed(
    model: PreTrainedModel, context: Context, pad_id: int, method: Attribution, examples: Sequence[Example]
) -> dict[str, Tensor]:
    """The method's scores of every weight that it reached, of the model as it is."""
    addresses, data = find_weights(model)[0], {"training": examples}
    weights = {one: as_weight(model, one, context, base="base" in method.needs) for one in addresses}
    together = sites(model, method, addresses, data, pad_id)
    states = accumulate(model, method, weights, data, Pass(pad_id), together)["training"]
    found = {one.name: scores(method, one, states.pop(one.name)) for one in weights.values() if one.name in states}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _header(modification: Modification, region: Region, seed: int, before: str) -> dict[str, Any]:
    own = region_digest(region) if modification.asks_region else None
    return {"modification": str(modification), "seed": seed, "before": before, "region": own}


def _named(header: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(header).encode(), digest_size=6).hexdigest()


def _course(folder: Path, header: Mapping[str, Any], modification: Modification) -> Path:
    """Where the checkpoints of a training lie, and of those that go on behind it."""
    return folder / f"{_named({**header, 'modification': str(modification.course)})}{COURSE}"


def forget_courses(folder: Path) -> None:
    """Remove the checkpoints of trainings that stopped on their way, once nobody goes on behind them."""
    for course in folder.glob(f"*{COURSE}"):
        shutil.rmtree(course, ignore_errors=True)


def _apply(model: PreTrainedModel, region: Region, modification: Modification, context: Context) -> dict[str, Any]:
    assert context.tuning is not None
    try:
        with in_training(model), blaming(modification):
            return dict(modification.apply(model, region, context))
    except BrittleError:
        shutil.rmtree(context.tuning.folder, ignore_errors=True)  # it would end there again
        raise


def _check(model: PreTrainedModel, changed: Sequence[str], modification: Modification) -> None:
    for name in changed:
        value = model.get_parameter(name)
        if not bool(torch.stack(value.detach().aminmax()).isfinite().all()):
            raise BrittleError(f"{modification} left {name} not finite in {value.dtype}: lower the learning rate")
