"""The driver of attributions: runs a behaviour's examples through the model and hands each weight what the method needs.

Forward-only methods see the decoder's own pass through hooks (no mask or rotary embedding is rebuilt here); gradients come from
one forward and backward a batch, taken weight by weight and example by example as the backward pass produces them, and the
backward pass ends at the first block that is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from brittle_eval.calibration import Example, collate, input_device, logits_at, predicting
from brittle_eval.errors import BrittleError, blaming
from brittle_eval.methods import Attribution, Seen, Weight
from brittle_eval.weights import Address, decoder_blocks

States = dict[str, dict[str, Any]]
"""State by behaviour and weight name."""


@dataclass(frozen=True)
class Pass:
    """How examples run: batch size in examples, padding token, memory for the state of one group of blocks in bytes."""

    pad_id: int
    batch_size: int = 8
    memory: int = 4 << 30
    on_batch: Callable[[int], None] = lambda steps: None
    """Told examples × blocks looked at, after every batch: over a whole attribution that sums to all examples × all blocks."""
    say: Callable[[str], None] = lambda line: None
    """Told how the attribution will run, before it starts."""


DATA: frozenset[str] = frozenset({"inputs", "outputs", "gradients"})
"""What a method may need that takes passes over the examples."""


def accumulate(
    model: PreTrainedModel,
    method: Attribution,
    weights: Mapping[Address, Weight],
    behaviours: Mapping[str, Sequence[Example]],
    how: Pass,
) -> States:
    """The method's state for every behaviour and given weight, after all examples, from passes of the whole model."""
    blocks = len({address.block for address in weights})
    run = _backward if "gradients" in method.needs else _forward

    def passes(examples: Sequence[Example], observer: Observer) -> None:
        for batch, first in batches(examples, how.batch_size):
            observer.begin(*collate(batch, how.pad_id, input_device(model)), first)
            run(model, observer)
            how.on_batch(len(batch) * blocks)

    return {
        behaviour: observed(model, method, weights, behaviour, examples, partial(passes, examples))
        for behaviour, examples in behaviours.items()
    }


def observed(
    model: PreTrainedModel,
    method: Attribution,
    weights: Mapping[Address, Weight],
    behaviour: str,
    examples: Sequence[Example],
    run: Callable[[Observer], None],
) -> dict[str, Any]:
    """The state of every weight after `run` has taken all batches past the observer."""
    if method.needs & DATA and not examples:
        raise BrittleError(f"{type(method).__name__} needs examples of '{behaviour}', but there are none: give pairs of it")
    with blaming(method):
        state = {weight.name: method.start(own(weight)) for weight in weights.values()}
    if method.needs & DATA:
        with _observing(model, method, weights, state) as observer:
            run(observer)
    return state


def scores(method: Attribution, weight: Weight, state: Any) -> Tensor:
    """Checked scores of one weight, float32 (out, in)."""
    with blaming(method):
        value = method.finish(state, own(weight)).float()
    if value.shape != weight.value.shape:
        given, wanted = tuple(value.shape), tuple(weight.value.shape)
        raise BrittleError(f"{type(method).__name__} gave scores of shape {given} for {weight.name}, expected {wanted}")
    if not bool(torch.stack(value.aminmax()).isfinite().all()):  # NaN is its own extreme
        raise BrittleError(
            f"{type(method).__name__} gave NaN or infinite scores for {weight.name}: "
            "use dtype=float32 or bfloat16 and check the weights"
        )
    return value


def own(weight: Weight) -> Weight:
    """A copy for the method: arithmetic in place on it must not reach the model."""
    return replace(weight, value=weight.value.clone())


def batches(examples: Sequence[Example], size: int) -> Iterator[tuple[list[Example], int]]:
    """Examples of like length together, and the number of the first of them."""
    order = sorted(examples, key=lambda example: len(example.ids))
    for start in range(0, len(order), size):
        yield order[start : start + size], start


class Observer:
    """Hooks' memory for the batch under way: which positions are responses, which example each row is."""

    def __init__(self, method: Attribution, state: dict[str, Any]) -> None:
        self.method, self.state = method, state
        self._gathered: tuple[Tensor, Tensor] | None = None
        self._buffers: dict[tuple[torch.device, int, int], Tensor] = {}

    def begin(self, ids: Tensor, mask: Tensor, responses: Tensor, first: int) -> None:
        self.ids, self.mask, self.responses, self.first = ids, mask, responses, first
        self._gathered = None
        self._places: dict[torch.device, tuple[Tensor, Tensor]] = {}
        starts, lengths = mask.argmax(dim=1), mask.sum(dim=1)
        answers = responses.sum(dim=1)
        self.spans = torch.stack([starts, starts + lengths, starts + lengths - answers], dim=1).tolist()

    def places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Flat positions of the response tokens, and the number of each one's example; both (tokens,), on the device."""
        if device not in self._places:
            row, _ = self.responses.nonzero(as_tuple=True)
            flat = self.responses.reshape(-1).nonzero().squeeze(1)
            self._places[device] = (flat.to(device), (row + self.first).to(device))
        return self._places[device]

    def rows(self, value: Tensor) -> Tensor:
        """As (batch, positions, width): some models flatten the first two."""
        return value.reshape(*self.ids.shape, value.shape[-1])

    def taken(self, value: Tensor) -> Tensor:
        """The response positions of `value`, (tokens, width)."""
        return value.reshape(-1, value.shape[-1]).index_select(0, self.places(value.device)[0])

    def gather(self, inputs: Tensor) -> Tensor:
        """The inputs at response positions, (tokens, in); weights that share an input share the copy."""
        if self._gathered is None or self._gathered[0] is not inputs:
            self._gathered = (inputs, self.taken(inputs))
        return self._gathered[1]

    def outputs(self, module: nn.Module, output: Tensor) -> Tensor | None:
        """What left the weight, without the bias, if the method wants it; shaped like `output`."""
        if "outputs" not in self.method.needs:
            return None
        bias = getattr(module, "bias", None)
        return output.detach() if bias is None else output.detach() - bias.detach()

    def update(self, name: str, seen: Seen) -> None:
        with blaming(self.method):
            self.state[name] = self.method.update(self.state[name], seen)

    def forward_hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            outputs = self.outputs(module, output)
            seen_out = None if outputs is None else self.taken(outputs)
            self.update(name, Seen(self.gather(args[0]), seen_out, self.places(args[0].device)[1], None))

        return hook

    def gradient_hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs, outputs = self.rows(args[0].detach()), self.outputs(module, output)
            shaped = None if outputs is None else self.rows(outputs).clone()  # the model may go on in place
            output.register_hook(lambda grad: self._examples(name, inputs, shaped, self.rows(grad)))

        return hook

    def _examples(self, name: str, inputs: Tensor, outputs: Tensor | None, grad: Tensor) -> None:
        """Padding is at one end of a row, so that an example is a slice of it, and no copy."""
        numbers = self.places(grad.device)[1].split([end - answer for _, end, answer in self.spans])
        with torch.no_grad():
            for row, (start, end, answer) in enumerate(self.spans):
                weight_grad = torch.mm(
                    grad[row, start:end].float().T, inputs[row, start:end].float(), out=self._buffer(grad, inputs)
                )
                seen_out = None if outputs is None else outputs[row, answer:end]
                self.update(name, Seen(inputs[row, answer:end], seen_out, numbers[row], weight_grad))

    def _buffer(self, grad: Tensor, inputs: Tensor) -> Tensor:
        key = (grad.device, grad.shape[-1], inputs.shape[-1])
        if key not in self._buffers:
            self._buffers[key] = torch.empty(key[1:], dtype=torch.float32, device=grad.device)
        return self._buffers[key]


@contextmanager
def _observing(
    model: PreTrainedModel, method: Attribution, addresses: Iterable[Address], state: dict[str, Any]
) -> Iterator[Observer]:
    observer, addresses = Observer(method, state), list(addresses)
    gradients = "gradients" in method.needs
    with ExitStack() as stack:
        if gradients:
            stack.enter_context(_frozen(model, min(address.block for address in addresses)))
        for address in addresses:
            module = model.get_submodule(address.module)
            hook = observer.gradient_hook(address.name) if gradients else observer.forward_hook(address.name)
            stack.callback(module.register_forward_hook(hook).remove)
        yield observer


@contextmanager
def _frozen(model: PreTrainedModel, first: int) -> Iterator[None]:
    """No parameter takes a gradient, but what enters the first block does: backward computes input gradients, down to there."""

    def tracked(module: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Any]) -> None:
        (args[0] if args else kwargs["hidden_states"]).requires_grad_()

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    handle = decoder_blocks(model)[first][1].register_forward_pre_hook(tracked, with_kwargs=True)
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        handle.remove()
        for parameter in trained:
            parameter.requires_grad_(True)


def _forward(model: PreTrainedModel, observer: Observer) -> None:
    with torch.no_grad():  # not inference_mode: what a method keeps must stay an ordinary tensor
        model.get_decoder()(input_ids=observer.ids, attention_mask=observer.mask, use_cache=False)


def _backward(model: PreTrainedModel, observer: Observer) -> None:
    """Sum over the batch's examples of the mean over response tokens of `−log p`, backward."""
    with torch.enable_grad():
        where = predicting(observer.responses)
        logits = logits_at(model, observer.ids, observer.mask, where)
        labels = observer.ids.roll(-1, dims=1)[where].to(logits.device)
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        share = (1.0 / where.sum(dim=1, keepdim=True)).expand_as(where)[where].to(logits.device)
        (losses * share).sum().backward()
