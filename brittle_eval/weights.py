"""Addresses of the weights that can be edited, always seen as (out, in); coverage; digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import xxhash
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from brittle_eval.errors import BrittleError
from brittle_eval.regions import Region

ENOUGH = 0.9
"""The least share of the blocks' matrix parameters that must be editable."""


@dataclass(frozen=True)
class Address:
    """Where one weight lives: a parameter, or one expert of a fused one (experts, …).

    `transposed`: the module stores (in, out), as GPT-2's `Conv1D` and the experts of gpt-oss do.
    """

    parameter_name: str
    module: str
    block: int
    transposed: bool = False
    expert: int | None = None

    @property
    def name(self) -> str:
        """`…up_proj.weight`, `…experts.gate_up_proj[5]`: the stable name of the weight."""
        return self.parameter_name if self.expert is None else f"{self.parameter_name}[{self.expert}]"

    @property
    def path(self) -> str:
        """What the weight is called without its expert and without `.weight`: `…mlp.up_proj`, `…experts.gate_up_proj`."""
        return self.parameter_name.removesuffix(".weight")

    def parameter(self, model: nn.Module) -> nn.Parameter:
        return model.get_parameter(self.parameter_name)

    def view(self, model: nn.Module) -> Tensor:
        """The weight as (out, in), sharing memory with the model."""
        return self.of(self.parameter(model).data)

    def of(self, stored: Tensor) -> Tensor:
        """This weight, (out, in), of what its parameter stores, or of a gradient in the same shape; shares memory."""
        value = stored if self.expert is None else stored[self.expert]
        return value.T if self.transposed else value


@dataclass
class Coverage:
    """What can be edited: parameters of the blocks in weights, what is left out of the blocks and why, and what lies outside."""

    editable: int = 0
    total: int = 0
    weights: int = 0
    ranks: int = 0
    """Of the editable weights, Σ min(out, in)."""
    skipped: list[tuple[str, int, str]] = field(default_factory=list)
    outside: list[tuple[str, int]] = field(default_factory=list)
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Editable share of the blocks' matrix parameters, in [0, 1]."""
        matrices = self.editable + sum(size for _, size, reason in self.skipped if reason != "a vector")
        return self.editable / matrices if matrices else 0.0

    def shares(self, region: Region) -> dict[str, float]:
        """How many directions of the stream, entries and ranks a region has, and the shares of the model's."""
        count, ranks = region.count, region.ranks
        sizes: dict[str, float] = {"directions": len(region.streams.places)} if region.streams else {}
        if count or not (ranks or sizes):
            sizes |= {"count": count, "of_block_linears": count / self.editable, "of_all_parameters": count / self.total}
        if ranks:
            sizes |= {"ranks": ranks, "of_ranks": ranks / self.ranks}
        return sizes

    def add(self, plan: str, model: nn.Module, scope: Sequence[Address], found: Mapping[str, Any]) -> list[str]:
        """What a plan looked at, and what it left out in words: weights by behaviour that never reached them, and units."""
        sizes = {address.name: address.view(model).numel() for address in scope}
        unreached: Mapping[str, Sequence[str]] = found.get("unreached", {})
        unscored = {name for names in unreached.values() for name in names}
        scored = sum(size for name, size in sizes.items() if name not in unscored) if found else 0
        self.plans[plan] = {"weights": len(sizes), "parameters": sum(sizes.values()), "scored": scored, **found}
        lines = [f"scope: {len(sizes)} weights of {self.weights}"] if len(sizes) < self.weights else []
        lines += [f"left out: {len(names)} weights that saw no token of {behaviour}" for behaviour, names in unreached.items()]
        for kind, units in found.get("units", {}).items():
            missing = units["left_out"]
            lines += [f"{units['count']} {kind}s" + (f"; left out: {missing[0]} (of {len(missing)} blocks)" if missing else "")]
        return lines + list(found.get("notes", ()))

    def report(self) -> dict[str, Any]:
        """All of it, for a file: every parameter that no plan edits with the reason, and what each plan scored."""
        left_out = [*self.skipped, *((name, size, "outside the blocks") for name, size in self.outside)]
        return {
            "parameters": self.total,
            "editable": self.editable,
            "weights": self.weights,
            "ranks": self.ranks,
            "share_of_block_matrices": self.share,
            "skipped": [{"name": name, "parameters": size, "reason": reason} for name, size, reason in left_out],
            "plans": self.plans,
        }


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


def fused_experts(module: nn.Module) -> list[str]:
    """The names of the 3-D parameters of a module whose experts transformers runs through its experts functions."""
    if not all(isinstance(getattr(module, flag, None), bool) for flag in ("is_transposed", "has_gate", "has_bias")):
        return []
    own = dict(module.named_parameters(recurse=False))
    names = ["gate_up_proj" if module.has_gate else "up_proj", "down_proj"]
    return names if all(name in own and own[name].ndim == 3 for name in names) else []


def find_weights(model: PreTrainedModel) -> tuple[list[Address], Coverage]:
    """The linear weights and the experts of the decoder blocks, in the model's order, and what they cover of it."""
    coverage = Coverage(total=sum(parameter.numel() for parameter in model.parameters()))
    addresses: list[Address] = []
    seen: set[int] = set()
    inside: set[int] = set()
    for number, (prefix, block) in enumerate(decoder_blocks(model)):
        for name, module in block.named_modules():
            for own, parameter in _of_module(f"{prefix}.{name}", module, number):
                if id(parameter) not in seen:
                    addresses += own
                    coverage.weights += len(own)
                    coverage.ranks += sum(min(address.of(parameter).shape) for address in own)
                    coverage.editable += parameter.numel()
                    seen.add(id(parameter))
        for name, parameter in block.named_parameters():
            inside.add(id(parameter))
            if id(parameter) not in seen:
                coverage.skipped.append((f"{prefix}.{name}", parameter.numel(), _reason(name, parameter)))
    coverage.outside = [(name, value.numel()) for name, value in model.named_parameters() if id(value) not in inside]
    if coverage.share < ENOUGH:
        reasons = sorted({reason for _, _, reason in coverage.skipped if reason != "a vector"}) or ["no linear weights found"]
        raise BrittleError(
            f"only {coverage.share:.0%} of the block weights of {type(model).__name__} can be edited ({'; '.join(reasons)}); "
            f"expected at least {ENOUGH:.0%}: load the model unquantised and on its devices"
        )
    return addresses, coverage


def _of_module(path: str, module: nn.Module, block: int) -> Iterator[tuple[list[Address], nn.Parameter]]:
    """The editable parameters of one module, each with the weights that it holds."""
    if isinstance(module, nn.Linear | Conv1D) and module.weight.ndim == 2 and _editable(module.weight):
        yield [Address(f"{path}.weight", path, block, isinstance(module, Conv1D))], module.get_parameter("weight")
    for name in fused_experts(module):
        parameter = module.get_parameter(name)
        if _editable(parameter):
            experts = range(parameter.shape[0])
            yield [Address(f"{path}.{name}", path, block, bool(module.is_transposed), expert) for expert in experts], parameter


def _editable(parameter: Tensor) -> bool:
    return parameter.is_floating_point() and not parameter.is_meta and parameter.element_size() > 1


def _reason(name: str, parameter: Tensor) -> str:
    if parameter.is_meta:
        return "offloaded"
    if not parameter.is_floating_point() or parameter.element_size() == 1:
        return f"quantised ({str(parameter.dtype).removeprefix('torch.')})"
    return "a vector" if parameter.ndim < 2 or name.endswith("bias") else f"not a linear weight ({parameter.ndim}-D)"


def _bytes(value: Tensor) -> tuple[str, memoryview]:
    """Dtype and shape in words, and the content."""
    data = value.detach().cpu().contiguous()
    return f"{data.dtype}{tuple(data.shape)}", data.reshape(-1).view(torch.uint8).numpy().data


def digest(value: Tensor) -> str:
    """Content hash of a tensor: its dtype, shape and bytes."""
    kind, content = _bytes(value)
    state = hashlib.blake2b(kind.encode(), digest_size=16)
    state.update(content)
    return state.hexdigest()


def checksum(value: Tensor) -> str:
    """128 bits of a tensor's content (XXH3), at many times the speed: tells whether something changed, not what it is."""
    kind, content = _bytes(value)
    state = xxhash.xxh3_128(kind.encode())
    state.update(content)
    return str(state.hexdigest())


@dataclass(frozen=True)
class Content:
    """What a tensor held when it was read."""

    digest: str
    checksum: str

    @classmethod
    def of(cls, value: Tensor) -> Content:
        return cls(digest(value), checksum(value))


class Fingerprint:
    """Digest of a model's parameters, buffers and hooks; after an edit only the touched parameters are read again."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._parts: dict[str, Content] = {}
        self._hooks: list[str] = []
        self._read([*model.named_parameters(), *model.named_buffers()])

    def _read(self, tensors: Sequence[tuple[str, Tensor]]) -> None:
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # hashing lets others run
            found = list(threads.map(Content.of, (value for _, value in tensors)))
        self._parts |= dict(zip((name for name, _ in tensors), found, strict=True))

    def refresh(self, names: Sequence[str]) -> None:
        """Read the named parameters again."""
        self._read([(name, self._model.get_parameter(name)) for name in names])

    def content(self, name: str) -> Content:
        """What was last read of a tensor."""
        return self._parts[name]

    def part(self, name: str) -> str:
        """The last digest that was read of a tensor."""
        return self._parts[name].digest

    def returned(self, name: str, content: Content) -> bool:
        """Whether a parameter holds what it held before, which then is known of it without reading it whole again."""
        same = checksum(self._model.get_parameter(name)) == content.checksum
        if same:
            self._parts[name] = content
        return same

    @contextmanager
    def hooked(self, hooks: Sequence[str]) -> Iterator[None]:
        """While inside, what hooks do to the model is a part of it."""
        outer, self._hooks = self._hooks, [*self._hooks, *hooks]
        try:
            yield
        finally:
            self._hooks = outer

    def __str__(self) -> str:
        joined = "\n".join([*(f"{name} {self._parts[name].digest}" for name in sorted(self._parts)), *self._hooks])
        return hashlib.blake2b(joined.encode(), digest_size=16).hexdigest()
