from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.training.schedules import warmup_cosine


def test_the_paper_s_schedule() -> None:
    table = warmup_cosine(210 * 123, 10 * 123, 1e-5, 2.5e-4, 1e-5)
    assert len(table) == 25_830
    assert table[0] == 1e-5
    assert table[1230] == max(table) == pytest.approx(2.5e-4)
    assert table[615] == pytest.approx((1e-5 + 2.5e-4) / 2)
    assert table[1230 + 12_300] == pytest.approx((1e-5 + 2.5e-4) / 2)
    assert table[-1] == pytest.approx(1e-5, rel=1e-3)


@given(
    steps=st.integers(1, 300), share=st.floats(0, 1), hold=st.integers(1, 7),
    peak=st.floats(1e-4, 1e-1),
)  # fmt: skip
def test_shape(steps: int, share: float, hold: int, peak: float) -> None:
    warmup = int(share * steps)
    table = warmup_cosine(steps, warmup, 1e-5, peak, 1e-6, hold)
    assert len(table) == steps
    assert all(1e-6 <= rate <= peak * (1 + 1e-12) for rate in table)
    assert all(a <= b for a, b in pairwise(table[:warmup]))
    after = table[warmup + hold :]
    assert all(a >= b - 1e-15 for a, b in pairwise(after))
    for start in range(0, steps - hold, hold):
        assert len(set(table[start : start + hold])) == 1


def test_halfway_down_is_a_cosine() -> None:
    table = warmup_cosine(100, 0, 1.0, 1.0, 0.0)
    assert table[25] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((0, 0), "steps is 0"), ((10, 11), "warmup_steps is 11"), ((10, -1), "warmup_steps is -1")],
)
def test_bad_arguments_are_named(arguments: tuple[int, int], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        warmup_cosine(*arguments, 1e-5, 1e-3, 1e-5)


def test_bad_hold_is_named() -> None:
    with pytest.raises(ValueError, match="hold is 0"):
        warmup_cosine(10, 1, 1e-5, 1e-3, 1e-5, hold=0)
