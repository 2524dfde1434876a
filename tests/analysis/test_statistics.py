from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.analysis.statistics import (
    bootstrap_interval,
    bootstrap_rate,
    mean_interval,
    paired_test,
    rank_correlation,
    spearman,
)


def test_against_the_table_of_t() -> None:
    # t(0.975, 2) = 4.303; mean 2, sd 1, n 3
    mean, interval = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert interval is not None
    assert interval == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3)


@given(st.integers(2, 6), st.integers(0, 10_000))
def test_interval_covers_as_often_as_it_says(count: int, seed: int) -> None:
    draws = np.random.default_rng(seed).normal(size=(400, count))
    hits = [i[0] <= 0 <= i[1] for _, i in map(mean_interval, draws.tolist()) if i is not None]
    assert 0.90 <= np.mean(hits) <= 0.99


def test_one_value_has_no_interval_and_none_is_an_error() -> None:
    assert mean_interval([0.5]) == (0.5, None)
    with pytest.raises(ValueError, match="values is empty"):
        mean_interval([])
    with pytest.raises(ValueError, match="confidence is 2"):
        mean_interval([1.0, 2.0], 2)


def test_bootstrap_of_equal_units_has_no_width() -> None:
    assert bootstrap_rate([1, 2, 3], [2, 4, 6]) == (0.5, (0.5, 0.5))
    assert bootstrap_rate([3], [4]) == (0.75, None)
    # units that hold nothing count for nothing
    assert bootstrap_rate([3, 0], [4, 0]) == (0.75, None)


def test_units_weigh_as_much_as_they_hold() -> None:
    """One large unit that lost nothing, one small that lost all: 0, 1/100 or 1, never between."""
    rate, interval = bootstrap_rate([0, 1], [99, 1], confidence=0.9)
    assert rate == 0.01 and interval == (0, 1)
    middle = bootstrap_rate([0, 1], [99, 1], confidence=0.2)[1]
    assert middle is not None and middle == pytest.approx((0.01, 0.01))


def test_bootstrap_width_follows_the_spread_between_units() -> None:
    sums, counts = [float(i % 2) for i in range(400)], [1.0] * 400
    rate, interval = bootstrap_rate(sums, counts)
    assert interval is not None and rate == 0.5
    low, high = interval
    # normal approximation: 1.96 * 0.5 / 20 to either side
    assert low == pytest.approx(0.451, abs=0.006) and high == pytest.approx(0.549, abs=0.006)
    narrow = bootstrap_rate(sums, counts, confidence=0.5)[1]
    assert narrow is not None and low < narrow[0] < 0.5 < narrow[1] < high
    assert bootstrap_rate(sums, counts) == (rate, interval)
    uneven = [float(i) ** 0.5 for i in range(400)]
    assert bootstrap_rate(uneven, counts, seed=1)[1] != bootstrap_rate(uneven, counts)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1], [1, 2]), "must be equal"),
        (([0], [0]), "counts has none above 0"),
        (([1], [2], 1.0), "confidence is 1.0"),
        (([1], [2], 0.9, 0), "draws is 0"),
    ],
)
def test_bootstrap_misuse_is_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_rate(*arguments)


@given(st.floats(0.2, 0.8), st.integers(0, 1000))
def test_bootstrap_of_a_share_is_near_the_normal_interval(share: float, seed: int) -> None:
    values = (np.random.default_rng(seed).random(400) < share).astype(float)
    mean, (low, high) = bootstrap_interval(values.tolist(), seed=seed)
    half = 1.96 * (values.mean() * (1 - values.mean()) / 400) ** 0.5
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.01)


def test_bootstrap_is_seeded_and_certain_where_nothing_varies() -> None:
    values = np.random.default_rng(0).random(30).tolist()
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    assert bootstrap_interval([1.0, 1.0]) == (1.0, (1.0, 1.0))
    wide, narrow = (bootstrap_interval(values, c)[1] for c in (0.99, 0.5))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_paired_answers_against_mcnemar_by_hand() -> None:
    # nine questions changed, all one way: 2 / 2^9; the unchanged ones say nothing
    changed = [1.0] * 9 + [0.0] * 91
    assert paired_test(changed, [0.0] * 100) == (0.09, pytest.approx(2 / 512))
    # three against one: P(at most 1 of 4 heads) = 5 / 16, twice
    assert paired_test([1, 1, 1, 0], [0, 0, 0, 1]) == (0.5, pytest.approx(10 / 16))
    assert paired_test([1, 0], [0, 1]) == (0.0, 1.0)
    assert paired_test([1, 0], [1, 0]) == (0.0, 1.0)


def test_paired_numbers_against_all_signs_by_hand() -> None:
    # differences 0.5, 0.25, 0.125, 1.0: of 16 sign patterns two are as extreme as all alike
    mean, chance = paired_test([0.5, 0.25, 0.125, 1.0], [0.0] * 4, samples=40_000)
    assert mean == pytest.approx(0.46875) and chance == pytest.approx(2 / 16, abs=0.01)


@given(st.integers(0, 100))
def test_paired_test_is_symmetric_and_rarely_wrong(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.random(30).tolist(), rng.random(30).tolist()
    (one, p), (other, q) = paired_test(first, second), paired_test(second, first)
    assert one == pytest.approx(-other) and p == pytest.approx(q) and 0 < p <= 1
    assert paired_test([v + 2 for v in first], second)[1] < 0.001


def test_bad_values_for_resampling_are_named() -> None:
    with pytest.raises(ValueError, match="values is empty"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="confidence is 1"):
        bootstrap_interval([1.0], 1)
    with pytest.raises(ValueError, match="samples is 0"):
        bootstrap_interval([1.0], samples=0)
    with pytest.raises(ValueError, match="first and second have 1 and 2 values"):
        paired_test([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="first and second have 0 and 0"):
        paired_test([], [])
    with pytest.raises(ValueError, match="samples is 0"):
        paired_test([1.0], [0.5], samples=0)


def test_rank_correlation_is_scipys_with_ties() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(3)
    first, second = rng.integers(0, 5, 40), rng.integers(0, 5, 40)
    second = second + first  # related, with ties
    rank, interval = rank_correlation(first.tolist(), second.tolist())
    assert rank == pytest.approx(spearmanr(first, second).statistic, abs=1e-12)
    assert interval is not None and interval[0] < rank < interval[1]


def test_rank_correlation_follows_order_alone() -> None:
    frequency = [1, 10, 100, 1000, 10_000]
    assert spearman(frequency, [0.9, 0.8, 0.5, 0.4, 0.1]) == pytest.approx(-1)
    # one neighbouring pair exchanged of five: 1 - 6 * 2 / (5 * 24)
    assert spearman([1, 2, 3, 4, 5], [2, 1, 3, 4, 5]) == pytest.approx(0.9)


def test_rank_correlation_of_what_cannot_be_ranked_is_none() -> None:
    assert rank_correlation([1, 2], [2, 1]) == (None, None)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == (None, None)
    assert spearman([], []) is spearman([1, 2, 3], [0, 0, 0]) is None


def test_rank_correlation_refuses_unequal_lengths_and_no_samples() -> None:
    for correlate in (rank_correlation, spearman):
        with pytest.raises(ValueError, match="must be equal"):
            correlate([1, 2, 3], [1, 2])  # type: ignore[operator]
    with pytest.raises(ValueError, match="samples is 0"):
        rank_correlation([1, 2, 3], [1, 2, 3], samples=0)
