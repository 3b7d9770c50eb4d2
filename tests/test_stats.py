"""Statistics against closed forms, exact enumeration and brute force."""

from __future__ import annotations

import itertools
import math
import random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from brittle_eval.stats import Delta, Rate, any_of_k, cluster_bootstrap, holm, mcnemar, paired_delta, wilson


@given(st.integers(1, 60), st.data())
def test_wilson_bounds_solve_the_score_equation(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    z = norm.ppf(0.975)
    for bound in wilson(k, n):
        assert (k / n - bound) ** 2 == pytest.approx(z * z * bound * (1 - bound) / n, abs=1e-12)


def test_wilson_covers_about_as_often_as_it_says() -> None:
    for n in (10, 64, 100):
        intervals = [wilson(k, n) for k in range(n + 1)]
        coverage = [
            sum(binom.pmf(k, n, p) for k, (low, high) in enumerate(intervals) if low <= p <= high)
            for p in (number / 200 for number in range(1, 200))
        ]
        assert mean(coverage) == pytest.approx(0.95, abs=0.012)
        assert min(coverage) > 0.83


@given(st.integers(0, 200), st.data())
def test_rate_lies_in_its_interval_and_mirrors(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    rate, mirror = Rate.of(k, n), Rate.of(n - k, n)
    assert 0 <= rate.low <= rate.high <= 1
    assert mirror.low == pytest.approx(1 - rate.high)
    if rate.value is None:
        assert (n, rate.low, rate.high) == (0, 0.0, 1.0)
    else:
        assert rate.low <= rate.value == k / n <= rate.high


def test_more_confidence_gives_wider_intervals() -> None:
    assert wilson(5, 20, 0.99)[0] < wilson(5, 20, 0.95)[0] < wilson(5, 20, 0.5)[0]


@pytest.mark.parametrize(("k", "n", "level"), [(-1, 5, 0.95), (6, 5, 0.95), (1, 5, 0.0), (1, 5, 1.0), (1, 5, 95)])
def test_impossible_rates_are_errors(k: int, n: int, level: float) -> None:
    with pytest.raises(ValueError, match=r"rate|level"):
        wilson(k, n, level)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_mcnemar_is_the_sign_test_on_changes(pairs: list[tuple[bool, bool]]) -> None:
    gained = sum(new and not old for old, new in pairs)
    lost = sum(old and not new for old, new in pairs)
    tail = sum(math.comb(gained + lost, i) for i in range(min(gained, lost) + 1)) / 2 ** (gained + lost)
    p = mcnemar([old for old, _ in pairs], [new for _, new in pairs])
    assert p == pytest.approx(min(1.0, 2 * tail))


def test_pairs_must_match() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        mcnemar([True], [])
    with pytest.raises(ValueError, match="items"):
        paired_delta([1.0], [])


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_paired_delta_is_the_adjusted_interval_of_the_paired_table(pairs: list[tuple[bool, bool]]) -> None:
    if not pairs:
        assert paired_delta([], []) == Delta(None, 0, -1.0, 1.0)
        return
    n = len(pairs) + 2
    gained = (sum(new > old for old, new in pairs) + 0.5) / n
    lost = (sum(new < old for old, new in pairs) + 0.5) / n
    half = norm.ppf(0.975) * math.sqrt((gained + lost - (gained - lost) ** 2) / n)
    delta = paired_delta([old for old, _ in pairs], [new for _, new in pairs])
    assert delta.low == pytest.approx(max(-1, gained - lost - half), abs=1e-12)
    assert delta.high == pytest.approx(min(1, gained - lost + half), abs=1e-12)
    assert delta.mean == pytest.approx((gained - lost) * n / (n - 2))
    assert delta.mean is not None
    assert delta.low <= delta.mean <= delta.high


def test_paired_delta_covers_a_true_difference() -> None:
    draw, hits = random.Random(0), 0
    for _ in range(400):
        before = [draw.random() < 0.6 for _ in range(100)]
        after = [old if draw.random() < 0.8 else draw.random() < 0.3 for old in before]
        delta = paired_delta(before, after)
        hits += delta.low <= 0.2 * (0.3 - 0.6) <= delta.high
    assert hits / 400 > 0.92


def test_paired_delta_takes_shares_only() -> None:
    assert paired_delta([0.25, 0.5], [0.75, 0.5]).mean == 0.25
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        paired_delta([0.0], [1.5])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        paired_delta([0.0], [float("nan")])


@given(st.integers(1, 7), st.data())
def test_any_of_k_is_the_share_of_subsets_with_a_positive(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert any_of_k(c, n, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize(("c", "n", "k"), [(0, 5, 6), (0, 5, 0), (6, 5, 1), (-1, 5, 1)])
def test_any_of_more_than_there_are_is_an_error(c: int, n: int, k: int) -> None:
    with pytest.raises(ValueError, match="not defined"):
        any_of_k(c, n, k)


def test_cluster_bootstrap_is_the_resampling_of_prompts() -> None:
    draw = random.Random(1)
    outcomes = [[draw.random() < share for _ in range(draw.randint(1, 6))] for share in [0.1, 0.9] * 20] + [[]]
    rate = cluster_bootstrap(outcomes, resamples=20000)
    scored = [samples for samples in outcomes if samples]
    means = []
    for _ in range(4000):
        drawn = [draw.choice(scored) for _ in scored]
        means.append(sum(map(sum, drawn)) / sum(map(len, drawn)))
    means.sort()
    assert (rate.k, rate.n) == (sum(map(sum, outcomes)), sum(map(len, outcomes)))
    assert rate.low == pytest.approx(means[100], abs=0.015)
    assert rate.high == pytest.approx(means[3900], abs=0.015)


def test_cluster_bootstrap_is_wider_where_samples_agree_and_repeats() -> None:
    agree = [[True] * 5 if number % 3 else [False] * 5 for number in range(30)]
    rate = cluster_bootstrap(agree, seed=3)
    independent = Rate.of(rate.k, rate.n)
    assert rate.high - rate.low > 1.5 * (independent.high - independent.low)
    assert rate == cluster_bootstrap(agree, seed=3)
    assert len({cluster_bootstrap(agree, resamples=50, seed=seed).low for seed in range(8)}) > 1


@pytest.mark.parametrize("value", [True, False])
def test_equal_outcomes_count_as_one_a_prompt(value: bool) -> None:
    rate = cluster_bootstrap([[value] * 5] * 10)
    assert (rate.low, rate.high) == wilson(10 if value else 0, 10)
    assert (rate.k, rate.n) == (50 if value else 0, 50)


def test_no_outcomes_say_nothing() -> None:
    rate = cluster_bootstrap([[], []])
    assert (rate.value, rate.n, rate.low, rate.high) == (None, 0, 0.0, 1.0)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_what_the_stepwise_procedure_rejects(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for level in (0.01, 0.05, 0.2):
        rejected: set[int] = set()
        order = sorted(range(len(p_values)), key=lambda index: p_values[index])
        for rank, index in enumerate(order):
            if (len(order) - rank) * p_values[index] > level:
                break
            rejected.add(index)
        assert {index for index, p in enumerate(adjusted) if p <= level} == rejected
