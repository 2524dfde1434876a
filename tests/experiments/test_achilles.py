from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from lib.config import from_dict, to_dict
from lib.experiments import Context, Outcome
from lib.experiments.achilles import (
    CompositeCell,
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
)
from lib.models.language_model import build_language_model
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
    ours = [cell for cell in paper if cell.model.pattern[0].kind == "mamba2"]
    assert [(c.model.tie_embeddings, c.seed) for c in ours] == [
        (tied, seed) for tied in (False, True) for seed in (1, 2, 3)
    ]
    for cell in ours:
        assert cell.task == CompositeTask() and cell.training == TrainingConfig()
        assert cell.model.n_layers == 7 and cell.model.initialisation.gamma == 1.0
    (other,) = [cell for cell in paper if cell not in ours]
    assert other.task == third_party() and other.seed == 42 and other.training.epochs == 200
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
    assert outcome.facts["backends"]["ssd"] == ["quadratic"]
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
    assert tokens.shape == (8,) and title.startswith("trained model mamba2-L7-g1.0-tied")
    assert example_model([], seed=0)[2] == "untrained model"
