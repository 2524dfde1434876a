from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from lib import claims
from lib.analysis.composite import answered_as, symmetry_rates
from lib.config import from_dict, to_dict
from lib.experiments import Context, Outcome, cells_of, find
from lib.experiments._training import train_cells
from lib.experiments.achilles import CompositeCell, composite_study, depth, summarise
from lib.experiments.full_symmetry import (
    ATTENTION,
    CONTROLS,
    GAMMA,
    KERNELS,
    LAYERS,
    MAMBA,
    MAMBA3,
    NAME,
    OTHER_SHIFTS,
    SEEDS,
    WATCHED,
    answered,
    beside_controls,
    kind_of,
    model_of,
    reevaluate,
    run,
)
from lib.store import Record, Store, identity
from lib.tasks.composite import CompositeTask
from lib.tasks.full_symmetry import SymmetryTask, build
from lib.training.config import TrainingConfig


def test_the_cells_are_the_papers_depths_then_other_shifts_then_controls() -> None:
    every = cells_of(find(NAME), "paper")
    cells, controls = every[:21], every[21:]
    plain = SymmetryTask()
    found = [(kind_of(c.model), c.seed) for c in controls]
    assert found == [(kind, seed) for kind, _ in CONTROLS for seed in SEEDS]
    assert [depth(c.model) for c in controls[::3]] == [n for _, n in CONTROLS] == [2, 2, 2, 5, 2, 2]
    for cell in controls:
        assert cell.task == plain and cell.training == TrainingConfig()
        assert cell.model.d_model == 128 and cell.model.initialisation.gamma == GAMMA
        assert cell.model.tie_embeddings
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


def test_controls_differ_from_the_papers_model_in_the_kernel_alone() -> None:
    plain = model_of(MAMBA, 2)
    assert kind_of(plain) == MAMBA and plain.pattern[0].conv_kind == "standard"
    for kernel, kind in KERNELS.items():
        model = model_of(kind, 2)
        block = dataclasses.replace(model.pattern[0], conv_kind="standard")
        assert kind_of(model) == kind and model.pattern[0].conv_kind == kernel
        assert dataclasses.replace(model, pattern=(block,)) == plain
    assert kind_of(model_of(ATTENTION, 2)) == ATTENTION
    third = model_of(MAMBA3, 2)
    assert kind_of(third) == MAMBA3 and third.pattern[0].headdim == plain.pattern[0].headdim
    assert dataclasses.replace(third, pattern=plain.pattern) == plain
    with pytest.raises(KeyError, match="Mamba-2, no convolutoin"):
        model_of("Mamba-2, no convolutoin", 2)


def test_what_43_is_taken_for_is_counted() -> None:
    task = SymmetryTask(train_per_pair=5, test_per_pair=30)
    _, test = build(task, 1)
    rules, vocab = task.rules, 201
    for said, shift in (("34", rules.labels[3, 4]), ("01", rules.labels[0, 1]), ("", 77)):
        logits = torch.nn.functional.one_hot((test.keys + shift).long() % vocab, vocab).float()
        shares = answered_as(_Says(logits), test)  # type: ignore[arg-type]
        assert set(shares) == {f"answered_as_{a}{b}" for a in range(5) for b in range(a + 1, 5)}
        # pairs may have a shift in common, and then they share the answer
        same = {n for n, share in shares.items() if rules.labels[int(n[-2]), int(n[-1])] == shift}
        assert {name for name, share in shares.items() if share == 1} == same
        assert (f"answered_as_{said}" in same) == bool(said)
        assert all(share == 0 for name, share in shares.items() if name not in same)


class _Says(torch.nn.Module):
    """Gives the logits that it was made with, part by part."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits, self.at = logits, 0

    def forward(self, tokens: torch.Tensor, last_token_only: bool) -> torch.Tensor:
        assert last_token_only
        self.at += len(tokens)
        return self.logits[self.at - len(tokens) : self.at]


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
    wanted = [c for c in claims.load_claims(root, chapter="achilles") if c.experiment == NAME]
    assert wanted
    for outcome in outcomes.values():
        assert outcome.status == "done" and outcome.curves is not None
        assert outcome.weights is not None  # of one seed at the least depth
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
    assert frame["place"].tolist() == ["2 layers, shift +2", "2 layers, shift -4"]
    assert beside_controls(frame).empty  # no control among them
    assert beside_controls(find(NAME).frame([])).empty and answered([]).empty
    control = dataclasses.replace(next(iter(outcomes)), model=model_of(ATTENTION, 2))
    also = find(NAME).frame([Record(NAME, 1, to_dict(control), "x", "done", {}, {})])
    assert also["place"].tolist() == [f"{ATTENTION}, 2 layers"]
    both = beside_controls(pd.concat([frame, also], ignore_index=True))
    assert both["place"].tolist() == [f"{MAMBA}, 2 layers", f"{ATTENTION}, 2 layers"]
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


def test_cells_have_names_and_identities_of_their_own() -> None:
    every = [c for profile in ("paper", "quick") for c in cells_of(find(NAME), profile)]
    assert len({identity(NAME, 1, to_dict(cell)) for cell in every}) == len(every) == 41
    names = [find(NAME).readable(cell) for cell in every[:39]]
    assert len(set(names)) == 39 and names[0] == "mamba2-L2-g0.5-tied-m128-shift2-s1"


def test_43_has_two_answers_under_every_shift() -> None:
    """So a model's answer tells whether it composes or mirrors."""
    answers = {}
    for cell in cells_of(find(NAME), "paper"):
        rules = cell.task.rules
        assert rules.symmetric[4, 3] == rules.labels[4, 3] == rules.labels[3, 4] == -10
        answers[cell.task.second_shift_of_4] = rules.composite[4, 3]
    assert answers == {2: 5, -4: -1, 9: 12}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, r"seed is -1, allowed: 0 or more"),
        ({"vocab_size": 108}, r"model.vocab_size is 108, allowed: more than 108"),
        # a shift so large that labels outgrow the vocabulary: 99 + 150 + 3
        ({"second_shift_of_4": 150}, r"model.vocab_size is 201, allowed: more than 252"),
    ],
)
def test_bad_cells_are_named(change: dict[str, int], message: str) -> None:
    cell = cells_of(find(NAME), "paper")[0]
    with pytest.raises(ValueError, match=message):
        if "second_shift_of_4" in change:
            dataclasses.replace(cell, task=dataclasses.replace(cell.task, **change))
        elif "vocab_size" in change:
            dataclasses.replace(cell, model=dataclasses.replace(cell.model, **change))
        else:
            dataclasses.replace(cell, **change)


def test_each_pair_is_measured_once_more_after_training(
    outcomes: dict[CompositeCell, Outcome],
) -> None:
    pairs = {f"pair_{a}{b}" for a in range(5) for b in range(5) if a != b}
    for outcome in outcomes.values():
        assert {name for name in outcome.metrics if name.startswith("pair_")} == pairs
        assert outcome.metrics["pair_34"] == outcome.metrics["final_mirror"]
        assert outcome.metrics["pair_43"] == outcome.metrics["final_symmetric"]
        assert outcome.metrics["answered_as_34"] == outcome.metrics["final_symmetric"]
    first, *_ = outcomes.values()
    (plain, *_), (cell, *_) = records(outcomes), outcomes
    control = dataclasses.replace(
        plain, config=to_dict(dataclasses.replace(cell, model=model_of(ATTENTION, 2)))
    )
    table = answered([plain, control])
    assert table["place"].tolist() == [f"{MAMBA}, 2 layers", f"{ATTENTION}, 2 layers"]
    assert table["34"].iloc[0] == round(100 * (first.metrics["answered_as_34"] or 0), 1)
    older = dataclasses.replace(
        plain, metrics={k: v for k, v in plain.metrics.items() if "answered" not in k}
    )
    assert answered([older, control])["place"].tolist() == [f"{ATTENTION}, 2 layers"]
    assert answered([plain]).empty  # nothing stands beside it


def test_seeds_trained_together_are_the_seeds_alone(
    outcomes: dict[CompositeCell, Outcome],
) -> None:
    first = next(iter(outcomes))
    cells = [dataclasses.replace(first, seed=seed) for seed in (1, 2, 3)]
    together = list(run(cells, Context()))
    assert [outcome.facts["ensemble"]["runs"] for outcome in together] == [3, 3, 3]
    losses = set()
    for cell, found in zip(cells, together, strict=True):
        (alone,) = run([cell], Context())
        assert found.cell == cell and found.metrics.keys() == alone.metrics.keys()
        assert found.curves is not None and alone.curves is not None
        pd.testing.assert_frame_equal(found.curves, alone.curves, rtol=1e-4, atol=1e-6)
        losses.add(alone.metrics["final_train_loss"])
    assert len(losses) == 3  # or equality would say nothing


def test_claims_are_about_the_papers_fifteen_runs(root: Path) -> None:
    wanted = [c for c in claims.load_claims(root, chapter="achilles") if c.experiment == NAME]
    assert {claim.metric for claim in wanted} == {"final_mirror", "final_symmetric"}
    for claim in wanted:
        assert claims.Evidence().cells(claim) == cells_of(find(NAME), "paper")[:15]
        assert claim.seeds is None and claim.limits == (0, 1) and not claim.scaled
