from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from lib.config import from_dict, to_dict
from lib.experiments import Context, Outcome
from lib.experiments.achilles import (
    CompositeCell,
    answered_offsets,
    by_head,
    composite_cells,
    composite_frame,
    example_model,
    load_model,
    mamba2_model,
    pinned_cells,
    reevaluate_composite,
    run_composite,
    summarise,
    third_party_model,
    without_offsets,
)
from lib.models.config import InitialisationConfig, LanguageModelConfig
from lib.models.language_model import LanguageModel, build_language_model
from lib.store import Record, Store, identity
from lib.tasks.composite import CompositeTask, third_party
from lib.training.config import TrainingConfig

TINY = CompositeCell(
    CompositeTask(train_per_pair=40, test_per_pair=10),
    mamba2_model(1, 1.0, d_state=8),
    TrainingConfig(epochs=3, warmup_epochs=1, batch_size=60, lr_peak=1e-3),
    seed=1,
)


def test_the_cells_are_the_protocols() -> None:
    paper = composite_cells("paper")
    assert [(c.model.tie_embeddings, c.seed) for c in paper] == [
        (tied, seed) for tied in (False, True) for seed in (1, 2, 3)
    ]
    for cell in paper:
        assert cell.task == CompositeTask() and cell.training == TrainingConfig()
        assert cell.model.n_layers == 7 and cell.model.initialisation.gamma == 1.0
    assert len({identity("achilles.composite", 1, to_dict(cell)) for cell in paper}) == len(paper)
    assert {cell.task for cell in composite_cells("matched")} == {third_party()}
    count = sum(
        p.numel() for p in build_language_model(third_party_model(4, 1.0), seed=0).parameters()
    )
    assert count == 129_184  # what the third party logged


@pytest.mark.parametrize("profile", ["quick", "matched", "paper"])
def test_cells_survive_their_records(profile: str) -> None:
    for cell in [*composite_cells(profile), *pinned_cells()]:
        assert from_dict(CompositeCell, to_dict(cell)) == cell


def test_published_identities_never_move(root: Path) -> None:
    """A change of defaults would orphan what is published; raise `protocol` or use added_later."""
    published = {record.identity for record in Store.at(root).all(published_only=True)}
    cells = [*composite_cells("paper")[:6], *pinned_cells()]
    for cell in cells:
        assert identity("achilles.composite", 1, to_dict(cell)) in published


def test_bad_cells_are_named() -> None:
    with pytest.raises(ValueError, match=r"vocab_size is 100, allowed: more than 109"):
        dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, vocab_size=100))
    with pytest.raises(ValueError, match="seed is -1"):
        dataclasses.replace(TINY, seed=-1)


def run(cell: CompositeCell, **options: object) -> Outcome:
    (outcome,) = run_composite([cell], Context(**options))  # type: ignore[arg-type]
    return outcome


def test_a_run_leaves_everything_a_record_needs(tmp_path: Path) -> None:
    outcome = run(TINY)
    assert outcome.status == "done" and outcome.curves is not None
    assert outcome.curves["epoch"].tolist() == [1, 2, 3]
    assert {"train_loss", "train_accuracy", "composite", "symmetric", "seen"} <= set(outcome.curves)
    assert outcome.metrics["steps"] == 30
    # one layer, of which one position is read: no scan
    assert list(outcome.facts["backends"]) == ["causal_conv1d"]
    assert outcome.facts["sessions"][0]["steps"] == 30
    store = Store(tmp_path, tmp_path / "published")
    record = store.save(
        Record(
            "achilles.composite", 1, to_dict(TINY), "tiny", "done",
            {k: v for k, v in outcome.metrics.items() if v is not None}, {},
        ),
        outcome.curves, outcome.weights,
    )  # fmt: skip
    # the weights alone give the same final accuracies again
    again = reevaluate_composite(record)
    assert {f"final_{n}" for n in ("composite", "symmetric", "seen")} <= set(again)
    assert all(record.metrics[name] == value for name, value in again.items())
    frame = composite_frame([record])
    assert frame.loc[0, "block"] == "mamba2" and frame.loc[0, "head"] == "own"
    # what 43 is answered fills no columns, and nothing else is left out
    kept = without_offsets(record.metrics)
    left_out = set(record.metrics) - set(kept)
    assert left_out and all(name.startswith("answer_offset_") for name in left_out)
    assert len(answered_offsets(record.metrics)) == len(left_out) and set(kept) <= set(frame)
    assert not left_out & set(frame) and kept.items() <= record.metrics.items()
    assert by_head([record]) == {"own": [record]}
    with pytest.raises(ValueError, match="kept no weights"):
        load_model(dataclasses.replace(record, weights=None))


def test_the_same_seed_gives_the_same_run_and_another_does_not() -> None:
    first, again = run(TINY), run(TINY)
    assert first.curves is not None and again.curves is not None
    pd.testing.assert_frame_equal(first.curves, again.curves)
    assert first.weights == again.weights
    other = run(dataclasses.replace(TINY, seed=2))
    assert other.curves is not None and not other.curves.equals(first.curves)


def test_best_is_taken_for_each_label_on_its_own() -> None:
    curves = pd.DataFrame(
        {
            "epoch": range(1, 21), "train_loss": 1.0, "train_accuracy": 0.5, "seen": 0.5,
            "composite": [0.1] * 4 + [0.9] + [0.2] * 15, "symmetric": [0.0] * 19 + [0.4],
        }
    )  # fmt: skip
    found = summarise(curves)
    assert found["best_composite"] == 0.9 and found["best_composite_epoch"] == 5
    assert found["best_composite_by_tens"] == 0.2 and found["final_composite"] == 0.2
    assert found["best_symmetric"] == found["final_symmetric"] == 0.4
    assert summarise(pd.DataFrame()) == {"epochs": 0.0}


def test_a_diverging_cell_fails_with_its_step() -> None:
    wild = dataclasses.replace(
        TINY, training=dataclasses.replace(TINY.training, lr_peak=1e30, clip_norm=None)
    )
    outcome = run(wild)
    assert outcome.status == "failed" and outcome.weights is None
    assert outcome.reason is not None and "not finite at step" in outcome.reason


def test_the_example_is_a_published_model_or_says_that_it_is_untrained(root: Path) -> None:
    cells = composite_cells("paper")
    records = [r for r in Store.at(root).records("achilles.composite", 1, cells) if r]
    _, tokens, title = example_model(records, seed=0)
    assert tokens.shape == (8,) and title.startswith(
        "trained Mamba-2, 7 layers, gamma 1, tied weights, seed "
    )
    assert example_model([], seed=0)[2] == "untrained model"


MAMBA1 = dataclasses.replace(
    third_party_model(1, 1.0), vocab_size=201,
    pattern=(dataclasses.replace(third_party_model(1, 1.0).pattern[0], d_state=4),),
)  # fmt: skip
TOGETHER = [
    dataclasses.replace(
        TINY,
        seed=seed,
        model=dataclasses.replace(TINY.model, initialisation=InitialisationConfig(g)),
    )
    for g, seed in ((0.5, 1), (1.0, 1), (1.0, 2))
]


def curves_of(outcome: Outcome) -> pd.DataFrame:
    assert outcome.status == "done" and outcome.curves is not None
    return outcome.curves


def same_run(found: Outcome, expected: Outcome) -> None:
    assert found.cell == expected.cell and found.metrics.keys() == expected.metrics.keys()
    whole, curves = curves_of(expected), curves_of(found)
    assert curves.index.equals(whole.index)
    pd.testing.assert_frame_equal(curves, whole, rtol=1e-4, atol=1e-6)
    for name, value in expected.metrics.items():
        wanted = value if value is None else pytest.approx(value, rel=1e-4, abs=1e-6)
        assert found.metrics[name] == wanted, name


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("model", [TINY.model, MAMBA1], ids=["mamba2", "mamba1 tied"])
def test_cells_trained_together_are_the_cells_alone(
    model: LanguageModelConfig, drop_last: bool
) -> None:
    training = dataclasses.replace(TINY.training, batch_size=64, drop_last=drop_last)
    cells = [
        dataclasses.replace(
            cell, training=training,
            model=dataclasses.replace(model, initialisation=cell.model.initialisation),
        )
        for cell in TOGETHER
    ]  # fmt: skip
    outcomes = list(run_composite(cells, Context()))
    assert [outcome.facts["ensemble"]["runs"] for outcome in outcomes] == [3, 3, 3]
    for cell, outcome in zip(cells, outcomes, strict=True):
        alone = run(cell)
        same_run(outcome, alone)
        assert outcome.metrics["steps"] == (27 if drop_last else 30)
        assert alone.facts["ensemble"]["runs"] == 1
        assert outcome.facts["backends"] == alone.facts["backends"]
        whole = outcome.facts["ensemble"]["training_seconds"]
        assert outcome.facts["training_seconds"] == pytest.approx(whole / 3, abs=1e-3)
        assert outcome.wall_seconds is not None and outcome.started is not None
        assert outcome.wall_seconds >= outcome.facts["training_seconds"] - 1e-3


def test_weights_of_an_ensemble_are_each_cells_own(tmp_path: Path) -> None:
    store = Store(tmp_path, tmp_path / "published")
    outcomes = run_composite(TOGETHER, Context(), keep_weights=lambda cell: cell.seed == 1)
    for outcome in outcomes:
        assert (outcome.weights is not None) is (outcome.cell.seed == 1)
        if outcome.weights is None:
            continue
        metrics = {k: v for k, v in outcome.metrics.items() if v is not None}
        record = store.save(
            Record("achilles.composite", 1, to_dict(outcome.cell), "tiny", "done", metrics, {}),
            outcome.curves, outcome.weights,
        )  # fmt: skip
        for name, value in reevaluate_composite(record).items():
            assert metrics[name] == pytest.approx(value, abs=0.11)  # one answer of ten
        assert load_model(record)[1] == outcome.cell


def runs_of(outcomes: list[Outcome]) -> list[tuple[int, str]]:
    return [(o.facts.get("ensemble", {}).get("runs", 0), o.status) for o in outcomes]


def test_only_equal_cells_at_one_step_train_together(tmp_path: Path) -> None:
    other = dataclasses.replace(TINY, task=dataclasses.replace(TINY.task, test_per_pair=11))
    cells = [TOGETHER[0], other, *TOGETHER[1:]]
    found = list(run_composite(cells, Context(ensemble=2)))
    assert [o.cell for o in found] == [TOGETHER[0], *TOGETHER[1:], other]
    assert runs_of(found) == [(1, "done"), (2, "done"), (2, "done"), (1, "done")]
    assert runs_of(list(run_composite(cells, Context(ensemble=1)))) == [(1, "done")] * 4
    # one cell is ahead of the others by its checkpoint
    context = Context(checkpoints=tmp_path, checkpoint_every=0.0, identify=lambda c: str(hash(c)))
    ahead = TOGETHER[1]
    list(run_composite([ahead], context))
    found = list(run_composite(TOGETHER, context))
    assert runs_of(found) == [(2, "done"), (2, "done"), (1, "done")]
    assert found[2].cell == ahead and len(found[2].facts["sessions"]) == 2


def test_a_budget_stops_the_whole_group_and_each_goes_on(tmp_path: Path) -> None:
    context = Context(checkpoints=tmp_path, identify=lambda c: str(hash(c)))
    other = dataclasses.replace(TINY, task=dataclasses.replace(TINY.task, test_per_pair=11))
    now = dataclasses.replace(context, deadline=time.monotonic())
    stopped = list(run_composite([*TOGETHER, other], now))
    assert [(o.cell, o.status) for o in stopped] == [(cell, "stopped") for cell in TOGETHER]
    assert len(list(tmp_path.iterdir())) == 3
    for cell, outcome in zip(TOGETHER, run_composite(TOGETHER, context), strict=True):
        same_run(outcome, run(cell))


def test_groups_beside_each_other_are_the_groups_by_themselves(tmp_path: Path) -> None:
    """Bit for bit, also stopped and taken up again."""
    deeper = [
        dataclasses.replace(cell, model=dataclasses.replace(cell.model, n_layers=2))
        for cell in TOGETHER
    ]
    cells = [*TOGETHER, *deeper]
    alone = list(run_composite(cells, Context()))
    assert all("abreast" not in outcome.facts["ensemble"] for outcome in alone)
    context = Context(checkpoints=tmp_path, identify=lambda c: str(hash(c)), abreast=2 * 3)
    for outcome, expected in zip(run_composite(cells, context), alone, strict=True):
        same_run(outcome, expected)
        assert outcome.facts["ensemble"]["abreast"] == 2
        assert outcome.facts["fastest_epoch_seconds"] is None
    now = dataclasses.replace(context, deadline=time.monotonic())
    stopped = list(run_composite(cells, now))  # before the second group has begun
    assert [(o.cell, o.status) for o in stopped] == [(cell, "stopped") for cell in TOGETHER]
    by_cell = {o.cell: o for o in run_composite(cells, context)}
    for expected in alone:
        same_run(by_cell[expected.cell], expected)


def test_a_diverging_cell_of_a_group_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(config: LanguageModelConfig, *, seed: int, **options: Any) -> LanguageModel:
        model = build_language_model(config, seed=seed, **options)
        if seed == 2:
            with torch.no_grad():
                model.layers[0].mixer.D.fill_(math.inf)
        return model

    monkeypatch.setattr("lib.models.language_model.build_language_model", poisoned)
    outcomes = list(run_composite(TOGETHER, Context()))
    assert [outcome.status for outcome in outcomes] == ["done", "done", "failed"]
    alone = [run(cell) for cell in TOGETHER]
    assert outcomes[2].weights is None
    assert outcomes[2].reason == alone[2].reason == "the loss was not finite at step 1 of 30"
    assert outcomes[2].metrics == alone[2].metrics
    same_run(outcomes[0], alone[0])
    same_run(outcomes[1], alone[1])
