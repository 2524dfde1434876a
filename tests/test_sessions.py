"""Runs that were resumed: where their sessions ran, and the time of all."""

from __future__ import annotations

from typing import Any

import pytest

from lib import sessions

WHOLE: dict[str, Any] = {"device_name": "a", "commit": "1", "wall_seconds": 12.0,
                         "training_seconds": 10.0}  # fmt: skip


def resumed(*earlier: dict[str, Any], **last: Any) -> dict[str, Any]:
    mine = {"device_name": "a", "commit": "1", "steps": 100, **last}
    return {**WHOLE, "sessions": [*earlier, mine]}


def test_a_run_in_one_go_took_what_its_record_says() -> None:
    for facts in (WHOLE, resumed(), resumed(seconds=10.0)):
        assert sessions.training_seconds(facts) == 10 and sessions.wall_seconds(facts) == 12
        assert sessions.certainty([facts]) == ""
        assert sessions.each(facts, lambda s: s["device_name"]) == ["a"]


@pytest.mark.parametrize(
    ("earlier", "seconds", "said"),
    [
        ({"steps": 50, "seconds": 7.0, "device_name": "b"}, 7.0, ""),
        ({"steps": 50, "device_name": "a"}, 5.0, "about "),
        ({"steps": 50}, 5.0, "about "),  # of code that did not write its device down
        ({"steps": 50, "device_name": "b"}, 0.0, "at least "),
    ],
)
def test_earlier_sessions_count(earlier: dict[str, Any], seconds: float, said: str) -> None:
    facts = resumed(earlier, seconds=10.0)
    assert sessions.training_seconds(facts) == pytest.approx(10 + seconds)
    assert sessions.wall_seconds(facts) == pytest.approx(12 + seconds)
    assert sessions.certainty([WHOLE, facts]) == said


def test_of_several_runs_the_least_certain_tells() -> None:
    about, least = resumed({"steps": 1}), resumed({"steps": 1, "device_name": "b"})
    assert sessions.certainty([about, WHOLE]) == "about "
    assert sessions.certainty([about, least, WHOLE]) == "at least "
    assert sessions.certainty([]) == ""


def beside(start: int, wall: float, runs: int = 1, **facts: Any) -> dict[str, Any]:
    """A record of one of `runs` that trained at once, beside other trainings."""
    how = {"ensemble": {"runs": runs, "abreast": 3}} if runs > 1 else {"abreast": 3}
    began = f"2026-11-28T10:00:{start:02d}+00:00"
    return {"device_name": "a", "wall_seconds": wall, "training_seconds": wall, "started": began,
            **how, **facts}  # fmt: skip


def test_what_ran_beside_each_other_and_counted_all_of_it_is_counted_once() -> None:
    runs = [beside(0, 10.0), beside(4, 10.0), beside(20, 3.0, 2), beside(20, 3.0, 2)]
    # from 0 to 14 and from 20 to 26; a run by itself counts as it is
    assert sessions.together(runs) == pytest.approx(20.0)
    assert sessions.together([*runs, WHOLE]) == pytest.approx(32.0)
    assert sessions.certainty(runs) == sessions.certainty([WHOLE, runs[0]]) == "at most "
    # on two devices they are not the same seconds
    assert sessions.together([beside(0, 10.0), beside(4, 10.0, device_name="b")]) == 20.0
    # one of three runs of a training: not the seconds of all three
    assert sessions.together([beside(0, 10.0, 3)]) == pytest.approx(10.0)


def test_shares_of_a_time_are_added_up() -> None:
    runs = [beside(0, 10.0, shared_time=True), beside(4, 10.0, 2, shared_time=True)]
    assert sessions.together(runs) == 20.0 and sessions.certainty(runs) == ""
    assert not any(map(sessions.overlapped, [*runs, WHOLE, {**WHOLE, "ensemble": {"runs": 3}}]))


def test_sessions_of_before_count_beside_others_too() -> None:
    timed = {"steps": 50, "seconds": 7.0}
    run = beside(0, 10.0, sessions=[timed, {"steps": 100}])
    assert sessions.together([run, beside(4, 10.0)]) == pytest.approx(14.0 + 7.0)
    assert sessions.certainty([run]) == "at most "
    # one too many and one too few: nobody knows which is more
    assert sessions.certainty([run, resumed({"steps": 50})]) == "about "
    assert sessions.certainty([run, resumed({"steps": 1, "device_name": "b"})]) == "about "


def test_phases_of_one_start_are_in_its_time() -> None:
    """Which the record says; phases of an earlier start are added, but for those of many runs."""
    start, before = "2026-11-28T10:00:00+00:00", "2026-11-27T10:00:00+00:00"

    def session(phase: str, started: str, seconds: float, **facts: Any) -> dict[str, Any]:
        return {"phase": phase, "started": started, "seconds": seconds, "steps": 5,
                "device_name": "a" if started == start else "b", **facts}  # fmt: skip

    facts = {
        "device_name": "a", "wall_seconds": 30.0, "started": start,
        "training_seconds": {"noisy": 4.0, "again": 8.0},
        "sessions": [
            session("base", before, 100.0, shared=True), session("noisy", before, 6.0),
            session("noisy", start, 4.0), session("again", start, 8.0),
        ],
    }  # fmt: skip
    assert sessions.wall_seconds(facts) == sessions.together([facts]) == 36.0
    assert sessions.devices(facts) == ["b", "a"] and sessions.certainty([facts]) == ""


def test_each_names_what_sessions_differ_in_once_and_in_order() -> None:
    facts = resumed({"steps": 1, "commit": "2", "device_name": "b"}, {"steps": 1, "commit": "1"})
    assert sessions.each(facts, lambda s: s["commit"]) == ["2", "1"]
    assert sessions.each(facts, lambda s: s["device_name"]) == ["b", "a"]
