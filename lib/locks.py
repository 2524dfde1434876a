"""Locks of what several processes of a machine might do at once.

The system takes a lock from a process that dies; its file stays, and means nothing by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

FOLDER = "locks"  # below the local runs


def lock_of(runs: Path, name: str) -> FileLock:
    """The lock called `name` below the folder of local `runs`; not taken yet."""
    path = runs / FOLDER / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def taken(lock: FileLock) -> bool:
    """Whether a lock is ours, now if not before."""
    if not lock.is_locked:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
    return True


class Holding:
    """The cells that this process runs, each under a lock: what another one runs is passed over.

    Args:
        runs: the folder of local runs.
        identify: gives a cell's identity.
        recorded: which cells have got a record since this run began; asked when their locks are
            ours, for whoever had them has saved what it ran by then.
        readable: gives a cell's name.
        say: takes a line about cells that are passed over.

    Attributes:
        elsewhere: cells that another process runs.
        ended: cells that another process has run.
    """

    def __init__(
        self, runs: Path, identify: Callable[[Any], str],
        recorded: Callable[[Sequence[Any]], list[bool]], readable: Callable[[Any], str],
        say: Callable[[str], Any],
    ) -> None:  # fmt: skip
        self.runs, self.identify, self.recorded = runs, identify, recorded
        self.readable, self.say = readable, say
        self.locks: dict[str, FileLock] = {}
        self.elsewhere: list[Any] = []
        self.ended: list[Any] = []

    def take(self, cells: Sequence[Any]) -> list[Any]:
        """Those of `cells` that are to run now; they are held until they are released."""
        free = [cell for cell in cells if self._take(cell)]
        others = [cell for cell in cells if cell not in free]
        over = [cell for cell, is_over in zip(free, self.recorded(free), strict=True) if is_over]
        for cell in over:
            self.release(cell)
        self.elsewhere += others
        self.ended += over
        for found, what in ((others, "under way in"), (over, "run meanwhile by")):
            if found:
                names = self.readable(found[0])
                names += f" and {len(found) - 1} more" if len(found) > 1 else ""
                self.say(f"  {names}: passed over, {what} another process")
        return [cell for cell in free if cell not in over]

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
