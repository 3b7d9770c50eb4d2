"""An edit as tensors: the entries that changed, the projectors, or a LoRA pair; each is proved against the edited weight."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from peft import LoraConfig
from torch import Tensor, nn

from brittle_eval.errors import BrittleError
from brittle_eval.regions import Part, Projector, Region
from brittle_eval.weights import Address

Form = Literal["sparse", "projector", "lora"]
FORMS: tuple[Form, ...] = get_args(Form)
FILES: Mapping[str, str] = {
    "sparse": "delta.safetensors",
    "projector": "projector.safetensors",
    "lora": "adapter_model.safetensors",
    "full": "model.safetensors",
}


@dataclass
class Delta:
    """What is written: tensors by name, and what the file says of itself."""

    form: Form
    tensors: dict[str, Tensor] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def metadata(self) -> dict[str, str]:
        """The file's own metadata."""
        return {"format": f"brittle-eval {self.form} 1" if self.form != "lora" else "pt", "weights": json.dumps(self.about)}


def fitting(region: Region) -> Form:
    """The smallest form that holds ablating a region: entries as a delta, thin projectors as a LoRA, others as projectors."""
    projectors = [part for part in region.values() if isinstance(part, Projector)]
    if len(projectors) < len(region):
        return "sparse"
    experts = any(name.endswith("]") for name in region)
    return "projector" if experts or any(part.complement or part.right is None for part in projectors) else "lora"


Take = Callable[[nn.Module, Address, Part, Tensor], None]
"""Takes one edited weight: the model as it is now, where the weight is, its part, and its old value (out, in)."""


def taker(delta: Delta) -> Take:
    """What adds an edited weight to a delta of this form; BrittleError where the form cannot hold it."""
    takers: dict[str, Callable[..., None]] = {"sparse": _sparse, "projector": _projector, "lora": _lora}
    return lambda model, address, part, before: takers[delta.form](delta, model, address, part, before)


def _sparse(delta: Delta, model: nn.Module, address: Address, part: Part, before: Tensor) -> None:
    """Flat positions in the parameter as it is stored, and the new values there; the whole parameter where that is smaller."""
    parameter = address.parameter(model).data
    changed = address.view(model).ne(before).nonzero(as_tuple=True)
    index = torch.arange(parameter.numel()).reshape(parameter.shape)
    positions = address.of(index)[changed[0].cpu(), changed[1].cpu()].sort().values
    name = address.parameter_name
    if f"weights/{name}" in delta.tensors:
        positions = torch.arange(parameter.numel())
    elif f"positions/{name}" in delta.tensors:
        positions = torch.cat([delta.tensors[f"positions/{name}"].long(), positions]).sort().values
    for role in ("weights", "positions", "values"):
        delta.tensors.pop(f"{role}/{name}", None)
    small = torch.int32 if parameter.numel() < 2**31 else torch.int64
    if len(positions) * (small.itemsize + parameter.element_size()) >= parameter.numel() * parameter.element_size():
        delta.tensors[f"weights/{name}"] = parameter.cpu().clone()
    else:
        values = parameter.reshape(-1)[positions.to(parameter.device)].cpu().clone()
        delta.tensors |= {f"positions/{name}": positions.to(small), f"values/{name}": values}


def _thin(form: Form, model: nn.Module, address: Address, part: Part, before: Tensor) -> Projector:
    if not isinstance(part, Projector):
        raise BrittleError(f"--as {form}: the region has entries in {address.name}, no ranks; give --as sparse")
    removed = (before.float() - part.apply(before.float())).to(before.dtype)
    if not torch.equal(removed, address.view(model)):
        raise BrittleError(
            f"--as {form} holds W − R(W) only, and the plan did something else to {address.name}; give --as sparse"
        )
    return part


def _projector(delta: Delta, model: nn.Module, address: Address, part: Part, before: Tensor) -> None:
    """`W − L (Rᵀ W)`: the factors, and how the parameter stores the weight."""
    thin = _thin("projector", model, address, part, before)
    delta.tensors[f"left/{address.name}"] = thin.left.clone()
    if thin.right is not None and thin.right is not thin.left:
        delta.tensors[f"right/{address.name}"] = thin.right.clone()
    how = {"parameter": address.parameter_name, "expert": address.expert, "transposed": address.transposed}
    delta.about[address.name] = how | {"dense": thin.right is None, "complement": thin.complement}


def _lora(delta: Delta, model: nn.Module, address: Address, part: Part, before: Tensor) -> None:
    """`B A = −R(W)`, in float32."""
    thin = _thin("lora", model, address, part, before)
    if address.expert is not None:
        raise BrittleError(f"--as lora: {address.name} is an expert, which adapters do not reach; give --as projector or sparse")
    down, up = thin.lora(before)
    delta.tensors[f"base_model.model.{address.module}.lora_A.weight"] = down.cpu().contiguous()
    delta.tensors[f"base_model.model.{address.module}.lora_B.weight"] = up.cpu().contiguous()
    delta.about[address.module] = {"rank": len(down), "transposed": address.transposed}


def adapter_config(delta: Delta, base: str) -> dict[str, Any]:
    """Peft's adapter_config.json of a LoRA: scale 1, each module with its own rank."""
    ranks = {module: known["rank"] for module, known in delta.about.items()}
    most = max(ranks.values())
    own = {module: rank for module, rank in ranks.items() if rank != most}
    config = LoraConfig(
        r=most,
        lora_alpha=most,
        target_modules=sorted(ranks),
        rank_pattern=own,
        alpha_pattern=dict(own),
        fan_in_fan_out=any(known["transposed"] for known in delta.about.values()),
        base_model_name_or_path=base,
        task_type="CAUSAL_LM",
        inference_mode=True,
    ).to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
