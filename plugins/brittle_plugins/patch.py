"""SafePatching: what unlearns harm and what loosens refusals, merged where they do not meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import torch
from annotated_types import Interval

from brittle_eval import (
    UNVERIFIED,
    BrittleError,
    Checkpoint,
    Compare,
    Modification,
    Share,
    Training,
    fine_tune,
    response_losses,
    select,
)
from brittle_plugins.snip import Snip

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from brittle_eval import Context, Region, Tuning

Count = Annotated[int, Interval(ge=1)]
Positive = Annotated[float, Interval(gt=0)]


class Shifted(NamedTuple):
    """One of the two trainings, by weight."""

    change: dict[str, Tensor]
    """θ' − θ, (out, in), float32."""
    top: dict[str, Tensor]
    """Where the SNIP scores at θ' are highest, (out, in)."""
    losses: list[float]


@dataclass(frozen=True)
class Patch(Modification):
    """`W + R(α · M_p ∘ P_up ∘ [A∖B] + β · M'_p ∘ P_down ∘ [B∖A])`: a safety patch and an over-safety patch of the same pairs.

    P_up is what AdamW changes when it *raises* the loss of the pairs of `on`, P_down when it lowers it, each from W and in the
    region's linear weights alone. A are the entries with the share `a` of the highest SNIP scores at W + P_up, B those with the
    share `b` at W + P_down, of all that compete (`compare`); M_p keeps an entry with probability `p`, and with `rescale` divides
    it by p. With one score on the same pairs one of the two differences would be empty.

    Notes: the losses of both trainings, and the shares of entries that each patch changes. BrittleError where both patches are
    empty, for fewer pairs than `n`, and where a loss is no number.

    SafePatching, Zhao et al. 2024 (arXiv 2405.13820), whose equations and coefficients have not been seen: every default, that
    SNIP looks at responses, and that it is taken at the shifted weights are readings of what others write about it.
    """

    a: Annotated[Share, UNVERIFIED] = 0.05
    b: Annotated[Share, UNVERIFIED] = 0.05
    p: Annotated[float, Interval(gt=0, le=1), UNVERIFIED] = 0.3
    alpha: Annotated[float, UNVERIFIED] = 1.0
    beta: Annotated[float, UNVERIFIED] = 1.0
    rescale: Annotated[bool, UNVERIFIED] = False
    compare: Annotated[Compare, UNVERIFIED] = "weight"
    on: str = "harmful"
    n: Annotated[Count, UNVERIFIED] = 100
    epochs: Annotated[Count, UNVERIFIED] = 1
    lr: Annotated[Positive, UNVERIFIED] = 5e-5
    batch: Annotated[Count, UNVERIFIED] = 10
    seed: Annotated[int, Interval(ge=0)] = 0

    def apply(self, model: PreTrainedModel, region: Region, context: Context) -> Mapping[str, Any]:
        tuning = context.tuning
        assert tuning is not None
        examples = tuning.examples(self.on, self.n, tuning.seed + self.seed)
        model.requires_grad_(False)
        for name in region:
            model.get_parameter(name.partition("[")[0]).requires_grad_(True)
        up, down = (self._shifted(model, examples, list(region), tuning, sign) for sign in (-1, 1))
        changed = {"safety": 0, "over-safety": 0}
        for name, part in region.items():
            safer = self._kept(up, name, up.top[name] & ~down.top[name], context.generator(f"patch safety {name}"))
            looser = self._kept(down, name, down.top[name] & ~up.top[name], context.generator(f"patch over-safety {name}"))
            changed["safety"] += int(safer.count_nonzero())
            changed["over-safety"] += int(looser.count_nonzero())
            now = tuning.now[name]
            now.copy_(tuning.start[name].to(now) + part.apply(self.alpha * safer + self.beta * looser).to(now))
        if not any(changed.values()):
            raise BrittleError(
                f"both patches are empty: nothing is in one set of highest scores alone; change a, b or p ({self})"
            )
        total = sum(value.numel() for value in up.change.values())
        tuning.say(", ".join(f"{name} patch on {count / total:.2%} of the weights" for name, count in changed.items()))
        shares = {name: count / total for name, count in changed.items()}
        return {"losses": {"ascent": up.losses, "descent": down.losses}, "changed": shares}

    def _shifted(
        self, model: PreTrainedModel, examples: Sequence[Any], names: Sequence[str], tuning: Tuning, sign: int
    ) -> Shifted:
        """Train with the loss times `sign`, score there, and give the weights their old values."""
        word = "ascent" if sign < 0 else "descent"
        settings = Training(epochs=self.epochs, batch_size=self.batch, learning_rate=self.lr, seed=tuning.seed + self.seed)
        loss_of = partial(_signed, sign=sign, pad_id=tuning.pad_id)
        checkpoint = Checkpoint(tuning.folder / word)
        with tuning.progress(f"{word} on {self.on}", self.epochs * -(-len(examples) // self.batch)) as advance:
            losses = fine_tune(
                model, examples, settings, tuning.pad_id, lambda *_: advance(1), checkpoint=checkpoint, loss_of=loss_of
            )
        scores = tuning.attribute(Snip(), examples)
        known = {name: scores.get(name, torch.zeros_like(tuning.now[name])) for name in names}
        top = select(known, self.a if sign < 0 else self.b, self.compare)
        change = {}
        for name in names:
            now, start = tuning.now[name], tuning.start[name]
            change[name] = now.float() - start.to(now).float()
            now.copy_(start)
        return Shifted(change, top, [sign * losses[0], sign * losses[-1]])

    def _kept(self, of: Shifted, name: str, chosen: Tensor, stream: torch.Generator) -> Tensor:
        """The patch's entries that are chosen and that random retention keeps, (out, in)."""
        change = of.change[name]
        drawn = (torch.rand(change.shape, generator=stream) < self.p).to(change.device)
        return change * (chosen & drawn) / (self.p if self.rescale else 1.0)


def _signed(model: PreTrainedModel, batch: Sequence[Any], *, sign: int, pad_id: int) -> Tensor:
    """The mean over the batch's response tokens of `∓ log p`."""
    return sign * response_losses(model, batch, pad_id)[0].mean()
