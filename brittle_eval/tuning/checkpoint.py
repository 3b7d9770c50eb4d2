"""Checkpoints of a training: parameters and the optimiser's moments in one safetensors file, whole or not there."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from brittle_eval.errors import BrittleError
from brittle_eval.store import save_private

SECONDS = 120.0
"""A checkpoint is due when the last one, or the start, is so long ago."""
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Checkpoint:
    """One file in `folder`, replaced every `seconds`; it is the caller's to remove when the training is done."""

    def __init__(self, folder: Path, seconds: float = SECONDS) -> None:
        self.file, self.seconds = folder / "checkpoint.safetensors", seconds
        self._last = time.monotonic()

    def due(self, parameters: Sequence[nn.Parameter], optimiser: torch.optim.Optimizer, losses: Sequence[float]) -> None:
        """Write a checkpoint if it is time."""
        if time.monotonic() - self._last >= self.seconds:
            self.save(parameters, optimiser, losses)
            self._last = time.monotonic()

    def save(self, parameters: Sequence[nn.Parameter], optimiser: torch.optim.Optimizer, losses: Sequence[float]) -> None:
        """Write where the training is; a parameter that never had a gradient has no moments."""
        tensors = {f"value/{number}": parameter.data for number, parameter in enumerate(parameters)}
        for number, parameter in enumerate(parameters):
            tensors |= {f"{key}/{number}": value for key, value in optimiser.state[parameter].items() if key in MOMENTS}
        save_private(self.file, tensors, {"losses": json.dumps(list(losses))})

    def load(self, parameters: Sequence[nn.Parameter], optimiser: torch.optim.Optimizer, most: int) -> list[float]:
        """Go where the last checkpoint was: the losses up to there, none where there is no checkpoint.

        One behind `most` steps is left alone. BrittleError for a file that is damaged or another training's.
        """
        if not self.file.exists():
            return []
        try:
            with safe_open(self.file, framework="pt") as file:
                losses: list[float] = json.loads(file.metadata()["losses"])
                if len(losses) > most:
                    return []
                names = set(file.keys())
                for number, parameter in enumerate(parameters):
                    self._take(file.get_tensor(f"value/{number}"), parameter)
                    state: dict[str, Tensor] = {
                        key: file.get_tensor(f"{key}/{number}") for key in MOMENTS if f"{key}/{number}" in names
                    }
                    optimiser.state[parameter] = {
                        key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
                    }
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise BrittleError(f"cannot go on from {self.file}: {error}; remove it, and the training starts anew") from None
        return losses

    def _take(self, value: Tensor, parameter: nn.Parameter) -> None:
        if value.shape != parameter.shape:
            raise ValueError(f"it has a parameter of shape {tuple(value.shape)} where {tuple(parameter.shape)} trains")
        parameter.data.copy_(value)
