"""Intervals and tests for rates and paired outcomes. Fractions are in [0, 1]; levels are confidence levels such as 0.95."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats


def wilson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """`(p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)`, p = k/n: Wilson's score interval; (0, 1) for n = 0.

    Raises ValueError unless 0 ≤ k ≤ n. Wilson 1927, J. Am. Stat. Assoc. 22, 209-212.
    """
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is no rate")
    if n == 0:
        return 0.0, 1.0
    z, p = _quantile(level), k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return 0.0 if k == 0 else centre - half, 1.0 if k == n else centre + half


@dataclass(frozen=True)
class Rate:
    """`k` of `n` with an interval from `low` to `high`; `value` is None for n = 0."""

    k: int
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, k: int, n: int, level: float = 0.95) -> Rate:
        """The rate with its Wilson interval: for independent outcomes, one a prompt."""
        return cls(k, n, *wilson(k, n, level))

    @property
    def value(self) -> float | None:
        return self.k / self.n if self.n else None


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> float:
    """`min(1, 2 P(X ≤ min(b, c)))`, X ~ Binomial(b + c, 1/2), b and c the changes each way: two-sided exact p.

    The items of both sequences are the same prompts, in the same order; 1 if nothing changed. Raises ValueError for
    sequences of different lengths. McNemar 1947, Psychometrika 12, 153-157.
    """
    changes = [int(new) - int(old) for old, new in zip(before, after, strict=True)]
    gained, lost = changes.count(1), changes.count(-1)
    if gained + lost == 0:
        return 1.0
    return float(stats.binomtest(gained, gained + lost, 0.5).pvalue)


@dataclass(frozen=True)
class Delta:
    """Mean of `after - before` over `n` items, with an interval; `mean` is None for n = 0."""

    mean: float | None
    n: int
    low: float
    high: float


def paired_delta(before: Sequence[float], after: Sequence[float], level: float = 0.95) -> Delta:
    """`d̃ ± z √((s̃ - d̃²)/ñ)`, ñ = n + 2, d̃ = Σd/ñ, s̃ = (Σd² + 1)/ñ, d = after - before, cut to [-1, 1].

    For items scored in [0, 1] (a right answer is 1). Half an item is added to each of the four cells of the paired
    table, so that no change in few items does not pass for certainty; `mean` stays the plain mean. Raises ValueError for
    scores outside [0, 1]. Agresti and Min 2005, Stat. Med. 24, 729-740; scores between 0 and 1 enter the same sums.
    """
    old, new = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if old.shape != new.shape or old.ndim != 1:
        raise ValueError(f"paired scores of {old.shape} and {new.shape} items")
    if not (((old >= 0) & (old <= 1)).all() and ((new >= 0) & (new <= 1)).all()):
        raise ValueError("paired_delta takes scores in [0, 1]")
    if not len(old):
        return Delta(None, 0, -1.0, 1.0)
    change, n = new - old, len(old)
    centre = change.sum() / (n + 2)
    half = _quantile(level) * math.sqrt((((change**2).sum() + 1) / (n + 2) - centre**2) / (n + 2))
    return Delta(float(change.mean()), n, max(-1.0, float(centre - half)), min(1.0, float(centre + half)))


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """`x̄ ± t s / √n`, t of n − 1 degrees of freedom, s² = Σ(x − x̄)² / (n − 1): of the mean of few repetitions, such as seeds.

    None for fewer than two values. Raises ValueError for a level that is none. Student 1908, Biometrika 6, 1-25.
    """
    _quantile(level)
    n = len(values)
    if n < 2:
        return None
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * spread / math.sqrt(n)
    return mean - half, mean + half


def any_of_k(c: int, n: int, k: int) -> float:
    """`1 - C(n-c, k) / C(n, k)`: the chance that any of k samples is positive, estimated without bias from c of n.

    Raises ValueError unless 0 ≤ c ≤ n and 1 ≤ k ≤ n. Chen et al. 2021 (arXiv 2107.03374), pass@k.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"any of {k} from {c} positives in {n} samples is not defined")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def cluster_bootstrap(outcomes: Sequence[Sequence[bool]], level: float = 0.95, *, resamples: int = 4000, seed: int = 0) -> Rate:
    """Percentile interval of `Σ positives / Σ samples` when whole prompts are drawn with replacement.

    `outcomes[i]` are the scored samples of prompt i, which are not independent; prompts without any are left out.
    If all outcomes are equal, which no resample can change, the interval is Wilson's with one outcome a prompt.
    Raises ValueError for outcomes that are not 0 or 1. Davison and Hinkley 1997, Bootstrap Methods, section 3.8.
    """
    scored = [[int(value) for value in samples] for samples in outcomes if len(samples)]
    if any(value not in (0, 1) for samples in scored for value in samples):
        raise ValueError("outcomes must be 0 or 1")
    positives = np.array([sum(samples) for samples in scored], dtype=float)
    counts = np.array([len(samples) for samples in scored], dtype=float)
    k, n, prompts = int(positives.sum()), int(counts.sum()), len(scored)
    if k in (0, n):
        return Rate(k, n, *wilson(prompts if k else 0, prompts, level))
    drawn = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)
    low, high = np.quantile((drawn @ positives) / (drawn @ counts), [(1 - level) / 2, (1 + level) / 2])
    return Rate(k, n, float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p in the given order: `max over j ≤ i of min(1, (m - j + 1) p_(j))`, p_(1) ≤ … ≤ p_(m).

    Rejecting where it is at most 0.05 keeps the chance of any false rejection at most 0.05. Holm 1979, Scand. J. Stat. 6, 65-70.
    """
    adjusted, largest, m = [0.0] * len(p_values), 0.0, len(p_values)
    for rank, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (m - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def kappa(both: int, first: int, second: int, neither: int) -> float | None:
    """`(p_o - p_e) / (1 - p_e)`: agreement beyond chance of two judges over `n` answers that both scored.

    `first` and `second` count the answers that only that one called positive. None for n = 0, and where both gave all
    answers the same verdict, so that chance agrees fully. Cohen 1960, Educ. Psychol. Meas. 20, 37-46.
    """
    n = both + first + second + neither
    chance = ((both + first) * (both + second) + (neither + first) * (neither + second)) / n**2 if n else 1.0
    return None if chance == 1 else ((both + neither) / n - chance) / (1 - chance)


@cache
def _quantile(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"confidence level {level} is not between 0 and 1")
    return float(stats.norm.ppf((1 + level) / 2))
