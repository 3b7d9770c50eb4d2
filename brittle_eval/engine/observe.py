"""What a method is shown of a pass: hooks at the weights cut out the response tokens, and the gradients of each example."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import predicting
from brittle_eval.engine.experts import watching
from brittle_eval.errors import blaming
from brittle_eval.methods import Attribution, Seen
from brittle_eval.weights import Address, decoder_blocks


class Observer:
    """Hooks' memory for the batch under way: which positions are responses, which example each row is."""

    def __init__(self, method: Attribution, state: dict[str, Any]) -> None:
        self.method, self.state = method, state
        self.reached = set[str]()
        """Weights that a response token came to: all, but for experts."""
        self._gathered: tuple[Tensor, Tensor] | None = None
        self._buffers: dict[tuple[torch.device, int, int], Tensor] = {}

    def begin(self, ids: Tensor, mask: Tensor, responses: Tensor, first: int) -> None:
        ends = self.method.at == "prompt-ends"
        self.ids, self.mask, self.first = ids, mask, first
        self.responses = predicting(responses) & ~responses if ends else responses
        """The positions that the method looks at."""
        self._gathered = None
        self._places: dict[torch.device, tuple[Tensor, Tensor]] = {}
        starts, lengths = mask.argmax(dim=1), mask.sum(dim=1)
        answers = self.responses.sum(dim=1)
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
        if name not in self.reached and (seen.weight_grad is None or bool(seen.weight_grad.any())):
            self.reached.add(name)
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

    def expert(self, name: str, inputs: Tensor, outputs: Tensor, tokens: Tensor) -> None:
        """One expert's share of the batch; `tokens` are its positions in the flattened batch."""
        wants = "outputs" in self.method.needs
        if "gradients" in self.method.needs:
            entered, left = inputs.detach(), outputs.detach().clone() if wants else None
            outputs.register_hook(lambda grad: self._expert_examples(name, entered, left, tokens, grad))
        elif bool((chosen := self.responses.reshape(-1).to(tokens.device)[tokens]).any()):
            seen_out = outputs[chosen] if wants else None
            self.update(name, Seen(inputs[chosen], seen_out, self.first + self._row_of(tokens[chosen]), None))

    def _row_of(self, tokens: Tensor) -> Tensor:
        return tokens.div(self.ids.shape[1], rounding_mode="floor")

    def _expert_examples(self, name: str, inputs: Tensor, outputs: Tensor | None, tokens: Tensor, grad: Tensor) -> None:
        """An example that never came to this expert has a gradient of zeros, which counts in a mean."""
        real, responses = (flags.reshape(-1).bool().to(tokens.device)[tokens] for flags in (self.mask, self.responses))
        rows = self._row_of(tokens)
        with torch.no_grad():
            for row in range(len(self.ids)):
                own, chosen = real & (rows == row), responses & (rows == row)
                weight_grad = torch.mm(grad[own].float().T, inputs[own].float(), out=self._buffer(grad, inputs))
                number = torch.full((int(chosen.sum()),), self.first + row, device=inputs.device)
                seen_out = None if outputs is None else outputs[chosen]
                self.update(name, Seen(inputs[chosen], seen_out, number, weight_grad))

    def _buffer(self, grad: Tensor, inputs: Tensor) -> Tensor:
        key = (grad.device, grad.shape[-1], inputs.shape[-1])
        if key not in self._buffers:
            self._buffers[key] = torch.empty(key[1:], dtype=torch.float32, device=grad.device)
        return self._buffers[key]


@contextmanager
def observing(
    model: PreTrainedModel, method: Attribution, addresses: Collection[Address], state: dict[str, Any]
) -> Iterator[Observer]:
    """An observer of what happens within at the given weights, which keeps the method's states of them in `state`."""
    observer = Observer(method, state)
    gradients = "gradients" in method.needs
    with ExitStack() as stack:
        if gradients:
            stack.enter_context(_frozen(model, min(address.block for address in addresses)))
        stack.enter_context(watching(model, addresses, observer.expert))
        for address in (address for address in addresses if address.expert is None):
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
