"""Crossings, areas and their intervals, against slow definitions."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brittle_eval.probes.crossing import Crossing, above_chance, area, bootstrap_reached, crossings, first_reached

SIZES = [0.001, 0.002, 0.004, 0.01, 0.1]
rates = st.lists(st.integers(0, 10).map(lambda tenth: tenth / 10), min_size=5, max_size=5)


def line_at(share: float, known: list[float]) -> float:
    """The rate at a size, on the lines between the measured ones."""
    for at in range(len(SIZES) - 1):
        if SIZES[at] <= share * (1 + 1e-12) and share <= SIZES[at + 1] * (1 + 1e-12):
            part = math.log(share / SIZES[at]) / math.log(SIZES[at + 1] / SIZES[at])
            return known[at] + part * (known[at + 1] - known[at])
    raise AssertionError(share)


@given(rates, st.lists(st.booleans(), min_size=5, max_size=5))
def test_the_first_size_is_where_the_line_has_the_level(known: list[float], allowed: list[bool]) -> None:
    good = [at for at in range(5) if allowed[at] and known[at] >= 0.5]
    found = first_reached(SIZES, known, allowed)
    if not good:
        assert found is None
        return
    assert found is not None and found[1] == good[0]
    if good[0] and known[good[0] - 1] < 0.5:
        assert line_at(found[0], known) == pytest.approx(0.5) and SIZES[good[0] - 1] < found[0] <= SIZES[good[0]]
    else:
        assert found[0] == SIZES[good[0]]


@given(rates, st.sampled_from([0.0, 0.9]))
def test_crossings_are_every_change_of_side(known: list[float], start: float) -> None:
    found = crossings(SIZES, known, start)
    sides = [rate >= 0.5 for rate in [start, *known]]
    assert [one.index for one in found] == [at for at in range(5) if sides[at] != sides[at + 1]]
    assert all(one.up == sides[one.index + 1] for one in found)
    assert all(line_at(one.size, known) == pytest.approx(0.5) for one in found if one.index)


def test_a_curve_that_comes_back() -> None:
    found = crossings(SIZES, [0.1, 0.9, 0.1, 0.1, 0.5], 0.0)
    assert found == [
        Crossing(pytest.approx(0.001 * 2**0.5), True, 1),
        Crossing(pytest.approx(0.002 * 2**0.5), False, 2),
        Crossing(pytest.approx(0.1), True, 4),
    ]


@given(rates)
def test_the_area_is_the_mean_over_fine_steps(known: list[float]) -> None:
    low, high, steps = math.log(SIZES[0]), math.log(SIZES[-1]), 4000
    middle = [math.exp(low + (high - low) * (step + 0.5) / steps) for step in range(steps)]
    assert area(SIZES, known) == pytest.approx(sum(line_at(share, known) for share in middle) / steps, abs=1e-4)
    with pytest.raises(ValueError, match="two sizes"):
        area([0.1], [0.5])


def test_the_bootstrap_is_over_all_draws_of_prompts() -> None:
    """Three prompts: all 27 draws, each as likely."""
    items = [[0, 0, 0], [1, 0, 0], [1, 0, 1], [1, 1, 1], [1, 1, 1]]
    allowed = [True] * 5
    places = []
    for draw in product(range(3), repeat=3):
        means = [sum(row[one] for one in draw) / 3 for row in items]
        found = first_reached(SIZES, means, allowed)
        places.append(math.inf if found is None else found[0])
    ordered = sorted(places)
    exact = [ordered[math.ceil(share * 27) - 1] for share in (0.025, 0.975)]
    found = bootstrap_reached(SIZES, items, allowed, resamples=20_000)
    assert [found.low, found.high] == pytest.approx(exact) and found.reached == 1.0


def test_what_lies_beyond_the_largest_size() -> None:
    items = [[0] * 8, [1, 1, 1, 1, 0, 0, 0, 0]]
    found = bootstrap_reached(SIZES[:2], items, [True, True])
    half = sum(math.comb(8, k) for k in range(4, 9)) / 2**8
    assert found.high is None and found.low is not None and found.reached == pytest.approx(half, abs=0.04)
    none = bootstrap_reached(SIZES[:2], items, [True, False])
    assert (none.low, none.high, none.reached) == (None, None, 0.0)
    with pytest.raises(ValueError, match="no prompts"):
        bootstrap_reached(SIZES[:2], [[], []], [True, True])


@given(st.integers(0, 12), st.integers(1, 12), st.sampled_from([Fraction(1, 2), Fraction(1, 4), Fraction(1, 3)]))
def test_chance_is_the_binomial_tail(right: int, n: int, chance: Fraction) -> None:
    if right <= n:
        exact = sum(math.comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in range(right, n + 1))
        assert above_chance(right, n, float(chance)) == pytest.approx(float(exact))
    assert above_chance(0, 0, 0.5) == 1.0
