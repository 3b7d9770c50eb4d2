"""Greedy coordinate gradient: one suffix behind several prompts, for which the model is most likely to begin with the targets.

Zou et al. 2023, Universal and Transferable Adversarial Attacks on Aligned Language Models (arXiv 2307.15043), algorithms 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from brittle_eval.errors import BrittleError, UnknownName
from brittle_eval.gcg.suffix_scores import Scorer
from brittle_eval.gcg.suffix_slots import Slots, first_suffix, neighbours, survives

ROUNDS = 16
"""Draws of candidates a step, until enough of them survive being written and read again."""


@dataclass(frozen=True)
class Settings:
    """How a suffix is looked for; the defaults are the preset `cpu`."""

    steps: int = 100
    candidates: int = 16
    """Suffixes a step whose loss is taken; each differs from the step's suffix in one token."""
    top_k: int = 64
    """Tokens at each place from which candidates are drawn: those with the most negative gradient."""
    length: int = 20
    """Tokens of the suffix."""
    goals: int = 3
    """Prompts that one suffix is for."""
    target_tokens: int = 8
    """The target's first tokens that count; 0: all."""
    progressive: bool = False
    """Begin with one prompt, and add the next when the targets of all before it are the greedy answers."""
    descend: bool = True
    """A step takes the best candidate only if it is better than the suffix; as in the paper it takes it in any case."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "target_tokens" else 1
            if not isinstance(value, bool) and value < least:
                raise BrittleError(f"--{field.name.replace('_', '-')} {value}: expected a number of at least {least}")


PRESETS = {
    "cpu": Settings(),
    "paper": Settings(500, 512, 256, 20, 25, target_tokens=0, progressive=True, descend=False),
}


def preset(name: str, **given: Any) -> Settings:
    """A preset with what was given beside it; None stands for what was not."""
    if name not in PRESETS:
        raise UnknownName("preset", name, PRESETS)
    return replace(PRESETS[name], **{key: value for key, value in given.items() if value is not None})


@dataclass(frozen=True)
class State:
    """All that the next step depends on. Losses are means over the first `active` goals, in nats a token."""

    suffix: tuple[int, ...]
    loss: float
    active: int
    best: tuple[int, ...]
    """The suffix with the least loss since the last goal came in."""
    best_loss: float
    random: str
    """The random stream's state, hexadecimal."""
    losses: tuple[float, ...]
    """Of the first suffix, then of each step's."""
    counts: tuple[int, ...]
    """How many goals each of `losses` is over."""

    @property
    def steps(self) -> int:
        """Steps that are done."""
        return len(self.losses) - 1


class Search:
    """The steps of one search; a state goes in and the next one comes out, and nothing else is kept between them."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        scorer: Scorer,
        goals: Sequence[Slots],
        allowed: Sequence[int],
        settings: Settings,
    ) -> None:
        """`allowed` are the tokens that may stand in a suffix, in the scorer's order."""
        self.tokenizer, self.scorer, self.goals, self.settings = tokenizer, scorer, goals, settings
        self.allowed = torch.tensor(allowed)

    def start(self, seed: int) -> State:
        """One repeated token, "!" where that is possible, as in the paper."""
        suffix = first_suffix(self.tokenizer, self.goals, self.allowed.tolist(), self.settings.length)
        active = 1 if self.settings.progressive else len(self.goals)
        loss = float(self.losses([suffix], active)[0])
        random = _hex(torch.Generator().manual_seed(seed))
        return State(suffix, loss, active, suffix, loss, random, (loss,), (active,))

    def run(self, state: State, on_step: Callable[[State], None]) -> State:
        """The steps that are left; `on_step` sees the state after each."""
        while state.steps < self.settings.steps:
            state = self.step(state)
            on_step(state)
        return state

    def step(self, state: State) -> State:
        """Algorithm 2: the best of some suffixes that differ in one token, drawn from the k steepest at each place."""
        random = torch.Generator()
        random.set_state(torch.frombuffer(bytearray.fromhex(state.random), dtype=torch.uint8))
        top = self.steepest(state.suffix, state.active)
        drawn = self.draw(state.suffix, top, random)
        suffix, loss = state.suffix, state.loss
        if drawn:
            losses = self.losses(drawn, state.active, state.suffix)
            index = int(losses.argmin())
            if not self.settings.descend or float(losses[index]) < loss:
                suffix, loss = drawn[index], float(losses[index])
        if not math.isfinite(loss):
            raise BrittleError(f"the target loss is {loss} at step {state.steps + 1}: load the model in float32 or bfloat16")
        best, best_loss = (suffix, loss) if loss < state.best_loss else (state.best, state.best_loss)
        after = State(
            suffix, loss, state.active, best, best_loss, _hex(random), (*state.losses, loss), (*state.counts, state.active)
        )
        return self._grown(after)

    def _grown(self, state: State) -> State:
        """One goal more, if there is one and the suffix wins all before it."""
        if state.active == len(self.goals) or not all(self.scorer.succeeds(g, state.suffix) for g in self.goals[: state.active]):
            return state
        loss = float(self.losses([state.suffix], state.active + 1)[0])
        return replace(state, active=state.active + 1, loss=loss, best=state.suffix, best_loss=loss)

    def losses(self, suffixes: Sequence[tuple[int, ...]], active: int, near: tuple[int, ...] = ()) -> Tensor:
        """(suffixes,): the mean of the first `active` goals' losses; `near` is a suffix whose gradient was taken last, if any."""
        return torch.stack([self.scorer.losses(goal, suffixes, near) for goal in self.goals[:active]]).mean(dim=0)

    def steepest(self, suffix: tuple[int, ...], active: int) -> Tensor:
        """(length, k): token ids with the most negative `Σ g / ‖g‖` over the goals, g the gradient by one-hot token."""
        total = torch.zeros(len(suffix), len(self.allowed))
        for goal in self.goals[:active]:
            gradient = self.scorer.gradient(goal, suffix)
            total += gradient / gradient.norm().clamp(min=torch.finfo(torch.float32).tiny)
        k = min(self.settings.top_k, len(self.allowed))
        return self.allowed[(-total).topk(k, dim=1).indices]

    def draw(self, suffix: tuple[int, ...], top: Tensor, random: torch.Generator) -> list[tuple[int, ...]]:
        """`candidates` different suffixes that survive, or as many as `ROUNDS` draws give; place and token are uniform."""
        found: dict[tuple[int, ...], None] = {}
        tried = {suffix}
        for _ in range(ROUNDS):
            slots = torch.randint(len(suffix), (self.settings.candidates,), generator=random)
            picks = torch.randint(top.shape[1], (self.settings.candidates,), generator=random)
            fresh = [one for one in neighbours(suffix, slots.tolist(), top[slots, picks].tolist()) if one not in tried]
            fresh = list(dict.fromkeys(fresh))
            tried.update(fresh)
            found |= {one: None for one, ok in zip(fresh, survives(self.tokenizer, self.goals, fresh), strict=True) if ok}
            if len(found) >= self.settings.candidates:
                break
        return list(found)[: self.settings.candidates]

    def random_suffix(self, seed: int) -> tuple[int, ...]:
        """A suffix of the same length that knows nothing of the model: every token exchanged for a random one, three times over.

        Each exchange must survive, as every step's does; one for which none of some draws does is left out.
        """
        random = torch.Generator().manual_seed(seed)
        suffix = first_suffix(self.tokenizer, self.goals, self.allowed.tolist(), self.settings.length)
        for slot in torch.cat([torch.randperm(len(suffix), generator=random) for _ in range(3)]).tolist():
            picks = self.allowed[torch.randint(len(self.allowed), (ROUNDS,), generator=random)].tolist()
            drawn = list(neighbours(suffix, [slot] * ROUNDS, picks))
            alive = survives(self.tokenizer, self.goals, drawn)
            suffix = next((one for one, ok in zip(drawn, alive, strict=True) if ok), suffix)
        return suffix


def _hex(random: torch.Generator) -> str:
    return bytes(random.get_state().tolist()).hex()
