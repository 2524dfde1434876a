from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from lib import claims
from lib.analysis.composite import symmetry_rates
from lib.config import from_dict, to_dict
from lib.experiments import Context, Outcome, cells_of, find
from lib.experiments._training import train_cells
from lib.experiments.achilles import CompositeCell, composite_study, summarise
from lib.experiments.full_symmetry import (
    GAMMA,
    LAYERS,
    NAME,
    OTHER_SHIFTS,
    SEEDS,
    WATCHED,
    reevaluate,
    run,
)
from lib.store import Record, Store
from lib.tasks.composite import CompositeTask
from lib.tasks.full_symmetry import SymmetryTask
from lib.training.config import TrainingConfig


def test_the_cells_are_the_papers_depths_then_other_shifts() -> None:
    cells = cells_of(find(NAME), "paper")
    plain = SymmetryTask()
    grid = [(plain.second_shift_of_4, n) for n in LAYERS] + [(s, LAYERS[0]) for s in OTHER_SHIFTS]
    assert plain.second_shift_of_4 not in OTHER_SHIFTS
    found = [(c.task.second_shift_of_4, c.model.n_layers, c.seed) for c in cells]
    assert found == [(shift, n, seed) for shift, n in grid for seed in SEEDS]
    for cell in cells:
        assert cell.training == TrainingConfig() and cell.model.tie_embeddings
        assert cell.model.pattern[0].d_model == 128
        assert cell.model.initialisation.gamma == GAMMA
        same = dataclasses.replace(
            cell.task, second_shift_of_4=plain.second_shift_of_4
        )  # nothing but the open shift varies
        assert same == plain
    assert cells_of(find(NAME), "matched") == []


def test_a_task_of_either_kind_survives_its_record() -> None:
    """Both kinds of task are allowed in one cell; a record must not turn one into the other."""
    for cell in (
        cells_of(find(NAME), "paper")[:1] + cells_of(find("achilles.composite"), "paper")[:1]
    ):
        again = from_dict(CompositeCell, to_dict(cell))
        assert again == cell and type(again.task) is type(cell.task)
    kinds = [type(cells_of(find(n), "paper")[0].task) for n in (NAME, "achilles.composite")]
    assert kinds == [SymmetryTask, CompositeTask]


@pytest.fixture(scope="module")
def outcomes() -> dict[CompositeCell, Outcome]:
    cells = [
        dataclasses.replace(
            cell,
            task=dataclasses.replace(cell.task, train_per_pair=20, test_per_pair=5),
            training=dataclasses.replace(cell.training, epochs=2),
        )
        for cell in cells_of(find(NAME), "quick")
    ]
    return {outcome.cell: outcome for outcome in run(cells, Context())}


def records(outcomes: dict[CompositeCell, Outcome]) -> list[Record]:
    return [
        Record(
            NAME, 1, to_dict(cell), find(NAME).readable(cell), "done",
            {k: v for k, v in outcome.metrics.items() if v is not None}, {},
        )
        for cell, outcome in outcomes.items()
    ]  # fmt: skip


def test_the_mirror_pair_is_measured_each_epoch(
    outcomes: dict[CompositeCell, Outcome], root: Path
) -> None:
    assert len(outcomes) == 2
    wanted = [c for c in claims.load_claims(root) if c.experiment == NAME]
    assert wanted
    for outcome in outcomes.values():
        assert outcome.status == "done" and outcome.curves is not None
        assert outcome.weights is None
        for name in WATCHED:
            values = outcome.curves[name]
            assert values.between(0, 1).all() and len(values) == 2
            assert outcome.metrics[f"final_{name}"] == values.iloc[-1]
            assert outcome.metrics[f"best_{name}"] == values.max()
        for claim in wanted:
            assert claim.metric in outcome.metrics, claim.id


def test_the_frame_names_the_shift(outcomes: dict[CompositeCell, Outcome]) -> None:
    frame = find(NAME).frame(records(outcomes))
    assert frame["shift"].tolist() == [SymmetryTask().second_shift_of_4, OTHER_SHIFTS[0]]
    assert frame["n_layers"].tolist() == [2, 2] and isinstance(frame, pd.DataFrame)
    assert (frame[["final_mirror", "final_symmetric"]].notna()).all().all()
    composite = find("achilles.composite")
    cell = cells_of(composite, "quick")[0]
    other = Record(NAME, 1, to_dict(cell), "x", "done", {}, {})
    assert find(NAME).frame([other])["shift"].isna().all()


def test_weights_that_were_kept_give_the_same_numbers(tmp_path: Path) -> None:
    cell = cells_of(find(NAME), "quick")[0]
    cell = dataclasses.replace(
        cell, task=dataclasses.replace(cell.task, train_per_pair=20, test_per_pair=5),
        training=dataclasses.replace(cell.training, epochs=1),
    )  # fmt: skip
    study = dataclasses.replace(
        composite_study(), evaluate=symmetry_rates, summarise=partial(summarise, watched=WATCHED)
    )
    (outcome,) = train_cells([cell], Context(), study)
    store = Store(tmp_path, tmp_path / "published")
    (made,) = records({cell: outcome})
    record = store.save(made, outcome.curves, outcome.weights)
    again = reevaluate(record)
    assert set(again) == {f"final_{name}" for name in WATCHED}
    assert again == {name: record.metrics[name] for name in again}
