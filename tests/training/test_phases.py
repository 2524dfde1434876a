"""Phases on a model small enough to check: what is kept, what is refused, what resumes."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.training import pace
from lib.training.batches import TensorBatches
from lib.training.checkpoints import CheckpointError, save_checkpoint
from lib.training.config import TrainingConfig
from lib.training.phases import (
    PhaseFile,
    PhaseRun,
    to_precision,
    train_phase,
    twin,
    weights_digest,
)

CONFIG = TrainingConfig(epochs=4, warmup_epochs=0, warmup_steps=3, batch_size=8, lr_peak=1e-2)


def loss(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    logits = model(x)
    return F.cross_entropy(logits, y), (logits.argmax(-1) == y).sum()


def runs(folder: Path | None, phase: str = "noisy") -> list[PhaseRun]:
    made = []
    for n in range(3):
        torch.manual_seed(n)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        x = torch.randn(40, 4, generator=torch.Generator().manual_seed(n % 2))
        batches = TensorBatches((x, (x.argmax(1) + n % 2) % 3), 8, seed=n % 2)
        file = PhaseFile(f"run{n}", phase, folder, f"cell{n}")
        made.append(PhaseRun(model, batches, n % 2, file))
    return made


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_together_or_alone_the_runs_are_the_same(tmp_path: Path) -> None:
    together, alone = runs(None), runs(tmp_path)
    results = train_phase(together, loss, CONFIG)
    single = train_phase(alone, loss, CONFIG, most=1)
    assert [r.status for r in (*results, *single)] == ["done"] * 6
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(flat(a.model), flat(b.model), rtol=1e-4, atol=1e-5)
        assert not a.model.training
    assert results[0].curves["lr"].iloc[0] == pytest.approx(single[0].curves["lr"].iloc[0])


def test_what_has_ended_is_not_trained_again(tmp_path: Path) -> None:
    first = runs(tmp_path)
    assert first[0].file.origin() is None
    train_phase(first, loss, CONFIG, origin={"commit": "abc"})
    assert first[0].file.origin() == {"commit": "abc"}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"cell{n}-noisy-ended.safetensors" for n in range(3)
    ]
    second = runs(tmp_path)

    def never(*_: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("trained again")

    results = train_phase(second, never, CONFIG)
    assert [r.status for r in results] == ["done"] * 3 and len(results[0].curves) == 4
    for a, b in zip(first, second, strict=True):
        assert flat(a.model).equal(flat(b.model))
    first[0].file.remove()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_phase_that_was_stopped_goes_on_exactly(tmp_path: Path) -> None:
    whole, cut = runs(None), runs(tmp_path)
    train_phase(whole, loss, CONFIG)
    seen = 0

    def slow(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal seen
        seen += 1
        if seen == 7:
            time.sleep(0.2)
        return loss(model, x, y)

    results = train_phase(cut, slow, CONFIG, deadline=time.monotonic() + 0.15)
    assert [r.status for r in results] == ["stopped"] * 3
    steps = {run.file.step() for run in cut}
    assert len(steps) == 1 and 0 < steps.pop() < 20
    again = runs(tmp_path)
    assert [r.status for r in train_phase(again, loss, CONFIG)] == ["done"] * 3
    for a, b in zip(whole, again, strict=True):
        assert flat(a.model).equal(flat(b.model))


def test_nothing_begins_after_a_stop(tmp_path: Path) -> None:
    results = train_phase(runs(tmp_path), loss, CONFIG, most=1, deadline=time.monotonic())
    assert [r.status for r in results] == ["stopped"] * 3
    why = "budget spent at step 0 of 20"
    assert [r.reason for r in results] == [why, *[f"not begun; others: {why}"] * 2]


def test_a_phase_that_would_not_end_is_given_up_if_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LEAST", 0.0)
    monkeypatch.setattr(pace, "MARGIN", 0.0)  # of whatever is left nothing is enough
    end = time.monotonic() + 3600
    results = train_phase(runs(tmp_path), loss, CONFIG, deadline=end, whole=True)
    assert [r.step for r in results] == [pace.STEPS] * 3
    assert all(r.reason is not None and r.reason.startswith("given up at step") for r in results)
    assert [r.status for r in train_phase(runs(tmp_path), loss, CONFIG, deadline=end)] == [
        "done"
    ] * 3


@pytest.mark.parametrize("ended", [True, False])
def test_a_checkpoint_of_another_phase_is_refused_by_name(tmp_path: Path, ended: bool) -> None:
    (run, *_) = runs(tmp_path, "clean")
    deadline = None if ended else time.monotonic()
    train_phase([run], loss, CONFIG, deadline=deadline)
    path = run.file.ended if ended else run.file.training
    assert path is not None
    (other, *_) = runs(tmp_path, "noisy")
    wrong = other.file.ended if ended else other.file.training
    assert wrong is not None
    path.rename(wrong)
    message = "belongs to cell run0, phase clean, not to run0, phase noisy"
    with pytest.raises(CheckpointError, match=message):
        train_phase([other], loss, CONFIG)


def test_warmup_in_steps() -> None:
    assert CONFIG.warmup(5) == 3
    assert TrainingConfig(warmup_epochs=2).warmup(5) == 10
    assert TrainingConfig(epochs=1, warmup_epochs=0, warmup_steps=100).warmup(7) == 7
    with pytest.raises(ValueError, match="warmup_steps is -1, allowed: None, or 0 or more"):
        TrainingConfig(warmup_steps=-1)


def test_a_twin_keeps_marks_and_shares_nothing() -> None:
    model = nn.Linear(2, 2)
    model.bias._no_weight_decay = True  # type: ignore[attr-defined]
    other = twin(model)
    assert other.bias._no_weight_decay and not hasattr(other.weight, "_no_weight_decay")
    with torch.no_grad():
        other.weight.zero_()
    assert model.weight.abs().sum() > 0
    assert to_precision(other, "bfloat16").weight.dtype == torch.bfloat16
    assert other.bias._no_weight_decay  # the mark survives
    with pytest.raises(ValueError, match="weights is 'float16', allowed: float32, bfloat16"):
        to_precision(other, "float16")


def stopped_at(folder: Path, step: int) -> None:
    """A phase of the first of :func:`runs`, killed after `step` steps."""
    seen = 0

    def until(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal seen
        seen += 1
        if seen > step:
            raise KeyboardInterrupt
        return loss(model, x, y)

    with pytest.raises(KeyboardInterrupt):
        train_phase(runs(folder)[:1], until, CONFIG, checkpoint_every=0.0, origin={"commit": "old"})


@pytest.mark.parametrize("ended", [True, False])
def test_what_began_with_other_weights_begins_again(
    tmp_path: Path, ended: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if ended:
        train_phase(runs(tmp_path)[:1], loss, CONFIG)
    else:
        stopped_at(tmp_path, 7)
    others, whole = runs(tmp_path)[:1], runs(None)[:1]
    for run in (*others, *whole):
        with torch.no_grad():
            next(run.model.parameters()).add_(0.125)  # the phase before was trained anew
    assert others[0].file.step() == (0 if ended else 7)
    train_phase(others, loss, CONFIG)
    train_phase(whole, loss, CONFIG)
    assert flat(others[0].model).equal(flat(whole[0].model))
    said = capsys.readouterr().err
    assert "cell0-noisy" in said and "began with other weights than those here" in said
    # beside the same ones it is taken as it is; a new model's are told by its identity
    new = [dataclasses.replace(runs(tmp_path)[0], new=True)]
    for again in (runs(tmp_path)[:1], new):
        if again is not new:
            with torch.no_grad():
                next(again[0].model.parameters()).add_(0.125)
        train_phase(again, loss, CONFIG)
        assert flat(again[0].model).equal(flat(others[0].model)) and not capsys.readouterr().err


def test_what_does_not_say_how_it_began_begins_again(tmp_path: Path) -> None:
    (run, *_) = runs(tmp_path)
    assert run.file.ended is not None
    tensors = {name: value + 1 for name, value in run.model.state_dict().items()}
    save_checkpoint(run.file.ended, run.file.identity, tensors, step=20, rows=[])
    kept = run.file.ended.read_bytes()
    train_phase([run], loss, CONFIG)
    # what was trained is not lost
    assert run.file.ended.with_name(f"{run.file.ended.name}.aside").read_bytes() == kept
    whole = runs(None)[:1]
    train_phase(whole, loss, CONFIG)
    assert flat(run.model).equal(flat(whole[0].model))


def test_a_digest_is_of_every_bit_and_name() -> None:
    model = nn.Linear(3, 2)
    other = twin(model)
    assert weights_digest(model) == weights_digest(other)
    with torch.no_grad():
        other.bias[0] = torch.nextafter(other.bias[0], torch.tensor(9.0))
    found = {weights_digest(m) for m in (model, other, twin(model).to(torch.bfloat16))}
    found.add(weights_digest(nn.Sequential(model)))
    assert len(found) == 4


def test_a_run_that_failed_begins_again_from_the_start(tmp_path: Path) -> None:
    seen = 0

    def poisoned(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal seen
        seen += 1
        value, right = loss(model, x, y)
        return value * (float("nan") if seen == 8 else 1.0), right

    (result,) = train_phase(runs(tmp_path)[:1], poisoned, CONFIG, checkpoint_every=0.0)
    assert result.status == "failed" and not list(tmp_path.iterdir())
    again, whole = runs(tmp_path)[:1], runs(None)[:1]
    assert [r.status for r in train_phase(again, loss, CONFIG)] == ["done"]
    train_phase(whole, loss, CONFIG)
    assert flat(again[0].model).equal(flat(whole[0].model))


def test_what_a_phase_ends_with_names_all_its_sessions(tmp_path: Path) -> None:
    stopped_at(tmp_path, 7)
    (run, *_) = runs(tmp_path)
    (result,) = train_phase([run], loss, CONFIG, origin={"commit": "new"})
    found = [(session["commit"], session["steps"]) for session in result.sessions]
    assert found == [("old", 7), ("new", 13)]
    (kept,) = train_phase(runs(tmp_path)[:1], loss, CONFIG, origin={"commit": "later"})
    assert kept.sessions == result.sessions
