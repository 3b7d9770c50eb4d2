"""How far judges agree: counts of pairs of verdicts, which add up over tasks and models, and Cohen's kappa of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from brittle_eval.stats import kappa

Counts = dict[str, int]


def agreed(pairs: Sequence[tuple[bool | None, bool | None]]) -> Counts:
    """How often both, only the first, only the second or neither of two judges was positive, and at least one unscored."""
    scored = [pair for pair in pairs if None not in pair]
    return {
        "both": scored.count((True, True)),
        "first": scored.count((True, False)),
        "second": scored.count((False, True)),
        "neither": scored.count((False, False)),
        "unscored": len(pairs) - len(scored),
    }


@dataclass(frozen=True)
class Agreement:
    """Two judges on the `n` answers that both scored; `unscored` are those that at least one could not score."""

    judges: tuple[str, str]
    n: int
    unscored: int
    share: float | None
    """Of the same verdict, in [0, 1]; None for n = 0."""
    kappa: float | None
    """None where chance alone would agree fully."""


def pooled(found: Iterable[Mapping[str, Counts]]) -> list[Agreement]:
    """The agreement of every two judges over tasks and models, from the counts of each (`first|second` by judge)."""
    sums: dict[str, Counts] = {}
    for by_pair in found:
        for pair, counts in by_pair.items():
            known = sums.setdefault(pair, dict.fromkeys(counts, 0))
            sums[pair] = {key: known[key] + number for key, number in counts.items()}
    return [_of(pair, **counts) for pair, counts in sums.items()]


def _of(pair: str, both: int, first: int, second: int, neither: int, unscored: int) -> Agreement:
    n = both + first + second + neither
    one, _, other = pair.partition("|")
    return Agreement((one, other), n, unscored, (both + neither) / n if n else None, kappa(both, first, second, neither))
