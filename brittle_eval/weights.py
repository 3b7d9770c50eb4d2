"""Addresses of the weights that can be edited, always seen as (out, in); coverage; digests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from brittle_eval.errors import BrittleError

ENOUGH = 0.9
"""The least share of the blocks' matrix parameters that must be editable."""


@dataclass(frozen=True)
class Address:
    """Where one weight lives. `transposed`: the module stores (in, out), as GPT-2's `Conv1D` does."""

    name: str
    module: str
    block: int
    transposed: bool = False

    def parameter(self, model: nn.Module) -> nn.Parameter:
        return model.get_parameter(self.name)

    def view(self, model: nn.Module) -> Tensor:
        """The weight as (out, in), sharing memory with the model."""
        value = self.parameter(model).data
        return value.T if self.transposed else value


@dataclass
class Coverage:
    """What of the blocks can be edited: parameters in linear weights, and what is left out with the reason."""

    editable: int = 0
    total: int = 0
    skipped: list[tuple[str, int, str]] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Editable share of the blocks' matrix parameters, in [0, 1]."""
        matrices = self.editable + sum(size for _, size, reason in self.skipped if reason != "a vector")
        return self.editable / matrices if matrices else 0.0


def decoder_blocks(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """The decoder blocks with their names in the model, from the model's own `get_decoder()`."""
    decoder = model.get_decoder()
    names = {id(module): name for name, module in model.named_modules()}
    lists = [child for child in decoder.children() if isinstance(child, nn.ModuleList) and len(child)]
    depth = model.config.get_text_config().num_hidden_layers
    fitting = [child for child in lists if len(child) == depth]
    if len(fitting) != 1:
        raise BrittleError(
            f"cannot tell the decoder blocks of {type(model).__name__}: expected one list of {depth} blocks in its decoder, "
            f"found {len(fitting)}"
        )
    return [(names[id(block)], block) for block in fitting[0]]


def find_weights(model: PreTrainedModel) -> tuple[list[Address], Coverage]:
    """The linear weights of the decoder blocks, in the model's order, and what they cover of it."""
    coverage = Coverage(total=sum(parameter.numel() for parameter in model.parameters()))
    addresses = []
    seen: set[int] = set()
    for number, (prefix, block) in enumerate(decoder_blocks(model)):
        for name, module in block.named_modules():
            if isinstance(module, nn.Linear | Conv1D) and _editable(module.weight) and id(module.weight) not in seen:
                path = f"{prefix}.{name}"
                addresses.append(Address(f"{path}.weight", path, number, isinstance(module, Conv1D)))
                coverage.editable += module.weight.numel()
                seen.add(id(module.weight))
        for name, parameter in block.named_parameters():
            if id(parameter) not in seen:
                coverage.skipped.append((f"{prefix}.{name}", parameter.numel(), _reason(parameter)))
    if coverage.share < ENOUGH:
        reasons = sorted({reason for _, _, reason in coverage.skipped if reason != "a vector"}) or ["no linear weights found"]
        raise BrittleError(
            f"only {coverage.share:.0%} of the block weights of {type(model).__name__} can be edited ({'; '.join(reasons)}); "
            f"expected at least {ENOUGH:.0%}: load the model unquantised and on its devices"
        )
    return addresses, coverage


def _editable(parameter: Tensor) -> bool:
    return parameter.ndim == 2 and parameter.is_floating_point() and not parameter.is_meta and parameter.element_size() > 1


def _reason(parameter: Tensor) -> str:
    if parameter.is_meta:
        return "offloaded"
    if not parameter.is_floating_point() or parameter.element_size() == 1:
        return f"quantised ({str(parameter.dtype).removeprefix('torch.')})"
    return "a vector" if parameter.ndim < 2 else f"not a linear weight ({parameter.ndim}-D)"


def digest(value: Tensor) -> str:
    """Content hash of a tensor: its dtype, shape and bytes."""
    data = value.detach().cpu().contiguous()
    state = hashlib.blake2b(f"{data.dtype}{tuple(data.shape)}".encode(), digest_size=16)
    state.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


class Fingerprint:
    """Digest of a model's parameters and buffers; after an edit only the touched weights are read again."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._parts = {name: digest(value) for name, value in self._tensors()}

    def _tensors(self) -> list[tuple[str, Tensor]]:
        return [*self._model.named_parameters(), *self._model.named_buffers()]

    def refresh(self, names: Sequence[str]) -> None:
        """Read the named parameters again."""
        for name in names:
            self._parts[name] = digest(self._model.get_parameter(name))

    def part(self, name: str) -> str:
        """The last digest that was read of a tensor."""
        return self._parts[name]

    def __str__(self) -> str:
        joined = "\n".join(f"{name} {self._parts[name]}" for name in sorted(self._parts))
        return hashlib.blake2b(joined.encode(), digest_size=16).hexdigest()
