"""Processes of a queue, each the head of a group of its own: what it began ends with it.

A run may have begun processes (text is encoded by several). If it is killed alone, they live on and
hold the pipe that its lines come through, and who reads that would wait for ever. A terminal's
interrupt does not reach such a group: whoever began it has to pass it on. The session stays the
queue's, so that whoever ends that ends all.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

LOOK = 0.2  # seconds between two looks at whether a process has ended
LEFT_BEHIND = 3.0  # seconds that what a process began has for ending after it


class Run:
    """A process whose lines are read.

    Args:
        process: the head of its group, with its output in a pipe.
        end: ``time.monotonic()`` at which it is killed, or None.
    """

    def __init__(self, process: subprocess.Popen[bytes], end: float | None) -> None:
        self.process, self.end = process, end

    def lines(self) -> Iterator[str]:
        """What it and those that it began print, until they have ended; those that do not end
        with it are killed."""
        assert self.process.stdout is not None
        pipe, rest, gone = self.process.stdout.fileno(), b"", 0.0
        with self.process.stdout:
            while True:
                if select.select([pipe], [], [], LOOK)[0]:
                    read = os.read(pipe, 2**16)
                    if not read:
                        break
                    *lines, rest = (rest + read).split(b"\n")
                    yield from map(_text, lines)
                now = time.monotonic()
                if self.end is not None and now >= self.end:
                    self.kill()
                if self.process.poll() is not None:
                    gone = gone or now
                    if now - gone >= LEFT_BEHIND:
                        self.kill()
                    if now - gone >= 2 * LEFT_BEHIND:  # what it began has left its group
                        break
        if rest:
            yield _text(rest)

    def wait(self) -> int:
        """Its exit status once it has ended, which it may do long after its last line."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            left = None if self.end is None else max(0.0, self.end - time.monotonic())
            return self.process.wait(left)
        self.kill()
        return self.process.wait()

    def kill(self) -> None:
        """Kill it and all that it began."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # there is none any more
            os.killpg(self.process.pid, signal.SIGKILL)


class UnderWay:
    """The runs of a queue."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.over = False
        self.lock = threading.Lock()

    def begin(
        self, command: Sequence[str], root: Path, environment: Mapping[str, str],
        seconds: float | None,
    ) -> Run:  # fmt: skip
        """Begin a run in the folder `root`, to be killed after `seconds`.

        Raises:
            RuntimeError: after an interrupt.
            OSError: a command that cannot be run.
        """
        with self.lock:  # so that an interrupt misses none that is about to begin
            if self.over:
                raise RuntimeError("interrupted before it began")
            process = subprocess.Popen(
                command, cwd=root, env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0,
            )  # fmt: skip
            run = Run(process, None if seconds is None else time.monotonic() + seconds)
            self.runs.append(run)
            return run

    def interrupt(self, grace: float) -> None:
        """Tell all to end, and wait until they have; those that take longer than `grace` seconds
        are killed, and with another interrupt all at once."""
        with self.lock:
            self.over = True
        going = [run for run in self.runs if run.process.poll() is None]
        for run in going:
            run.process.terminate()  # the head alone: it ends what it has begun
        until = time.monotonic() + grace
        try:
            for run in going:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    run.process.wait(max(0.0, until - time.monotonic()))
        finally:
            for run in going:
                if run.process.poll() is None:
                    run.kill()


@contextlib.contextmanager
def hung_up_is_an_end() -> Iterator[None]:
    """Inside, a terminal that closes ends this process as SIGTERM does, so that it can end what it
    began, which the terminal does not know. Who overlooks it (``nohup``) still does."""
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGHUP) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(128 + signal.SIGHUP))
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _text(line: bytes) -> str:
    return line.decode(errors="replace").removesuffix("\r")
