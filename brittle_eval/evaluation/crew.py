"""A run in several processes: the first does all of it, and the others work at shares, with its weights in their models."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from brittle_eval.errors import BrittleError
from brittle_eval.weights import Fingerprint

LONG = timedelta(weeks=52)
"""How long a process waits for the first one, which may attribute or train for hours."""


class Key(Hashable, Sized, Protocol):
    """A text, or token ids."""


Item = TypeVar("Item")
Result = TypeVar("Result")


def processes() -> int:
    """In how many processes this run was started, as by `accelerate launch` or `torchrun`."""
    return int(os.environ.get("WORLD_SIZE") or 1)


@dataclass(frozen=True)
class _Task:
    """Work of one kind, a part for every helper; first the changed parameters come, one after the other."""

    kind: str
    parts: list[Any]
    fingerprint: str
    changed: list[str]


@dataclass(frozen=True)
class _Failed:
    said: str


def join() -> int:
    """Meet the other processes; the number of this one. Their words go over the CPU, whatever their models run on."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=LONG)
    return int(dist.get_rank())


def tell(message: Any) -> None:
    """From the first process to all others; None ends their work."""
    dist.broadcast_object_list([message], src=0)


def hear() -> Any:
    """What the first process tells."""
    heard: list[Any] = [None]
    dist.broadcast_object_list(heard, src=0)
    return heard[0]


def dismiss() -> None:
    """Let the others end."""
    with suppress(RuntimeError):  # they are gone already, and why the first process ends is said by what it raises
        tell(None)


class Helpers:
    """The other processes, seen from the first: before each work their models get the weights that changed in its own."""

    def __init__(self, model: nn.Module, fingerprint: Fingerprint) -> None:
        """All have loaded the same checkpoint; the model's fingerprint is kept up to date by whoever edits it."""
        self.count, self._model, self._fingerprint = int(dist.get_world_size()) - 1, model, fingerprint
        self._sent = {name: fingerprint.part(name) for name, _ in model.named_parameters()}

    @contextmanager
    def working(self, kind: str, parts: Sequence[Any]) -> Iterator[list[Any]]:
        """While inside, each helper works at a part; on leaving, the list has their results. RuntimeError if one fails."""
        changed = [name for name, known in self._sent.items() if self._fingerprint.part(name) != known]
        tell(_Task(kind, list(parts), str(self._fingerprint), changed))
        for name in changed:
            dist.broadcast(_bytes(self._model.get_parameter(name)), src=0)
            self._sent[name] = self._fingerprint.part(name)
        results: list[Any] = []
        try:
            yield results
        finally:
            every: list[Any] = [None] * (self.count + 1)
            dist.gather_object(None, every, dst=0)
            results += every[1 : len(parts) + 1]
        for number, found in enumerate(every[1:], 1):
            if isinstance(found, _Failed):
                raise RuntimeError(f"process {number} of the run failed: {found.said}")


def _bytes(value: Tensor) -> Tensor:
    """A copy on the CPU that any transport can carry."""
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def help_out(model: nn.Module, work: Mapping[str, Callable[[Any], Any]]) -> None:
    """Follow the first process until it needs no more help: take its weights, do a part of each work, and give the result."""
    fingerprint, number = Fingerprint(model), int(dist.get_rank())
    while isinstance(task := hear(), _Task):
        try:
            _follow(model, task.changed, fingerprint)
            if str(fingerprint) != task.fingerprint:
                raise BrittleError("its model is not the first process's: give all machines the same checkpoint and versions")
            result = work[task.kind](task.parts[number - 1]) if number <= len(task.parts) else None
        except Exception as error:  # the first process raises it
            result = _Failed(f"{type(error).__name__}: {error}")
        dist.gather_object(result, None, dst=0)


def _follow(model: nn.Module, changed: Sequence[str], fingerprint: Fingerprint) -> None:
    for name in changed:
        own = model.get_parameter(name)
        received = torch.empty(own.numel() * own.element_size(), dtype=torch.uint8)
        dist.broadcast(received, src=0)
        with torch.no_grad():
            own.copy_(received.view(own.dtype).reshape(own.shape))
    fingerprint.refresh(changed)


def shared(
    helpers: Helpers | None,
    kind: str,
    items: Sequence[Item],
    own: Callable[[Sequence[Item]], list[Result]],
    key: Callable[[Item], Key],
) -> list[Result]:
    """`own(items)`, each process at a part: items of one key stay together, the longest keys are dealt first."""
    if helpers is None or not items:
        return own(items)
    together: dict[Key, list[int]] = {}
    for place, item in enumerate(items):
        together.setdefault(key(item), []).append(place)
    ordered, count = [together[one] for one in sorted(together, key=len, reverse=True)], helpers.count + 1
    parts = [[place for places in ordered[start::count] for place in places] for start in range(count)]
    with helpers.working(kind, [[items[place] for place in part] for part in parts[1:]]) as others:
        mine = own([items[place] for place in parts[0]])
    found = dict(zip(chain(*parts), chain(mine, *others), strict=True))
    return [found[place] for place in range(len(items))]
