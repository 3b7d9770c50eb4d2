"""Block by block over all batches: what enters a block is kept for every batch, with the arguments that the model gives it.

Only for methods that need no gradients. Masks and rotary embeddings are the model's own, from one pass in which every block's
`forward` is a stub. A model whose blocks hand on more than one tensor cannot be walked, which a check on two examples finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example, collate, input_device
from brittle_eval.engine.attribute import Pass, States, batches, observed
from brittle_eval.engine.observe import Observer
from brittle_eval.engine.sharing import Sites
from brittle_eval.methods import Attribution, Weight
from brittle_eval.weights import Address, decoder_blocks

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""What a block is called with after its hidden states."""


@dataclass
class _Batch:
    """One batch on its way through the blocks."""

    ids: Tensor
    mask: Tensor
    responses: Tensor
    first: int
    hidden: Tensor
    arguments: list[Arguments]


class Walk:
    """All behaviours' batches in front of the block `at`; `observe` shows it to a method, `advance` goes through it."""

    def __init__(
        self,
        model: PreTrainedModel,
        method: Attribution,
        behaviours: Mapping[str, Sequence[Example]],
        how: Pass,
        sites: Sites = (),
    ) -> None:
        self.model, self.method, self.behaviours, self.how, self.sites = model, method, behaviours, how, sites
        self.blocks = [block for _, block in decoder_blocks(model)]
        self.at = 0
        self._batches = {name: list(self._begun(examples)) for name, examples in behaviours.items()}

    def _begun(self, examples: Sequence[Example]) -> Iterator[_Batch]:
        for batch, first in batches(examples, self.how.batch_size):
            ids, mask, responses = collate(batch, self.how.pad_id, input_device(self.model))
            hidden, arguments = _arguments(self.model, self.blocks, ids, mask)
            yield _Batch(ids, mask, responses, first, hidden, arguments)

    def states(self, weights: Mapping[Address, Weight]) -> States:
        """The method's state for every behaviour and given weight; stops behind the last of their blocks."""
        states: States = {behaviour: {} for behaviour in self.behaviours}
        for number in range(self.at, max(address.block for address in weights) + 1):
            inside = {address: weight for address, weight in weights.items() if address.block == number}
            if not inside:
                self.advance()
                continue
            for behaviour, state in self.observe(inside, keep=True).items():
                states[behaviour] |= state
        return states

    def observe(self, weights: Mapping[Address, Weight], *, keep: bool = False) -> States:
        """The state for weights of the block `at`; with `keep`, what leaves the block is kept, which is then behind."""
        found = {
            behaviour: observed(
                self.model, self.method, weights, behaviour, examples, self.sites, partial(self._show, behaviour, keep)
            )
            for behaviour, examples in self.behaviours.items()
        }
        self.at += keep
        return found

    def _show(self, behaviour: str, keep: bool, observer: Observer) -> None:
        for batch in self._batches[behaviour]:
            observer.begin(batch.ids, batch.mask, batch.responses, batch.first)
            left = self._through(batch)
            if keep:
                batch.hidden = left
            self.how.on_batch(len(batch.ids))

    @property
    def kept(self) -> Mapping[str, Any]:
        """What it holds of every batch: what enters a block, and what the blocks are called with."""
        return self._batches

    def advance(self) -> None:
        """Through the block `at` as it is now."""
        for known in self._batches.values():
            for batch in known:
                batch.hidden = self._through(batch)
        self.at += 1

    def _through(self, batch: _Batch) -> Tensor:
        return _call(self.blocks[self.at], batch.hidden, batch.arguments[self.at])


def begin_walk(
    model: PreTrainedModel, method: Attribution, behaviours: Mapping[str, Sequence[Example]], how: Pass, sites: Sites = ()
) -> Walk | None:
    """A walk, or None where one over two examples does not give the bits of a whole pass (said with `how.say`)."""
    by_length = sorted((example for examples in behaviours.values() for example in examples), key=lambda known: len(known.ids))
    if not by_length:
        return None
    ids, mask, _ = collate([by_length[0], by_length[-1]], how.pad_id, input_device(model))  # one of them with padding
    try:
        walkable = _same_bits(model, ids, mask)
        reason = "its blocks, called one by one, do not give the bits of a whole pass"
    except Exception as error:  # whatever a strange model's blocks make of being called alone
        walkable, reason = False, f"calling its blocks one by one failed with {type(error).__name__}"
    if walkable:
        return Walk(model, method, behaviours, how, sites)
    how.say(f"no walk from block to block through {type(model).__name__} ({reason}): whole passes instead")
    return None


def _same_bits(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> bool:
    """Every block is called twice: one that changes its input or its arguments cannot be walked either."""
    blocks = [block for _, block in decoder_blocks(model)]
    whole: list[Tensor] = []
    handles = [block.register_forward_hook(lambda module, args, output: whole.append(_only(output))) for block in blocks]
    try:
        with torch.no_grad():
            model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    hidden, arguments = _arguments(model, blocks, ids, mask)
    for block, given, expected in zip(blocks, arguments, whole, strict=True):
        once, hidden = _call(block, hidden, given), _call(block, hidden, given)
        if not (torch.equal(once, expected) and torch.equal(hidden, expected)):
            return False
    return True


def _only(output: Any) -> Tensor:
    """The hidden states that a block gives on; ValueError if it gives on anything else."""
    if isinstance(output, Tensor):
        return output
    hidden, *rest = output
    if any(item is not None for item in rest):
        raise ValueError("a block gives more than its hidden states")
    assert isinstance(hidden, Tensor)
    return hidden


def _call(block: nn.Module, hidden: Tensor, arguments: Arguments) -> Tensor:
    with torch.no_grad():
        return _only(block(hidden, *arguments[0], **arguments[1]))


def _arguments(model: PreTrainedModel, blocks: Sequence[nn.Module], ids: Tensor, mask: Tensor) -> tuple[Tensor, list[Arguments]]:
    """What enters the first block, and what every block is called with besides."""
    given: list[Arguments] = []
    entered: list[Tensor] = []

    def stub(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        entered.append(hidden)
        given.append((args, kwargs))
        return hidden

    with torch.no_grad(), _stubbed(blocks, stub):
        model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False)
    if len(given) != len(blocks):
        raise ValueError(f"{len(given)} calls of {len(blocks)} blocks")
    return entered[0], given


@contextmanager
def _stubbed(blocks: Sequence[nn.Module], stub: Callable[..., Any]) -> Iterator[None]:
    """Every block's `forward` replaced; one that was replaced before (accelerate does so) comes back as it was."""
    own = [block.__dict__.get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = stub
        yield
    finally:
        for block, before in zip(blocks, own, strict=True):
            del block.forward
            if before is not None:
                block.forward = before
