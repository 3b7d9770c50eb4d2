"""The driver of attributions: runs a behaviour's examples through the model and hands each weight what the method needs.

Forward-only methods see the decoder's own pass through hooks (no mask or rotary embedding is rebuilt here); gradients come from
one forward and backward a batch, taken weight by weight and example by example as the backward pass produces them.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from brittle_eval.calibration import Example, collate, input_device, logits_at, predicting
from brittle_eval.errors import BrittleError, blaming
from brittle_eval.methods import Attribution, Seen, Weight
from brittle_eval.scores import Directions
from brittle_eval.sharing import readers
from brittle_eval.weights import Address

States = dict[str, dict[str, Any]]
"""State by behaviour and weight name; weights that share a state have the same object."""


@dataclass(frozen=True)
class Pass:
    """How examples run: batch size in examples, padding token, memory for the state of one group of blocks in bytes."""

    pad_id: int
    batch_size: int = 8
    memory: int = 4 << 30
    on_batch: Callable[[int], None] = lambda examples: None


def groups(
    addresses: Sequence[Address], model: nn.Module, method: Attribution, behaviours: int, memory: int
) -> list[list[Address]]:
    """Weights in runs of whole blocks whose state fits the memory; a method without gradients keeps little and has one group."""
    if "gradients" not in method.needs:
        return [list(addresses)]
    out: list[list[Address]] = []
    used = 0
    for block in sorted({address.block for address in addresses}):
        members = [address for address in addresses if address.block == block]
        size = sum(address.parameter(model).numel() for address in members) * 4 * behaviours
        if not out or used + size > memory:
            out.append([])
            used = 0
        out[-1].extend(members)
        used += size
    return out


def accumulate(
    model: PreTrainedModel,
    method: Attribution,
    weights: Mapping[Address, Weight],
    behaviours: Mapping[str, Sequence[Example]],
    how: Pass,
) -> States:
    """The method's state for every behaviour and given weight, after all examples."""
    states: States = {}
    for behaviour, examples in behaviours.items():
        if method.needs & {"inputs", "outputs", "gradients"} and not examples:
            raise BrittleError(f"{type(method).__name__} needs examples of '{behaviour}', but there are none: give pairs of it")
        together = [[address] for address in weights]
        if method.shares and examples:
            together = readers(model, list(weights), min(examples, key=lambda example: len(example.ids)), how.pad_id)
        with blaming(method):
            state = {group[0].name: method.start(*(_own(weights[address]) for address in group)) for group in together}
        if method.needs & {"inputs", "outputs", "gradients"}:
            run = _backward if "gradients" in method.needs else _forward
            with _observing(model, method, [group[0] for group in together], state) as observer:
                for batch, first in _batches(examples, how.batch_size):
                    observer.begin(*collate(batch, how.pad_id, input_device(model)), first)
                    run(model, observer)
                    how.on_batch(len(batch))
        states[behaviour] = {address.name: state[group[0].name] for group in together for address in group}
    return states


def scores(method: Attribution, weight: Weight, state: Any) -> Tensor | Directions:
    """Checked scores of one weight: float32 (out, in), or directions."""
    with blaming(method):
        value = method.finish(state, _own(weight))
    if isinstance(value, Directions) != (method.gives == "directions"):
        raise BrittleError(f"{type(method).__name__} says that it gives {method.gives}, but gave {type(value).__name__}: mend it")
    return _directions(method, weight, value) if isinstance(value, Directions) else _entries(method, weight, value.float())


def _directions(method: Attribution, weight: Weight, found: Directions) -> Directions:
    """Directions as their docstring has them: one energy a direction, falling, and no more than there can be."""
    out, count = weight.value.shape[0], len(found.energies)
    most = min(*weight.value.shape, found.tokens)
    rest = (out, min(weight.value.shape) - count)
    if found.vectors.shape != (out, count) or count > most or found.shape != weight.value.shape or found.unseen.shape != rest:
        given = (
            f"{tuple(found.vectors.shape)}, {tuple(found.unseen.shape)} unseen, of a weight {found.shape} with {count} energies"
        )
        wanted = f"({out}, k) and all others unseen, of {tuple(weight.value.shape)} with k up to {most} energies"
        raise BrittleError(f"{type(method).__name__} gave directions {given} for {weight.name}, expected {wanted}")
    finite = all(bool(part.isfinite().all()) for part in (found.vectors, found.energies, found.unseen))
    if not finite or not bool((found.energies.diff() <= 0).all()):
        raise BrittleError(
            f"{type(method).__name__} gave directions for {weight.name} that are infinite or not by falling energy"
        )
    return found


def _entries(method: Attribution, weight: Weight, value: Tensor) -> Tensor:
    if value.shape != weight.value.shape:
        given, wanted = tuple(value.shape), tuple(weight.value.shape)
        raise BrittleError(f"{type(method).__name__} gave scores of shape {given} for {weight.name}, expected {wanted}")
    if not bool(value.isfinite().all()):
        raise BrittleError(
            f"{type(method).__name__} gave NaN or infinite scores for {weight.name}: "
            "use dtype=float32 or bfloat16 and check the weights"
        )
    return value


def _own(weight: Weight) -> Weight:
    """A copy for the method: arithmetic in place on it must not reach the model."""
    return replace(weight, value=weight.value.clone())


def _batches(examples: Sequence[Example], size: int) -> Iterator[tuple[list[Example], int]]:
    order = sorted(examples, key=lambda example: len(example.ids))
    for start in range(0, len(order), size):
        yield order[start : start + size], start


class _Observer:
    """Hooks' memory for the batch under way: which positions are responses, which example each row is."""

    def __init__(self, method: Attribution, state: dict[str, Any]) -> None:
        self.method, self.state = method, state
        self._gathered: tuple[Tensor, Tensor] | None = None

    def begin(self, ids: Tensor, mask: Tensor, responses: Tensor, first: int) -> None:
        self.ids, self.mask, self.responses, self.first = ids, mask, responses, first
        rows = torch.arange(first, first + len(ids), device=ids.device)
        self.example = rows[:, None].expand_as(ids)[responses]
        self._gathered = None

    def rows(self, value: Tensor) -> Tensor:
        """As (batch, positions, width): some models flatten the first two."""
        return value.reshape(*self.ids.shape, value.shape[-1])

    def gather(self, inputs: Tensor) -> Tensor:
        """The inputs at response positions, (tokens, in); weights that share an input share the copy."""
        if self._gathered is None or self._gathered[0] is not inputs:
            self._gathered = (inputs, self.rows(inputs)[self.responses.to(inputs.device)])
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
            if outputs is not None:
                outputs = self.rows(outputs)[self.responses.to(output.device)]
            self.update(name, Seen(self.gather(args[0]), outputs, self.example, None))

        return hook

    def gradient_hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs, outputs = self.rows(args[0].detach()), self.outputs(module, output)
            shaped = None if outputs is None else self.rows(outputs).clone()  # the model may go on in place
            output.register_hook(lambda grad: self._examples(name, inputs, shaped, self.rows(grad)))

        return hook

    def _examples(self, name: str, inputs: Tensor, outputs: Tensor | None, grad: Tensor) -> None:
        with torch.no_grad():
            for row in range(len(inputs)):
                real = self.mask[row].bool().to(inputs.device)
                chosen = self.responses[row].to(inputs.device)
                weight_grad = grad[row, real].float().T @ inputs[row, real].float()
                number = self.example.new_full((int(chosen.sum()),), self.first + row)
                seen_out = None if outputs is None else outputs[row, chosen]
                self.update(name, Seen(inputs[row, chosen], seen_out, number, weight_grad))


@contextmanager
def _observing(
    model: PreTrainedModel, method: Attribution, addresses: Iterable[Address], state: dict[str, Any]
) -> Iterator[_Observer]:
    observer = _Observer(method, state)
    gradients = "gradients" in method.needs
    with ExitStack() as stack:
        if gradients:
            stack.enter_context(_frozen(model))
        for address in addresses:
            module = model.get_submodule(address.module)
            hook = observer.gradient_hook(address.name) if gradients else observer.forward_hook(address.name)
            stack.callback(module.register_forward_hook(hook).remove)
        yield observer
    gc.collect()


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """No parameter takes a gradient, but the embeddings' output does: backward then computes input gradients only."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    handle = model.get_input_embeddings().register_forward_hook(lambda module, args, output: output.requires_grad_())
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        handle.remove()
        for parameter in trained:
            parameter.requires_grad_(True)


def _forward(model: PreTrainedModel, observer: _Observer) -> None:
    with torch.no_grad():  # not inference_mode: what a method keeps must stay an ordinary tensor
        model.get_decoder()(input_ids=observer.ids, attention_mask=observer.mask, use_cache=False)


def _backward(model: PreTrainedModel, observer: _Observer) -> None:
    """Sum over the batch's examples of the mean over response tokens of `−log p`, backward."""
    with torch.enable_grad():
        where = predicting(observer.responses)
        logits = logits_at(model, observer.ids, observer.mask, where)
        labels = observer.ids.roll(-1, dims=1)[where].to(logits.device)
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        share = (1.0 / where.sum(dim=1, keepdim=True)).expand_as(where)[where].to(logits.device)
        (losses * share).sum().backward()
