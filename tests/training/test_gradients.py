"""Parts of a batch give the batch's gradient; bfloat16 products leave weights in float32."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.training.batches import TensorBatches
from lib.training.config import TrainingConfig
from lib.training.gradients import backward
from lib.training.loop import Trainer

CONFIG = TrainingConfig(epochs=2, warmup_epochs=1, batch_size=12, lr_peak=1e-2)


def make_model(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def make_batches(rows: int, dtype: torch.dtype = torch.float64) -> TensorBatches:
    x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return TensorBatches((x, x.argmax(1) % 3), 12, seed=5, drop_last=False)


def loss(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    logits = model(x)
    return F.cross_entropy(logits, y), (logits.argmax(-1) == y).sum()


@pytest.mark.parametrize("accumulate", [2, 3, 12])
@pytest.mark.parametrize("rows", [24, 29])  # 29: the last batch has 5 rows, in unequal parts
def test_training_in_parts_is_training(accumulate: int, rows: int) -> None:
    whole, parts = make_model(), make_model()
    expected = Trainer(
        whole, loss, make_batches(rows), dataclasses.replace(CONFIG, drop_last=False)
    )
    config = dataclasses.replace(CONFIG, drop_last=False, accumulate=accumulate)
    found = Trainer(parts, loss, make_batches(rows), config)
    one, two = expected.run().curves, found.run().curves
    for name in one:
        assert two[name].tolist() == pytest.approx(one[name].tolist(), rel=1e-9), name
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_only_a_part_is_in_memory_at_a_time() -> None:
    sizes = []

    def watched(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(x))
        return loss(model, x, y)

    model = make_model()
    batch = make_batches(24).gather(0)
    backward(watched, batch, dataclasses.replace(CONFIG, accumulate=4), 0)
    assert sizes == [3] * 4


def test_bfloat16_is_for_products_alone() -> None:
    kinds = set()
    model = make_model(torch.float32)
    model[0].register_forward_hook(lambda m, i, out: kinds.add((m.weight.dtype, out.dtype)))
    config = dataclasses.replace(CONFIG, precision="bfloat16")
    trainer = Trainer(
        model, loss, make_batches(24, torch.float32), config,
        evaluate=lambda model: {"kind": float(model(torch.zeros(1, 4)).dtype == torch.bfloat16)},
    )  # fmt: skip
    curves = trainer.run().curves
    assert kinds == {(torch.float32, torch.bfloat16)}
    assert curves["kind"].tolist() == [1.0, 1.0]  # measured as it is trained
    held = trainer.optimizer.state[model[0].weight]["exp_avg"]
    assert model[0].weight.grad is not None
    assert model[0].weight.grad.dtype == held.dtype == torch.float32
    exact = Trainer(make_model(torch.float32), loss, make_batches(24, torch.float32), CONFIG).run()
    mine, theirs = curves["train_loss"].tolist(), exact.curves["train_loss"].tolist()
    assert mine == pytest.approx(theirs, rel=0.02) and mine != theirs


def test_the_accuracy_counts_answers_and_not_rows() -> None:
    """A language model answers at every position."""
    tokens = torch.arange(24 * 5).view(24, 5) % 3
    batches = TensorBatches((tokens, tokens), 12, seed=5)

    class Echo(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return F.one_hot(torch.where(x == 2, 0, x), 3) * self.scale

    def every(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(x)
        return F.cross_entropy(logits.flatten(0, 1), y.flatten()), (logits.argmax(-1) == y).sum()

    curves = Trainer(Echo(), every, batches, CONFIG).run().curves
    assert curves["train_accuracy"].tolist() == pytest.approx([2 / 3, 2 / 3])


def test_a_config_that_cannot_be_says_so() -> None:
    with pytest.raises(ValueError, match="accumulate is 5, allowed: a divisor of batch_size 12"):
        dataclasses.replace(CONFIG, accumulate=5)
    with pytest.raises(ValueError, match="precision is 'half', allowed: 'float32' or 'bfloat16'"):
        dataclasses.replace(CONFIG, precision="half")  # type: ignore[arg-type]
