"""Memory that goes back to the system when it is free.

On the heap, what is kept for long settles in the gaps that large passing copies leave; the next of these no longer fits there,
and in the end the process holds several times what it uses: a copy of the model, where it should hold one weight.
"""

from __future__ import annotations

import contextlib
import ctypes
from mmap import mmap

import torch
from torch import Tensor

SMALLEST = 1 << 20
"""Bytes from which a copy has memory pages of its own: each is a mapping, and a process may have some 65,000."""


def paged(value: Tensor) -> Tensor:
    """A copy, which on a processor lies in memory pages of its own."""
    size = value.numel() * value.element_size()
    if value.device.type != "cpu" or size < SMALLEST:
        return value.clone()
    return torch.frombuffer(mmap(-1, size), dtype=value.dtype).view(value.shape).copy_(value)


def trim() -> None:
    """Give back what is free on the heap, gaps included; where the C library cannot (it is not glibc), nothing happens."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
