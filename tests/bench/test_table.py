from __future__ import annotations

import pytest

from lib.bench.table import contestants_of, is_even, number, rows, text, times

METRICS = {
    "floor_ms": 0.5, "floor_ms.bytes": 0.2, "floor_ms.exponentials": 0.5,
    "slow.ms": 4.0, "slow.ms_low": 3.9, "slow.ms_high": 4.2, "slow.error": 2e-6,
    "slow.floor_share": 0.125,
    "fast.ms": 1.0, "fast.ms_low": 0.98, "fast.ms_high": 1.1, "fast.error": 0.0,
    "fast.floor_share": 0.5,
    "ratio.slow": 4.01, "ratio.slow.low": 3.9, "ratio.slow.high": 4.1,
}  # fmt: skip
FACTS = {"ours": "fast", "absent": {"gone": "not installed"}, "notes": {"slow": "eager"}}


def test_rows_are_sorted_and_name_what_is_absent() -> None:
    assert contestants_of(METRICS) == ["fast", "slow"]
    assert rows(METRICS, FACTS) == [
        ["fast (ours)", "1.00", "0.98 to 1.10", "", "50.0%", "0e+00", ""],
        ["slow", "4.00", "3.90 to 4.20", "4.01 (3.9 to 4.1)", "12.5%", "2e-06", "eager"],
        ["floor", "0.5", "", "", "100.0%", "", "exponentials"],
        ["gone", "absent", "", "", "", "", "not installed"],
    ]
    assert times(METRICS, "fast") == ""


@pytest.mark.parametrize(
    ("low", "high", "even"),
    [(1.003, 1.07, True), (0.9, 1.2, True), (0.8, 0.995, True), (1.02, 1.3, False),
     (0.8, 0.98, False)],
)  # fmt: skip
def test_a_ratio_whose_quartiles_come_near_one_is_a_tie(
    low: float, high: float, even: bool
) -> None:
    metrics = {"ratio.peer": 1.0, "ratio.peer.low": low, "ratio.peer.high": high}
    assert is_even(metrics, "peer") is even
    assert times(metrics, "peer").endswith(", even") is even


def test_a_record_without_times_still_says_why() -> None:
    assert rows({}, {"absent": {"a": "b"}}) == [["a", "absent", "", "", "", "", "b"]]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"),
     (1234.5, "1234"), (1.5e-6, "1.5e-06"), (0.9996, "1")],
)  # fmt: skip
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    assert number(value) == shown


def test_text_is_aligned() -> None:
    assert text("T", ["a", "bb"], [["long", "1"], ["x", ""]]) == (
        "T\n  a     bb\n  long  1\n  x"
    )  # fmt: skip
