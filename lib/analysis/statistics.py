"""Means and intervals over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

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
