from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lib import claims
from lib.analysis.reference import load_reference
from lib.config import to_dict
from lib.experiments import Context, cells_of, find
from lib.experiments.achilles import (
    THIRD_PARTY_TRAINING,
    CompositeCell,
    mamba2_model,
    third_party_model,
)
from lib.experiments.phase_diagram import (
    GAMMAS,
    LAYERS,
    MAMBA1,
    OWN,
    SEEDS,
    TIED,
    answers_frame,
    answers_sentence,
    diagram,
    keeps_weights,
    known_offsets,
    run_diagram,
)
from lib.store import Record, Store, identity
from lib.tasks.composite import CompositeTask, third_party
from lib.training.config import TrainingConfig


def paper(name: str) -> list[CompositeCell]:
    return cells_of(find(name), "paper")


def place(cell: CompositeCell) -> tuple[int, float | None, int]:
    return cell.model.n_layers, cell.model.initialisation.gamma, cell.seed


@pytest.mark.parametrize(("name", "tied"), [(TIED, True), (OWN, False)])
def test_the_diagram_is_the_papers_protocol(name: str, tied: bool) -> None:
    cells = paper(name)
    assert len(cells) == 216
    # row by row, so that a diagram that is broken off has whole rows
    assert [place(cell) for cell in cells] == list(itertools.product(LAYERS, GAMMAS, SEEDS))
    for cell in cells:
        assert cell.task == CompositeTask() and cell.training == TrainingConfig()
        assert cell.model == mamba2_model(*place(cell)[:2], tied=tied)


def test_the_third_partys_diagram_is_its_protocol() -> None:
    cells = paper(MAMBA1)
    assert [place(c) for c in cells] == [(n, g, 42) for n in LAYERS for g in GAMMAS]
    assert {cell.task for cell in cells} == {third_party()}
    assert {cell.training for cell in cells} == {THIRD_PARTY_TRAINING}
    assert THIRD_PARTY_TRAINING.epochs == 200
    assert [c.model for c in cells] == [third_party_model(n, g) for n in LAYERS for g in GAMMAS]


def test_axes_are_those_of_the_published_maps() -> None:
    for name in ("achilles_phase", "achilles_mamba1"):
        for values in load_reference(name).maps.values():
            assert sorted(values.index) == list(LAYERS)
            assert list(values.columns) == list(GAMMAS)


def test_every_cell_has_an_identity_of_its_own() -> None:
    names = (TIED, OWN, MAMBA1)
    found = [identity(name, 1, to_dict(cell)) for name in names for cell in paper(name)]
    assert len(set(found)) == len(found) == 504


@pytest.mark.parametrize("name", [TIED, OWN])
def test_a_depth_can_train_as_one_ensemble(name: str) -> None:
    """Its cells differ in initialisation and seed only."""
    for _, row in itertools.groupby(paper(name), key=lambda cell: cell.model.n_layers):
        cells = list(row)
        assert len(cells) == 36
        plain = cells[0].model.initialisation
        same = {
            dataclasses.replace(c, seed=0, model=dataclasses.replace(c.model, initialisation=plain))
            for c in cells
        }
        assert len(same) == 1


@pytest.mark.parametrize(("name", "count"), [(TIED, 12), (OWN, 12), (MAMBA1, 2)])
def test_quick_is_small(name: str, count: int) -> None:
    cells = cells_of(find(name), "quick")
    assert len(cells) == count
    for cell in cells:
        total = cell.task.train_total or 15 * cell.task.train_per_pair
        assert total * cell.training.epochs <= 6_000 and cell.model.n_layers <= 3
        assert cell.model.pattern[0].d_state == 16
    assert cells_of(find(name), "matched") == []


def test_weights_are_kept_where_later_pages_look_inside() -> None:
    kept = [place(cell) for cell in paper(TIED) if keeps_weights(cell)]
    assert kept == [(n, gamma, 1) for n in LAYERS for gamma in (0.5, 1.0)]
    kept = [place(cell) for cell in paper(MAMBA1) if keeps_weights(cell)]
    assert kept == [(n, gamma, 42) for n in LAYERS for gamma in (0.5, 1.0)]


def test_a_row_runs_and_becomes_a_frame() -> None:
    task = CompositeTask(train_per_pair=20, test_per_pair=5)
    training = TrainingConfig(epochs=2, warmup_epochs=1, batch_size=60, lr_peak=1e-3)
    cells = [
        CompositeCell(task, mamba2_model(1, gamma, d_state=8, tied=True), training, seed)
        for gamma, seed in ((0.5, 1), (0.5, 2), (0.7, 1))
    ]
    outcomes = list(run_diagram(cells, Context()))
    by_cell = {outcome.cell: outcome for outcome in outcomes}
    assert [by_cell[cell].weights is not None for cell in cells] == [True, False, False]
    records = [
        Record(
            TIED, 1, to_dict(cell), find(TIED).readable(cell), "done",
            {k: v for k, v in by_cell[cell].metrics.items() if v is not None}, {},
        )
        for cell in cells
    ]  # fmt: skip
    made = diagram(TIED, "paper", records)
    assert (made.layers, made.gammas, made.seeds, len(made)) == (LAYERS, GAMMAS, 3, 3)
    assert diagram(MAMBA1, "paper", []).seeds == 1 and diagram(TIED, "quick", []).seeds == 2
    frame = made.frame
    assert frame[["n_layers", "gamma", "seed"]].to_numpy().tolist() == [
        [1, 0.5, 1], [1, 0.5, 2], [1, 0.7, 1],
    ]  # fmt: skip
    assert set(frame["head"]) == {"tied"} and frame["best_composite"].between(0, 1).all()


def test_models_that_kept_their_weights_are_asked_again(tmp_path: Path) -> None:
    task = CompositeTask(train_per_pair=20, test_per_pair=5)
    training = TrainingConfig(epochs=1, warmup_epochs=1, batch_size=60, lr_peak=1e-3)
    cells = [
        CompositeCell(task, mamba2_model(1, gamma, d_state=8, tied=True), training, 1)
        for gamma in (0.5, 0.7)
    ]
    store = Store(tmp_path, tmp_path / "published")
    outcomes = list(run_diagram(cells, Context()))
    records = [
        store.save(
            Record(TIED, 1, to_dict(o.cell), find(TIED).readable(o.cell), "done", {}, {}),
            o.curves, o.weights,
        )
        for o in outcomes
    ]  # fmt: skip
    frame = answers_frame(records)
    assert set(frame["gamma"]) == {0.5}  # only this one keeps weights
    assert frame["share"].sum() == pytest.approx(1) and frame["share"].between(0, 1).all()
    # what a run says of itself is not measured again, and its weights would say the same
    found = {k: v for k, v in outcomes[0].metrics.items() if v is not None}
    told = dataclasses.replace(records[0], metrics=found, weights=None)
    pd.testing.assert_frame_equal(answers_frame([told]), frame)
    other = dataclasses.replace(told, metrics={"answer_offset_-10": 0.25, "answer_offset_7": 0.75})
    found_again = answers_frame([other])[["offset", "share"]]
    assert found_again.to_numpy().tolist() == [[-10, 0.25], [7, 0.75]]
    assert not any("answer_offset" in name for name in find(TIED).frame([told]))
    assert set(frame[["n_layers", "seed"]].itertuples(index=False, name=None)) == {(1, 1)}
    assert answers_frame([]).empty
    # composite and symmetric of pair 43, and the trained pairs that begin with 4
    assert known_offsets() == {
        "composite": -10, "symmetric": -6, "as pair 41": -3, "as pair 42": -7, "as pair 44": -16,
    }  # fmt: skip


def test_the_commonest_other_answer_is_named() -> None:
    rows = [(2, -10, 0.6), (2, -7, 0.3), (2, 5, 0.1), (3, -6, 0.9), (3, -7, 0.1), (4, 30, 1.0)]
    table = pd.DataFrame(rows, columns=["n_layers", "offset", "share"]).assign(gamma=0.5, seed=1)
    assert answers_sentence(table) == (
        "Beside the two solutions, the commonest answer of the 3 models is that of pair 42 in 2, "
        "none of these in 1."
    )


def our_claims(root: Path) -> list[claims.Claim]:
    found = [
        c
        for c in claims.load_claims(root, chapter="achilles")
        if c.id.startswith("achilles.phase_diagram")
    ]
    assert len(found) >= 25
    return found


def region(claim: claims.Claim, values: Any) -> Any:
    """The published numbers that a claim is about."""
    rows, columns = claim.select["n_layers"], claim.select["gamma"]
    rows = rows if isinstance(rows, list) else [rows]
    columns = columns if isinstance(columns, list) else [columns]
    return values.loc[rows, columns]


def test_claims_quote_the_published_maps(root: Path) -> None:
    maps = {
        "achilles2025": load_reference("achilles_phase").maps,
        "hlife2025": load_reference("achilles_mamba1").maps,
    }
    for claim in our_claims(root):
        found = region(claim, maps[claim.source][claim.metric])
        if claim.minus is not None:
            found = found - region(claim, maps[claim.source][claim.minus])
        if claim.combine == "share above zero":
            found = found > 0
        assert found.notna().all().all(), claim.id
        digits = len(f"{claim.value:g}".partition(".")[2])
        # 0.005: the middle of two digits may be rounded either way
        assert found.to_numpy().mean() == pytest.approx(claim.value, abs=0.51 * 10**-digits)


def test_both_readings_are_asked_the_same(root: Path) -> None:
    found = {claim.id: claim for claim in our_claims(root)}
    own = [name for name in found if name.startswith(OWN)]
    assert own
    for name in own:
        tied = found[name.replace(OWN, TIED)]
        same = ("select", "metric", "minus", "rule", "value", "tolerance", "combine")
        assert all(getattr(tied, part) == getattr(found[name], part) for part in same)
