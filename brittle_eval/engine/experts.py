"""Observation of fused experts: transformers multiplies all of them in one call that no module hook sees.

While examples are observed, the model runs its experts through a function of ours, registered where transformers looks for such
functions. It multiplies expert by expert, and tells an observer what entered and left each.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from brittle_eval.errors import BrittleError
from brittle_eval.weights import Address, fused_experts

IMPLEMENTATION = "brittle-eval"
"""Under which name our function is registered, for as long as it is needed."""

Watch = Callable[[str, Tensor, Tensor, Tensor], None]
"""Takes a weight's name, its inputs (n, in), its outputs without bias (n, out), and their n positions in the flattened batch."""


@contextmanager
def watching(model: PreTrainedModel, addresses: Collection[Address], watch: Watch) -> Iterator[None]:
    """Within, `watch` sees every pass of the experts among the weights; afterwards the model has its own implementation again.

    A model with fused experts runs them all through our function, watched or not: so the same scores come out whatever the group.
    BrittleError if an experts module took no part in what was done within: then the model cannot be observed.
    """
    names: dict[nn.Module, dict[tuple[str, int], str]] = {}
    for address in addresses:
        if address.expert is not None:
            parameter = address.parameter_name.removeprefix(f"{address.module}.")
            names.setdefault(model.get_submodule(address.module), {})[parameter, address.expert] = address.name
    if not any(fused_experts(module) for module in model.modules()):
        yield
        return
    own, experts = model.get_experts_implementation(), _Experts(names, watch)
    ALL_EXPERTS_FUNCTIONS[IMPLEMENTATION] = experts
    try:
        model.set_experts_implementation(dict.fromkeys(own, IMPLEMENTATION))
        yield
    finally:
        model.set_experts_implementation(own)
        del ALL_EXPERTS_FUNCTIONS[IMPLEMENTATION]
    if missed := [name for module in names.keys() - experts.used for name in names[module].values()]:
        raise BrittleError(
            f"the fused experts of {type(model).__name__} run where they cannot be observed, such as {min(missed)}: "
            "use an attribution that needs no data, such as magnitude"
        )


class _Experts:
    """What transformers calls instead of its own functions, with an experts module of any of its layouts."""

    def __init__(self, names: Mapping[nn.Module, Mapping[tuple[str, int], str]], watch: Watch) -> None:
        self.names, self.watch = names, watch
        self.used = set[nn.Module]()

    def __call__(self, module: Any, hidden: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """What the experts make of `hidden (tokens, in)`: a sum over those `chosen (tokens, k)`, weighted by `shares`."""
        self.used.add(module)
        routes = chosen.reshape(-1)
        order = routes.argsort(stable=True)
        sizes = routes.bincount(minlength=module.num_experts).tolist()
        made = [self._expert(module, expert, hidden, own // chosen.shape[1]) for expert, own in enumerate(order.split(sizes))]
        by_route = torch.cat(made)[order.argsort()] * shares.reshape(-1, 1)
        summed: Tensor = by_route.unflatten(0, chosen.shape).sum(1)
        return summed.to(hidden.dtype)

    def _expert(self, module: Any, expert: int, hidden: Tensor, tokens: Tensor) -> Tensor:
        """One expert as transformers' own functions compute it; gate and activation are the module's."""
        first = self._times(module, "gate_up_proj" if module.has_gate else "up_proj", expert, hidden[tokens], tokens)
        inner = module._apply_gate(first) if module.has_gate else module.act_fn(first)
        outputs = self._times(module, "down_proj", expert, inner, tokens)
        normed: Tensor = module.post_expert_norm(outputs) if getattr(module, "has_post_expert_norm", False) else outputs
        return normed

    def _times(self, module: Any, parameter: str, expert: int, inputs: Tensor, tokens: Tensor) -> Tensor:
        weight: Tensor = getattr(module, parameter)[expert]
        outputs = inputs @ (weight if module.is_transposed else weight.T)
        if name := self.names.get(module, {}).get((parameter, expert)):
            self.watch(name, inputs, outputs, tokens)
        return outputs + getattr(module, f"{parameter}_bias")[expert] if module.has_bias else outputs
