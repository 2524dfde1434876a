"""A small experiment without training, for tests of the store's neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import pytest

from lib.config import to_dict
from lib.experiments import Context, Experiment, Outcome
from lib.store import Record, Store


@dataclass(frozen=True)
class FakeCell:
    n_layers: int
    seed: int


def cells(profile: str) -> list[FakeCell]:
    layers = {"quick": (1,), "matched": (), "paper": (2, 7)}[profile]
    return [FakeCell(n, seed) for n in layers for seed in (1, 2, 3)]


def run(todo: Sequence[FakeCell], context: Context) -> Iterator[Outcome]:
    for cell in todo:
        if context.late:
            yield Outcome(cell, "stopped")
            return
        if cell.n_layers == 2 and cell.seed == 3:
            yield Outcome(cell, "failed", "the loss was not finite at step 5 of 10", {"best": None})
            continue
        curves = pd.DataFrame({"epoch": [1, 2], "train_loss": [1.0, 1.0 / cell.n_layers]})
        yield Outcome(
            cell, "done", metrics={"best": 0.1 * cell.n_layers, "other": 0.5}, curves=curves
        )


EXPERIMENT = Experiment(
    name="demo.one",
    title="A demonstration",
    protocol=1,
    notebook="notebooks/demo/one.ipynb",
    cells=cells,
    readable=lambda cell: f"L{cell.n_layers}-s{cell.seed}",
    run=run,
    frame=lambda records: pd.DataFrame([r.metrics for r in records]),
)


def use_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``demo.one`` the only experiment."""
    for module in ("lib.experiments", "lib.runner", "lib.publishing"):
        monkeypatch.setattr(f"{module}.registry", lambda: {"demo.one": EXPERIMENT})


# the least that a record tells of its run
PROVENANCE = {"device_name": "test", "wall_seconds": 1.0, "started": "2026-01-01"}


def put(store: Store, cell: FakeCell, status: str = "done", **metrics: float) -> Record:
    """Store a record of `cell` with these metrics."""
    return store.save(
        Record(
            experiment="demo.one", protocol=1, config=to_dict(cell),
            readable=EXPERIMENT.readable(cell), status=status, metrics=metrics,
            provenance=PROVENANCE,
        )
    )  # fmt: skip
