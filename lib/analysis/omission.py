"""Which kinds of occurrences are forgotten: rates by group, intervals and tests.

Input are the item tables of :mod:`lib.analysis.forgetting`: one row an occurrence, with the columns
chunk and found, and one to group by: position, pos, entity, category, or a bin of perplexity or
frequency. Omission is 1 - mean of found, as in arXiv 2512.15653; rates are 0 to 1, not percent.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.analysis.statistics import bootstrap_rate

CORRECTIONS = ("bonferroni", "holm", "none")
PERPLEXITY_STEP = 5.0  # width of the paper's bins


# -- bins -----------------------------------------------------------------------------------


def position_bins(positions: Sequence[int], length: int, bins: int = 16) -> np.ndarray:
    """First position of each one's bin, where a chunk of `length` falls into equal bins.

    The paper has 16 bins, or a position each for shorter chunks. Position 0 is in the first bin
    (the released script's bins begin at 0.5 and lose it).

    Raises:
        ValueError: a position outside the chunk.
    """
    values = np.asarray(positions)
    if len(values) and not 0 <= values.min() <= values.max() < length:
        raise ValueError(
            f"positions reach {values.min()}..{values.max()}, allowed: 0..{length - 1}"
        )
    width = -(-length // bins)
    return values // width * width


def perplexity_bins(values: Sequence[float], step: float = PERPLEXITY_STEP) -> np.ndarray:
    """Lower end of each perplexity's bin."""
    return np.floor(np.asarray(values, dtype=float) / step) * step


def frequency_bins(counts: Sequence[int]) -> np.ndarray:
    """Power of ten at or below each count: 1, 10, 100 ...; 0 for a count of 0."""
    values = np.asarray(counts)
    # digits, not logarithms: log10(1000) may fall short of 3
    return np.array([10 ** (len(str(int(v))) - 1) if v > 0 else 0 for v in values], dtype=np.int64)


# -- rates and tests ------------------------------------------------------------------------


def rates(
    table: pd.DataFrame, by: str, *, confidence: float = 0.95, seed: int = 0, draws: int = 2000
) -> pd.DataFrame:
    """Omission of each group: 1 - mean of found, with an interval by drawing chunks `draws` times.

    Returns:
        Columns: `by`, count (occurrences), chunks, omission, low, high (not a number where one
        chunk holds the whole group), in order of `by`.

    Raises:
        ValueError: a table without the columns, or without rows.
    """
    _expect_columns(table, ("chunk", "found", by))
    rows = []
    for value, group in table.groupby(by, sort=True):
        parts = group.groupby("chunk")["found"].agg(["sum", "count"])
        lost = (parts["count"] - parts["sum"]).tolist()
        rate, interval = bootstrap_rate(lost, parts["count"].tolist(), confidence, draws, seed)
        low, high = interval or (math.nan, math.nan)
        rows.append((value, len(group), len(parts), rate, low, high))
    return pd.DataFrame(rows, columns=[by, "count", "chunks", "omission", "low", "high"])


def standardised(table: pd.DataFrame, by: str, over: str = "tokens") -> pd.DataFrame:
    """Omission of each group as it would be if all had words of the same sizes.

    A word of three tokens is lost if one of them is, so nouns and numbers look forgotten beside
    articles even where every token is lost alike. Here each group's omission is taken at each value
    of `over` by itself and weighted with that value's share in the whole table (direct
    standardisation). Values that some group lacks are left out for all.

    Returns:
        Columns: `by`, count (of those compared), omission (plain, of these) and standardised.

    Raises:
        ValueError: a missing column, a table without rows, or no value that all groups have.
    """
    _expect_columns(table, ("found", by, over))
    lost = 1.0 - table.groupby([by, over])["found"].mean().unstack()
    shared = [value for value in lost if lost[value].notna().all()]
    if not shared:
        raise ValueError(f"no value of {over} is in all groups of {by}, allowed: at least one")
    kept = table[table[over].isin(shared)]
    weights = kept[over].value_counts(normalize=True)
    out = kept.groupby(by)["found"].agg(["size", "mean"])
    adjusted = (lost[shared] * weights[shared]).sum(axis=1)
    return pd.DataFrame(
        {by: out.index, "count": out["size"].to_numpy(), "omission": 1.0 - out["mean"].to_numpy(),
         "standardised": adjusted[out.index].to_numpy()}
    )  # fmt: skip


def pairwise_tests(
    table: pd.DataFrame, by: str, correction: str = "bonferroni", alpha: float = 0.05
) -> pd.DataFrame:
    """Which groups differ in omission: t-tests of two samples on the 0/1 flags, each pair.

    Equal variances, Bonferroni and alpha 0.05 are the paper's. The test takes every occurrence as
    drawn on its own; words of one chunk are not, so p is too small, and the intervals of
    :func:`rates` are the second opinion.

    Args:
        correction: for the number of pairs: "bonferroni", "holm" (never weaker), or "none".

    Returns:
        Columns a, b, difference (omission of a - of b), t, p, p_corrected, significant. Pairs
        without spread or with fewer than three occurrences have no t; they count as pairs and are
        not significant.

    Raises:
        ValueError: an unknown correction, a missing column, or a table without rows.
    """
    from scipy import stats  # half a second, which not every page needs

    if correction not in CORRECTIONS:
        raise ValueError(f"correction is {correction!r}, allowed: {', '.join(CORRECTIONS)}")
    _expect_columns(table, ("found", by))
    groups = {value: 1.0 - group["found"].astype(float) for value, group in table.groupby(by)}
    rows = []
    for (a, left), (b, right) in itertools.combinations(groups.items(), 2):
        t = p = math.nan
        if len(left) + len(right) > 2 and (left.nunique() > 1 or right.nunique() > 1):
            # from moments: of flags that are all equal the library would warn
            facts = [(g.mean(), g.std() if len(g) > 1 else 0.0, len(g)) for g in (left, right)]
            done = stats.ttest_ind_from_stats(*facts[0], *facts[1], equal_var=True)
            t, p = float(done.statistic), float(done.pvalue)
        rows.append((a, b, float(left.mean() - right.mean()), t, p))
    out = pd.DataFrame(rows, columns=["a", "b", "difference", "t", "p"])
    out["p_corrected"] = corrected(out["p"].tolist(), correction)
    out["significant"] = out["p_corrected"] < alpha
    return out


def corrected(p: Sequence[float], correction: str) -> list[float]:
    """p values corrected for their number; those that are not a number count, and stay so."""
    count = len(p)
    if correction == "none":
        return list(p)
    if correction == "bonferroni":
        # this way round min() keeps what is not a number
        return [min(value * count, 1.0) for value in p]
    order = sorted(range(count), key=lambda i: (math.isnan(p[i]), p[i]))
    out, largest = list(p), 0.0
    for rank, index in enumerate(order):
        if not math.isnan(p[index]):
            largest = max(largest, min(1.0, p[index] * (count - rank)))
            out[index] = largest
    return out


def _expect_columns(table: pd.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in table]
    if missing:
        raise ValueError(f"the table lacks {missing}; its columns: {list(table)}")
    if not len(table):
        raise ValueError("the table has no rows, allowed: at least one")
