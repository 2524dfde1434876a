"""Cells that another process runs are passed over and waited for; nobody's lock outlives it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from lib import locks
from lib.locks import Holding
from tests.conftest import ROOT


def holding(runs: Path, recorded: Sequence[str] = (), said: list[str] | None = None) -> Holding:
    """Of cells that are texts, some of which have got a record."""
    return Holding(
        runs, lambda cell: cell, lambda cells: [cell in recorded for cell in cells],
        lambda cell: f"cell {cell}", (said if said is not None else []).append,
    )  # fmt: skip


def test_what_another_process_runs_is_passed_over_until_it_is_released(tmp_path: Path) -> None:
    said: list[str] = []
    one, other = holding(tmp_path), holding(tmp_path, said=said)
    assert one.take(["a", "b"]) == ["a", "b"] and one.take(["a"]) == ["a"]
    assert other.take(["a", "b", "c"]) == ["c"] and other.elsewhere == ["a", "b"]
    assert said == ["  cell a and 1 more: passed over, under way in another process"]
    one.release("a")
    assert other.take(["a", "b"]) == ["a"] and one.take(["a"]) == []
    one.close()
    other.close()
    assert one.take(["a", "b", "c"]) == ["a", "b", "c"]


def test_what_another_process_has_run_is_passed_over_and_counts_as_over(tmp_path: Path) -> None:
    said: list[str] = []
    recorded: list[str] = ["a"]
    one, other = holding(tmp_path, recorded, said), holding(tmp_path)
    assert other.take(["b", "d"]) == ["b", "d"]
    assert one.take(["a", "b", "c", "d"]) == ["c"]
    assert said == [
        "  cell b and 1 more: passed over, under way in another process",
        "  cell a: passed over, run meanwhile by another process",
    ]
    assert other.take(["a"]) == ["a"]  # it is not held for nothing
    assert one.over() == ["a"]
    recorded.append("d")
    assert one.over() == ["a", "d"]


def waiting(monkeypatch: pytest.MonkeyPatch, *events: Callable[[], object]) -> None:
    """What happens while somebody waits: one event a look, and no time passes."""
    left = iter(events)
    monkeypatch.setattr(locks, "time", SimpleNamespace(sleep=lambda seconds: next(left)()))


def test_what_another_process_runs_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    recorded: list[str] = []
    one, other = holding(tmp_path), holding(tmp_path, recorded, said)
    assert one.take("abcd") and other.take("abcd") == [] and len(said) == 1

    def has_run_one() -> None:
        recorded.append("a")
        one.release("a")

    waiting(monkeypatch, has_run_one, lambda: one.release("b"))
    assert other.freed(lambda: False) == ["b"]
    assert other.ended == ["a"] and other.elsewhere == ["c", "d"]
    assert said[1:] == ["  waiting for cell a and 3 more of another process"]
    assert holding(tmp_path).take(["b"]) == ["b"]  # whoever comes first
    waiting(monkeypatch, lambda: recorded.extend("cd"), one.close)
    assert other.freed(lambda: False) == [] and other.over() == ["a", "c", "d"]
    assert not other.elsewhere and not other.locks


def test_nothing_is_waited_for_when_it_is_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = holding(tmp_path), holding(tmp_path)
    assert one.take("ab") and other.take("ab") == []
    late: list[bool] = []
    waiting(monkeypatch, lambda: late.append(True))
    assert other.freed(lambda: bool(late)) == [] and other.elsewhere == ["a", "b"]
    one.close()
    assert other.freed(lambda: bool(late)) == []  # there is no time to run it


def test_a_lock_is_waited_for_until_it_is_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = locks.lock_of(tmp_path, "a"), locks.lock_of(tmp_path, "a")
    late: list[bool] = []
    waiting(monkeypatch)  # nobody may sleep: what is free is taken at once, late or not
    assert locks.wait_for(one) and locks.wait_for(one, lambda: True)
    assert not locks.wait_for(other, lambda: True) and not other.is_locked
    waiting(monkeypatch, lambda: None, lambda: late.append(True))
    assert not locks.wait_for(other, lambda: bool(late)) and len(late) == 1
    waiting(monkeypatch, lambda: None, one.release)
    assert locks.wait_for(other) and other.is_locked and not locks.taken(one)
    other.release()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_all_is_run_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    def flock(file: int, flags: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    one, other = holding(tmp_path), holding(tmp_path)
    for each in (one, other):
        assert each.take(["a", "b"]) == ["a", "b"] and each.take(["a"]) == ["a"]
        each.release("a")
        each.close()
    said = capsys.readouterr().err
    assert said.count("note: ") == 1 and str(tmp_path / locks.FOLDER) in said
    assert os.strerror(code) in said
    lock = locks.lock_of(tmp_path, "c")
    assert locks.taken(lock) and lock.is_locked and type(lock) is locks.Lock
    lock.release()
    assert locks.taken(lock)


def test_a_process_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from lib import locks
lock = locks.lock_of(Path(sys.argv[1]), "a")
print(locks.taken(lock), flush=True)
time.sleep(600)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "True\n"
    assert holding(tmp_path).take(["a", "b"]) == ["b"]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert (tmp_path / locks.FOLDER / "a.lock").exists()
    assert holding(tmp_path).take(["a"]) == ["a"]
