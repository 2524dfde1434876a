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


def training_seconds(facts: Facts) -> float:
    """A run's training time over all sessions. One that has none of its own is taken to have gone
    at the last one's pace, if that was on the same device, and not counted otherwise."""
    last, sessions = float(facts["training_seconds"]), facts.get("sessions", [])
    if len(sessions) < 2:
        return last
    pace = last / sessions[-1]["steps"]
    return sum(
        session.get("seconds", pace * session["steps"] if _alike(session, facts) else 0.0)
        for session in sessions
    )


def wall_seconds(facts: Facts) -> float:
    """All of a run's time: its training's, and that of what its last session did beside it."""
    wall = float(facts["wall_seconds"])
    if len(facts.get("sessions", [])) < 2:
        return wall
    return wall - float(facts["training_seconds"]) + training_seconds(facts)


def certainty(runs: Sequence[Facts]) -> str:
    """What to say before a time of these runs together: nothing, that it is about that, for some
    session is counted at another's pace, or that it is at least that, for one is not counted."""
    worst = EXACT
    for facts in runs:
        sessions = facts.get("sessions", [])
        unknown = [s for s in sessions if "seconds" not in s] if len(sessions) > 1 else []
        if any(not _alike(session, facts) for session in unknown):
            return AT_LEAST
        worst = ABOUT if unknown else worst
    return worst


def _alike(session: Facts, facts: Facts) -> bool:
    return session.get("device_name", facts["device_name"]) == facts["device_name"]
