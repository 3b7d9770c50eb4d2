"""Apply a chain of modifications to a model in memory and undo it bit for bit, whatever happens in between."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from brittle_eval.engine.isolate import as_weight
from brittle_eval.errors import BrittleError, blaming
from brittle_eval.methods import Context, Modification
from brittle_eval.regions import Part, Region
from brittle_eval.weights import Address, Content, Fingerprint, checksum


@dataclass(frozen=True)
class _Undo:
    """Old content of one weight: values at the changed positions if fewer than half changed, else all of them."""

    address: Address
    old: Tensor
    positions: Tensor | None

    @classmethod
    def record(cls, address: Address, old: Tensor, new: Tensor) -> _Undo:
        changed = _bits(old).ne(_bits(new)).reshape(-1)
        if int(changed.count_nonzero()) * 2 < changed.numel():
            positions = changed.nonzero().squeeze(1)
            return cls(address, old.reshape(-1)[positions].clone(), positions)
        return cls(address, old.clone(), None)

    def restore(self, model: nn.Module) -> None:
        view = self.address.view(model)
        if self.positions is None:
            view.copy_(self.old)
        else:
            flat = view.reshape(-1)
            flat[self.positions] = self.old
            view.copy_(flat.reshape(view.shape))


def _bits(value: Tensor) -> Tensor:
    return value.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()])


Edit = Callable[[Address, Part, Sequence[Modification]], None]
"""Applies modifications to a part of one weight, in the model."""


@contextmanager
def editing(
    model: nn.Module, context: Context, fingerprint: Fingerprint, before: Mapping[str, Tensor] | None = None
) -> Iterator[Edit]:
    """Gives the function that edits a weight, each once; `before` has the weights from before a chain that has already begun.

    On leaving (also by an exception or Ctrl-C) every weight has its old bytes again, as the touched parameters' checksums prove.
    """
    undo: list[_Undo] = []
    entered: dict[str, Content] = {}

    def edit(address: Address, part: Part, modifications: Sequence[Modification]) -> None:
        entered.setdefault(address.parameter_name, fingerprint.content(address.parameter_name))
        with torch.no_grad():
            _apply(model, address, part, modifications, context, undo, before)

    try:
        yield edit
    finally:
        with uninterrupted(), torch.no_grad():
            for entry in reversed(undo):
                entry.restore(model)
            prove(entered, fingerprint)


@contextmanager
def edited(
    model: nn.Module,
    addresses: Sequence[Address],
    region: Region,
    modifications: Sequence[Modification],
    context: Context,
    fingerprint: Fingerprint,
    before: Mapping[str, Tensor] | None = None,
) -> Iterator[list[str]]:
    """The model with the modifications applied to the region, undone as `editing` undoes; gives the touched parameters."""
    touched = [address for address in addresses if address.name in region]
    with editing(model, context, fingerprint, before) as edit:
        for address in touched:
            edit(address, region[address.name], modifications)
        names = list(dict.fromkeys(address.parameter_name for address in touched))  # experts of a fused one share it
        fingerprint.refresh(names)
        yield names


def _apply(
    model: nn.Module,
    address: Address,
    part: Part,
    modifications: Sequence[Modification],
    context: Context,
    undo: list[_Undo],
    known: Mapping[str, Tensor] | None,
) -> None:
    view = address.view(model)
    before = view.clone()
    earlier = before if known is None else known[address.name].to(before.device)
    value = before.clone()  # a method that works in place spoils its own copy only
    sources: Callable[[Any], Mapping[str, Tensor]] = lambda which: (  # noqa: E731
        {address.name: earlier} if which == "before" else context.weights(which)
    )
    chain = replace(context, weights=sources)
    for modification in modifications:
        weight = replace(as_weight(model, address, chain, base="base" in modification.needs), value=value)
        with blaming(modification):
            value = modification.edit(weight, part, chain)
        if value.shape != before.shape:
            given, wanted = tuple(value.shape), tuple(before.shape)
            raise BrittleError(f"{type(modification).__name__} gave shape {given} for {address.name}, expected {wanted}")
    new = value.to(before.dtype)
    if not bool(torch.stack(new.aminmax()).isfinite().all()):  # one look at each entry; NaN is its own extreme
        raise BrittleError(f"the edit of {address.name} is not finite in {before.dtype}: use dtype=float32 or a smaller strength")
    undo.append(_Undo.record(address, view, new))
    view.copy_(new)


def prove(entered: Mapping[str, Content], fingerprint: Fingerprint) -> None:
    """Every parameter holds what it held; anything else is a bug."""
    wrong = [name for name, content in entered.items() if not fingerprint.returned(name, content)]
    if wrong:
        raise RuntimeError(f"{len(wrong)} weights were not restored, first {wrong[0]}: this is a bug")


def check_digests(model: nn.Module, fingerprint: Fingerprint, names: Sequence[str]) -> None:
    """Error if a parameter is not what the edit left: wrapping a model re-ties its weights, and that must not undo an edit."""
    for name in names:
        if checksum(model.get_parameter(name)) != fingerprint.content(name).checksum:
            raise RuntimeError(f"{name} changed after its edit: something undid the modification")


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the weights are restored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    old = signal.signal(signal.SIGINT, lambda number, frame: waiting.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old)
    if waiting:
        signal.raise_signal(signal.SIGINT)
