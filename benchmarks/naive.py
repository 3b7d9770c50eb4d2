"""Plain opponents: the released code's loops, block by block and one example at a time, written from their description.

Nothing but the benchmark uses them. Each gives what it found, so that a test can compare it with the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example
from brittle_eval.weights import Address, decoder_blocks


class _Stop(Exception):
    """The first block's inputs are there."""


def _first_inputs(model: PreTrainedModel, examples: Sequence[Example]) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """What enters the first block for every example, and the arguments beside it; the pass ends there."""
    caught: list[tuple[Tensor, dict[str, Any]]] = []

    def catch(module: object, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        caught.append((args[0], kwargs))
        raise _Stop

    handle = decoder_blocks(model)[0][1].register_forward_pre_hook(catch, with_kwargs=True)
    for example in examples:
        try:
            model.get_decoder()(input_ids=torch.tensor([example.ids]), use_cache=False)
        except _Stop:
            yield caught.pop()
    handle.remove()


@contextmanager
def _watched(model: PreTrainedModel, members: Sequence[Address], take: Callable[[str, Tensor], None]) -> Iterator[None]:
    """While inside, `take` gets every weight's inputs, (positions, in)."""
    with ExitStack() as stack:
        for address in members:
            module = model.get_submodule(address.module)
            hook = module.register_forward_hook(lambda module, args, output, name=address.name: take(name, args[0][0]))
            stack.callback(hook.remove)
        yield


@torch.no_grad()
def wanda(model: PreTrainedModel, addresses: Sequence[Address], examples: Sequence[Example]) -> dict[str, Tensor]:
    """Every block runs twice over all examples: with hooks that sum squares, and again for what enters the next block."""
    inputs = list(_first_inputs(model, examples))
    sums = {address.name: torch.zeros(address.view(model).shape[1]) for address in addresses}
    scores: dict[str, Tensor] = {}
    start = 0

    def add(name: str, value: Tensor) -> None:
        sums[name] += value[start:].float().norm(dim=0) ** 2

    for number, (_, block) in enumerate(decoder_blocks(model)):
        members = [address for address in addresses if address.block == number]
        with _watched(model, members, add):
            for example, (hidden, kwargs) in zip(examples, inputs, strict=True):
                start = example.start
                block(hidden, **kwargs)
        for address in members:
            scores[address.name] = address.view(model).float().abs() * sums[address.name].sqrt()
        inputs = [(block(hidden, **kwargs), kwargs) for hidden, kwargs in inputs]
    return scores


def snip(model: PreTrainedModel, addresses: Sequence[Address], examples: Sequence[Example], number: int) -> dict[str, Tensor]:
    """One block's scores, from forward and backward passes of the whole model with all weight gradients on."""
    members = [address for address in addresses if address.block == number]
    totals = {address.name: torch.zeros(address.view(model).shape) for address in members}
    for example in examples:
        model.zero_grad()
        ids = torch.tensor([example.ids])
        labels = ids.clone()
        labels[:, : example.start] = -100
        model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        for address in members:
            grad = address.parameter(model).grad
            assert grad is not None
            totals[address.name] += (grad.T if address.transposed else grad).abs().float()
    model.zero_grad()
    return {a.name: a.view(model).float().abs() * totals[a.name] / len(examples) for a in members}


@torch.no_grad()
def actsvd(model: PreTrainedModel, addresses: Sequence[Address], examples: Sequence[Example], number: int) -> dict[str, Tensor]:
    """One block's output directions, strongest first: stored activations from a pass of the whole model, and their SVD."""
    members = [address for address in addresses if address.block == number]
    kept: dict[str, list[Tensor]] = {address.name: [] for address in members}
    with _watched(model, members, lambda name, value: kept[name].append(value.clone())):
        for example in examples:
            model.get_decoder()(input_ids=torch.tensor([example.ids]), use_cache=False)
    found = {}
    for address in members:
        activations = [value[example.start :].float() for value, example in zip(kept[address.name], examples, strict=True)]
        outputs = torch.cat(activations) @ address.view(model).float().T
        found[address.name] = torch.linalg.svd(outputs.T, full_matrices=False).U
    return found
