"""Cells that another process runs, or has run, are passed over; nobody's lock outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

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
