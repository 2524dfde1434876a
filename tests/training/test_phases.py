"""Phases on a model small enough to check: what is kept, what is refused, what resumes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.training.batches import TensorBatches
from lib.training.checkpoints import CheckpointError
from lib.training.config import TrainingConfig
from lib.training.phases import PhaseFile, PhaseRun, to_precision, train_phase, twin

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
