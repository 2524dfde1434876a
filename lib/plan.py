"""A plan of many runs, worked off by several processes within a time.

A GPU is often lent for minutes. One process leaves it idle while it makes data, captures its steps
or counts words; several fill each other's gaps. A line of a plan is what follows ``python -m lib
run``, the most valuable first; ``#`` begins a comment. Each process takes the next line when its
own is done, and no line is begun when the time is nearly over. The same command goes on from there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import signal
import sys
import tarfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib import provenance, runner
from lib.experiments import find, registry
from lib.fresh import BEGINNING
from lib.ops.backends import BackendError
from lib.run_options import FAILED, STOPPED, add_arguments
from lib.under_way import UnderWay, hung_up_is_an_end

LEAST = 30.0  # seconds that must be left for a line to begin
ENDING = 5.0  # seconds before the end at which a run is told to stop
GRACE = 120.0  # seconds after that until it is ended: checkpoints take a while to write
INTERRUPTED = (-signal.SIGINT, 128 + signal.SIGINT)  # by itself, or in a shell
WAYS = {0: "done", STOPPED: "stopped"}  # exit statuses of ``run``; all others have failed
# what unfinished runs go on from, beside the records of their experiments and below them
UNFINISHED = ("checkpoints", "language_models", "noise-shared")
ASIDE = (".damaged", ".aside")  # what runs put aside: see lib.training's checkpoints and phases

Job = tuple[str, ...]


@dataclass
class Worked:
    """Lines by how they ended; `left` have not begun."""

    done: list[Job] = field(default_factory=list)
    stopped: list[Job] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)
    left: list[Job] = field(default_factory=list)


def read(path: Path) -> list[Job]:
    """The lines of a plan, each checked before any of them runs.

    Raises:
        ValueError: a file that cannot be read; or naming file, line and what is wrong: an unknown
            experiment or option, a value out of range, a device or backend that is not here,
            conditions that no cell meets, a budget of its own.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"plan is {path}, allowed: a file of runs ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"plan is {path}, allowed: a file of text in UTF-8 ({error})") from error
    jobs = []
    for number, line in enumerate(lines, 1):
        try:
            job = tuple(shlex.split(line, comments=True))
            if job:
                _check(job)
                jobs.append(job)
        except (ValueError, runner.RunError, BackendError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    if not jobs:
        raise ValueError(f"{path} has no line to run")
    return jobs


def _check(job: Job) -> None:
    said, parser = io.StringIO(), argparse.ArgumentParser(prog="run")
    add_arguments(parser)
    try:
        with contextlib.redirect_stderr(said):
            arguments = parser.parse_args(job)
    except SystemExit as error:
        raise ValueError(said.getvalue().strip().rpartition("error: ")[2] or "help") from error
    if arguments.budget is not None or arguments.whole:
        raise ValueError("a line has no --budget and no --whole; the plan's are shared")
    runner.check_options(arguments.ensemble, arguments.abreast, arguments.checkpoint_every)
    runner.check_backend(arguments.backend, runner.choose_device(arguments.device))
    with runner.preferring(arguments.prefer, arguments.device):
        pass
    runner.chosen_cells(
        find(arguments.experiment), arguments.profile, arguments.select, arguments.shard
    )


def work(
    jobs: Sequence[Job],
    processes: int = 2,
    seconds: float | None = None,
    *,
    whole: bool = False,
    root: Path = provenance.ROOT,
    command: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    say: Callable[[str], Any] = print,
) -> Worked:
    """Work off the lines of a plan.

    Args:
        jobs: from :func:`read`.
        processes: lines under way at once.
        seconds: for all; None for as long as it takes.
        whole: give up lines that turn out not to end in what is left of it, and begin the next.
        command: what a line is put behind; None for ``run`` in the checkout at `root`.
        environment: what its environment has beside ours.
        say: takes what the lines print, a line of text at a time and never two at once.

    Raises:
        ValueError: fewer than one process, a time in which no line would begin, or `whole` without
            one.
    """
    if processes < 1:
        raise ValueError(f"processes is {processes}, allowed: at least 1")
    runner.check_whole(whole, seconds)
    if seconds is not None and seconds <= LEAST:
        raise ValueError(
            f"budget is {seconds:g} s, allowed: more than {LEAST:g} s, which a line needs to begin"
        )
    if command is None:
        command = (sys.executable, "-m", "lib", "--root", str(root), "run")
    deadline = None if seconds is None else time.monotonic() + seconds
    waiting, found, lock = deque(jobs), Worked(), threading.Lock()
    runs, saying = UnderWay(), threading.Lock()

    def tell(text: str) -> None:
        # print writes a text and its end apart: two threads' lines would run into each other
        with saying:
            say(text)

    def one() -> None:
        while True:
            with lock:
                left = None if deadline is None else deadline - time.monotonic()
                if not waiting or (left is not None and left < LEAST):
                    return
                job = waiting.popleft()
            own = {**os.environ, **(environment or {})}
            try:
                status = _run(job, command, root, left, whole, own, tell, runs)
            except Exception as error:  # a line that cannot even begin has failed, and says why
                tell(f"{' '.join(job)}: failed: {error}")
                status = FAILED
            with lock:
                getattr(found, WAYS.get(status, "failed")).append(job)
            if status in INTERRUPTED:  # who interrupts a run means the queue, which may hear later
                return

    threads = [threading.Thread(target=one) for _ in range(min(processes, len(jobs)))]
    with hung_up_is_an_end():
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:  # an interrupt ends the runs under way, and no other begins
            with lock:
                waiting.clear()
            runs.interrupt(GRACE)
            raise
    found.left = list(waiting)
    return found


def _run(
    job: Job, command: Sequence[str], root: Path, seconds: float | None, whole: bool,
    environment: Mapping[str, str], say: Callable[[str], Any], runs: UnderWay,
) -> int:  # fmt: skip
    budget = [] if seconds is None else ["--budget", f"{max(1, int(seconds - ENDING))}s"]
    budget += ["--whole"] * whole
    name, begun = " ".join(job), time.monotonic()
    # headless: several progress bars would overwrite each other
    environment = {**environment, "MAMBA_BOOK_HEADLESS": "1", "PYTHONUNBUFFERED": "1"}
    run = runs.begin(
        [*command, *job, *budget], root, environment, None if seconds is None else seconds + GRACE
    )
    for line in run.lines():
        say(line)
    status = run.wait()
    how = WAYS.get(status, f"failed with status {status}")
    say(f"{name}: {how} after {time.monotonic() - begun:.0f} s")
    return status


def check_target(target: Path) -> None:
    """Refuse, before any run begins, a place that no pack can be written to.

    Raises:
        ValueError: no such folder, or one that is not ours to write to.
    """
    folder = target.parent
    if target.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"pack is {target}, allowed: a file in a folder that can be written to")


def pack(runs: Path, target: Path, checkpoints: bool = False) -> int:
    """Write the records below `runs`, with their curves and weights, into a compressed archive
    whose paths begin with `runs`' own name; returns the number of files, 0 if there is nothing to
    pack, and then no archive. `checkpoints` adds what unfinished runs go on from, and what those
    that are to run anew have run. What is no
    experiment's, such as text, tokens and models of the hub, stays: it is made or had again.
    """
    folders = sorted([*registry(), *(UNFINISHED if checkpoints else ())])
    files = [
        path
        for folder in folders
        for path in sorted((runs / folder).rglob("*"))
        if path.is_file()
        and (not path.name.startswith(".") or (checkpoints and path.match(f"{BEGINNING}*.json")))
        and path.suffix not in ASIDE
        and (checkpoints or not set(path.relative_to(runs).parts) & set(UNFINISHED))
    ]
    if not files:
        return 0
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with tarfile.open(draft, "w:gz", compresslevel=1) as archive:
            for path in files:
                archive.add(path, Path(runs.name) / path.relative_to(runs))
        draft.replace(target)
    except OSError as error:
        error.filename = error.filename or str(target)
        raise
    finally:
        draft.unlink(missing_ok=True)
    return len(files)
