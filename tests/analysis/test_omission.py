from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lib.analysis.omission import (
    corrected,
    frequency_bins,
    pairwise_tests,
    perplexity_bins,
    position_bins,
    rates,
    standardised,
)


def drawn(share: dict[str, float], chunks: int = 40, each: int = 25, seed: int = 0) -> pd.DataFrame:
    """A table in which each group is found with its own share."""
    rng = np.random.default_rng(seed)
    parts = [
        pd.DataFrame(
            {"chunk": np.repeat(np.arange(chunks), each), "pos": name,
             "found": rng.random(chunks * each) < value}
        )
        for name, value in share.items()
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


# -- bins -----------------------------------------------------------------------------------


def test_the_first_position_is_in_the_first_bin() -> None:
    assert position_bins(range(8), 8).tolist() == list(range(8))
    assert position_bins([0, 1, 2, 31], 32).tolist() == [0, 0, 2, 30]
    found = position_bins(range(256), 256)
    assert sorted(set(found)) == list(range(0, 256, 16)) and (np.bincount(found)[::16] == 16).all()
    for bad in ([-1], [8]):
        with pytest.raises(ValueError, match=r"allowed: 0\.\.7"):
            position_bins(bad, 8)


def test_bins_of_perplexity_and_frequency() -> None:
    assert perplexity_bins([0.0, 4.99, 5.0, 27.3]).tolist() == [0, 0, 5, 25]
    assert frequency_bins([0, 1, 9, 10, 999, 1000, 10**12]).tolist() == [
        0, 1, 1, 10, 100, 1000, 10**12,
    ]  # fmt: skip


# -- rates ----------------------------------------------------------------------------------


def test_rates_by_hand() -> None:
    table = pd.DataFrame(
        {"chunk": [0, 0, 0, 1, 1], "pos": ["b", "b", "a", "b", "b"], "found": [1, 0, 1, 0, 0]}
    ).astype({"found": bool})
    found = rates(table, "pos")
    assert found["pos"].tolist() == ["a", "b"] and found["count"].tolist() == [1, 4]
    assert found["chunks"].tolist() == [1, 2] and found["omission"].tolist() == [0.0, 0.75]
    assert found.loc[0, ["low", "high"]].isna().all()
    # b: chunk 0 loses 1 of 2, chunk 1 both: draws give 0.5, 0.75 or 1
    assert found.loc[1, ["low", "high"]].tolist() == [0.5, 1.0]


def test_intervals_hold_the_truth_and_know_of_chunks() -> None:
    inside = 0
    for seed in range(40):
        row = rates(drawn({"x": 0.7}, seed=seed), "pos").iloc[0]
        inside += row["low"] <= 0.3 <= row["high"]
    assert 33 <= inside <= 40  # 95 % of 40 is 38
    # the same flags, but all of one chunk equal: as good as 40 observations, not 1,000
    clumped = drawn({"x": 0.7})
    clumped["found"] = clumped["chunk"] % 10 < 7
    loose, tight = rates(clumped, "pos").iloc[0], rates(drawn({"x": 0.7}), "pos").iloc[0]
    assert loose["high"] - loose["low"] > 3 * (tight["high"] - tight["low"])


def test_standardised_rates_by_hand() -> None:
    """a loses 1 of 4 words of one token and 1 of 1 of two; b 1 of 2 of each, and none of three."""
    rows = [("a", 1, True)] * 3 + [("a", 1, False), ("a", 2, False)]
    rows += [("b", 1, True), ("b", 1, False), ("b", 2, True), ("b", 2, False), ("b", 3, True)]
    table = pd.DataFrame(rows, columns=["pos", "tokens", "found"])
    found = standardised(table, "pos")
    # of the nine words of one or two tokens six have one
    assert found["pos"].tolist() == ["a", "b"] and found["count"].tolist() == [5, 4]
    assert found["omission"].tolist() == pytest.approx([0.4, 0.5])
    assert found["standardised"].tolist() == pytest.approx([6 / 9 / 4 + 3 / 9, 0.5])
    alone = pd.DataFrame([("c", 9, True)], columns=["pos", "tokens", "found"])
    with pytest.raises(ValueError, match="no value of tokens is in all groups of pos"):
        standardised(pd.concat([table, alone]), "pos")


def test_standardising_takes_away_what_size_alone_does() -> None:
    """Every token is lost with chance 0.1; nouns are long and articles short."""
    rng = np.random.default_rng(0)
    sizes = {"NOUN": rng.choice([1, 2, 3], 20_000, p=[0.2, 0.3, 0.5]),
             "DET": rng.choice([1, 2, 3], 20_000, p=[0.8, 0.1, 0.1])}  # fmt: skip
    parts = [
        pd.DataFrame({"pos": name, "tokens": size, "found": rng.random(20_000) < 0.9**size})
        for name, size in sizes.items()
    ]
    found = standardised(pd.concat(parts), "pos").set_index("pos")
    assert found.loc["NOUN", "omission"] - found.loc["DET", "omission"] > 0.07
    assert abs(found.loc["NOUN", "standardised"] - found.loc["DET", "standardised"]) < 0.015


# -- tests ----------------------------------------------------------------------------------


def test_pairwise_tests_equal_the_formula() -> None:
    table = drawn({"NUM": 0.5, "DET": 0.7, "X": 0.68})
    found = pairwise_tests(table, "pos").set_index(["a", "b"])
    assert list(found.index) == [("DET", "NUM"), ("DET", "X"), ("NUM", "X")]
    groups = {name: 1.0 - g["found"].to_numpy(float) for name, g in table.groupby("pos")}
    for (a, b), row in found.iterrows():
        x, y = groups[a], groups[b]
        pooled = (x.var(ddof=1) + y.var(ddof=1)) / 2  # equal sizes
        t = (x.mean() - y.mean()) / math.sqrt(pooled * 2 / 1000)
        assert row["t"] == pytest.approx(t) and row["difference"] == pytest.approx(
            t and x.mean() - y.mean()
        )
        p = 2 * stats.t.sf(abs(t), 1998)
        assert row["p"] == pytest.approx(p) and row["p_corrected"] == pytest.approx(min(1, 3 * p))
    assert found["significant"].tolist() == [True, False, True]


@pytest.mark.parametrize(("a", "b"), [(1, 2), (2, 1), (5, 3)])
def test_small_groups_equal_the_library(a: int, b: int) -> None:
    table = pd.DataFrame(
        {"pos": ["a"] * a + ["b"] * b, "chunk": 0, "found": [i % 2 == 0 for i in range(a + b)]}
    )
    lost = [1.0 - g["found"].to_numpy(float) for _, g in table.groupby("pos")]
    found, expected = pairwise_tests(table, "pos"), stats.ttest_ind(*lost)
    assert found["t"][0] == pytest.approx(expected.statistic)
    assert found["p"][0] == pytest.approx(expected.pvalue)


def test_pairs_without_spread_are_no_evidence() -> None:
    table = pd.DataFrame(
        {"chunk": 0, "pos": ["a"] * 3 + ["b"] * 3 + ["c"] * 3,
         "found": [True] * 3 + [False] * 3 + [True, False, True]}
    )  # fmt: skip
    found = pairwise_tests(table, "pos")
    assert (
        math.isnan(found["t"][0]) and found["difference"][0] == -1 and not found["significant"][0]
    )
    # they still count as comparisons
    assert found["p_corrected"][1] == pytest.approx(min(1, 3 * found["p"][1]))


P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@given(P_VALUES)
def test_holm_lies_between_none_and_bonferroni(p: list[float]) -> None:
    holm, full = corrected(p, "holm"), corrected(p, "bonferroni")
    for raw, mine, most in zip(p, holm, full, strict=True):
        assert raw <= mine <= most <= 1
    # monotone: a smaller p never gets a larger one
    assert [holm[i] for i in np.argsort(p, kind="stable")] == sorted(holm)
    assert min(holm) == pytest.approx(min(1, len(p) * min(p)))


def test_holm_by_hand() -> None:
    assert corrected([0.04, 0.01, 0.03], "holm") == pytest.approx([0.06, 0.03, 0.06])
    assert corrected([math.nan, 0.01], "holm")[1] == 0.02
    for correction in ("holm", "bonferroni", "none"):
        assert math.isnan(corrected([math.nan, 0.01], correction)[0])
    assert corrected([0.5, 0.01], "none") == [0.5, 0.01]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rates(drawn({"a": 0.5}), "tag"), r"the table lacks \['tag'\]"),
        (lambda: rates(drawn({"a": 0.5}).iloc[:0], "pos"), "the table has no rows"),
        (lambda: pairwise_tests(drawn({"a": 0.5}), "pos", "fdr"), "correction is 'fdr', allowed"),
    ],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
