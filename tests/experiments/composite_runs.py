"""Tiny composite cells, how they run and what their runs are compared by."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lib import claims
from lib.config import to_dict
from lib.experiments import Context, Experiment, Outcome
from lib.experiments.achilles import CompositeCell
from lib.store import Record, Store
from lib.training.config import TrainingConfig
from lib.training.loop import Trainer
from tests.fakes import PROVENANCE

# two keys may stand in each place, one of them in training
TASK: dict[str, Any] = {
    "key_max": 23, "noise_max": 40, "residue_modulus": 2,
    "train_per_pair": 4, "test_per_pair": 2, "train_total": None,
}  # fmt: skip
TRAINING = TrainingConfig(epochs=3, warmup_epochs=1, batch_size=30, lr_peak=3e-3)
WEIGHTLESS = {"n_parameters", "steps", "epochs"}  # metrics that are no measurement


def shrunk(
    cell: CompositeCell, training: TrainingConfig = TRAINING, n_layers: int = 1, **task: Any
) -> CompositeCell:
    """A cell of the same kind on very little data: small states, few layers, short sequences."""
    blocks = tuple(
        dataclasses.replace(block, d_state=4) if hasattr(block, "d_state") else block
        for block in cell.model.pattern
    )
    small: Any = {**TASK, "length": cell.task.length - 3, **task}
    model = dataclasses.replace(cell.model, pattern=blocks, n_layers=n_layers)
    training = dataclasses.replace(
        training, spare_dynamics=cell.training.spare_dynamics, lr_by=cell.training.lr_by,
        drop_last=cell.training.drop_last,
    )  # fmt: skip
    return CompositeCell(dataclasses.replace(cell.task, **small), model, training, cell.seed)


def seeds_of(cell: CompositeCell, seeds: Sequence[int] = (1, 2, 3)) -> list[CompositeCell]:
    """The cell with each of these seeds."""
    return [dataclasses.replace(cell, seed=seed) for seed in seeds]


def run(experiment: Experiment, cells: Sequence[CompositeCell], **options: Any) -> list[Outcome]:
    """Outcomes of the cells, all of them done."""
    found = list(experiment.run(cells, Context(**options)))
    assert [o.status for o in found] == ["done"] * len(cells), [o.reason for o in found]
    return found


def record(experiment: Experiment, outcome: Outcome, store: Store | None = None) -> Record:
    """The outcome as a record; saved with curves and weights if there is a `store`."""
    made = Record(
        experiment.name, experiment.protocol, to_dict(outcome.cell),
        experiment.readable(outcome.cell), outcome.status,
        {k: v for k, v in outcome.metrics.items() if v is not None}, PROVENANCE,
    )  # fmt: skip
    return made if store is None else store.save(made, outcome.curves, outcome.weights)


def same_run(found: Outcome, expected: Outcome, answers: float = 0.0) -> None:
    """Equal to rounding, shares of answers to `answers`."""
    assert found.cell == expected.cell and found.metrics.keys() == expected.metrics.keys()
    for name, value in expected.metrics.items():
        slack = 1e-6 if "loss" in name or name in WEIGHTLESS else max(1e-6, answers)
        wanted = None if value is None else pytest.approx(value, rel=1e-4, abs=slack)
        assert found.metrics[name] == wanted, name
    assert found.curves is not None and expected.curves is not None
    pd.testing.assert_frame_equal(
        found.curves, expected.curves, rtol=1e-4, atol=max(1e-6, answers)
    )  # fmt: skip


def together_and_alone(
    experiment: Experiment, cells: Sequence[CompositeCell], answers: float = 0.0
) -> list[Outcome]:
    """The cells as one ensemble, each of which must equal its cell alone."""
    together = run(experiment, cells)
    for outcome in together:
        assert outcome.facts["ensemble"]["runs"] == len(cells)
        (alone,) = run(experiment, [outcome.cell])
        assert alone.facts["ensemble"]["runs"] == 1
        same_run(outcome, alone, answers)
    return together


class Killed(Exception):
    """In the place of a signal."""


def killed_and_resumed(
    experiment: Experiment, cells: Sequence[CompositeCell], folder: Path,
    monkeypatch: pytest.MonkeyPatch, after: int = 3,
) -> None:  # fmt: skip
    """Runs that die after a step and are started again equal those that were left alone, to the
    bit."""
    whole = run(experiment, cells)
    options: dict[str, Any] = {"checkpoints": folder, "identify": lambda cell: f"{hash(cell):x}"}
    advance = Trainer._advance

    def dying(self: Trainer, position: Any) -> None:
        if self.step == after:
            raise Killed
        advance(self, position)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_advance", dying)
        with pytest.raises(Killed):
            run(experiment, cells, **options, checkpoint_every=0.0)
    assert len(list(folder.glob("[!.]*.safetensors"))) == len(cells)
    for found, expected in zip(run(experiment, cells, **options), whole, strict=True):
        assert [session["steps"] for session in found.facts["sessions"]] == [
            after, int(expected.metrics["steps"] or 0) - after,
        ]  # fmt: skip
        assert found.cell == expected.cell and found.metrics == expected.metrics
        assert found.weights == expected.weights
        assert found.curves is not None and found.curves.equals(expected.curves)


def claims_about(root: Path, experiment: Experiment) -> dict[str, list[CompositeCell]]:
    """Claims that name the experiment, each with the cells that it selects."""
    evidence = claims.Evidence()
    every = claims.load_claims(root, evidence, experiment.chapter)
    mine = {c.id: evidence.cells(c) for c in every if c.experiment == experiment.name}
    assert mine and all(mine.values())
    return mine


def claim(root: Path, name: str) -> claims.Claim:
    """The claim of that id."""
    (found,) = (c for c in claims.load_claims(root, chapter=name.split(".")[0]) if c.id == name)
    return found


def metrics_of_claims(root: Path, experiment: Experiment) -> set[str]:
    """Metrics that the experiment's claims read."""
    mine = [
        c
        for c in claims.load_claims(root, chapter=experiment.chapter)
        if c.experiment == experiment.name
    ]
    return {name for c in mine for name in (c.metric, c.minus) if name is not None}
