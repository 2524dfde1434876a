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


def test_each_names_what_sessions_differ_in_once_and_in_order() -> None:
    facts = resumed({"steps": 1, "commit": "2", "device_name": "b"}, {"steps": 1, "commit": "1"})
    assert sessions.each(facts, lambda s: s["commit"]) == ["2", "1"]
    assert sessions.each(facts, lambda s: s["device_name"]) == ["b", "a"]
