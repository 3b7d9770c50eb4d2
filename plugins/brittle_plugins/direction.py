"""The one direction in which two behaviours' prompts differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
from annotated_types import Interval

from brittle_eval import BrittleError, HiddenStates, Isolation, Projector, Region, Share, Steering, Streams, share

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Context, Reader

FEWEST = 8
"""Examples of a behaviour that a mean is taken over, at least."""
TINY = 1e-5
"""A difference of means below this share of the mean itself is none: the template's tokens are the same in all prompts."""


class Found(NamedTuple):
    """A candidate."""

    difference: Tensor
    block: int
    position: int
    odds: float | None = None
    """Log-odds of a refusal after prompts of `of` when it is ablated, if it was tried."""


@dataclass(frozen=True)
class Direction(Isolation):
    """`R(W) = r rᵀ W`, r = d / ‖d‖, d = `mean(x_of) − mean(x_minus)`, for every weight that writes to the residual stream.

    There is one d for each block below `depth` (share of all blocks) and each position. Taken is the one whose ablation,
    `x − r rᵀ x` wherever the stream is written, leaves prompts of `of` the lowest log-odds of a refusal, among those that
    change the next token after prompts of `minus` by less than `kl` (nats) when they are ablated, and bring these the
    log-odds of a refusal above `induced` when d is added before its block. All that on the share `validation` of the examples,
    which no mean saw. A refusal is one of the most frequent tokens that the share `begins` of the responses of `of` begin with.
    With `block` and `position` (−1 is the last) there is no search. Hooks get d itself, at its block. What else writes to the
    stream, such as the embeddings, keeps its part of r, and the run says so. BrittleError for too few examples, and where no
    direction passes. Arditi et al. 2024 (arXiv 2406.11717); `begins` is ours.
    """

    validation: Share = 0.2
    depth: Share = 0.8
    kl: float = 0.1
    induced: float = 0.0
    begins: Share = 0.9
    block: Annotated[int, Interval(ge=0)] | None = None
    position: Annotated[int, Interval(lt=0)] | None = None
    of: str = "safety"
    minus: str = "utility"

    takes = frozenset({"hidden-states"})
    gives = frozenset({"weights", "directions"})

    def __post_init__(self) -> None:
        if (self.block is None) != (self.position is None):
            raise ValueError("block and position are given together, such as block=14,position=-1, or neither")

    @property
    def reach(self) -> Literal["weight", "block", "model"]:
        return "model"

    @property
    def behaviours(self) -> tuple[str, ...]:
        return (self.of, self.minus)

    def isolate(self, scores: Mapping[str, HiddenStates], context: Context) -> Region:
        reader = context.reader()
        halves = {name: self._halves(name, scores[name], context) for name in self.behaviours}
        one, other = (scores[name].prompts[:, halves[name][0]].mean(1) for name in self.behaviours)
        if self.block is not None and self.position is not None:
            found = self._given(one - other, self.block, self.position)
        else:
            held = {name: validation for name, (_, validation) in halves.items()}
            distinct = (one - other).norm(dim=-1) > TINY * one.norm(dim=-1)
            places = [(b, -p) for b in range(share(self.depth, reader.blocks)) for p in range(one.shape[1], 0, -1)]
            real = [Found((one - other)[place], *place) for place in places if distinct[place]]
            found = self._best(real, reader, held)
            context.note(f"{len(real)} directions tried on {', '.join(f'{len(own)} prompts of {b}' for b, own in held.items())}")
        after = "" if found.odds is None else f", with which ablated the log-odds of a refusal are {found.odds:.2f}"
        context.note(f"direction of block {found.block} at position {found.position}{after}")
        context.note(f"left out, where the direction is still written: {'; '.join(reader.left_out)}")
        parts = {name: Projector.onto(shape, unit(found)[:, None]) for name, shape in reader.writers.items()}
        return Region(parts, Streams.single(reader.blocks, found.block, found.difference))

    def _halves(self, name: str, states: HiddenStates, context: Context) -> tuple[list[int], list[int]]:
        """Examples to take means over, and the others."""
        count = states.values.shape[1]
        held = max(1, share(self.validation, count)) if self.block is None else 0
        if count - held < FEWEST:
            got = f"got {count} of '{name}', {held} of them for validation: give more pairs of it"
            raise BrittleError(f"direction takes a mean over {FEWEST} examples or more, but {got}")
        order = torch.randperm(count, generator=context.generator(f"direction {name}")).tolist()
        return order[held:], order[:held]

    def _given(self, differences: Tensor, block: int, position: int) -> Found:
        blocks, positions = differences.shape[0] - 1, differences.shape[1]
        if block >= blocks or -position > positions:
            raise BrittleError(
                f"direction has block={block},position={position}, expected a block up to {blocks - 1} and a position from "
                f"-{positions}: give those, or prompt-states.positions"
            )
        return Found(differences[block, position], block, position)

    def _best(self, candidates: Sequence[Found], reader: Reader, held: Mapping[str, Sequence[int]]) -> Found:
        of, minus = ((name, held[name]) for name in self.behaviours)
        refusing = beginnings(reader.first_tokens(self.of), self.begins)
        plain = reader.next_tokens(*minus)
        ablated = ((one, reader.next_tokens(*of, Steering(ablate=unit(one)))) for one in candidates)
        tried = [one._replace(odds=log_odds(after, refusing)) for one, after in ablated]
        for one in sorted(tried, key=lambda one: one.odds or 0.0):
            if divergence(plain, reader.next_tokens(*minus, Steering(ablate=unit(one)))) < self.kl:
                added = reader.next_tokens(*minus, Steering(add=one.difference, block=one.block))
                if log_odds(added, refusing) > self.induced:
                    return one
        raise BrittleError(
            f"none of {len(candidates)} directions changes the next token after '{self.minus}' by less than kl={self.kl:g} and "
            f"brings it log-odds of a refusal above induced={self.induced:g}: raise kl, lower induced, or give block and position"
        )


def unit(found: Found) -> Tensor:
    return torch.nn.functional.normalize(found.difference, dim=0)


def beginnings(tokens: Sequence[int], wanted: float) -> Tensor:
    """The most frequent of the tokens that together are this share of them, or just more."""
    counted = Counter(tokens).most_common()
    before = [sum(number for _, number in counted[:place]) for place in range(len(counted))]
    return torch.tensor([token for (token, _), already in zip(counted, before, strict=True) if already < wanted * len(tokens)])


def log_odds(log_p: Tensor, tokens: Tensor) -> float:
    """Mean over rows of `log P − log (1 − P)`, P the probability of any of the tokens; (rows, vocabulary) as log p."""
    inside = log_p.double()[:, tokens].logsumexp(1)
    return float((inside - torch.log1p(-inside.exp().clamp(max=1 - 1e-12))).mean())


def divergence(plain: Tensor, changed: Tensor) -> float:
    """Mean over rows of KL(plain ‖ changed), nats."""
    return float((plain.exp() * (plain - changed)).sum(1).mean())
