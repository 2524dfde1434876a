"""Trainings that stop at a deadline, or as soon as they are seen to miss it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.training import pace
from lib.training.abreast import abreast
from lib.training.pace import LEAST, MARGIN, STEPS, USEFUL, Limit


@dataclass
class Clock:
    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    use(clock, monkeypatch)
    return clock


def use(clock: Clock, patch: pytest.MonkeyPatch) -> None:
    """Let trainings go by `clock`; none is under way."""
    patch.setattr(pace, "time", clock)
    patch.setattr(pace, "_under_way", pace.WeakKeyDictionary())
    patch.setattr("lib.training.abreast.time", clock)


@dataclass
class Training:
    """A training of `total` steps of some seconds each, but for those in `odd`."""

    clock: Clock
    total: int
    seconds: float
    limit: Limit
    odd: dict[int, float] = field(default_factory=dict)
    step: int = 0

    def turns(self) -> Generator[None, None, None]:
        self.limit.begin()
        while self.step < self.total and not self.limit.over(self.total - self.step):
            self.clock.now += self.odd.get(self.step, self.seconds)
            self.step += 1
            yield None
        self.limit.end()

    def run(self) -> int:
        """The step before which it stopped."""
        for _ in self.turns():
            pass
        return self.step


def together(trainings: list[Training]) -> list[int]:
    # by the tests' own clock, a turn of each after the other
    clock = trainings[0].clock
    flights = ((1, training.turns()) for training in trainings)
    list(abreast(flights, len(trainings), torch.device("cpu"), now=clock.monotonic))
    return [training.step for training in trainings]


@given(
    total=st.integers(1, 300), seconds=st.floats(0.05, 20.0), spare=st.floats(-0.9, 2.0),
)  # fmt: skip
def test_what_ends_in_time_goes_on_and_what_does_not_is_given_up_early(
    total: int, seconds: float, spare: float
) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        use(clock, patch)
        whole = total * seconds
        limit = Limit(clock.now + whole * (1 + spare), whole=True)
        training = Training(clock, total, seconds, limit)
        training.run()
    told = max(LEAST, STEPS * seconds)  # seconds after which a pace is told
    if spare >= 0:
        assert limit.missed is None and (training.step == total or spare < 1e-9)
    elif limit.missed is not None:
        assert told - 1e-6 <= training.step * seconds <= told + seconds + 1e-6
    else:  # by less than the margin, or too short for anything to be gained
        there = whole * (1 + spare) - told
        assert there < USEFUL + seconds or (whole - told) <= MARGIN * there + 1e-6


def test_without_a_wish_for_whole_ones_only_the_deadline_counts(clock: Clock) -> None:
    limit = Limit(clock.now + 50.0)
    assert Training(clock, 1000, 1.0, limit).run() == 50
    assert limit.reason(50, 1000) == "budget spent at step 50 of 1000"
    assert Training(clock, 1000, 1e6, Limit(None, whole=True)).run() == 1000


def test_the_reason_says_what_would_be_needed(clock: Clock) -> None:
    limit = Limit(clock.now + 100.0, whole=True)
    step = Training(clock, 200, 2.0, limit).run()
    assert step == 5
    assert limit.reason(step, 200) == (
        "given up at step 5 of 200: 390 s more would be needed, 90 s are left"
    )


@pytest.mark.parametrize("odd", [{0: 60.0}, {2: 45.0}])
def test_one_step_that_compiles_or_measures_tells_nothing_of_the_others(
    odd: dict[int, float], clock: Clock
) -> None:
    limit = Limit(clock.now + 180.0, whole=True)
    assert Training(clock, 100, 1.0, limit, odd).run() == 100


def test_what_happens_every_few_steps_counts(clock: Clock) -> None:
    limit = Limit(clock.now + 180.0, whole=True)
    often = Training(clock, 150, 1.0, limit, dict.fromkeys(range(0, 150, 5), 6.0))
    assert often.run() < 30 and limit.missed is not None


def test_near_the_deadline_nothing_is_given_up(clock: Clock) -> None:
    """Nothing else could begin."""
    limit = Limit(clock.now + USEFUL + LEAST - 1.0, whole=True)
    assert Training(clock, 1000, 1.0, limit).run() == 39
    assert limit.reason(39, 1000) == "budget spent at step 39 of 1000"


def test_of_trainings_beside_each_other_all_go_on_if_all_will_end(clock: Clock) -> None:
    """Also a long one whose pace will be twice that when a short one has ended."""
    end = clock.now + 290.0
    trainings = [Training(clock, n, 1.0, Limit(end, whole=True)) for n in (180, 90)]
    assert together(trainings) == [180, 90] and clock.now < end


def test_of_trainings_beside_each_other_the_longest_is_given_up(clock: Clock) -> None:
    """And no other that will end without it."""
    end = clock.now + 150.0
    trainings = [Training(clock, n, 1.0, Limit(end, whole=True)) for n in (400, 90, 300)]
    steps = together(trainings)
    assert steps[1] == 90 and steps[0] < 20 and steps[2] < 60
    said = trainings[0].limit.missed
    assert said is not None and "beside others that need" in said
    last = trainings[2].limit.missed
    assert last is not None


def test_one_that_begins_or_ends_starts_the_others_anew(clock: Clock) -> None:
    limit, other = Limit(clock.now + 400.0, whole=True), Limit(clock.now + 400.0, whole=True)
    limit.begin()
    for left in range(100, 96, -1):  # 20 s a step: too slow by far, while another one begins
        assert not limit.over(left)
        clock.now += 20.0
        other.begin()
    other.end()
    for left in range(96, 0, -1):  # and 3 s from then on
        assert not limit.over(left)
        clock.now += 3.0
    limit.end()


def test_what_was_broken_off_holds_up_nobody(clock: Clock) -> None:
    broken = Training(clock, 100, 1.0, Limit(clock.now + 500.0, whole=True))
    turns = broken.turns()
    next(turns)
    del turns, broken  # an error between its steps, say
    limit = Limit(clock.now + 100.0, whole=True)
    assert Training(clock, 1000, 1.0, limit).run() < 20
