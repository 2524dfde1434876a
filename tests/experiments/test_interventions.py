from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from lib import claims
from lib.config import to_dict
from lib.experiments import Context, Outcome, cells_of, find
from lib.experiments.achilles import THIRD_PARTY_TRAINING, CompositeCell
from lib.experiments.interventions import (
    CHOICES_TEXT,
    ENDS,
    ENDS_TEXT,
    GAMMAS,
    NAME,
    SEEDS,
    alike_untouched,
    by_pair,
    choices,
    cosines,
    kept_of_held_out,
    open_model,
    reevaluate,
    run,
)
from lib.figures.achilles_cuts import opened_by_name
from lib.store import Record, Store
from lib.tasks.composite import CompositeTask, third_party
from lib.training.config import TrainingConfig
from tests.fakes import PROVENANCE

PAIRS = [10 * a + b for a in range(1, 5) for b in range(1, 5)]


def test_the_cells_are_the_papers_models_and_the_third_partys() -> None:
    cells = cells_of(find(NAME), "paper")
    ours = [cell for cell in cells if cell.model.pattern[0].kind == "mamba2"]
    theirs = cells[len(ours) :]
    assert [(c.model.initialisation.gamma, c.seed) for c in ours] == [
        (gamma, seed) for gamma in GAMMAS for seed in SEEDS
    ]
    assert {c.task for c in ours} == {CompositeTask()} and len(theirs) == 9
    assert {c.training for c in ours} == {TrainingConfig()}
    assert {c.task for c in theirs} == {third_party()}
    assert {c.training for c in theirs} == {THIRD_PARTY_TRAINING}
    # the last three are the model that the third party opened
    assert [c.model.n_layers for c in cells] == [2] * (len(cells) - 3) + [7] * 3
    assert [(c.model.initialisation.gamma, c.seed) for c in cells[-3:]] == [
        (1.0, 42), (1.0, 1), (1.0, 2)
    ]  # fmt: skip
    assert cells_of(find(NAME), "matched") == []


def tiny(block: str) -> CompositeCell:
    """Two cells of the quick profile, with even less data."""
    (cell,) = [c for c in cells_of(find(NAME), "quick") if c.model.pattern[0].kind == block]
    changes: dict[str, Any] = {"test_per_pair": 5, "key_max": 23}
    changes |= {"train_total": 300} if cell.task.train_total else {"train_per_pair": 20}
    training = dataclasses.replace(cell.training, epochs=1, batch_size=100)
    return dataclasses.replace(
        cell, task=dataclasses.replace(cell.task, **changes), training=training
    )


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """A run of each block, as it is stored."""
    folder = tmp_path_factory.mktemp("runs")
    store = Store(folder, folder / "published")
    found = []
    for block in ("mamba2", "mamba1"):
        cell = tiny(block)
        (outcome,) = run([cell], Context())
        assert outcome.status == "done"
        found.append(store.save(as_record(cell, outcome), outcome.curves, outcome.weights))
    return found


def as_record(cell: CompositeCell, outcome: Outcome) -> Record:
    metrics = {k: v for k, v in outcome.metrics.items() if v is not None}
    return Record(NAME, 1, to_dict(cell), find(NAME).readable(cell), "done", metrics, PROVENANCE)


def test_every_model_is_looked_into_in_every_way(records: list[Record], root: Path) -> None:
    for record in records:
        metrics = record.metrics
        for end in ENDS:
            for kind in ("blocking", "substitution"):
                each = {pair: metrics[f"{kind}_{end}_{pair}"] for pair in PAIRS}
                assert all(0 <= value <= 1 for value in each.values())
                counted = [v for p, v in each.items() if kind == "blocking" or p != 43]
                assert metrics[f"{kind}_{end}_mean"] == pytest.approx(sum(counted) / len(counted))
                for choice in ("untrained", "layer0", "layer1"):
                    assert 0 <= metrics[f"{kind}_{end}_mean_{choice}"] <= 1
            # 43 is its own twin: what is replaced by itself changes nothing
            assert metrics[f"substitution_{end}_43"] == 1.0
            # a path more can only be cut, not mended: both are there to be compared
            assert {
                f"blocking_{end}_mean_{c}" for c in ("after_pair", "conv_too", "everything")
            } <= set(metrics)
        for layer in (0, 1):
            for when in ("start", "final"):
                assert 0 <= metrics[f"cosine_{when}_layer{layer}"] <= 1
    wanted = [c for c in claims.load_claims(root, chapter="achilles") if c.experiment == NAME]
    assert wanted
    for claim in wanted:
        assert claim.metric in records[0].metrics, claim.id
        assert claim.minus is None or claim.minus in records[0].metrics, claim.id


def test_the_page_reads_the_metrics_as_tables(records: list[Record]) -> None:
    frame = find(NAME).frame(records)
    for end in ENDS:
        tables = by_pair(frame, "blocking", end)
        assert [sorted(table) for table in tables] == [PAIRS, PAIRS]
        assert tables[0][12] == records[0].metrics[f"blocking_{end}_12"]
    for kind, count in (("blocking", 13), ("substitution", 8)):
        table = choices(frame, kind)
        assert len(table) == 2 * len(ENDS) * count
        named = {text.split("; ")[1] for text in table["choice"]}
        assert named <= set(CHOICES_TEXT.values()) and "as worded" in named
        assert table["agreement"].between(0, 1).all()
        assert set(table["model"]) == {"Mamba-2, γ 1", "Mamba-1, γ 1"}
    assert set(cosines(frame)["choice"]) == {
        f"layer {k}, at the {when}" for k in (1, 2) for when in ("start", "end")
    }


def test_what_kept_weights_are_asked_again(records: list[Record]) -> None:
    kept, alike = kept_of_held_out(records), alike_untouched(records)
    assert len(kept) == len(alike) == 2 and kept["model"].equals(alike["model"])
    assert kept["model"].str.match(r"Mamba-[12], 2 layers, gamma 1, ").all()
    for place, record in enumerate(records):
        shares = dict(kept.iloc[place].drop("model"))
        assert len(shares) == 4
        for name, value in shares.items():
            end = next(end for end, text in ENDS_TEXT.items() if str(name).startswith(text))
            behind = "_after_pair" if str(name).endswith("only tokens after the pair") else ""
            assert value == pytest.approx(record.metrics[f"blocking_{end}_43{behind}"]), name
        found = alike.iloc[place]
        metrics = {w: f"substitution_inner_mean_nothing{w}" for w in ("", "_untrained")}
        assert found["trained"] == pytest.approx(record.metrics[metrics[""]])
        assert found["untrained"] == pytest.approx(record.metrics[metrics["_untrained"]])
    without = [dataclasses.replace(record, weights=None) for record in records]
    assert kept_of_held_out(without).empty and alike_untouched(without).empty


def test_the_weights_give_the_same_numbers_again(records: list[Record]) -> None:
    for record in records:
        again = reevaluate(record)
        assert {name for name in again if name.startswith("blocking_end_")}
        for name, value in again.items():
            assert value == pytest.approx(record.metrics[name], abs=1e-6), name


def test_a_model_is_opened_on_one_sequence_with_the_unseen_pair(records: list[Record]) -> None:
    opened = open_model(records, seed=3, wanted="mamba2")
    assert (
        opened.title.startswith("trained Mamba-2, 2 layers, gamma 1, tied")
        and not opened.model.training
    )
    assert opened.one.tokens.shape[0] == 1 and int(opened.one.pairs[0]) == 43
    assert int(opened.one.index[0]) == 2
    other = opened.with_pair(12)
    changed = (other.tokens != opened.one.tokens)[0].nonzero().flatten().tolist()
    assert changed == [3, 4] and other.tokens[0, 3:5].tolist() == [1, 2]
    # one sequence for each place of the key, with a key of its own
    places = len(opened.each)
    assert opened.each.index.tolist() == list(range(places)) == list(range(5))
    assert len(opened.each.keys.unique()) > 1 and set(opened.each.pairs.tolist()) == {43}
    for place in range(places):
        asked = opened.with_pair(12, place)
        key = int(asked.keys[0])
        assert asked.tokens[0, place : place + 3].tolist() == [key, 1, 2] and len(asked) == 1
    assert opened.name == "2 layers, γ 1"
    assert open_model(records, 3, "mamba1").name == "Mamba-1, 2 layers, γ 1"


def test_models_to_choose_from_begin_with_the_one_that_composes_most(records: list[Record]) -> None:
    weightless = dataclasses.replace(records[0], weights=None)
    for first in (0, 1):
        shares = [{"final_composite": float(n == first)} for n in (0, 1)]
        asked = [
            dataclasses.replace(record, metrics=record.metrics | share)
            for record, share in zip(records, shares, strict=True)
        ]
        found = opened_by_name([weightless, *asked, *asked], 3)
        expected = [open_model([asked[first]], 3).name, open_model([asked[1 - first]], 3).name]
        assert list(found) == expected and len(set(expected)) == 2
        assert all(one.title.startswith("trained") for one in found.values())
    (untrained,) = opened_by_name([weightless], 3).items()
    assert untrained[0] == "untrained" and untrained[1].title == "untrained model"


def test_without_records_a_model_is_untrained() -> None:
    untrained = open_model([], seed=3)
    assert untrained.title == "untrained model" and len(untrained.each.keys.unique()) == 5
    assert torch.isfinite(untrained.model(untrained.one.tokens)).all()
