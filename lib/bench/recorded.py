"""What published runs say of their own time, beside what benchmarks measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lib import provenance, sessions
from lib.experiments import cells_of, find
from lib.store import Store


@dataclass(frozen=True)
class Recorded:
    """Time of runs that have a record, evaluations included.

    Attributes:
        cells: how many runs there are; `facts`: of those that have a record with a time.
    """

    cells: int
    facts: tuple[dict[str, Any], ...]

    @property
    def minutes(self) -> float:
        """Training of all that have a record, together: a run's share of what others trained in
        beside it, in older records the whole of that (:mod:`lib.sessions`)."""
        return sum(sessions.training_seconds(facts) / 60 for facts in self.facts)

    @property
    def timed(self) -> float:
        """How many of these minutes were timed: the rest are sessions of resumed runs that kept no
        time, counted at the last one's pace."""
        kept = [session for facts in self.facts for session in sessions.earlier(facts)]
        last = sum(float(facts["training_seconds"]) for facts in self.facts)
        return (last + sum(session.get("seconds", 0.0) for session in kept)) / 60

    @property
    def certainty(self) -> str:
        """What to say before :attr:`minutes`: nothing, "about ", "at least " or "at most "."""
        return sessions.certainty(self.facts)

    @property
    def timed_steps(self) -> float:
        """The share of a run's steps that was timed, in the mean over runs."""
        shares = []
        for facts in self.facts:
            *earlier, last = facts.get("sessions") or [{"steps": 1}]  # a lone session is timed
            untimed = sum(session["steps"] for session in earlier if "seconds" not in session)
            whole = last["steps"] + sum(session["steps"] for session in earlier)
            shares.append(1 - untimed / whole)
        return sum(shares) / len(shares) if shares else 1.0

    @property
    def whole(self) -> bool:
        """Whether every run has a record."""
        return len(self.facts) == self.cells > 0


def recorded(
    experiment: str, profile: str = "paper", store: Store | None = None,
    only: Callable[[Any], bool] = lambda cell: True,
) -> Recorded:  # fmt: skip
    """The published runs of an experiment, or of those of its cells that `only` accepts."""
    found = find(experiment)
    store = store or Store.at(provenance.ROOT)
    cells = [cell for cell in cells_of(found, profile) if only(cell)]
    records = store.records(found.name, found.protocol, cells)
    facts = [record.provenance for record in records if record is not None]
    return Recorded(len(cells), tuple(f for f in facts if "training_seconds" in f))


def recorded_sentence(experiment: str, profile: str = "paper", store: Store | None = None) -> str:
    """What the published runs of an experiment say of their own time, as one sentence."""
    found, title = recorded(experiment, profile, store), find(experiment).title
    if not found.facts:
        return f"No run of “{title}” has a record yet."
    count, minutes = len(found.facts), found.minutes
    resumed = sum(sessions.certainty([facts]) == sessions.ABOUT for facts in found.facts)
    said = "" if not resumed else (
        f" ({resumed} resumed; the time before that is counted at the pace after it: "
        f"{found.timed:.1f} minutes and {found.timed_steps:.0%} of the steps were timed)"
    )  # fmt: skip
    if not found.whole:
        said += f"; at that pace all take {minutes * found.cells / count:.0f}"
    return (
        f"The {count} of {found.cells} runs of “{title}” that have a record trained for "
        f"{found.certainty}{minutes:.1f} minutes together, evaluations included{said}."
    )
