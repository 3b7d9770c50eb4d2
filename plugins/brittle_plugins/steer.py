"""Steering whose sign depends on the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Interval

from brittle_eval import BrittleError, HookModification
from brittle_plugins.contrast import similarity, steps

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Streams


@dataclass(frozen=True)
class Steer(HookModification):
    """`x + α v` for a prompt with σ ≥ τ, which counts as harmful, `x − α v` for others: from the prompt's last token on.

    v and σ are those of the isolation `contrast`, and so is τ unless `tau` gives another: one for all tasks. Each prompt's sign
    is found before the steered pass and stays for its whole answer. α is in units of the residual stream, whose size differs
    from model to model: 3.5 is for Llama 2 (7B), 4 for Vicuna. BrittleError for directions without a threshold.

    SCANS, Cao et al. 2024 (arXiv 2408.11491), whose τ of 0.75 is lowered for some test sets in their code.
    """

    alpha: float = 3.5
    tau: Annotated[float, Interval(ge=-1, le=1)] | None = None

    def prepare(self, states: Tensor, streams: Streams) -> Tensor:
        if "threshold" not in streams.known:
            raise BrittleError("steer needs what the isolation 'contrast' keeps of prompts, and this region has nothing of it")
        found = similarity(steps(states), streams.known["reference"][:, None], int(streams.known["first"]))
        limit = float(streams.known["threshold"]) if self.tau is None else self.tau
        return torch.where(found >= limit, 1.0, -1.0)

    def steer(self, stream: Tensor, direction: Tensor, state: Tensor | None) -> Tensor:
        assert state is not None
        return stream + self.alpha * state[:, None, None] * direction
