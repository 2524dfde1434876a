from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lib.analysis.rounding import lost, lost_share, watch_updates
from lib.training.batches import TensorBatches
from lib.training.config import TrainingConfig


@given(st.integers(-12, 3), st.floats(0.01, 0.49), st.floats(0.51, 3))
def test_less_than_half_a_gap_is_lost_and_more_is_not(
    power: int, little: float, enough: float
) -> None:
    # 1.5 * 2^p is no power of two: the gap is 2^(p-7) on both of its sides
    weight = torch.tensor([1.5 * 2.0**power])
    gap = 2.0 ** (power - 7)
    for sign in (1, -1):
        assert bool(lost(weight, torch.tensor([sign * little * gap])))
        assert not bool(lost(weight, torch.tensor([sign * enough * gap])))


def test_the_protocols_bound_for_3e_6() -> None:
    # an update of 3e-6 survives below 2^-10 at most
    assert not lost(torch.tensor([1.5 * 2**-11]), torch.tensor([3e-6])).any()
    assert lost(torch.tensor([1.5 * 2**-10]), torch.tensor([3e-6])).all()
    weights = torch.randn(100_000, generator=torch.Generator().manual_seed(1)) * 0.02
    assert 1 - lost_share([weights], 3e-6) == pytest.approx(0.039, abs=0.01)
    assert 1 - lost_share([weights], 1e-5) == pytest.approx(0.155, abs=0.03)


def loss(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return (model(x)[:, 0].float() - y).square().mean(), torch.zeros(())


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_watched_updates_are_those_that_were_made(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Linear(64, 1).to(kind)
    x = torch.randn(32, 64).to(kind)
    batches = TensorBatches((x, x[:, 0].float()), 8, 1)
    for rate, most in ((1e-7, 1.0), (1e-1, 0.2)):
        config = TrainingConfig(lr_peak=rate, batch_size=8, weight_decay=0.0)
        found = watch_updates(model, loss, batches, config, 3)
        assert found["would_round_away"] <= most
        if kind == torch.bfloat16:
            assert found["unmoved"] == pytest.approx(found["would_round_away"])
    tiny = TrainingConfig(lr_peak=1e-7, batch_size=8, weight_decay=0.0)
    found = watch_updates(model, loss, batches, tiny, 3)
    assert found["would_round_away"] > 0.9
    assert (found["distance"] < 0.1) == (kind == torch.bfloat16)
