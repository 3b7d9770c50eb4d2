"""A model's parameters as they were, bit for bit: in pages of their own, or in a memory-mapped file where memory is short."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from mmap import mmap
from os import posix_fallocate
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from brittle_eval.errors import BrittleError
from brittle_eval.pages import paged
from brittle_eval.weights import Address

ALIGNED = 64
"""Where a parameter may begin in the file, in bytes."""


class Snapshot(Mapping[str, Tensor]):
    """Copies of all parameters by name, in the computer's memory; read them only.

    More than `memory` bytes go into a file in `folder` that has no name, so that nothing is left of it whatever happens.
    BrittleError where the disk has no room.
    """

    def __init__(self, model: nn.Module, memory: int, folder: Path | None = None) -> None:
        parameters = {name: value.data for name, value in model.named_parameters()}
        size = sum(-(-value.nbytes // ALIGNED) * ALIGNED for value in parameters.values())
        self.on_disk = size > memory
        if not self.on_disk:
            self._values = {name: paged(value) if value.is_cpu else value.cpu() for name, value in parameters.items()}
            return
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            self._values = _mapped(file, parameters, size)

    def __getitem__(self, name: str) -> Tensor:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def restore(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Give the parameters their old bytes."""
        for name, value in self._values.items():
            parameters[name].data.copy_(value)

    def weights(self, addresses: Sequence[Address]) -> Weights:
        """The same by weight, (out, in)."""
        return Weights(self, addresses)


class Weights(Mapping[str, Tensor]):
    """Weights (out, in) of a snapshot by name."""

    def __init__(self, snapshot: Snapshot, addresses: Sequence[Address]) -> None:
        self._snapshot, self._addresses = snapshot, {address.name: address for address in addresses}

    def __getitem__(self, name: str) -> Tensor:
        address = self._addresses[name]
        return address.of(self._snapshot[address.parameter_name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._addresses)

    def __len__(self) -> int:
        return len(self._addresses)


def _mapped(file: BinaryIO, parameters: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """The parameters in a file that is mapped into memory: the system may drop their pages and read them again."""
    try:
        posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise BrittleError(
            f"cannot keep {size / 2**30:.3g} GiB of weights on disk ({error.strerror}): free some space, or raise --memory"
        ) from None
    pages, place, values = mmap(file.fileno(), size), 0, {}
    for name, value in parameters.items():
        flat = torch.frombuffer(pages, dtype=value.dtype, count=value.numel(), offset=place)
        values[name] = flat.view(value.shape).copy_(value)
        place += -(-value.nbytes // ALIGNED) * ALIGNED
    return values
