"""Runs that were stopped and resumed: where each session of theirs ran, and the time of all.

A record's facts are those of its last session; ``sessions`` among them lists all, each with its
code, device, steps and, in records made since 29 November 2026, seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Facts = dict[str, Any]
EXACT, ABOUT, AT_LEAST = "", "about ", "at least "


def each(facts: Facts, read: Callable[[Facts], str]) -> list[str]:
    """What `read` finds in the facts of each session, such as its device: in order, once each. What
    a session does not know is as in the last one."""
    known = [{**facts, **session} for session in facts.get("sessions") or [{}]]
    return list(dict.fromkeys(map(read, known)))


def devices(facts: Facts) -> list[str]:
    """The devices of a run's sessions."""
    return each(facts, lambda session: str(session["device_name"]))


def training_seconds(facts: Facts) -> float:
    """A run's training time over all sessions. One that has none of its own is taken to have gone
    at the last one's pace, if that was on the same device, and not counted otherwise."""
    return float(facts["training_seconds"]) + _before(facts)


def wall_seconds(facts: Facts) -> float:
    """All of a run's time: its training's, and that of what its last session did beside it."""
    return float(facts["wall_seconds"]) + _before(facts)


def _before(facts: Facts) -> float:
    """Seconds of training before the last session, of which the facts themselves tell."""
    earlier = _earlier(facts)
    if not earlier:
        return 0.0
    pace = facts["training_seconds"] / facts["sessions"][-1]["steps"]
    return sum(
        session.get("seconds", pace * session["steps"] if _alike(session, facts) else 0.0)
        for session in earlier
    )


def certainty(runs: Sequence[Facts]) -> str:
    """What to say before a time of these runs together: nothing, that it is about that, for some
    session is counted at another's pace, or that it is at least that, for one is not counted."""
    untimed = [
        _alike(session, facts)
        for facts in runs
        for session in _earlier(facts)
        if "seconds" not in session
    ]
    return EXACT if not untimed else ABOUT if all(untimed) else AT_LEAST


def _earlier(facts: Facts) -> list[Facts]:
    return list(facts.get("sessions", [])[:-1])


def _alike(session: Facts, facts: Facts) -> bool:
    return session.get("device_name", facts["device_name"]) == facts["device_name"]
