"""The loop on a model small enough to check by hand; kill and resume are in test_runner."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.training import loop, pace
from lib.training.batches import TensorBatches
from lib.training.checkpoints import (
    CheckpointError,
    checkpoint_step,
    load_checkpoint,
    save_checkpoint,
    serialise,
    take_up,
)
from lib.training.compiling import pays_to_compile
from lib.training.config import TrainingConfig
from lib.training.graphs import warm_up
from lib.training.loop import Trainer
from lib.training.runs import Run
from lib.training.schedules import warmup_cosine

CONFIG = TrainingConfig(epochs=3, warmup_epochs=1, batch_size=8, lr_peak=1e-2)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def make_batches(rows: int = 48, batch_size: int = 8, drop_last: bool = True) -> TensorBatches:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 4, generator=generator)
    return TensorBatches((x, x.argmax(1) % 3), batch_size, seed=5, drop_last=drop_last)


def loss(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    logits = model(x)
    return F.cross_entropy(logits, y), (logits.argmax(-1) == y).sum()


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_equals_a_plain_loop_written_out() -> None:
    model, plain = make_model(), make_model()
    result = Trainer(model, loss, make_batches(), CONFIG).run()
    batches = make_batches()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1.0, weight_decay=0.01)
    rates = warmup_cosine(18, 6, 1e-5, 1e-2, 1e-5)
    losses = []
    for epoch in range(3):
        order = torch.randperm(48, generator=torch.Generator().manual_seed(5 * 1_000_003 + epoch))
        for k in range(6):
            rows = order[k * 8 : k * 8 + 8]
            value, _ = loss(plain, batches.tensors[0][rows], batches.tensors[1][rows])
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            optimizer.param_groups[0]["lr"] = rates[epoch * 6 + k]
            optimizer.step()
            losses.append(value.item())
    assert result.status == "done" and result.step == 18
    torch.testing.assert_close(flat(model), flat(plain), rtol=1e-5, atol=1e-7)
    means = [sum(losses[e * 6 : e * 6 + 6]) / 6 for e in range(3)]
    assert result.curves["train_loss"].tolist() == pytest.approx(means, rel=1e-5)
    assert result.curves["epoch"].tolist() == [1, 2, 3]
    assert result.curves["lr"].tolist() == pytest.approx([rates[5], rates[11], rates[17]])


def test_evaluate_sees_eval_mode_and_its_numbers_become_curves() -> None:
    modes = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        modes.append((model.training, torch.is_grad_enabled()))
        return {"size": float(flat(model).norm())}

    model = make_model()
    result = Trainer(model, loss, make_batches(), CONFIG, evaluate=evaluate).run()
    assert modes == [(False, False)] * 3 and model.training
    assert result.curves["size"].iloc[-1] == float(flat(model).norm())


def test_a_training_is_under_way_from_its_first_step_to_its_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace, "_under_way", pace.WeakKeyDictionary())
    there = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        there.append(list(pace._under_way))
        return {}

    trainer = Trainer(
        make_model(), loss, make_batches(), CONFIG, evaluate=evaluate, deadline=math.inf, whole=True
    )
    assert trainer.limit.whole and not pace._under_way
    trainer.run()
    assert there == [[trainer.limit]] * 3 and not pace._under_way


@pytest.mark.parametrize("stop_after", [1, 6, 7, 17])
def test_stop_and_resume_is_exact(tmp_path: Path, stop_after: int) -> None:
    whole, model = make_model(), make_model()
    expected = Trainer(whole, loss, make_batches(), CONFIG).run()
    path = tmp_path / "cell.safetensors"

    class Stops(Trainer):
        def _advance(self, position: Tensor | int) -> None:
            super()._advance(position)
            if self.step + 1 == stop_after:
                self.limit.deadline = time.monotonic()

    first = Stops(model, loss, make_batches(), CONFIG, runs=[Run("a", path)]).run()
    assert first.status == "stopped" and first.step == stop_after
    fresh = make_model()
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.fill_(7.0)  # nothing but the checkpoint may matter
    trainer = Trainer(fresh, loss, make_batches(), CONFIG, runs=[Run("a", path)])
    second = trainer.run()
    assert trainer.first_step == stop_after and second.status == "done"
    assert torch.equal(flat(fresh), flat(whole))
    assert second.curves.equals(expected.curves)
    # epochs of this session that were begun in it
    steps = trainer.batches.steps
    assert len(trainer.epoch_seconds) == (trainer.total - stop_after) // steps
    assert all(seconds > 0 for seconds in trainer.epoch_seconds)


def test_checkpoint_of_another_cell_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "cell.safetensors"
    Trainer(make_model(), loss, make_batches(), CONFIG, runs=[Run("a", path)]).save()
    before = path.read_bytes()
    other = Trainer(make_model(), loss, make_batches(), CONFIG, runs=[Run("b", path)])
    with pytest.raises(CheckpointError, match="belongs to cell a, not to b"):
        other.run()
    assert path.read_bytes() == before


def test_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cell.safetensors"
    save_checkpoint(path, "a", {"x": torch.arange(1000)})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"cell\.safetensors cannot be read"):
        load_checkpoint(path, "a")
    with pytest.raises(CheckpointError, match=r"gone\.safetensors cannot be read"):
        load_checkpoint(tmp_path / "gone.safetensors")


def test_a_damaged_checkpoint_is_put_aside_and_its_run_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "cell.safetensors"
    whole = serialise({"x": torch.arange(1000)}, identity="a", step=3, rows=[])
    path.write_bytes(whole)
    found = take_up(path, "a")
    assert found is not None and found[1]["step"] == 3 and checkpoint_step(path, "a") == 3
    no_step = serialise({"x": torch.arange(3)}, identity="a", rows=[])
    for damaged in (whole[:100], b"", no_step):
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"cell\.safetensors cannot be read.*begins again"):
            assert checkpoint_step(path, "a") == 0
        assert not path.exists()
        assert path.with_name("cell.safetensors.damaged").read_bytes() == damaged
        assert take_up(path, "a") is None
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match="belongs to cell a, not to b"):
        take_up(path, "b")
    assert path.exists()


def test_a_checkpoint_that_cannot_be_opened_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cell.safetensors"
    save_checkpoint(path, "a", {"x": torch.arange(3)}, step=1, rows=[])

    def refused(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refused)
        with pytest.raises(CheckpointError, match=r"cannot be read: .*Permission denied"):
            take_up(path, "a")
    assert take_up(path, "a") is not None


def test_checkpoints_take_tied_weights(tmp_path: Path) -> None:
    weight = torch.randn(3, 2)
    path = tmp_path / "tied.safetensors"
    path.write_bytes(serialise({"a": weight, "b": weight, "c": weight.T}))
    tensors, _ = load_checkpoint(path)
    assert torch.equal(tensors["a"], weight) and torch.equal(tensors["b"], weight)
    assert torch.equal(tensors["c"], weight.T)


def test_a_reader_sees_the_old_checkpoint_or_the_new_one(tmp_path: Path) -> None:
    """However often it is replaced meanwhile, by one of another size."""
    path, over = tmp_path / "x.safetensors", threading.Event()

    def replace_it() -> None:
        step = 0
        while not over.is_set():
            step = (step + 1) % 7
            tensors = {"x": torch.full((100 * (step + 1),), float(step))}
            save_checkpoint(path, "a", tensors, step=step)

    save_checkpoint(path, "a", {"x": torch.zeros(100)}, step=0)
    writer = threading.Thread(target=replace_it)
    writer.start()
    try:
        for _ in range(6000):
            tensors, facts = load_checkpoint(path, "a")
            assert tensors["x"].tolist() == [facts["step"]] * (100 * (facts["step"] + 1))
    finally:
        over.set()
        writer.join()


def test_a_checkpoint_is_read_off_the_device_by_the_thread_that_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other threads know nothing of its stream, and would not wait for what that still does."""
    real, copies, readers = torch.Tensor.cpu, dict[int, Tensor](), set[threading.Thread]()

    def cpu(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in copies:  # as on a GPU: what is not on the host gets there
            readers.add(threading.current_thread())
            tensor = real(tensor).clone()
            copies[tensor.data_ptr()] = tensor
        return tensor

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    path = tmp_path / "cell.safetensors"
    Trainer(make_model(), loss, make_batches(), CONFIG, runs=[Run("a", path)]).save()
    assert copies and readers == {threading.current_thread()} and path.exists()


def test_nan_ends_as_failed_with_the_step() -> None:
    def poisoned(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        value, right = loss(model, x, y)
        poisoned.calls += 1  # type: ignore[attr-defined]
        return value * (math.nan if poisoned.calls == 9 else 1.0), right  # type: ignore[attr-defined]

    poisoned.calls = 0  # type: ignore[attr-defined]
    result = Trainer(make_model(), poisoned, make_batches(), CONFIG).run()
    assert result.status == "failed"
    assert result.reason == "the loss was not finite at step 9 of 18"
    assert len(result.curves) == 1


def test_clipping_bounds_the_update() -> None:
    steep = dataclasses.replace(CONFIG, clip_norm=1e-3)
    norms = []

    class Watches(Trainer):
        def _advance(self, position: Tensor | int) -> None:
            super()._advance(position)
            grads = [p.grad.flatten() for p in self.model.parameters() if p.grad is not None]
            norms.append(float(torch.cat(grads).norm()))

    Watches(make_model(), loss, make_batches(), steep).run()
    assert len(norms) == 18 and max(norms) <= 1e-3 * 1.001
    norms.clear()
    Watches(make_model(), loss, make_batches(), dataclasses.replace(CONFIG, clip_norm=None)).run()
    assert max(norms) > 0.1


def test_spared_parameters_do_not_decay() -> None:
    ends = []
    for spare in (False, True):
        model = make_model()
        model[0].bias._no_weight_decay = True  # type: ignore[union-attr]
        with torch.no_grad():
            model[0].bias.fill_(3.0)  # type: ignore[union-attr]
        config = dataclasses.replace(CONFIG, weight_decay=0.5, lr_peak=0.1, spare_dynamics=spare)

        def flat_loss(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return model(x).sum() * 0.0, torch.zeros((), dtype=torch.int64)

        Trainer(model, flat_loss, make_batches(), config).run()
        ends.append(model[0].bias.detach().clone())  # type: ignore[union-attr]
    assert (ends[0] < 2.9).all() and torch.equal(ends[1], torch.full_like(ends[1], 3.0))


def test_every_row_once_an_epoch_and_the_last_batch_kept() -> None:
    batches = make_batches(rows=50, batch_size=8, drop_last=False)
    assert batches.steps == 7 and not batches.even
    batches.begin_epoch(0)
    seen = torch.cat([batches.gather(k)[0] for k in range(7)])
    assert len(seen) == 50
    assert torch.equal(seen.sort(0).values, batches.tensors[0].sort(0).values)
    first = batches.order.clone()
    batches.begin_epoch(1)
    assert not torch.equal(first, batches.order)
    batches.begin_epoch(0)
    assert torch.equal(first, batches.order)
    for k in range(6):
        by_tensor = batches.gather(torch.tensor(k))
        assert torch.equal(by_tensor[0], batches.gather(k)[0])
    result = Trainer(make_model(), loss, batches, CONFIG).run()
    assert result.step == 21


@pytest.mark.parametrize("size", [0, 49])
def test_bad_batch_size_is_named(size: int) -> None:
    with pytest.raises(ValueError, match=rf"batch_size is {size}, allowed: 1..48"):
        make_batches(batch_size=size)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"warmup_epochs": 300}, r"warmup_epochs is 300, allowed: 0..210"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"lr_peak": 0.0}, r"lr_peak is 0.0, allowed: more than 0"),
        ({"beta2": 1.0}, "beta2 is 1.0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"lr_by": "step"}, "lr_by is 'step'"),
    ],
)
def test_bad_training_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("device", "used", "pays"),
    [
        ("cpu", {"ssd": ["quadratic"]}, False),
        ("cuda", {"ssd": ["quadratic"], "causal_conv1d": ["reference"]}, True),
        ("cuda", {"mamba2_block": ["fused"]}, False),
        (
            "cuda",
            {"mamba2_block": ["fused"], "linear": ["tensor_cores"], "lookup": ["short_rows"]},
            False,
        ),
        ("cuda", {"mamba2_block": ["fused"], "ssd": ["quadratic"]}, True),
    ],
)
def test_compiling_pays_where_fused_blocks_leave_something(
    device: str, used: dict[str, list[str]], pays: bool
) -> None:
    assert pays_to_compile(torch.device(device), used) is pays


@pytest.mark.parametrize("left", [1, 2, 3, 6, 7, 12])
@pytest.mark.parametrize("drop_last", [True, False])
def test_a_warm_up_ends_wherever_training_goes_on(
    left: int, drop_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before the last steps of an epoch, and of all: it reads nothing that lies past them."""
    trainer = Trainer(make_model(), loss, make_batches(41, 8, drop_last), CONFIG)
    steps = trainer.batches.steps
    trainer.step = trainer.total - left
    trainer.batches.begin_epoch(trainer.step // steps)
    trainer.counters["position"].fill_(trainer.step % steps)
    trainer.counters["global_step"].fill_(trainer.step)
    before = {name: value.clone() for name, value in trainer.state().items()}
    read, rates = [], []
    gather = trainer.batches.gather

    def noted(position: Tensor | int) -> tuple[Tensor, ...]:
        read.append(int(position))
        rates.append(int(trainer.counters["global_step"]))  # by which a GPU finds its own
        return gather(position)

    def capture(first, smaller, measure, rewind, restore) -> None:  # type: ignore[no-untyped-def]
        monkeypatch.setattr(trainer.batches, "gather", noted)
        warm_up(first, smaller, measure, rewind)
        restore()

    monkeypatch.setattr(loop, "capture", capture)
    trainer._capture()
    assert set(rates) == {0}
    assert read == [0, 0, 0] + ([] if drop_last else [steps - 1])
    after = trainer.state()
    assert all(torch.equal(after[name], value) for name, value in before.items())
