"""Which weights read the very same input, so that a method may keep one state for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from brittle_eval.calibration import Example, collate, input_device
from brittle_eval.weights import Address


def readers(model: PreTrainedModel, addresses: Sequence[Address], example: Example, pad_id: int) -> list[list[Address]]:
    """The weights by what they read in a pass over one example, in the model's order.

    One object is one input, unless it was changed in place in between, which its version counts. An expert shares nothing: it
    reads tokens of its own.
    """
    read: dict[str, tuple[tuple[int, int], ...]] = {address.name: () for address in addresses}
    alive: list[Tensor] = []  # until the pass is over, so that no other tensor gets the id

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def note(module: nn.Module, args: tuple[Any, ...]) -> None:
            alive.append(args[0])
            read[name] += ((id(args[0]), args[0]._version),)

        return note

    with ExitStack() as stack, torch.no_grad():
        for address in (address for address in addresses if address.expert is None):
            handle = model.get_submodule(address.module).register_forward_pre_hook(hook(address.name))
            stack.callback(handle.remove)
        ids, mask, _ = collate([example], pad_id, input_device(model))
        model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False)
    groups: dict[object, list[Address]] = {}
    for address in addresses:
        groups.setdefault(read[address.name] or address, []).append(address)  # one that was not reached stays alone
    return list(groups.values())
