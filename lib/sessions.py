"""Runs that were stopped and resumed: where each session of theirs ran, and the time of all.

A record's facts are those of its last session; ``sessions`` among them lists all, each with its
code, device, steps and, in records made since 29 November 2026, seconds. Sessions of a run in
phases name their ``phase``, when the run of all phases was ``started``, and whether the phase is
``shared``: trained once for many runs, in the time of whichever was first.

Where trainings were beside each other on a device, each has its share of the time, and
``shared_time`` among its facts says so. In records of before that each has the whole of the time in
which it was under way, so that a sum of them would count most of it several times.
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Facts = dict[str, Any]
EXACT, ABOUT, AT_LEAST, AT_MOST = "", "about ", "at least ", "at most "


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


def together(runs: Sequence[Facts]) -> float:
    """The time of these runs together. Of those that each counted the whole of a time that they
    shared it is at most this: what the last sessions cover, a device's time once."""
    alone = sum(wall_seconds(facts) for facts in runs if not overlapped(facts))
    covered, counted = defaultdict[str, list[tuple[float, float]]](list), 0.0
    before = 0.0
    for facts in filter(overlapped, runs):
        begun = datetime.datetime.fromisoformat(facts["started"]).timestamp()
        wall = float(facts["wall_seconds"])
        took = wall * (facts.get("ensemble") or {}).get("runs", 1)
        covered[str(facts["device_name"])].append((begun, begun + took))
        counted += wall
        before += _before(facts)
    # where few of them are asked for, their own count may be less than what all did in that time
    return alone + before + min(counted, sum(map(_union, covered.values())))


def overlapped(facts: Facts) -> bool:
    """Whether a run counts the whole of a time that it shared with others."""
    beside = (facts.get("ensemble") or {}).get("abreast") or facts.get("abreast") or 1
    return beside > 1 and not facts.get("shared_time")


def _union(times: Iterable[tuple[float, float]]) -> float:
    """Seconds that lie in any of these times."""
    found, until = 0.0, float("-inf")
    for first, last in sorted(times):
        found += max(0.0, last - max(first, until))
        until = max(until, last)
    return found


def earlier(facts: Facts) -> list[Facts]:
    """Sessions whose time is not in the record's own: all but the last; of a run in phases, those
    of other starts than the record's, without phases that many runs share."""
    found = list(facts.get("sessions", []))
    if any("phase" in session for session in found):
        start = facts.get("started")
        return [s for s in found if s.get("started") != start and not s.get("shared")]
    return found[:-1]


def _before(facts: Facts) -> float:
    """Seconds of training before the last session, of which the facts themselves tell."""

    def seconds(session: Facts) -> float:
        if "seconds" in session:
            return float(session["seconds"])
        if not _alike(session, facts):
            return 0.0
        return float(facts["training_seconds"] / facts["sessions"][-1]["steps"] * session["steps"])

    return sum(map(seconds, earlier(facts)))


def certainty(runs: Sequence[Facts]) -> str:
    """What to say before a time of these runs together: nothing; that it is at most that, for some
    count the whole of a time that they shared; that it is at least that, for a session is not
    counted; or that it is about that, for some session is counted at another's pace, or both."""
    untimed = [
        _alike(session, facts)
        for facts in runs
        for session in earlier(facts)
        if "seconds" not in session
    ]
    if any(map(overlapped, runs)):
        return ABOUT if untimed else AT_MOST
    return EXACT if not untimed else ABOUT if all(untimed) else AT_LEAST


def _alike(session: Facts, facts: Facts) -> bool:
    return session.get("device_name", facts["device_name"]) == facts["device_name"]
