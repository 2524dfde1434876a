"""Means, intervals and tests: over seeds by Student's t, over questions or texts by resampling."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special


def mean_interval(
    values: Sequence[float], confidence: float = 0.95
) -> tuple[float, tuple[float, float] | None]:
    """Mean and its confidence interval by Student's t; no interval for a single value.

    Raises:
        ValueError: no value, or a confidence outside (0, 1).
    """
    if not len(values):
        raise ValueError("values is empty, allowed: at least one number")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, allowed: more than 0 and less than 1")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return mean, None
    error = statistics.stdev(values) / math.sqrt(len(values))
    # the quantile of Student's t; scipy.stats would take half a second to import
    half = float(special.stdtrit(len(values) - 1, 0.5 + confidence / 2)) * error
    return mean, (mean - half, mean + half)


def bootstrap_rate(
    sums: Sequence[float],
    counts: Sequence[float],
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, tuple[float, float] | None]:
    """sum(sums) / sum(counts) and its percentile interval when whole units are drawn again.

    A unit is what was sampled, such as a text; what it holds (words, say) goes with it, because the
    words of one text are remembered or forgotten together (Efron and Tibshirani 1993, section 8.4).

    Args:
        sums, counts: one number a unit. Units with count 0 say nothing and change nothing.

    Returns:
        The rate, and None in place of an interval where fewer than two units have a count.

    Raises:
        ValueError: different lengths, no count above 0, a confidence outside (0, 1) or draws below
            1.
    """
    top, bottom = np.asarray(sums, dtype=float), np.asarray(counts, dtype=float)
    if top.shape != bottom.shape or top.ndim != 1:
        raise ValueError(f"sums and counts have {top.shape} and {bottom.shape}, must be equal")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, allowed: more than 0 and less than 1")
    if draws < 1:
        raise ValueError(f"draws is {draws}, allowed: at least 1")
    top, bottom = top[bottom > 0], bottom[bottom > 0]
    if not len(bottom):
        raise ValueError("counts has none above 0, allowed: at least one")
    rate = float(top.sum() / bottom.sum())
    if len(bottom) == 1:
        return rate, None
    rng = np.random.default_rng(seed)
    units, rates = len(bottom), np.empty(draws)
    step = max(1, 2_000_000 // units)  # so many draws at once as fit into some tens of megabytes
    for start in range(0, draws, step):
        rows = rng.integers(0, units, (min(step, draws - start), units))
        rates[start : start + step] = top[rows].sum(1) / bottom[rows].sum(1)
    low, high = np.quantile(rates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return rate, (float(low), float(high))


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Mean and its percentile bootstrap interval, the values (one a question) drawn with return.

    It says how the mean would vary with other questions of the kind. How it would vary with another
    training run it cannot say: that takes seeds.

    Raises:
        ValueError: no value, a confidence outside (0, 1), or fewer than one sample.
    """
    if not len(values):
        raise ValueError("values is empty, allowed: at least one number")
    if samples < 1:
        raise ValueError(f"samples is {samples}, allowed: at least 1")
    mean, interval = bootstrap_rate(values, [1.0] * len(values), confidence, samples, seed)
    return mean, interval or (mean, mean)


def paired_test(
    first: Sequence[float], second: Sequence[float], samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Mean of ``first - second`` over the same questions, and the two-sided p-value of the
    hypothesis that the sign of each difference is a coin toss.

    Where all differences are -1, 0 or 1 (right or wrong answers) the test is exact: McNemar's, by
    the binomial distribution. Elsewhere signs are drawn `samples` times.

    Raises:
        ValueError: no pair, different lengths, or fewer than one sample.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(
            f"first and second have {len(first)} and {len(second)} values, allowed: equally many, "
            "at least one"
        )
    if samples < 1:
        raise ValueError(f"samples is {samples}, allowed: at least 1")
    apart = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    mean, moved = float(apart.mean()), apart[apart != 0]
    if not len(moved):
        return mean, 1.0
    if set(moved.tolist()) <= {-1.0, 1.0}:
        fewer = int(min((moved > 0).sum(), (moved < 0).sum()))
        return mean, min(1.0, 2 * float(special.bdtr(fewer, len(moved), 0.5)))
    rng = np.random.default_rng([seed, 0x7E])
    signs = rng.choice([-1.0, 1.0], (samples, len(moved)))
    # a hair below, so that rounding does not lose the draws that equal what was seen
    extreme = np.abs(signs @ moved) >= abs(moved.sum()) * (1 - 1e-12)
    # what was seen is one of the draws: no p-value is zero
    return mean, float((extreme.sum() + 1) / (samples + 1))


def rank_correlation(
    first: Sequence[float], second: Sequence[float], samples: int = 2000, seed: int = 0
) -> tuple[float | None, tuple[float, float] | None]:
    """Spearman's rank correlation and its 95 % percentile interval, pairs drawn with return.

    None in place of both where it means nothing: fewer than three pairs, or all of one value.

    Raises:
        ValueError: different lengths, or fewer than one sample.
    """
    if samples < 1:
        raise ValueError(f"samples is {samples}, allowed: at least 1")
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    rank = spearman(a, b)
    if rank is None:
        return None, None
    picks = np.random.default_rng(seed).integers(0, len(a), (samples, len(a)))
    found = [r for pick in picks if (r := spearman(a[pick], b[pick])) is not None]
    low, high = np.percentile(found, [2.5, 97.5])
    return rank, (float(low), float(high))


def spearman(first: ArrayLike, second: ArrayLike) -> float | None:
    """Spearman's rank correlation, Pearson's of the ranks; None where it means nothing: fewer than
    three pairs, or all of one value.

    Raises:
        ValueError: different lengths.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"first and second have {a.shape} and {b.shape}, must be equal")
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(pd.Series(a).rank(), pd.Series(b).rank())[0, 1])
