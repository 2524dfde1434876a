from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pandas as pd
import pytest
import torch

from lib.config import from_dict, to_dict
from lib.experiments import Context, Outcome
from lib.experiments.achilles import (
    CompositeCell,
    accuracies,
    answers,
    by_head,
    composite_cells,
    composite_frame,
    expected_answers,
    last_token_loss,
    load_model,
    mamba2_model,
    pinned_cells,
    reevaluate_composite,
    run_composite,
    steps_and_decays,
    summarise,
    third_party_model,
)
from lib.models.language_model import build_language_model
from lib.store import Record, Store, identity
from lib.tasks.composite import CompositeTask, build, third_party
from lib.training.config import TrainingConfig

TINY = CompositeCell(
    CompositeTask(train_per_pair=40, test_per_pair=10),
    mamba2_model(1, 1.0, d_state=8),
    TrainingConfig(epochs=3, warmup_epochs=1, batch_size=60, lr_peak=1e-3),
    seed=1,
)


class Knows(torch.nn.Module):
    """Stands in for a model: answers with a rule of the tokens."""

    def __init__(self, shifts: dict[int, int]) -> None:
        super().__init__()
        self.shifts = shifts

    def forward(self, tokens: torch.Tensor, last_token_only: bool) -> torch.Tensor:
        assert last_token_only
        out = torch.zeros(len(tokens), 201)
        for row, sequence in enumerate(tokens.tolist()):
            (at,) = [i for i in range(len(sequence) - 1) if max(sequence[i : i + 2]) < 5]
            shift = self.shifts[10 * sequence[at] + sequence[at + 1]]
            out[row, sequence[at - 1] + shift] = 1.0
        return out


SHIFTS = {1: 5, 2: 1, 3: -2, 4: -8}
COMPOSED = {10 * a + b: SHIFTS[a] + SHIFTS[b] for a, b in itertools.product(SHIFTS, SHIFTS)}


@pytest.mark.parametrize(
    ("shifts", "expected"),
    [
        ({**COMPOSED, 34: -6}, {"composite": 1.0, "symmetric": 0.0, "seen": 1.0}),
        ({**COMPOSED, 34: -6, 43: -6}, {"composite": 0.0, "symmetric": 1.0, "seen": 1.0}),
        (COMPOSED, {"composite": 1.0, "symmetric": 0.0, "seen": 14 / 15}),
        (dict.fromkeys(COMPOSED, 0), {"composite": 0.0, "symmetric": 0.0, "seen": 0.0}),
    ],
)
def test_accuracies_tell_the_solutions_apart(
    shifts: dict[int, int], expected: dict[str, float]
) -> None:
    _, test = build(TINY.task, seed=2)
    found = accuracies(Knows(shifts), test, by_pair=True)  # type: ignore[arg-type]
    assert {k: found[k] for k in expected} == pytest.approx(expected)
    assert found["pair_43"] == expected["composite"]
    assert found["pair_34"] == (1.0 if shifts[34] == -6 else 0.0)


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


def test_loss_looks_at_the_last_token_only() -> None:
    model = build_language_model(TINY.model, seed=0)
    tokens, labels = torch.randint(20, 100, (4, 8)), torch.randint(20, 100, (4,))
    loss, right = last_token_loss(model, tokens, labels)
    logits = model(tokens)[:, -1]
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, labels))
    assert int(right) == int((logits.argmax(-1) == labels).sum())
    assert torch.equal(answers(model, tokens), logits.argmax(-1))


def test_expected_answers() -> None:
    assert expected_answers(50, 4, 3) == {"composite": 40, "symmetric": 44}
    assert expected_answers(50, 3, 4) == {"trained": 44}
    assert expected_answers(50, 1, 2) == {"trained": 56}


def test_steps_and_decays_are_those_of_the_model() -> None:
    model = build_language_model(mamba2_model(2, None, d_state=8), seed=0)
    dt, decay = steps_and_decays(model, torch.arange(20, 28))
    assert dt.shape == decay.shape == (2, 8)
    assert (dt > 0).all() and ((decay > 0) & (decay < 1)).all()
    A = -model.layers[1].mixer.A_log.exp()
    torch.testing.assert_close(decay[1], torch.exp(dt[1] * A).detach())
