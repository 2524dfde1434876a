"""Power laws: how a cost grows with length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special


@dataclass(frozen=True)
class PowerLaw:
    """value = factor * length ** exponent, fitted by least squares of the logarithms.

    Attributes:
        interval: 95 %, of the exponent, by Student's t from the distances of the points to the
            line; None for two points. It says how straight the line is, not only how noisy the
            points are: a cost that still bends has a wide one.
        points: how many it was fitted to; `shortest` is the least of their lengths.
    """

    exponent: float
    factor: float
    interval: tuple[float, float] | None
    points: int
    shortest: float


def power_law(lengths: Sequence[float], values: Sequence[float], largest: int = 4) -> PowerLaw:
    """Fit to the `largest` lengths alone, where terms that grow slowly count least.

    Raises:
        ValueError: `largest` below 2; fewer than 2 different lengths; a length or value that is not
            positive; not one value a length.
    """
    if largest < 2:
        raise ValueError(f"largest is {largest}, allowed: 2 or more")
    if len(lengths) != len(values) or len(set(lengths)) != len(lengths) or len(lengths) < 2:
        raise ValueError(
            f"lengths and values have {len(lengths)} and {len(values)} entries, allowed: a value "
            "for each of at least 2 different lengths"
        )
    if min(*lengths, *values) <= 0:
        raise ValueError("lengths and values hold a number that is not positive")
    order = np.argsort(lengths)[-largest:]
    x = np.log(np.asarray(lengths, dtype=float)[order])
    y = np.log(np.asarray(values, dtype=float)[order])
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    start = float(y.mean() - slope * x.mean())
    freedom = len(x) - 2
    interval = None
    if freedom > 0:
        error = math.sqrt(float(((y - start - slope * x) ** 2).sum()) / freedom / spread)
        half = float(special.stdtrit(freedom, 0.975)) * error
        interval = slope - half, slope + half
    return PowerLaw(slope, math.exp(start), interval, len(x), float(np.exp(x[0])))
