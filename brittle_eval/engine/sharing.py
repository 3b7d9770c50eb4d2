"""Which weights read the very same input, so that a method may keep one state for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example, collate, input_device
from brittle_eval.methods import Attribution
from brittle_eval.weights import Address

Sites = Sequence[Sequence[Address]]
"""The weights that keep one state, together; a state is that of the first of them."""


def sites(
    model: PreTrainedModel,
    method: Attribution,
    addresses: Sequence[Address],
    behaviours: Mapping[str, Sequence[Example]],
    pad_id: int,
) -> Sites:
    """Every weight alone, but for a method that `shares`: then those of a block that read one input, as a short example shows."""
    examples = [example for known in behaviours.values() for example in known]
    if method.shares and addresses and examples:
        return readers(model, addresses, min(examples, key=lambda example: len(example.ids)), pad_id)
    return [[address] for address in addresses]


def readers(model: PreTrainedModel, addresses: Sequence[Address], example: Example, pad_id: int) -> list[list[Address]]:
    """The weights of a block by what they read in a pass over one example, in the model's order.

    One object is one input, unless it was changed in place in between, which its version counts. An expert shares nothing: it
    reads tokens of its own. Nor do two blocks, so that it does not matter which blocks are attributed together.
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
        own = (address.block, read[address.name]) if read[address.name] else address  # one that was not reached stays alone
        groups.setdefault(own, []).append(address)
    return list(groups.values())
