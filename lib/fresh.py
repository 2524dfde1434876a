"""What ``run --fresh`` has run anew, kept between its slices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from lib import provenance
from lib.locks import lock_of, wait_for
from lib.store import write_atomic

BEGINNING = ".fresh-"  # of the lists' names; with a dot: no record has such a name


class Anew:
    """Which of the cells that a ``--fresh`` asked for it has run, kept until it has run them all:
    when a budget is spent in between, the same command goes on and does not begin again. A change
    of the code begins another. Each choice of cells has a list of its own, so that parts and
    profiles that run beside each other know nothing of each other; processes that run the same ones
    keep one together.

    Args:
        folder: the experiment's.
        cells: identities of all that was asked for.

    Attributes:
        done: identities of cells that have run.
        begins: whether nothing is kept of an earlier slice.
    """

    def __init__(self, folder: Path, cells: Iterable[str]) -> None:
        asked = hashlib.sha256("\n".join(sorted(cells)).encode()).hexdigest()[:12]
        self.path, self.code = folder / f"{BEGINNING}{asked}.json", provenance.code()["lib_hash"]
        known = self._kept()
        self.done, self.begins = known or [], known is None

    def begin(self) -> None:
        """That it has begun."""
        self._add([])

    def note(self, cell: str) -> None:
        """That a cell has run."""
        self._add([cell])

    def _kept(self) -> list[str] | None:
        try:
            known = json.loads(self.path.read_text())
            return [str(each) for each in known["done"]] if known["lib_hash"] == self.code else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # none yet, or damaged: from the beginning

    def _add(self, cells: Sequence[str]) -> None:
        """Keep what this process knows, and what another has kept meanwhile."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_of(self.path.parent.parent, f"{self.path.parent.name}{self.path.stem}")
        wait_for(lock)
        try:
            self.done = list(dict.fromkeys([*(self._kept() or []), *self.done, *cells]))
            body = {"lib_hash": self.code, "done": self.done}
            write_atomic(self.path, json.dumps(body).encode())
        finally:
            lock.release()

    def over(self) -> None:
        """All of them have."""
        self.path.unlink(missing_ok=True)
