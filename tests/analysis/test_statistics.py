from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.analysis.statistics import mean_interval


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
