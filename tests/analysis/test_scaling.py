"""Fitted exponents against exact power laws and an independent fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.analysis.scaling import power_law

LENGTHS = [256, 512, 1024, 2048, 4096]


@given(st.floats(-1, 3), st.floats(1e-3, 1e3))
def test_an_exact_power_law_is_found_with_no_doubt(exponent: float, factor: float) -> None:
    law = power_law(LENGTHS, [factor * n**exponent for n in LENGTHS], largest=5)
    assert law.exponent == pytest.approx(exponent, abs=1e-9)
    assert law.factor == pytest.approx(factor, rel=1e-6)
    assert law.interval == pytest.approx((exponent, exponent), abs=1e-5)


def test_the_fit_is_least_squares_with_student_s_interval() -> None:
    values = [3.0, 5.5, 13.0, 24.0, 55.0]
    law = power_law(LENGTHS, values, largest=5)
    (slope, start), covariance = np.polyfit(np.log(LENGTHS), np.log(values), 1, cov=True)
    assert law.exponent == pytest.approx(slope) and law.factor == pytest.approx(np.exp(start))
    half = 3.182446 * np.sqrt(covariance[0, 0])  # t of 3 degrees of freedom, from a table
    assert law.interval == pytest.approx((slope - half, slope + half), rel=1e-5)


def test_only_the_largest_lengths_count_whatever_the_order() -> None:
    values = [1000.0, 900.0, *(0.5 * n**2 for n in LENGTHS[2:])]
    shuffled = [3, 0, 4, 1, 2]
    law = power_law([LENGTHS[k] for k in shuffled], [values[k] for k in shuffled], largest=3)
    assert law.exponent == pytest.approx(2) and (law.points, law.shortest) == (
        3,
        pytest.approx(1024),
    )


def test_a_curve_that_bends_has_a_wide_interval_and_two_points_have_none() -> None:
    bent = power_law(LENGTHS, [n + n**2 / 1000 for n in LENGTHS], largest=5)
    assert bent.interval is not None and bent.interval[1] - bent.interval[0] > 0.3
    assert power_law([10, 20], [1.0, 4.0]).interval is None


@pytest.mark.parametrize(
    ("lengths", "values", "largest", "message"),
    [
        ([1, 2], [1.0, 2.0], 1, "largest is 1, allowed: 2 or more"),
        ([1, 2], [1.0], 2, "lengths and values have 2 and 1 entries"),
        ([2, 2], [1.0, 1.0], 2, "at least 2 different lengths"),
        ([1, 2], [0.0, 1.0], 2, "a number that is not positive"),
    ],
)
def test_what_cannot_be_fitted_is_said(
    lengths: list[float], values: list[float], largest: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        power_law(lengths, values, largest)
