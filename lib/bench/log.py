"""What was tried to make things faster, and what it gained: ``book/reference/speed_log.yml``.

The file is a list. Each entry says what was changed, what was expected of it before it was
measured, and what was measured then, with the benchmark that says so::

    - change: B and C shared over four channels of a program
      bench: scan
      prediction: reads of B and C fall to a quarter, 0.9 to 0.7 ms
      before: 0.91
      after: 0.66
      unit: ms
      kept: true
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lib import provenance
from lib.experiments.foundations import KINDS

LOG = Path("book") / "reference" / "speed_log.yml"


class LogError(ValueError):
    """A log that cannot be used, naming entry and field."""


@dataclass(frozen=True)
class Trial:
    """One thing that was tried.

    Attributes:
        change: what was done.
        bench: subcommand that measured it.
        prediction: what was expected, written down before.
        before, after: measured, in `unit`.
        kept: whether the change stayed.
    """

    change: str
    bench: str
    prediction: str
    before: float
    after: float
    unit: str
    kept: bool

    @property
    def gain(self) -> float:
        """Times faster than before (less than 1: slower)."""
        return self.before / self.after


_TYPES: dict[str, tuple[type, ...]] = {
    "change": (str,), "bench": (str,), "prediction": (str,), "before": (int, float),
    "after": (int, float), "unit": (str,), "kept": (bool,),
}  # fmt: skip


def load_log(root: Path = provenance.ROOT) -> list[Trial]:
    """All trials in the order of the file; none if there is no file.

    Raises:
        LogError: unreadable, a field missing or unknown, or a value that is not allowed.
    """
    path = root / LOG
    if not path.is_file():
        return []
    try:
        entries = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise LogError(f"{LOG.name} cannot be read: {error}") from error
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise LogError(f"{LOG.name} holds a {type(entries).__name__}, allowed: a list of trials")
    return [_trial(entry, number) for number, entry in enumerate(entries, 1)]


def _trial(entry: Any, number: int) -> Trial:
    where = f"{LOG.name}, trial {number}"
    if not isinstance(entry, dict) or set(entry) != set(_TYPES):
        names = sorted(entry) if isinstance(entry, dict) else entry
        raise LogError(f"{where} has {names}, allowed: exactly {', '.join(_TYPES)}")
    for name, kinds in _TYPES.items():
        value = entry[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise LogError(f"{where}: {name} is {value!r}, allowed: {wanted}")
    if entry["bench"] not in KINDS:
        raise LogError(f"{where}: bench is {entry['bench']!r}, allowed: {', '.join(KINDS)}")
    for name in ("before", "after"):
        if entry[name] <= 0:
            raise LogError(f"{where}: {name} is {entry[name]}, allowed: more than 0")
    return Trial(**entry)
