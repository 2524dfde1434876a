"""Runs the cells of an experiment that have no record yet; says how far each one is."""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib import progress, provenance, sessions
from lib.config import to_dict
from lib.experiments import PROFILES, Context, Experiment, Outcome, find, registry
from lib.fresh import Anew
from lib.locks import Holding
from lib.selection import chosen_cells as chosen_cells
from lib.selection import select_cells as select_cells
from lib.store import Record, Store, identity

DEVICES = ("auto", "cpu", "cuda")
# queues of a GPU, the most there are: streams that share one wait for each other. The driver reads
# this when it starts
QUEUES = ("CUDA_DEVICE_MAX_CONNECTIONS", "32")


class RunError(RuntimeError):
    """A run that cannot start as asked."""


@dataclass
class Summary:
    """What :func:`run` did: names of cells by how they ended; how many had a record, from before or
    by another process meanwhile; and how many have none yet."""

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    skipped: int = 0
    left: int = 0


def parse_seconds(text: str | float | None) -> float | None:
    """``"8m"``, ``"90s"``, ``"1.5h"`` or plain seconds to seconds.

    Raises:
        ValueError: anything else, or not more than zero.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(text).strip())
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if seconds <= 0:
        raise ValueError(f"budget is {text!r}, allowed: a time like 90s, 8m or 1.5h")
    return seconds


def choose_device(asked: str) -> str:
    """ "auto" to "cuda" if there is a GPU, else "cpu".

    Raises:
        ValueError: an unknown device name.
        RunError: "cuda" asked for where torch sees no GPU.
    """
    import torch

    if asked not in DEVICES:
        raise ValueError(f"device is {asked!r}, allowed: {', '.join(DEVICES)}")
    os.environ.setdefault(*QUEUES)
    present = torch.cuda.is_available()
    if asked == "cuda" and not present:
        raise RunError(
            f"device 'cuda' was asked for, but torch {torch.__version__} sees no GPU here. "
            "Use --device cpu, or install a CUDA build of torch on a machine with a GPU."
        )
    return "cuda" if present and asked != "cpu" else "cpu"


def run(
    name: str,
    profile: str,
    *,
    root: Path = provenance.ROOT,
    select: Iterable[str] = (),
    shard: str | None = None,
    budget: str | float | None = None,
    device: str = "auto",
    backend: str = "auto",
    compile: bool | None = None,
    retry_failed: bool = False,
    fresh: bool = False,
    store: Store | None = None,
    checkpoint_every: float = 60.0,
    ensemble: int | None = None,
    abreast: int | None = None,
    whole: bool = False,
    say: Any = print,
) -> Summary:
    """Run what is missing of an experiment's profile and store a record a cell. Cells that another
    process runs are waited for in the end, and run here if that stops without a record.

    Args:
        select: conditions such as ``"n_layers=7"``; a cell runs if it meets all.
        shard: ``"1/4"`` runs the first of four parts of the chosen cells.
        budget: stop cleanly after this time (``"8m"``), leaving a checkpoint to resume from.
        device, backend: "auto", or a name that must be available.
        compile: torch.compile the training step; None means where it pays, on a GPU only.
        retry_failed: run cells again whose record says that they failed.
        fresh: run cells again whatever records there are (the new record replaces a local one).
        checkpoint_every: seconds between two checkpoints of a cell.
        ensemble: largest number of runs trained at once; None means as many as there is room for.
        abreast: runs of different architectures up to which groups of them train beside each other;
            None means what suits the device.
        whole: give up, with a checkpoint, what turns out not to end within the budget.
        store: where records go; by default that of the checkout at `root`.

    Raises:
        ValueError, RunError, StoreError, BackendError: before any work, naming what is wrong.
    """
    experiment = find(name)
    cells = chosen_cells(experiment, profile, select, shard)
    check_options(ensemble, abreast, checkpoint_every)
    seconds = parse_seconds(budget)
    check_whole(whole, seconds)
    deadline = None if seconds is None else time.monotonic() + seconds
    store = store or Store.at(root)
    store.check_writable(name)
    chosen = choose_device(device)
    check_backend(backend, chosen)

    def identify(cell: Any) -> str:
        return identity(name, experiment.protocol, to_dict(cell))

    anew = Anew(store.local / name, map(identify, cells)) if fresh else None
    if anew is None:
        waiting = store.missing(name, experiment.protocol, cells, retry_failed)
    else:
        waiting = [cell for cell in cells if identify(cell) not in anew.done]
        if len(waiting) < len(cells):
            say(f"note: {len(cells) - len(waiting)} cells have been run anew already")
    for problem in store.problems:
        say(f"note: {problem}")

    def recorded(some: Sequence[Any]) -> list[Record | None]:
        found = store.records(name, experiment.protocol, some)
        return [None if record is None else store.latest(record) for record in found]

    before = dict(zip(map(identify, waiting), recorded(waiting), strict=True))
    holding = Holding(
        store.local,
        identify,
        lambda some: [
            record is not None and record != before[identify(cell)]
            for cell, record in zip(some, recorded(some), strict=True)
        ],
        experiment.readable,
        lambda line: None if progress.for_a_page() else say(line),
    )
    context = Context(
        device=chosen,
        backend=backend,
        compile=compile,
        deadline=deadline,
        whole=whole,
        checkpoints=store.local / name / "checkpoints",
        checkpoint_every=checkpoint_every,
        ensemble=ensemble,
        abreast=abreast,
        identify=identify,
        holding=holding,
    )
    if anew is not None and anew.begins:
        for cell in waiting:  # what an earlier run left is not gone on from
            context.forget(cell)
        anew.begin()
    summary = Summary(skipped=len(cells) - len(waiting))
    say(
        f"{name} {profile}: {len(cells)} cells, {summary.skipped} with records, "
        f"{len(waiting)} to run on {chosen}"
    )
    started = provenance.now()
    begun = clock = time.perf_counter()
    todo = waiting
    with contextlib.closing(holding):
        while todo:
            for outcome in experiment.run(todo, context):
                readable = experiment.readable(outcome.cell)
                if outcome.status == "stopped":
                    holding.release(outcome.cell)
                    summary.stopped.append(readable)
                    say(f"  {readable}: {outcome.reason or 'budget spent'}; the same command goes "
                        "on from its checkpoint")  # fmt: skip
                    continue  # cells that trained together stop together
                wall = outcome.wall_seconds
                if wall is None:
                    wall = time.perf_counter() - clock
                began = outcome.started or started
                record = save_outcome(experiment, store, outcome, profile, chosen, began, wall)
                context.forget(outcome.cell)
                holding.release(outcome.cell)
                if anew is not None:
                    anew.note(identify(outcome.cell))
                (summary.done if record.status == "done" else summary.failed).append(readable)
                # a page gets one line for all that ended well: its tables tell them apart
                if record.status != "done" or not progress.for_a_page():
                    say(f"  {readable}: {record.reason or 'done'} ({wall:.1f} s)")
                started, clock = provenance.now(), time.perf_counter()
            # what others run: a page wants all records, and who stops early leaves some to be run
            todo = holding.freed(lambda: context.late)
            started, clock = provenance.now(), time.perf_counter()
    if summary.done and progress.for_a_page():
        say(f"  {len(summary.done)} done ({time.perf_counter() - begun:.1f} s)")
    ended = holding.over()
    if anew is not None:
        for cell in ended:
            anew.note(identify(cell))
    summary.skipped += len(ended)
    summary.left = len(waiting) - len(summary.done) - len(summary.failed) - len(ended)
    if anew is not None and not summary.left:
        anew.over()
    return summary


def save_outcome(
    experiment: Experiment,
    store: Store,
    outcome: Outcome,
    profile: str,
    device: str,
    started: str,
    wall_seconds: float,
) -> Record:
    """Store the record of a finished or failed outcome. One that ends with a number that is none
    has failed, whatever else it measured: nothing could be said of it, nor stored."""
    metrics = {name: value for name, value in outcome.metrics.items() if value is not None}
    wrong = [name for name, value in metrics.items() if not math.isfinite(value)]
    status, reason = outcome.status, outcome.reason
    if wrong:
        metrics = {name: value for name, value in metrics.items() if name not in wrong}
        status, reason = "failed", f"at the end {', '.join(wrong[:5])} were not finite numbers"
    record = Record(
        experiment=experiment.name,
        protocol=experiment.protocol,
        config=to_dict(outcome.cell),
        readable=experiment.readable(outcome.cell),
        status=status,
        reason=reason,
        metrics=metrics,
        provenance={
            **provenance.code(),
            **provenance.machine(device),
            **outcome.facts,
            "profile": profile,
            "seed": getattr(outcome.cell, "seed", None),
            "started": started,
            "wall_seconds": round(wall_seconds, 3),
        },
    )
    return store.save(record, outcome.curves, outcome.weights)


def check_options(ensemble: int | None, abreast: int | None, checkpoint_every: float) -> None:
    """Refuse options of :func:`run` that are out of range, whatever runs."""
    if ensemble is not None and ensemble < 1:
        raise ValueError(f"ensemble is {ensemble}, allowed: at least 1")
    if abreast is not None and abreast < 0:
        raise ValueError(f"abreast is {abreast}, allowed: 0 or more")
    if not 0 <= checkpoint_every < math.inf:  # so that what is no number is refused too
        raise ValueError(f"checkpoint_every is {checkpoint_every}, allowed: 0 or more seconds")


def check_whole(whole: bool, seconds: float | None) -> None:
    """Refuse to ask what ends within a budget where there is none."""
    if whole and seconds is None:
        raise ValueError("whole is asked for without a budget, allowed: with one, such as 8m")


def check_backend(backend: str, device: str) -> None:
    """Refuse a backend before work starts that no op knows, or that is not installed."""
    import torch

    from lib.ops import backends, linear, lookup

    if backend == "auto":
        return
    # of these two no model names a backend
    ops = [op for op in backends.operations() if op not in (linear.OP, lookup.OP)]
    known = sorted({name for op in ops for name in backends.backends(op)})
    if backend not in known:
        raise ValueError(f"backend is {backend!r}, allowed: auto, {', '.join(known)}")
    for op in ops:
        if backend in backends.backends(op):
            backends.require(op, backend, torch.device(device))


def preferring(texts: Iterable[str], device: str) -> AbstractContextManager[None]:
    """Inside, ops take the backends that `texts` such as ``linear=tensor_cores`` name, wherever
    those can serve. Raises what :func:`lib.ops.backends.preferences` does."""
    import torch

    from lib.ops import backends

    return backends.preferences(texts, torch.device(choose_device(device)))


def status(root: Path = provenance.ROOT, store: Store | None = None) -> list[dict[str, Any]]:
    """How far each experiment is: one row for each of its profiles that has cells."""
    store = store or Store.at(root)
    rows = []
    for experiment in registry().values():
        for profile in PROFILES:
            cells = experiment.cells(profile)
            if not cells:
                continue
            found = [r for r in store.records(experiment.name, experiment.protocol, cells) if r]
            facts = [record.provenance for record in found]
            rows.append(
                {
                    "experiment": experiment.name,
                    "title": experiment.title,
                    "chapter": experiment.chapter,
                    "profile": profile,
                    "done": sum(record.status == "done" for record in found),
                    "total": len(cells),
                    "failed": sum(record.status == "failed" for record in found),
                    "devices": sorted({name for fact in facts for name in sessions.devices(fact)}),
                    "wall_seconds": sessions.together(facts),
                    "certainty": sessions.certainty(facts),
                    "last": max((fact["started"] for fact in facts), default=None),
                    "notebook": experiment.notebook,
                }
            )
    return rows
