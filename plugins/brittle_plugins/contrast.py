"""Where harmful and harmless prompts differ in the residual stream, and how to tell one from the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from annotated_types import Interval
from torch.nn.functional import normalize

from brittle_eval import BrittleError, HiddenStates, Isolation, Region, Streams

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Context

FEWEST = 8
"""Examples of a behaviour that a mean is taken over, at least."""


def steps(states: Tensor) -> Tensor:
    """`t = h(end of the prompt) − h(end of what is read behind it)`, (blocks, …, width) behind each block.

    Of states (blocks + 1, …, positions, width) whose last position is the latter, and `first` the former.
    """
    return states[1:, :, 0] - states[1:, :, -1]


def similarity(own: Tensor, reference: Tensor, first: int) -> Tensor:
    """`σ = mean over blocks from first on of cos(t, t_ref)`; (rows,) of (blocks, rows, width) and (blocks, rows or 1, width)."""
    return torch.cosine_similarity(own[first:].double(), reference[first:].double(), dim=-1).mean(0)


@dataclass(frozen=True)
class Contrast(Isolation):
    """`v_b = normalize(mean h_b(of) − mean h_b(minus))` behind blocks `first` to `last`, at the ends of prompts.

    With them goes what tells the two apart: `t = h(prompt's end) − h(end of the text behind it)`, its mean over `of` behind each
    block, and the threshold τ, halfway between the mean similarity σ of the examples of `of` (each against the mean of the
    others) and that of `minus`. σ is the mean cosine of t over the blocks from `first` to the last of the model. No evaluation
    prompt has a say in τ, and there is one for all tasks.

    The states are those of `prompt-states` with a text `behind`. BrittleError for too few examples, blocks out of range, and
    where `of` is no more similar than `minus`. SCANS, Cao et al. 2024 (arXiv 2408.11491); that τ is found so is ours.
    """

    first: Annotated[int, Interval(ge=0)] = 10
    last: Annotated[int, Interval(ge=0)] = 19
    of: str = "safety"
    minus: str = "utility"

    takes = frozenset({"hidden-states"})
    gives = frozenset({"directions"})

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise ValueError(f"first={self.first} is behind last={self.last}: give a range of blocks such as first=10,last=19")

    @property
    def reach(self) -> Literal["weight", "block", "model"]:
        return "model"

    @property
    def behaviours(self) -> tuple[str, ...]:
        return (self.of, self.minus)

    def isolate(self, scores: Mapping[str, HiddenStates], context: Context) -> Region:
        blocks, behind = context.reader().blocks, scores[self.of].behind
        if self.last >= blocks:
            raise BrittleError(
                f"contrast has first={self.first},last={self.last}, expected blocks up to {blocks - 1}: give those"
            )
        if not behind:
            raise BrittleError("contrast compares the prompt's end with a text behind it: give prompt-states.behind=Sure")
        for name in self.behaviours:
            if (count := scores[name].values.shape[1]) < FEWEST:
                raise BrittleError(f"contrast takes means over {FEWEST} prompts or more, and got {count} of '{name}': give more")
        one, other = (scores[name].values[:, :, -len(behind) - 1 :] for name in self.behaviours)
        along = torch.zeros(blocks + 1, one.shape[-1])
        steered = slice(self.first + 1, self.last + 2)
        along[steered] = normalize(one[steered, :, 0].mean(1) - other[steered, :, 0].mean(1), dim=-1)
        reference = steps(one).mean(1)
        known = {"reference": reference, "first": torch.tensor(float(self.first))}
        return Region({}, Streams(along, behind, known | {"threshold": self._threshold(steps(one), steps(other), context)}))

    def _threshold(self, one: Tensor, other: Tensor, context: Context) -> Tensor:
        """Halfway between what the examples of the two behaviours have, those of `of` each against the mean of the others."""
        count = one.shape[1]
        rest = (one.sum(1, keepdim=True) - one) / (count - 1)
        own, others = similarity(one, rest, self.first), similarity(other, one.mean(1, keepdim=True), self.first)
        threshold = (own.mean() + others.mean()) / 2
        right = int((own >= threshold).sum()), int((others < threshold).sum())
        told = f"{right[0]} of {count} prompts of {self.of} and {right[1]} of {len(others)} of {self.minus}"
        if own.mean() <= others.mean():
            raise BrittleError(
                f"prompts of '{self.of}' are no more similar to each other (σ {own.mean():.2f}) than those of '{self.minus}' are "
                f"to them ({others.mean():.2f}), so that they cannot be told apart: give other blocks or other pairs"
            )
        context.note(f"similarity σ: {own.mean():.2f} of {self.of}, {others.mean():.2f} of {self.minus}")
        context.note(f"threshold τ {threshold:.2f}, halfway, tells {told} right")
        return threshold.float()
