"""Runs of a queue: what they began ends with them, and an interrupt reaches them all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lib import under_way
from lib.under_way import Run, UnderWay, hung_up_is_an_end
from tests.conftest import ROOT

# begins a process that holds the same pipe, says its number, and goes on for `sys.argv[1]` seconds
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(float(sys.argv[1]))
"""


def begun(runs: UnderWay, code: str, *arguments: str, seconds: float | None = None) -> Run:
    command = [sys.executable, "-c", code, *arguments]
    return runs.begin(command, ROOT, dict(os.environ), seconds)


def alive(pid: int) -> bool:
    """Whether a process runs: not one that has ended and of which nobody has taken note."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ended(pid: int) -> bool:
    """Whether it ends within a while."""
    until = time.monotonic() + 30
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pid)


def test_what_a_run_began_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_way, "LEFT_BEHIND", 0.2)
    run = begun(UnderWay(), PARENT, "0")
    (said,) = run.lines()
    assert run.process.wait() == 0 and ended(int(said))


def test_a_run_out_of_time_is_killed_with_what_it_began() -> None:
    run = begun(UnderWay(), PARENT, "600", seconds=600.0)
    lines = run.lines()
    said = next(lines)
    assert run.end is not None
    run.end -= 600.0
    assert list(lines) == []  # it comes to an end: nobody holds the pipe any more
    assert run.process.wait() == -signal.SIGKILL and ended(int(said))


def test_a_run_that_has_said_its_last_is_still_out_of_time() -> None:
    code = "import os, time; print('ready', flush=True); os.close(1); os.close(2); time.sleep(600)"
    run = begun(UnderWay(), code, seconds=600.0)
    assert list(run.lines()) == ["ready"]
    assert run.end is not None
    run.end -= 600.0
    assert run.wait() == -signal.SIGKILL


def test_a_run_has_a_group_of_its_own_in_our_session() -> None:
    code = "import os; print(os.getpid(), os.getpgrp(), os.getsid(0))"
    (said,) = begun(UnderWay(), code).lines()
    pid, group, session = map(int, said.split())
    assert pid == group and session == os.getsid(0)


def test_who_leaves_the_group_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_way, "LEFT_BEHIND", 0.2)
    run = begun(UnderWay(), PARENT.replace('600)"]', '600)"], start_new_session=True'), "0")
    (said,) = run.lines()
    assert alive(int(said))
    os.kill(int(said), signal.SIGKILL)


def test_lines_are_whole_whatever_they_hold() -> None:
    code = r"""
import sys, time
for part in (b"a", b"b\nc\r\n", b"\xff\n\n", b"no end"):
    sys.stdout.buffer.write(part)
    sys.stdout.flush()
    time.sleep(0.05)
"""
    assert list(begun(UnderWay(), code).lines()) == ["ab", "c", "\ufffd", "", "no end"]


@pytest.mark.parametrize("deaf", [False, True])
def test_an_interrupt_ends_all_in_time_or_by_force(deaf: bool) -> None:
    runs = UnderWay()
    hears = "signal.SIG_IGN" if deaf else "lambda *_: sys.exit(7)"
    code = f"""
import signal, sys, time
signal.signal(signal.SIGTERM, {hears})
print("ready", flush=True)
time.sleep(600)
"""
    run = begun(runs, code)
    lines = run.lines()
    assert next(lines) == "ready"
    runs.interrupt(0.2 if deaf else 60.0)
    assert list(lines) == [] and run.process.wait() == (-signal.SIGKILL if deaf else 7)
    with pytest.raises(RuntimeError, match="interrupted before it began"):
        begun(runs, "")


def test_a_terminal_that_closes_ends_the_queue_and_its_runs(tmp_path: Path) -> None:
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    code = f"""
import signal, sys
from pathlib import Path
from lib import plan
signal.signal(signal.SIGHUP, signal.SIG_DFL)
say = lambda line: print(line, flush=True)
command = (sys.executable, "-c", {child!r})
plan.work([("a",)], 1, root=Path({str(tmp_path)!r}), command=command, say=say)
"""
    queue = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert queue.stdout is not None
    pid = int(queue.stdout.readline())
    assert alive(pid)
    queue.send_signal(signal.SIGHUP)
    queue.communicate(timeout=60)
    assert queue.returncode == 128 + signal.SIGHUP and ended(pid)


def test_a_closed_terminal_is_overlooked_by_who_was_told_so() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with hung_up_is_an_end():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with hung_up_is_an_end():
            assert signal.getsignal(signal.SIGHUP) not in (signal.SIG_IGN, signal.SIG_DFL)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
    inside: list[object] = []

    def elsewhere() -> None:
        with hung_up_is_an_end():  # signals belong to the main thread
            inside.append(signal.getsignal(signal.SIGHUP))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert inside == [before]
