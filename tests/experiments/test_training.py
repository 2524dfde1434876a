"""Training cells together: each as it would be alone, and what a study adds to it."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.experiments import Context, Outcome
from lib.experiments._training import Study, train_cells
from lib.experiments.achilles import CompositeCell, composite_study, mamba2_model
from lib.models.language_model import LanguageModel
from lib.tasks.composite import CompositeTask
from lib.training import loop
from lib.training.checkpoints import load_checkpoint
from lib.training.config import TrainingConfig

TASK = CompositeTask(train_per_pair=20, test_per_pair=5)
TRAINING = TrainingConfig(epochs=3, warmup_epochs=1, batch_size=60, lr_peak=6e-3)
STEPS = 15
CELLS = [
    CompositeCell(TASK, mamba2_model(1, gamma, d_state=8, tied=True), TRAINING, seed)
    for gamma, seed in ((0.5, 1), (1.0, 2), (0.7, 1))
]


def outcomes(
    cells: list[CompositeCell], study: Study | None = None, **options: Any
) -> dict[CompositeCell, Outcome]:
    found = list(train_cells(cells, Context(**options), study or composite_study()))
    assert len({outcome.cell for outcome in found}) == len(found)
    return {outcome.cell: outcome for outcome in found}


@pytest.fixture(scope="module")
def alone() -> dict[CompositeCell, Outcome]:
    return {cell: outcomes([cell])[cell] for cell in CELLS}


def assert_same(found: Outcome, expected: Outcome) -> None:
    assert found.status == expected.status == "done"
    assert found.metrics.keys() == expected.metrics.keys()
    for name, value in expected.metrics.items():
        close = None if value is None else pytest.approx(value, rel=1e-4)
        assert found.metrics[name] == close, name
    assert found.curves is not None and expected.curves is not None
    assert list(found.curves) == list(expected.curves)
    for name in expected.curves:
        other = expected.curves[name].tolist()
        assert found.curves[name].tolist() == pytest.approx(other, rel=1e-4), name


def test_cells_that_train_together_are_as_if_alone(alone: dict[CompositeCell, Outcome]) -> None:
    together = outcomes(CELLS, ensemble=3)
    for cell in CELLS:
        assert together[cell].facts["ensemble"]["runs"] == 3
        assert alone[cell].facts["ensemble"]["runs"] == 1
        assert_same(together[cell], alone[cell])
    losses = {alone[cell].metrics["final_train_loss"] for cell in CELLS}
    assert len(losses) == 3  # three runs, not one three times


def test_only_what_is_alike_trains_together() -> None:
    other = dataclasses.replace(CELLS[1], training=dataclasses.replace(TRAINING, weight_decay=0.5))
    found = outcomes([CELLS[0], other, CELLS[2]], ensemble=8)
    assert [found[cell].facts["ensemble"]["runs"] for cell in (CELLS[0], other, CELLS[2])] == [
        2,
        1,
        2,
    ]


def test_a_study_looks_into_each_trained_model() -> None:
    seen: list[tuple[CompositeCell, float]] = []

    def inspect(model: LanguageModel, cell: CompositeCell) -> dict[str, float]:
        assert not model.training
        seen.append((cell, float(model.embedding.weight.detach().norm())))
        return {"looked": float(cell.seed)}

    keeps = CELLS[1]
    study = dataclasses.replace(
        composite_study(lambda cell: cell == keeps),
        inspect=inspect,
        final=lambda model, test: {"last": torch.tensor(0.25)},
    )
    found = outcomes(CELLS, study, ensemble=3)
    assert [cell for cell, _ in seen] == CELLS and len({norm for _, norm in seen}) == 3
    for cell in CELLS:
        assert found[cell].metrics["looked"] == cell.seed and found[cell].metrics["last"] == 0.25
        assert (found[cell].weights is not None) == (cell == keeps)


def test_a_failed_run_keeps_its_curve_and_is_not_looked_into() -> None:
    wild = dataclasses.replace(TRAINING, lr_peak=1e30, clip_norm=None)
    cell = dataclasses.replace(CELLS[0], training=wild)
    study = dataclasses.replace(
        composite_study(), inspect=lambda model, cell: pytest.fail("there is nothing to look into")
    )
    outcome = outcomes([cell], study)[cell]
    assert outcome.status == "failed" and "not finite at step" in str(outcome.reason)
    assert outcome.weights is None and 0 < outcome.metrics["steps"] <= STEPS


@pytest.mark.parametrize("ensemble", [1, 3])
def test_broken_off_and_taken_up_again_is_the_same_run(
    ensemble: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    alone: dict[CompositeCell, Outcome],
) -> None:
    """Whole groups stop, at one step; groups that had not begun have no outcome yet."""

    def context(deadline: float | None) -> Context:
        return Context(
            ensemble=ensemble, deadline=deadline, checkpoints=tmp_path,
            identify=lambda cell: f"{cell.model.initialisation.gamma}-{cell.seed}",
        )  # fmt: skip

    clock = itertools.count()
    with monkeypatch.context() as patch:  # a clock that ticks whenever it is looked at
        patch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
        first = list(train_cells(CELLS, context(20.0), composite_study()))
    assert {outcome.status for outcome in first} == {"stopped"} and len(first) == ensemble
    steps = {load_checkpoint(path)[1]["step"] for path in tmp_path.glob("*.safetensors")}
    assert len(steps) == 1 and 0 < steps.pop() < STEPS
    second = {o.cell: o for o in train_cells(CELLS, context(None), composite_study())}
    for cell in CELLS:
        assert_same(second[cell], alone[cell])
    sessions = [s["steps"] for s in second[first[0].cell].facts["sessions"]]
    assert len(sessions) == 2 and sum(sessions) == STEPS
