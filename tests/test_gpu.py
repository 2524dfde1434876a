"""What only a GPU can show; without one these tests are skipped (see QUARANTINE.md)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest
import torch

from lib.experiments import Context
from lib.experiments.achilles import CompositeCell, mamba2_model, run_composite
from lib.models.config import AttentionConfig, FeedForwardConfig, LanguageModelConfig
from lib.models.language_model import build_language_model
from lib.ops import backends
from lib.ops.conv import causal_conv1d
from lib.ops.scan import selective_scan
from lib.ops.ssd import ssd
from lib.tasks.composite import CompositeTask
from lib.training.config import TrainingConfig
from lib.training.ensemble import Ensemble

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

CELL = CompositeCell(
    CompositeTask(train_per_pair=500, test_per_pair=50),
    mamba2_model(2, 1.0),
    TrainingConfig(epochs=3, warmup_epochs=1, batch_size=250, lr_peak=1e-3),
    seed=1,
)


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    actual, expected = actual.detach().double().cpu(), expected.detach().double().cpu()
    # a gradient may be exactly zero (A's at length 1): then the other must be zero to rounding
    return float((actual - expected).norm() / expected.norm().clamp(min=1e-3))


def scan_inputs(length: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(length)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "u": draw(3, 16, length).to(dtype), "delta": draw(3, 16, length).to(dtype),
        "A": -torch.rand(16, 16, generator=generator, dtype=torch.float64).float() * 4,
        "B": draw(3, 16, length).to(dtype), "C": draw(3, 16, length).to(dtype),
        "D": draw(16).float(), "z": draw(3, 16, length).to(dtype), "delta_bias": draw(16).float(),
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 8, 127, 1000])
@pytest.mark.parametrize("backend", ["reference", "chunked", "mamba_ssm"])
def test_selective_scan_against_float64(backend: str, length: int, dtype: torch.dtype) -> None:
    reason = backends.missing("selective_scan", backend, torch.device("cuda"))
    if reason:
        pytest.skip(reason)
    allowed = 1e-5 if dtype == torch.float32 else 1e-2
    inputs = scan_inputs(length, dtype)
    exact = {k: v.double().requires_grad_() for k, v in inputs.items()}
    fast = {k: v.cuda().requires_grad_() for k, v in inputs.items()}
    expected = selective_scan(**exact, delta_softplus=True, backend="reference")
    actual = selective_scan(**fast, delta_softplus=True, backend=backend)
    assert relative(actual, expected) < allowed
    weight = torch.randn(expected.shape, dtype=torch.float64)
    (expected * weight).sum().backward()
    (actual * weight.cuda().to(actual.dtype)).sum().backward()
    for name, tensor in fast.items():
        assert tensor.grad is not None and exact[name].grad is not None
        assert relative(tensor.grad, exact[name].grad) < 10 * allowed, name


@pytest.mark.parametrize("backend", ["reference", "quadratic", "chunked"])
@pytest.mark.parametrize("length", [1, 8, 129])
def test_ssd_and_conv_against_float64(backend: str, length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    shapes = {
        "x": (2, length, 4, 8), "dt": (2, length, 4), "A": (4,), "B": (2, length, 2, 16),
        "C": (2, length, 2, 16), "D": (4,), "initial_state": (2, 4, 8, 16),
    }  # fmt: skip
    exact = {k: torch.randn(s, generator=generator).double() for k, s in shapes.items()}
    exact["A"] = -exact["A"].abs() - 0.1
    exact = {k: v.requires_grad_() for k, v in exact.items()}
    fast = {k: v.detach().float().cuda().requires_grad_() for k, v in exact.items()}
    run = {"dt_softplus": True, "return_last_state": True}
    expected = ssd(**exact, **run, backend="reference")
    actual = ssd(**fast, **run, backend=backend, chunk_size=32)
    for a, e in zip(actual, expected, strict=True):
        assert relative(a, e) < 1e-5
    sum(e.square().sum() for e in expected).backward()
    sum(a.square().sum() for a in actual).backward()
    for name, tensor in fast.items():
        assert relative(tensor.grad, exact[name].grad) < 1e-4, name
    x, w = exact["x"].detach().flatten(2).transpose(1, 2), torch.randn(32, 4).double()
    for name in ("shifts", "conv1d"):
        found = causal_conv1d(x.float().cuda(), w.float().cuda(), backend=name)
        assert relative(found, causal_conv1d(x, w, backend="reference")) < 1e-5


def curves(**options: object) -> pd.DataFrame:
    (outcome,) = run_composite([CELL], Context(**options))  # type: ignore[arg-type]
    assert outcome.status == "done" and outcome.curves is not None
    return outcome.curves


def test_training_on_the_gpu_follows_the_processor() -> None:
    expected = curves(device="cpu")["train_loss"].to_numpy()
    for compile in (False, True):
        actual = curves(device="cuda", compile=compile)["train_loss"].to_numpy()
        assert actual == pytest.approx(expected, rel=2e-3)


def test_training_on_the_gpu_stops_and_resumes(tmp_path: Path) -> None:
    import time

    whole = curves(device="cuda")
    # a deadline in the past stops before the first step; the second run starts from that checkpoint
    context = Context("cuda", deadline=time.monotonic(), checkpoints=tmp_path)
    (stopped,) = run_composite([CELL], context)
    assert stopped.status == "stopped" and len(list(tmp_path.iterdir())) == 1
    resumed = curves(device="cuda", checkpoints=tmp_path)
    assert resumed["train_loss"].tolist() == pytest.approx(whole["train_loss"].tolist(), rel=1e-4)


def test_the_smaller_last_batch_runs_beside_the_graph() -> None:
    cell = dataclasses.replace(
        CELL, training=dataclasses.replace(CELL.training, batch_size=400, drop_last=False)
    )
    rows = []
    for device in ("cpu", "cuda"):
        (outcome,) = run_composite([cell], Context(device))
        assert outcome.curves is not None
        rows.append(outcome.curves)
    assert rows[0]["step"].tolist() == rows[1]["step"].tolist() == [19, 38, 57]
    assert rows[1]["train_loss"].tolist() == pytest.approx(rows[0]["train_loss"].tolist(), rel=2e-3)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("conv_kind", ["none", "standard"])
@pytest.mark.parametrize("d_v", [32, 64])
@pytest.mark.filterwarnings("error:There is a performance drop")  # vmap's, where it would loop
def test_an_ensemble_of_transformers_equals_each_alone(
    d_v: int, conv_kind: Literal["none", "standard"], compiled: bool
) -> None:
    """Through the library's attention kernels, which differ with the widths of keys and values."""
    torch.compiler.reset()
    pattern = (AttentionConfig(32, d_v=d_v, conv_kind=conv_kind), FeedForwardConfig(32, 64))
    config = LanguageModelConfig(30, 4, pattern, norm_place="after", norm_kind="layer")
    models = [build_language_model(config, seed=seed) for seed in range(3)]
    tokens = torch.randint(30, (3, 64, 29), generator=torch.Generator().manual_seed(0))
    ensemble = Ensemble([model.to("cuda") for model in models])
    run = torch.compile(ensemble, fullgraph=True) if compiled else ensemble
    found = run(tokens.to("cuda"), last_token_only=True)
    found.square().mean((1, 2)).sum().backward()
    stacked = dict(ensemble.stacked.named_parameters())
    for index, model in enumerate(models):
        exact = model.cpu().double()
        alone = exact(tokens[index], last_token_only=True)
        alone.square().mean().backward()
        assert relative(found[index], alone) < 1e-4
        for name, parameter in exact.named_parameters():
            assert relative(stacked[name].grad[index], parameter.grad) < 1e-3, name


@pytest.mark.parametrize("length", [29, 192])
def test_stacked_transformers_have_each_run_s_gradient_in_bfloat16(length: int) -> None:
    """Of cuDNN's kernel, which the library would choose, they are wrong."""
    pattern = (AttentionConfig(64, n_heads=2, rope_theta=1e4), FeedForwardConfig(64, 64))
    config = LanguageModelConfig(30, 4, pattern)
    models = [build_language_model(config, seed=seed, device="cuda") for seed in range(3)]
    tokens = torch.randint(30, (3, 16, length), device="cuda")
    ensemble = Ensemble(models)
    with torch.autocast("cuda", torch.bfloat16):
        found = ensemble(tokens)
    found.square().mean((1, 2, 3)).sum().backward()
    stacked = dict(ensemble.stacked.named_parameters())
    for index, model in enumerate(models):
        with torch.autocast("cuda", torch.bfloat16):
            alone = model(tokens[index])
        alone.square().mean().backward()
        for name, parameter in model.named_parameters():
            assert relative(stacked[name].grad[index], parameter.grad) < 0.05, name
