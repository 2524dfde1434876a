"""When a training stops before its last step: at a deadline, or as soon as it is seen to miss it.

A machine that is lent takes with it what has not ended when it goes back. So a training that cannot
end in time had better be given up while there is time for another one: see ``--whole`` of the
command line.

Of trainings beside each other none is judged by a time in which the others were not the same: what
one of them begins with holds up all, and one that is given up leaves the others its share.
"""

from __future__ import annotations

import time

LEAST = 10.0  # seconds of steps from which a pace is told

_changes = 0


def others_change() -> None:
    """A training begins its steps, or has ended: what was measured of others no longer holds."""
    global _changes
    _changes += 1


class Limit:
    """The end of the time that a training has.

    Args:
        deadline: ``time.monotonic()`` value by which steps should be over, or None.
        whole: whether steps that are too slow to be over by then are not worth taking.
    """

    def __init__(self, deadline: float | None, whole: bool = False) -> None:
        self.deadline, self.whole = deadline, whole
        self.seen, self.since, self.steps = -1, 0.0, 0
        self.missed: str | None = None

    def over(self, left: int) -> bool:
        """Asked before each step, with how many are `left`: whether it should not be taken."""
        if self.deadline is None:
            return False
        now = time.monotonic()
        if self.whole:
            self._judge(now, left)
        return now >= self.deadline or self.missed is not None

    def _judge(self, now: float, left: int) -> None:
        assert self.deadline is not None
        if self.seen != _changes:
            self.seen, self.since, self.steps = _changes, now, 0
            return
        self.steps += 1
        spent, there = now - self.since, self.deadline - now
        needs = spent / self.steps * left
        if spent >= LEAST and needs > there > 0:
            self.missed = f"{needs:.0f} s more would be needed, {there:.0f} s are left"

    def reason(self, step: int, total: int) -> str:
        """Why a training stopped at `step` of `total`."""
        if self.missed is None:
            return f"budget spent at step {step} of {total}"
        return f"given up at step {step} of {total}: {self.missed}"
