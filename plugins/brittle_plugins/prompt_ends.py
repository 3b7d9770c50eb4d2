"""What enters each weight at the end of each prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from brittle_eval import Attribution, ExampleInputs

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Seen, Weight

State = list[tuple["Tensor", "Tensor"]]
"""Numbers (examples of a batch,) and inputs (examples of a batch, in)."""


@dataclass(frozen=True)
class PromptEnds(Attribution):
    """`x_e`: what entered the weight at the last token of the prompt of example e, (examples, in), float32.

    The columns of an output projection are what its heads gave. No score, but what probes and differences of means are made of;
    all examples are kept, so restrict the plan to the modules that are looked at, such as `modules=o_proj`.
    """

    gives = "example-inputs"
    needs = frozenset({"inputs"})
    at = "prompt-ends"

    def start(self, weight: Weight) -> State:
        return []

    def update(self, state: State, seen: Seen) -> State:
        state.append((seen.example, seen.inputs.to(torch.float32, copy=True)))
        return state

    def finish(self, state: State, weight: Weight) -> ExampleInputs:
        numbers, inputs = (torch.cat(parts) for parts in zip(*state, strict=True))
        return ExampleInputs(weight.name, inputs[numbers.argsort()])
