"""What phases of several cells have in common is trained by one process, and others wait."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from lib import locks
from lib.experiments import Context
from lib.experiments import _noise_shared as shared
from lib.training.phases import PhaseFile
from lib.training.runs import TrainingResult

DONE = TrainingResult("done", None, pd.DataFrame(), 3, [{"commit": "a", "steps": 3}])


def trained() -> TrainingResult:
    return DONE


def never() -> TrainingResult:
    raise AssertionError("trained by two")


def file(folder: Path | None) -> PhaseFile:
    return PhaseFile("id", "clean", folder, "shared-id")


def test_one_trains_and_the_other_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, looks = tmp_path / "noise-shared", list[float]()
    other = locks.lock_of(tmp_path, "shared-id")
    other.acquire()

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            other.release()

    clock = SimpleNamespace(
        sleep=sleep, perf_counter=lambda: 7.0 + 2 * len(looks), monotonic=lambda: 1.0
    )
    monkeypatch.setattr(shared, "time", clock)
    monkeypatch.setattr(locks, "time", clock)
    found = shared.train_once(file(folder), Context(), trained)
    assert len(looks) == 3
    # the time of a wait is no time of its training's
    assert found.waited == 6.0 and dataclasses.replace(found, waited=0.0) == DONE
    assert (
        "another process trains shared-id, phase clean; waiting for it" in capsys.readouterr().err
    )
    assert locks.taken(other)  # nobody's any more
    stopped = shared.train_once(file(folder), Context(deadline=0.0), never)
    assert stopped.status == "stopped" and stopped.step == 0
    waited = "waiting for shared-id, phase clean, which another process trains"
    assert stopped.reason == f"budget spent {waited}"
    other.release()
    with pytest.raises(AssertionError, match="trained by two"):
        shared.train_once(file(folder), Context(), never)
    assert locks.taken(other)  # given back in spite of the error


def test_what_is_not_kept_is_not_waited_for(tmp_path: Path) -> None:
    assert shared.train_once(file(None), Context(deadline=0.0), trained) is DONE
    assert not list(tmp_path.iterdir())


def test_sessions_name_their_phase_and_whether_others_share_it() -> None:
    assert shared.phase_sessions("clean", DONE) == [
        {"commit": "a", "steps": 3, "phase": "clean", "shared": True}
    ]
    assert shared.phase_sessions("again", DONE) == [{"commit": "a", "steps": 3, "phase": "again"}]
