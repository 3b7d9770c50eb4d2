"""Whole attention heads by a linear probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from annotated_types import Interval
from scipy.optimize import minimize
from scipy.special import expit

from brittle_eval import BrittleError, Isolation, Share, share
from brittle_plugins.heads import masks_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from brittle_eval import Context, ExampleInputs, Part, Unit

    Floats = NDArray[np.float64]

TRAIN = (5, 7)
"""The probe is fitted on 5 of 7 examples, and judged on the others."""


@dataclass(frozen=True)
class ProbedHeads(Isolation):
    """The heads from whose outputs a linear probe best tells `of` from `minus`, on examples that it was not fitted on.

    The probe is a logistic regression, `min Σ log(1 + exp(−y (w·x + b))) + ½‖w‖²` with x the head's output, each entry less its
    mean and over its spread, y = ±1; accuracy is the mean over the two behaviours. 5 of 7 examples of each, drawn with the
    run's seed, are for fitting. Taken are `count` heads, or without it the share `q` (fraction in [0, 1]) of all; among equal
    accuracies those of the lower mean loss, then the lower block and head. Their query rows are taken where these are in the
    plan's scope; without its columns of the output projection a head gives nothing. BrittleError for fewer than 7 examples of a
    behaviour, and for a model without a head of a known layout.

    The probing baseline of Wei et al. 2024 (arXiv 2402.05162), on 420 harmful and 420 harmless instructions.
    """

    q: Share = 0.05
    count: Annotated[int, Interval(ge=1)] | None = None
    of: str = "safety"
    minus: str = "utility"

    takes = frozenset({"example-inputs"})

    @property
    def reach(self) -> Literal["weight", "block", "model"]:
        return "model"

    @property
    def behaviours(self) -> tuple[str, ...]:
        return (self.of, self.minus)

    def isolate(self, scores: Mapping[str, Mapping[str, ExampleInputs]], context: Context) -> Mapping[str, Part]:
        own = scores[self.of]
        heads = [unit for unit in context.units("query-head") if any(m.weight in own for m in unit.members if m.axis == 1)]
        if not heads:
            raise BrittleError(
                "probed-heads found no output of a head of a known layout in this plan's scope: add modules=o_proj"
            )
        halves = {name: self._halves(name, next(iter(scores[name].values())), context) for name in self.behaviours}
        ranked = sorted(range(len(heads)), key=lambda index: self._rank(heads[index], scores, halves))
        wanted = self.count if self.count is not None else share(self.q, len(heads))
        return masks_of(heads, [heads[index] for index in ranked[:wanted]], own)

    def _halves(self, name: str, inputs: ExampleInputs, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
        """Examples to fit on, and the others."""
        count = len(inputs.values)
        if count < TRAIN[1]:
            raise BrittleError(f"probed-heads needs {TRAIN[1]} examples of '{name}' or more, got {count}: give more pairs of it")
        order = torch.randperm(count, generator=context.generator(f"probed-heads {name}"))
        first = count * TRAIN[0] // TRAIN[1]
        return order[:first], order[first:]

    def _rank(
        self,
        head: Unit,
        scores: Mapping[str, Mapping[str, ExampleInputs]],
        halves: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    ) -> tuple[float, float]:
        """Negative accuracy and mean loss of the head's probe on examples that it was not fitted on."""
        output = next(member for member in head.members if member.axis == 1)
        outputs = {name: scores[name][output.weight].values[:, list(output.indices)].cpu().double() for name in self.behaviours}
        fitted, others = ([outputs[name][halves[name][half]].numpy() for name in self.behaviours] for half in (0, 1))
        margins = probe(*fitted, *others)
        right = sum(float((margin > 0).mean()) for margin in margins) / 2
        return -right, sum(float(np.logaddexp(0, -margin).mean()) for margin in margins) / 2


def probe(one: Floats, two: Floats, new_one: Floats, new_two: Floats) -> tuple[Floats, Floats]:
    """`y (w·x + b)` of the new examples of two classes, by the probe fitted on `one` and `two`; all (examples, size)."""
    known, signs = np.concatenate([one, two]), np.repeat([1.0, -1.0], [len(one), len(two)])
    centre, spread = known.mean(0), known.std(0)
    spread[spread == 0] = 1

    def scaled(values: Floats) -> Floats:
        return np.column_stack([(values - centre) / spread, np.ones(len(values))])

    inputs = scaled(known) * signs[:, None]
    penalised = np.append(np.ones(known.shape[1]), 0.0)

    def loss(weights: Floats) -> tuple[float, Floats]:
        margins = inputs @ weights
        value = np.logaddexp(0, -margins).sum() + 0.5 * (penalised * weights**2).sum()
        return float(value), penalised * weights - inputs.T @ expit(-margins)

    weights = minimize(loss, np.zeros(known.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return scaled(new_one) @ weights, -(scaled(new_two) @ weights)
