"""Trainings that stop at a deadline, or as soon as they are seen to miss it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.training import pace
from lib.training.pace import LEAST, Limit, others_change


@dataclass
class Clock:
    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def stopped_at(limit: Limit, clock: Clock, total: int, seconds: float) -> int:
    """The step before which a training of equal steps stops."""
    for step in range(total):
        if limit.over(total - step):
            return step
        clock.now += seconds
    return total


@given(
    total=st.integers(1, 300), seconds=st.floats(0.05, 20.0), spare=st.floats(-0.9, 2.0),
)  # fmt: skip
def test_what_ends_in_time_goes_on_and_what_does_not_is_given_up_early(
    total: int, seconds: float, spare: float
) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "time", clock)
        limit = Limit(clock.now + total * seconds * (1 + spare), whole=True)
        step = stopped_at(limit, clock, total, seconds)
    spent = step * seconds
    if spare > 1e-6:
        assert step == total and limit.missed is None
    elif limit.missed is None:  # too short to be judged: over at the deadline, or never asked again
        assert spent <= LEAST + 2 * seconds or abs(spare) <= 1e-6
    else:  # as soon as a pace can be told
        assert step < total and LEAST - 1e-6 <= spent < LEAST + seconds + 1e-6


def test_without_a_wish_for_whole_ones_only_the_deadline_counts(clock: Clock) -> None:
    limit = Limit(clock.now + 50.0)
    assert stopped_at(limit, clock, 1000, 1.0) == 50
    assert limit.reason(50, 1000) == "budget spent at step 50 of 1000"
    assert stopped_at(Limit(None, whole=True), clock, 1000, 1e6) == 1000


def test_the_reason_says_what_would_be_needed(clock: Clock) -> None:
    limit = Limit(clock.now + 100.0, whole=True)
    step = stopped_at(limit, clock, 200, 2.0)
    assert step == 5
    assert limit.reason(step, 200) == (
        "given up at step 5 of 200: 390 s more would be needed, 90 s are left"
    )


def test_time_in_which_others_began_or_ended_is_not_judged_by(clock: Clock) -> None:
    limit = Limit(clock.now + 400.0, whole=True)
    assert not limit.over(100)
    for left in range(99, 94, -1):  # 20 s a step: too slow by far, while another one begins
        clock.now += 20.0
        others_change()
        assert not limit.over(left)
    for left in range(94, 0, -1):  # and 3 s from then on
        clock.now += 3.0
        assert not limit.over(left)
    slow = Limit(clock.now + 400.0, whole=True)
    for left in range(100, 0, -1):
        if slow.over(left):
            break
        clock.now += 9.0
    assert left == 98  # the second step after it was first asked


def test_at_the_deadline_itself_a_budget_is_spent(clock: Clock) -> None:
    """Not given up: nothing is left that another could use."""
    limit = Limit(clock.now + 60.0, whole=True)
    assert not limit.over(10)
    clock.now += 61.0
    assert limit.over(9) and limit.reason(1, 10) == "budget spent at step 1 of 10"
