"""A LoRA adapter that somebody trained, merged into the region."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from brittle_eval import BrittleError, Modification

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from brittle_eval import Context, Region

KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
OTHERWISE = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")
"""Settings with which an update is not `α/r · B A` of every named weight."""


@dataclass(frozen=True)
class Adapter(Modification):
    """`W + R(α/r · B A)`: the LoRA adapter in the folder `path`, as peft saves it, merged into the region; float32, one cast.

    Without an isolation all of it is merged. BrittleError for an adapter of another base: one whose weights this model does not
    have in this shape, or whose base has another name (`any-base=true` takes it all the same, such as for a copy of the base).
    """

    path: str
    any_base: bool = False

    def apply(self, model: PreTrainedModel, region: Region, context: Context) -> Mapping[str, Any]:
        import torch

        assert context.tuning is not None
        scale, pairs = self._read(model)
        for name, (one, other) in pairs.items():
            start = context.tuning.start.get(name)
            if start is None or tuple(start.shape) != (len(other), one.shape[1]):
                has = f"of shape {tuple(start.shape)}" if start is not None else "not at all"
                raise BrittleError(
                    f"the adapter {self.path} changes {name} of shape {(len(other), one.shape[1])}, this model has it {has}: "
                    "give an adapter of this model"
                )
            if name in region:
                stored = model.get_parameter(name).data
                change = region[name].apply(scale * other.float() @ one.float()).to(stored.device)
                transposed = type(model.get_submodule(name.removesuffix(".weight"))).__name__ == "Conv1D"
                with torch.no_grad():
                    stored.add_(change.T if transposed else change)
        return {"weights": len(pairs)}

    def _read(self, model: PreTrainedModel) -> tuple[float, dict[str, tuple[Tensor, Tensor]]]:
        """α/r, and A and B by weight."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(self.path)
        try:
            config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            tensors = load_file(folder / "adapter_model.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise BrittleError(f"cannot read the adapter {self.path} ({error}): give a folder that peft has saved") from None
        base, own = (PurePath(name or "").name for name in (config.get("base_model_name_or_path"), model.name_or_path))
        if base != own and not self.any_base:
            advice = "give any-base=true if they are one"
            raise BrittleError(f"the adapter {self.path} is of the base '{base}', the model is '{own}': {advice}")
        found = {KEY.fullmatch(key): value for key, value in tensors.items()}
        if None in found or config.get("peft_type") != "LORA" or any(config.get(key) for key in OTHERWISE):
            raise BrittleError(f"the adapter {self.path} is no plain LoRA of weights: merge it with peft, and give --donor")
        parts = {(match[1], match[2]): value for match, value in found.items() if match}
        modules = dict.fromkeys(module for module, _ in parts)
        pairs = {f"{module}.weight": (parts[module, "A"], parts[module, "B"]) for module in modules}
        return config["lora_alpha"] / config["r"], pairs
