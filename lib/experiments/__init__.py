"""Experiments: named studies, each a grid of cells that can be run, stored and shown.

A module of this package holds one chapter, or a part of one. It defines ``EXPERIMENTS``, a tuple of
:class:`Experiment`; nothing else has to be told that they exist. Modules whose name begins with an
underscore hold what several of them share.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from lib.locks import Holding
from lib.store import Record

PROFILES = ("quick", "matched", "paper")
Cell = TypeVar("Cell")
PINNED = "pinned"  # not a scale: the small cells that `verify` runs again


@dataclass
class Context:
    """What a run needs to know beside its cells.

    Attributes:
        device: torch device as text, "cpu" or "cuda".
        backend: asked for in ``--backend``; "auto" lets each op choose.
        compile: compile the training step with torch.compile; None where it pays.
        deadline: ``time.monotonic()`` value at which to stop with a checkpoint, or None.
        whole: stop a training as soon as it turns out that it will not end by the deadline.
        checkpoints: folder for checkpoints, None to keep none.
        checkpoint_every: seconds between two checkpoints of a cell.
        ensemble: largest number of runs trained at once, None for as many as there is room for.
        abreast: runs up to which groups that cannot train as one do so beside each other; None for
            what suits the device.
        identify: gives a cell's identity.
        holding: the cells that this process runs, where others may run the same ones.
    """

    device: str = "cpu"
    backend: str = "auto"
    compile: bool | None = None
    deadline: float | None = None
    whole: bool = False
    checkpoints: Path | None = None
    checkpoint_every: float = 60.0
    ensemble: int | None = None
    abreast: int | None = None
    identify: Callable[[Any], str] = field(default=lambda cell: "")
    holding: Holding | None = None

    @property
    def stops(self) -> dict[str, Any]:
        """When a training saves its state, and when it stops: options of a ``Trainer``."""
        return {
            "deadline": self.deadline, "whole": self.whole,
            "checkpoint_every": self.checkpoint_every,
        }  # fmt: skip

    @property
    def late(self) -> bool:
        """Whether the deadline is over."""
        return self.within(0.0)

    def within(self, seconds: float) -> bool:
        """Whether the deadline is so near, or over."""
        return self.deadline is not None and time.monotonic() >= self.deadline - seconds

    def take(self, cells: Sequence[Any]) -> list[Any]:
        """Those of `cells`, whose turn has come, that no other process runs or has run since."""
        return list(cells) if self.holding is None else self.holding.take(cells)

    def each(self, cells: Iterable[Cell]) -> Iterator[Cell]:
        """:meth:`take` for cells that run one after the other, each when its turn has come."""
        for cell in cells:
            yield from self.take([cell])

    def checkpoint(self, readable: str, cell: Any) -> Path | None:
        """Where the cell's checkpoint lies while it trains, or None if none are kept."""
        if self.checkpoints is None:
            return None
        return self.checkpoints / f"{readable}-{self.identify(cell)}.safetensors"

    def forget(self, cell: Any) -> None:
        """Remove the checkpoints of a cell that is over, by whatever name they went while it
        trained: experiments that share their training name cells more closely than it does. Those
        of its phases go too, and what each of these ended with."""
        if self.checkpoints is not None:
            for path in self.checkpoints.glob(f"*-{self.identify(cell)}*.safetensors"):
                path.unlink(missing_ok=True)


@dataclass
class Outcome:
    """What one cell came to.

    Attributes:
        cell: the config that ran.
        status: "done", "failed" or "stopped" (budget spent, or given up; a checkpoint is left).
        reason: why it failed, or where it was stopped.
        metrics: final numbers; None for what could not be measured.
        curves: one row an epoch.
        weights: final weights as safetensors bytes, or None.
        facts: for the record's provenance: backends, compile, peak memory, seconds of training.
        started: when it began, where cells ran together; None: when the outcome before it came.
        wall_seconds: its share of the time, where cells ran together or beside others; None: all
            since then.
    """

    cell: Any
    status: str
    reason: str | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    curves: pd.DataFrame | None = None
    weights: bytes | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    started: str | None = None
    wall_seconds: float | None = None


@dataclass(frozen=True)
class Experiment:
    """A named study.

    Attributes:
        name: ``"<chapter>.<experiment>"``.
        title: as shown to readers.
        protocol: raised on purpose when the meaning of a cell changes; part of each identity.
        notebook: page that shows it, path from the repository's root.
        cells: profile name to the cells of that profile (frozen dataclasses with a ``seed``).
        readable: short file-name-safe name of a cell.
        run: trains cells and yields each outcome as it is known.
        frame: records to one tidy table for figures and claims.
        reevaluate: record to metrics measured again from its published weights, or None.
        weights: record to the file that `reevaluate` reads, or None if there never was one; a
            StoreError says that it is lost.
        pinned: small cells whose published numbers ``verify`` runs again.
        judged: whether claims are held against it; False for benchmarks, which have targets.
    """

    name: str
    title: str
    protocol: int
    notebook: str
    cells: Callable[[str], list[Any]]
    readable: Callable[[Any], str]
    run: Callable[[Sequence[Any], Context], Iterator[Outcome]]
    frame: Callable[[Sequence[Record]], pd.DataFrame]
    reevaluate: Callable[[Record], dict[str, float]] | None = None
    weights: Callable[[Record], Path | None] = Record.weights_path
    pinned: Callable[[], list[Any]] = list
    judged: bool = True

    @property
    def chapter(self) -> str:
        """First part of the name."""
        return self.name.split(".", 1)[0]


@lru_cache(maxsize=1)
def registry() -> dict[str, Experiment]:
    """All experiments by name, in the order of modules and of their ``EXPERIMENTS``."""
    found: dict[str, Experiment] = {}
    modules = (m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    for module in sorted(modules):
        for experiment in importlib.import_module(f"{__name__}.{module}").EXPERIMENTS:
            if experiment.name in found:
                raise ValueError(f"experiment {experiment.name!r} is defined twice")
            found[experiment.name] = experiment
    return found


def find(name: str) -> Experiment:
    """The experiment called `name`.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in registry():
        raise ValueError(f"no experiment {name!r}; there are: {', '.join(registry())}")
    return registry()[name]


def cells_of(experiment: Experiment, profile: str) -> list[Any]:
    """Cells of a profile.

    Raises:
        ValueError: unknown profile, naming the allowed ones.
    """
    if profile == PINNED:
        return experiment.pinned()
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}, allowed: {', '.join((*PROFILES, PINNED))}")
    return experiment.cells(profile)
