"""What ``run --fresh`` has run anew, kept between its slices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from lib import provenance
from lib.store import write_atomic


class Anew:
    """Which of the cells that a ``--fresh`` asked for it has run, kept until it has run them all:
    when a budget is spent in between, the same command goes on and does not begin again. A change
    of the code begins another. Each choice of cells has a list of its own, so that parts and
    profiles that run beside each other know nothing of each other.

    Args:
        folder: the experiment's.
        cells: identities of all that was asked for.

    Attributes:
        done: identities of cells that have run.
        begins: whether nothing is kept of an earlier slice.
    """

    def __init__(self, folder: Path, cells: Iterable[str]) -> None:
        asked = hashlib.sha256("\n".join(sorted(cells)).encode()).hexdigest()[:12]
        # with a dot: no record has such a name
        self.path, self.code = folder / f".fresh-{asked}.json", provenance.code()["lib_hash"]
        self.done: list[str] = []
        self.begins = True
        try:
            known = json.loads(self.path.read_text())
            if known["lib_hash"] == self.code:
                self.done = [str(each) for each in known["done"]]
                self.begins = False
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none yet, or damaged: from the beginning

    def begin(self) -> None:
        """That it has begun."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        body = {"lib_hash": self.code, "done": self.done}
        write_atomic(self.path, json.dumps(body).encode())

    def note(self, cell: str) -> None:
        """That a cell has run."""
        self.done.append(cell)
        self.begin()

    def over(self) -> None:
        """All of them have."""
        self.path.unlink(missing_ok=True)
