"""Locks of what several processes of a machine might do at once.

The system takes a lock from a process that dies; its file stays, and means nothing by itself. Where
the file system knows no such locks, as some of a network, there are none: who asks for one is told
that it is theirs, and a note says once that several processes may do the same thing there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lib import progress

FOLDER = "locks"  # below the local runs
PAUSE = 0.2  # seconds between two looks at what another process runs

_lockless: set[Path] = set()  # folders of which it has been said


class Lock(FileLock):
    """A lock, or the leave to go on without one."""

    without = False

    @property
    def is_locked(self) -> bool:
        """Whether it is ours."""
        return self.without or super().is_locked

    def release(self, force: bool = False) -> None:
        """Give it back; the leave stays, for the file system does."""
        if not self.without:
            super().release(force)


def lock_of(runs: Path, name: str) -> Lock:
    """The lock called `name` below the folder of local `runs`; not taken yet."""
    path = runs / FOLDER / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    # never a marker in the lock's place: one that a process of another machine left would stay
    return Lock(path, fallback_to_soft=False)


def taken(lock: FileLock) -> bool:
    """Whether a lock is ours, now if not before."""
    if not lock.is_locked:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        except OSError as error:
            if not isinstance(lock, Lock):
                raise
            lock.without = True
            folder = Path(lock.lock_file).parent
            if folder not in _lockless:
                _lockless.add(folder)
                progress.note(
                    f"no locks below {folder} ({error.strerror or error}): processes beside each "
                    "other may run the same cells"
                )
    return True


def wait_for(lock: FileLock, late: Callable[[], bool] = lambda: False) -> bool:
    """Wait until a lock is ours; False if it is `late` while another still has it."""
    while not taken(lock):
        if late():
            return False
        time.sleep(PAUSE)
    return True


class Holding:
    """The cells that this process runs, each under a lock: what another one runs is passed over,
    and waited for in the end.

    Args:
        runs: the folder of local runs.
        identify: gives a cell's identity.
        recorded: which cells have got a record since this run began; asked when their locks are
            ours, for whoever had them has saved what it ran by then.
        readable: gives a cell's name.
        say: takes a line about cells that are passed over or waited for.

    Attributes:
        elsewhere: cells that another process runs, as far as is known.
        ended: cells that another process has run.
    """

    def __init__(
        self, runs: Path, identify: Callable[[Any], str],
        recorded: Callable[[Sequence[Any]], list[bool]], readable: Callable[[Any], str],
        say: Callable[[str], Any],
    ) -> None:  # fmt: skip
        self.runs, self.identify, self.recorded = runs, identify, recorded
        self.readable, self.say = readable, say
        self.locks: dict[str, Lock] = {}
        self.elsewhere: list[Any] = []
        self.ended: list[Any] = []

    def take(self, cells: Sequence[Any]) -> list[Any]:
        """Those of `cells` that are to run now; they are held until they are released."""
        free, others, over = self._apart(cells)
        self.elsewhere += others
        self.ended += over
        for found, what in ((others, "under way in"), (over, "run meanwhile by")):
            if found:
                self.say(f"  {self._names(found)}: passed over, {what} another process")
        return free

    def freed(self, late: Callable[[], bool]) -> list[Any]:
        """Wait for the cells that another process runs: until it has run them all, or some are free
        without a record, for it has ended before; those, to be taken again. None either once it
        is `late`."""
        said = False
        while self.elsewhere and not late():
            free, self.elsewhere, over = self._apart(self.elsewhere)
            self.ended += over
            for cell in free:  # of several processes that wait each takes what it begins with
                self.release(cell)
            if free:
                return free
            if self.elsewhere:
                if not said:
                    self.say(f"  waiting for {self._names(self.elsewhere)} of another process")
                    said = True
                time.sleep(PAUSE)
        return []

    def _apart(self, cells: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """Cells that are ours now, that another process holds, and that have been run."""
        free = [cell for cell in cells if self._take(cell)]
        others = [cell for cell in cells if cell not in free]
        over = [cell for cell, is_over in zip(free, self.recorded(free), strict=True) if is_over]
        for cell in over:
            self.release(cell)
        return [cell for cell in free if cell not in over], others, over

    def _names(self, cells: Sequence[Any]) -> str:
        more = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
        return f"{self.readable(cells[0])}{more}"

    def _take(self, cell: Any) -> bool:
        name = self.identify(cell)
        if name not in self.locks and taken(lock := lock_of(self.runs, name)):
            self.locks[name] = lock
        return name in self.locks

    def release(self, cell: Any) -> None:
        """That a cell's record is saved, or its checkpoint."""
        lock = self.locks.pop(self.identify(cell), None)
        if lock is not None:
            lock.release()

    def over(self) -> list[Any]:
        """Those of the cells that were passed over that have a record by now."""
        found = zip(self.elsewhere, self.recorded(self.elsewhere), strict=True)
        return [*self.ended, *(cell for cell, is_over in found if is_over)]

    def close(self) -> None:
        """Release all."""
        for lock in self.locks.values():
            lock.release()
        self.locks.clear()
