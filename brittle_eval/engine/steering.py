"""Hook modifications on a live model: put in and taken out, with the rows and positions of the pass under way that they steer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example, collate, input_device
from brittle_eval.engine.anatomy import find_writers
from brittle_eval.errors import BrittleError, CannotRun, blaming
from brittle_eval.hooks import HookModification
from brittle_eval.regions import Region
from brittle_eval.streams import Streams
from brittle_eval.weights import Address, Fingerprint, decoder_blocks

Change = Callable[[Tensor], Tensor]
States = list[Tensor]
"""What each modification that asks knows of some rows, (rows, …) each."""


class Steered:
    """The hook modifications on one model, those that ask for prompts in order, and what the pass under way is."""

    def __init__(self, model: PreTrainedModel, streams: Streams, modifications: Sequence[HookModification]) -> None:
        self.model, self.streams = model, streams
        self.asking = [modification for modification in modifications if modification.asks]
        self._rows: tuple[States, Tensor | None] | None = None
        self._looking = False
        self._known: dict[tuple[int, ...], States] = {}

    @contextmanager
    def rows(self, states: States, where: Tensor | None = None) -> Iterator[None]:
        """A pass over rows of these states; steered are the positions `where` (rows, tokens), without it all of them."""
        outer, self._rows = self._rows, (states, where)
        try:
            yield
        finally:
            self._rows = outer

    @contextmanager
    def unsteered(self) -> Iterator[None]:
        """A pass that none steers that asks for prompts."""
        outer, self._looking = self._looking, True
        try:
            yield
        finally:
            self._looking = outer

    def look(self, run: Callable[[], object], states_of: Callable[[Tensor], Tensor]) -> States:
        """States from the stream of an unsteered pass, of which `states_of` picks (rows, 1 + tokens behind, width)."""
        with self.unsteered(), catching(self.model) as caught:
            run()
        seen = torch.stack([states_of(stream).float().cpu() for stream in caught])
        found = []
        for modification in self.asking:
            with blaming(modification):
                found.append(modification.prepare(seen, self.streams).to(input_device(self.model)))
        return found

    def states(self, prompts: Sequence[Sequence[int]], pad_id: int) -> States:
        """States of prompts that are read by themselves, each once as long as the model is steered."""
        new = [prompt for prompt in dict.fromkeys(map(tuple, prompts)) if prompt not in self._known]
        if new:
            read = [Example((*prompt, *self.streams.behind), 0) for prompt in new]
            ids, mask, _ = collate(read, pad_id, input_device(self.model))
            last = torch.tensor([len(prompt) - 1 for prompt in new])[:, None] + torch.arange(1 + len(self.streams.behind))
            picked = self.look(
                lambda: self.model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False),
                lambda stream: stream.reshape(*ids.shape, -1)[torch.arange(len(new))[:, None], last],
            )
            self._known |= {prompt: [state[row] for state in picked] for row, prompt in enumerate(new)}
        return [torch.stack(own) for own in zip(*(self._known[tuple(prompt)] for prompt in prompts), strict=True)]

    def change(self, modification: HookModification, direction: Tensor, stream: Tensor) -> Tensor:
        """What a hook makes of the stream."""
        direction = direction.to(stream.device)
        if not modification.asks:
            return modification.steer(stream, direction, None).to(stream.dtype)
        if self._looking:
            return stream
        if self._rows is None:
            raise RuntimeError(f"{modification} steers by prompts, and a pass did not say which rows it has: this is a bug")
        states, where = self._rows
        state = next(own for one, own in zip(self.asking, states, strict=True) if one is modification).to(stream.device)
        new = modification.steer(stream, direction, state).to(stream.dtype)
        return new if where is None else torch.where(where.to(stream.device)[..., None], new, stream)


_LIVE: WeakKeyDictionary[nn.Module, Steered] = WeakKeyDictionary()


@contextmanager
def steered(
    model: PreTrainedModel,
    addresses: Sequence[Address],
    region: Region,
    modifications: Sequence[HookModification],
    fingerprint: Fingerprint,
) -> Iterator[None]:
    """The model with these modifications on it, the first one innermost, and its fingerprint another; all is undone on leaving.

    BrittleError for a region without directions, or with those of another model.
    """
    streams, blocks = region.streams, [block for _, block in decoder_blocks(model)]
    width = model.config.get_text_config().hidden_size
    if streams is None or tuple(streams.along.shape) != (len(blocks) + 1, width):
        given = "none" if streams is None else f"{tuple(streams.along.shape)}"
        raise BrittleError(
            f"directions of the residual stream of shape {(len(blocks) + 1, width)} were expected, and the region has {given}: "
            "find the region on this model"
        )
    live = Steered(model, streams, modifications)
    with ExitStack() as stack:
        for modification in modifications:
            _hook(stack, live, modification, blocks, find_writers(model, addresses))
        _LIVE[model] = live
        stack.callback(_LIVE.pop, model)
        stack.enter_context(fingerprint.hooked([described(one, streams) for one in modifications]))
        yield


def _hook(
    stack: ExitStack, live: Steered, modification: HookModification, blocks: Sequence[nn.Module], writers: Sequence[Address]
) -> None:
    device = input_device(live.model)
    if not modification.everywhere:
        for place in live.streams.places:
            at(stack, blocks, place, partial(live.change, modification, live.streams.along[place].to(device)))
        return
    change = partial(live.change, modification, live.streams.only.to(device))
    for place in range(len(blocks) + 1):
        at(stack, blocks, place, change)
    for module in modules(live.model, writers):
        behind(stack, module, change)


def described(modification: HookModification, streams: Streams) -> str:
    """What makes two steered models the same: the method, its options, and the digest of every vector."""
    state = hashlib.blake2b(repr(streams.behind).encode(), digest_size=16)
    for name, value in sorted({"along": streams.along, **{f"known {name}": v for name, v in streams.known.items()}}.items()):
        state.update(f"{name} {tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
    return f"{type(modification).__module__} {modification} {state.hexdigest()}"


def asking(model: nn.Module) -> Steered | None:
    """What steers this model by its prompts, if something does."""
    live = _LIVE.get(model)
    return live if live is not None and live.asking else None


@contextmanager
def over(model: PreTrainedModel, examples: Sequence[Example], width: int, pad_id: int) -> Iterator[None]:
    """For a pass over these examples, padded on the right to `width`: steered from each prompt's last token on.

    CannotRun where the model is steered by prompts and a text has none.
    """
    live = asking(model)
    if live is None:
        yield
        return
    if any(example.start == 0 for example in examples):
        raise CannotRun("the model is steered by what its prompts say, and this text has no prompt: leave the task out")
    states = live.states([example.ids[: example.start] for example in examples], pad_id)
    where = torch.arange(width) >= torch.tensor([example.start - 1 for example in examples])[:, None]
    with live.rows(states, where):
        yield


@contextmanager
def catching(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """While inside, the stream in front of every block and behind the last one of each pass, in order."""
    caught: list[Tensor] = []

    def keep(stream: Tensor) -> Tensor:
        caught.append(stream.detach())
        return stream

    blocks = [block for _, block in decoder_blocks(model)]
    with ExitStack() as stack:
        for place in range(len(blocks) + 1):
            at(stack, blocks, place, keep)
        yield caught


def modules(model: nn.Module, addresses: Sequence[Address]) -> list[nn.Module]:
    """The modules of these weights but those of experts, whose outputs no hook sees."""
    return [model.get_submodule(address.module) for address in addresses if address.expert is None]


def at(stack: ExitStack, blocks: Sequence[nn.Module], place: int, change: Change) -> None:
    """Change what enters this block, or, one further, what leaves the last one."""
    if place < len(blocks):
        before(stack, blocks[place], change)
    else:
        behind(stack, blocks[-1], change)


def before(stack: ExitStack, block: nn.Module, change: Change) -> None:
    """Change the hidden states that a block is called with."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

    stack.callback(block.register_forward_pre_hook(hook, with_kwargs=True).remove)


def behind(stack: ExitStack, module: nn.Module, change: Change) -> None:
    """Change what a module gives, or the first of what it gives."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return change(output) if isinstance(output, Tensor) else (change(output[0]), *output[1:])

    stack.callback(module.register_forward_hook(hook).remove)
