"""Published numbers of the noise chapter, from ``book/reference/noise.yml``, with the interval that
the number of questions alone gives them."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import yaml

from lib import provenance

PHASES = ("clean", "noisy", "again")
Z95 = 1.959964  # two-sided 95 % of a normal distribution


def wilson(share: float, count: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share of `count` (Wilson 1927): it stays in [0, 1] and has a
    width at 0 and 1 too. It speaks of other questions, not of other training runs.

    Raises:
        ValueError: a share outside [0, 1], or no count.
    """
    if not 0 <= share <= 1 or count < 1:
        raise ValueError(f"share is {share} of {count}, allowed: 0..1 of at least 1")
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    # rounding may leave a hair outside
    return max(0.0, middle - half), min(1.0, middle + half)


def published(root: Path = provenance.ROOT) -> pd.DataFrame:
    """One row a printed accuracy: ``model``, ``billions`` (parameters), ``judge``, ``noise``,
    ``phase`` (of PHASES), ``value``, ``low``, ``high``; shares.

    Raises:
        ValueError: a model without a judge or size, or a row that has not three numbers.
    """
    data = yaml.safe_load((root / "book" / "reference" / "noise.yml").read_text())
    rows = []
    for model, noises in data["accuracy"].items():
        if model not in data["judged_by"] or model not in data["billions"]:
            raise ValueError(f"{model} has no judge or size, allowed: both for every model")
        for noise, values in noises.items():
            if len(values) != len(PHASES):
                raise ValueError(f"{model}, {noise} has {len(values)} numbers, allowed: 3")
            for phase, value in zip(PHASES, values, strict=True):
                low, high = wilson(value / 100, data["questions"])
                rows.append((model, data["billions"][model], data["judged_by"][model], noise,
                             phase, value / 100, low, high))  # fmt: skip
    columns = ["model", "billions", "judge", "noise", "phase", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def recoveries(root: Path = provenance.ROOT) -> pd.DataFrame:
    """One row for each model and noise: the change from phase 1 to 3 as published, and the interval
    that two independent shares of the questions would give it (wider than one in pairs, for which
    the answers are not public)."""
    data = yaml.safe_load((root / "book" / "reference" / "noise.yml").read_text())
    count, rows = data["questions"], []
    for model, noises in data["accuracy"].items():
        for noise, (first, _, last) in noises.items():
            a, b = first / 100, last / 100
            half = Z95 * math.sqrt((a * (1 - a) + b * (1 - b)) / count)
            rows.append((model, noise, b - a, b - a - half, b - a + half))
    return pd.DataFrame(rows, columns=["model", "noise", "change", "low", "high"])
