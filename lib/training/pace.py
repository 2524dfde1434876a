"""When a training stops before its last step: at a deadline, or as soon as it is seen to miss it.

A machine that is lent takes with it what has not ended when it goes back. So a training that cannot
end in time had better be given up while there is time for another one: see ``--whole`` of the
command line.

Trainings beside each other share the time. What they need together is told once the pace of each
is known, each counted by its own share; if that is more than there is, the one that needs most is
given up, and the others are looked at anew. Paces are told anew, too, when one begins or ends.
"""

from __future__ import annotations

import time
from weakref import WeakKeyDictionary

from lib.training.abreast import clock

LEAST = 10.0  # seconds of steps from which a pace is told
STEPS = 5  # and so many of them
MARGIN = 1.1  # a pace is no promise: what would miss the deadline by less is not given up
USEFUL = 30.0  # seconds: with less than that left nothing else could begin, so nothing is given up

_under_way: WeakKeyDictionary[Limit, float | None] = WeakKeyDictionary()  # to what each needs


class Limit:
    """The end of the time that a training has.

    Args:
        deadline: ``time.monotonic()`` value by which steps should be over, or None.
        whole: whether steps that are too slow to be over by then are not worth taking.
    """

    def __init__(self, deadline: float | None, whole: bool = False) -> None:
        self.deadline, self.whole = deadline, whole
        self.missed: str | None = None
        self._restart()

    def _restart(self) -> None:
        self.last: tuple[float, float] | None = None  # share and time when it was last asked
        self.steps, self.spent, self.longest, self.wall = 0, 0.0, 0.0, 0.0

    def begin(self) -> None:
        """Steps begin."""
        _under_way[self] = None
        _look_anew()

    def end(self) -> None:
        """Steps are over, for whatever reason."""
        _under_way.pop(self, None)
        _look_anew()

    def over(self, left: int) -> bool:
        """Asked before each step, with how many are `left`: whether it should not be taken."""
        if self.deadline is None:
            return False
        now = time.monotonic()
        if self.whole and now < self.deadline:
            self._judge(now, left)
        return now >= self.deadline or self.missed is not None

    def _judge(self, now: float, left: int) -> None:
        assert self.deadline is not None
        share = clock()
        if self.last is not None:
            step = share - self.last[0]
            self.steps, self.spent = self.steps + 1, self.spent + step
            self.wall += now - self.last[1]
            self.longest = max(self.longest, step)
        self.last = (share, now)
        if self.steps < STEPS or self.wall < LEAST:
            return
        # all but the longest: one that compiled, measured or saved tells nothing of the others
        needs = (self.spent - self.longest) / (self.steps - 1) * left
        _under_way[self] = needs
        known = [need for need in _under_way.values() if need is not None]
        there = self.deadline - now
        if len(known) < len(_under_way) or needs < max(known) or there < USEFUL:
            return
        if sum(known) > MARGIN * there:
            others = f" beside others that need {sum(known) - needs:.0f}" if known[1:] else ""
            self.missed = f"{needs:.0f} s more would be needed{others}, {there:.0f} s are left"

    def reason(self, step: int, total: int) -> str:
        """Why a training stopped at `step` of `total`."""
        if self.missed is None:
            return f"budget spent at step {step} of {total}"
        return f"given up at step {step} of {total}: {self.missed}"


def _look_anew() -> None:
    """What was measured while others were under way, or were not yet, no longer holds."""
    for limit in list(_under_way):
        _under_way[limit] = None
        limit._restart()
