"""Where a curve over sizes crosses a level, how sure that is, and its area. Sizes rise; between them the axis is log(size)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.5
"""Half of the prompts."""


@dataclass(frozen=True)
class Crossing:
    """A place where the rate comes to or leaves the level."""

    size: float
    up: bool
    index: int
    """The first measured size behind it."""


def between(sizes: Sequence[float], rates: Sequence[float], index: int, level: float = LEVEL) -> float:
    """`log s = log s₀ + (level − r₀) / (r₁ − r₀) · (log s₁ − log s₀)`: where a line over log(size) up to `index` crosses.

    The size itself for the first one, and where the rate before is on the same side.
    """
    if index == 0 or (rates[index - 1] >= level) == (rates[index] >= level):
        return sizes[index]
    part = (level - rates[index - 1]) / (rates[index] - rates[index - 1])
    inside = math.log(sizes[index - 1]) + part * (math.log(sizes[index]) - math.log(sizes[index - 1]))
    return min(math.exp(inside), sizes[index])


def crossings(sizes: Sequence[float], rates: Sequence[float], start: float, level: float = LEVEL) -> list[Crossing]:
    """All crossings in the order of sizes; `start` is the rate without any edit, from which the first size may cross."""
    before, found = start, list[Crossing]()
    for index, rate in enumerate(rates):
        if (before >= level) != (rate >= level):
            found.append(Crossing(between(sizes, rates, index, level), rate >= level, index))
        before = rate
    return found


def first_reached(
    sizes: Sequence[float], rates: Sequence[float], allowed: Sequence[bool], level: float = LEVEL
) -> tuple[float, int] | None:
    """The first size that is `allowed` and has a rate of at least `level`, moved back to the crossing before it; with its index.

    None where there is none.
    """
    for index, (rate, fine) in enumerate(zip(rates, allowed, strict=True)):
        if fine and rate >= level:
            return between(sizes, rates, index, level), index
    return None


@dataclass(frozen=True)
class Interval:
    """A percentile interval of a size; `high` is None where it lies beyond the largest size, `low` too if all of it does."""

    low: float | None
    high: float | None
    reached: float
    """The share of the resamples that reach the level at all."""


def bootstrap_reached(
    sizes: Sequence[float],
    items: Sequence[Sequence[float]],
    allowed: Sequence[bool],
    level: float = LEVEL,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of `first_reached` when prompts are drawn with replacement, the same ones for every size.

    `items[i][j]` is 1 if prompt j counts at size i. What utility allows is kept as it was measured. A resample that never
    reaches the level lies beyond the largest size. Raises ValueError without prompts. Efron 1979, Ann. Stat. 7, 1-26.
    """
    values = np.asarray(items, dtype=float)
    count = values.shape[1] if values.ndim == 2 else 0
    if not count:
        raise ValueError("no prompts to draw from")
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    found = [first_reached(sizes, rates, allowed, level) for rates in (drawn @ values.T / count).tolist()]
    places = np.array([math.inf if one is None else one[0] for one in found])
    low, high = np.quantile(places, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf").tolist()
    return Interval(low if math.isfinite(low) else None, high if math.isfinite(high) else None, float(np.isfinite(places).mean()))


def area(sizes: Sequence[float], rates: Sequence[float]) -> float:
    """`∫ r d(log s) / (log s_n − log s_1)` by trapezoids: the mean rate over the log axis, in [0, 1].

    Raises ValueError for fewer than two sizes.
    """
    if len(sizes) < 2:
        raise ValueError("an area takes two sizes or more")
    logs = np.log(np.asarray(sizes, dtype=float))
    return float(np.trapezoid(np.asarray(rates, dtype=float), logs) / (logs[-1] - logs[0]))


def above_chance(right: int, n: int, chance: float) -> float:
    """`P(X ≥ right)`, X ~ Binomial(n, chance): how easily chance would be as good; 1 for n = 0.

    For items of different chances give their mean: the binomial then spreads at least as far (Hoeffding 1956).
    """
    return float(stats.binomtest(right, n, chance, alternative="greater").pvalue) if n else 1.0
