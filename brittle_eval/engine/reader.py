"""The reader of a loaded model: passes over prompts, with hooks at the decoder blocks and at what writes between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example, collate, input_device, logits_at
from brittle_eval.engine.anatomy import find_writers
from brittle_eval.engine.attribute import Pass
from brittle_eval.engine.steering import at, behind, catching, modules
from brittle_eval.errors import BrittleError
from brittle_eval.reading import Steering
from brittle_eval.weights import Address, decoder_blocks

CLOSE = 1e-2
"""How far, as a share of its norm, what a block adds may be from the sum of what its writers give."""


class ModelReader:
    """`Reader` of one plan: prompts of the behaviours, and the writers of the plan's scope."""

    def __init__(
        self,
        model: PreTrainedModel,
        examples: Mapping[str, Sequence[Example]],
        scope: Sequence[Address],
        addresses: Sequence[Address],
        how: Pass,
    ) -> None:
        self.model, self.examples, self.how = model, examples, how
        self._blocks = [block for _, block in decoder_blocks(model)]
        self._all = find_writers(model, addresses)
        self.weights = {one.name: (one.block, (shape[0], shape[1])) for one in scope for shape in [one.view(model).shape]}
        self._scope = [address for address in self._all if address in set(scope)]

    @property
    def blocks(self) -> int:
        return len(self._blocks)

    @property
    def writers(self) -> dict[str, tuple[int, int]]:
        return {address.name: (shape[0], shape[1]) for address in self._scope for shape in [address.view(self.model).shape]}

    @cached_property
    def left_out(self) -> list[str]:
        outside, modules = len(self._all) - len(self._scope), self._modules
        biased = sum(getattr(module, "bias", None) is not None for module in modules)
        changed = [str(number) for number, plain in enumerate(self._plain()) if not plain]
        lines = ["the embeddings"]
        lines += [f"{outside} weights outside the plan's scope"] if outside else []
        lines += [f"the biases of {biased} weights"] if biased else []
        what = "what the known writers of blocks {} give is not just what these blocks add (norms after them, experts, others)"
        return lines + ([what.format(", ".join(changed))] if changed else [])

    @property
    def _modules(self) -> list[nn.Module]:
        """The modules of all writers but experts."""
        return modules(self.model, self._all)

    def _plain(self) -> list[bool]:
        """Whether each block adds to the stream just what its writers give, as a short prompt shows."""
        prompts = [example for known in self.examples.values() for example in _prompts(known)]
        shortest, given = [min(prompts, key=lambda prompt: len(prompt.ids))], [torch.zeros(())] * self.blocks

        def add(block: int, module: nn.Module, args: object, output: Tensor) -> None:
            given[block] = given[block] + output.float()

        with ExitStack() as stack:
            for address in (address for address in self._all if address.expert is None):
                module = self.model.get_submodule(address.module)
                stack.callback(module.register_forward_hook(partial(add, address.block)).remove)
            stream = torch.stack(next(states for states, _ in self._passes(shortest))).float()
        added = stream[1:] - stream[:-1]
        sums = [part if part.ndim else torch.zeros_like(added[0]) for part in given]
        pairs = [(own, part.to(own.device).reshape(own.shape)) for own, part in zip(added, sums, strict=True)]
        return [bool((own - part).norm() <= CLOSE * own.norm()) for own, part in pairs]

    def states(self, behaviour: str, positions: int, behind: Sequence[int] = ()) -> Tensor:
        prompts, positions = _prompts(self.examples[behaviour], behind), positions + len(behind)
        if (shortest := min((len(prompt.ids) for prompt in prompts), default=positions)) < positions:
            raise BrittleError(
                f"{positions} positions at prompt ends were asked for, but a prompt has {shortest} tokens: ask for fewer"
            )
        found = []
        for streams, lengths in self._passes(prompts):
            rows = torch.arange(len(lengths))[:, None]
            places = torch.tensor(lengths)[:, None] - positions + torch.arange(positions)
            found.append(torch.stack([stream[rows, places].float().cpu() for stream in streams]))
            self.how.on_batch(len(lengths) * self.blocks)
        return torch.cat(found, dim=1)

    def _passes(self, prompts: Sequence[Example]) -> Iterator[tuple[list[Tensor], list[int]]]:
        """For each batch the stream in front of every block and behind the last, (batch, longest, width), and prompt lengths."""
        for start in range(0, len(prompts), self.how.batch_size):
            batch = prompts[start : start + self.how.batch_size]
            ids, mask, _ = collate(batch, self.how.pad_id, input_device(self.model))
            with catching(self.model) as caught, torch.no_grad():
                self.model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False)
            width = caught[0].shape[-1]
            yield [stream.reshape(*ids.shape, width).clone() for stream in caught], [len(prompt.ids) for prompt in batch]

    @property
    def ending(self) -> int:
        prompts = [prompt.ids[::-1] for known in self.examples.values() for prompt in _prompts(known)]
        low, high = min(prompts), max(prompts)
        return next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))

    def next_tokens(self, behaviour: str, examples: Sequence[int], steering: Steering | None = None) -> Tensor:
        prompts = _prompts([self.examples[behaviour][index] for index in examples])
        found = []
        with self._steered(steering or Steering()), torch.no_grad():
            for start in range(0, len(prompts), self.how.batch_size):
                ids, mask, _ = collate(prompts[start : start + self.how.batch_size], self.how.pad_id, input_device(self.model))
                last = mask.cumsum(1).eq(mask.sum(1, keepdim=True)) & mask.bool()
                found.append(logits_at(self.model, ids, mask, last).log_softmax(-1).cpu())
        return torch.cat(found)

    @contextmanager
    def _steered(self, steering: Steering) -> Iterator[None]:
        with ExitStack() as stack:
            if steering.add is not None:
                at(stack, self._blocks, steering.block, partial(_plus, steering.add))
            if steering.ablate is not None:
                project = partial(_without, steering.ablate)
                for place in range(self.blocks + 1):
                    at(stack, self._blocks, place, project)
                for module in self._modules:
                    behind(stack, module, project)
            yield

    def tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self.how.tokens(text)) if text else ()

    def first_tokens(self, behaviour: str) -> list[int]:
        return [example.ids[example.start] for example in self.examples[behaviour]]


def _prompts(examples: Sequence[Example], more: Sequence[int] = ()) -> list[Example]:
    return [Example((*example.ids[: example.start], *more), example.start) for example in examples]


def _plus(step: Tensor, stream: Tensor) -> Tensor:
    return stream + step.to(stream)


def _without(direction: Tensor, stream: Tensor) -> Tensor:
    """`x − (x · r) r`, r of length 1."""
    unit = direction.to(stream)
    return stream - (stream @ unit)[..., None] * unit
