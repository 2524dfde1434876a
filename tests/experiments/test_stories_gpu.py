"""Language models on the device: compiled layer by layer inside CUDA graphs, and measured there;
without a GPU these tests are skipped (see QUARANTINE.md)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lib.bench.by_length import inference_model, measure_costs
from lib.experiments import Context
from lib.experiments._language import LanguageCell, train_language
from lib.models.config import LanguageModelConfig, MoEConfig
from lib.models.language_model import build_language_model
from lib.models.presets import ARCHITECTURES, preset
from lib.tasks.corpus import CorpusConfig, StoryText
from lib.tasks.language import LanguageTask
from lib.tasks.tokenizers import BPEConfig
from lib.training.config import TrainingConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAMBA_BOOK_RUNS", str(tmp_path_factory.getbasetemp() / "language"))


def small(kind: str) -> LanguageModelConfig:
    return dataclasses.replace(preset(kind, "1M", 512), n_layers=4)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_compiled_layers_in_a_graph_train_as_eager_ones_do(kind: str, tmp_path: Path) -> None:
    task = LanguageTask(
        CorpusConfig(StoryText(documents=300), validation=0.1),
        BPEConfig(512, 200_000), length=160, epoch_tokens=160 * 16 * 20, valid_rows=16,
    )  # fmt: skip
    training = TrainingConfig(
        epochs=6, warmup_epochs=1, batch_size=16, lr_peak=3e-3, beta2=0.95, precision="bfloat16"
    )
    cell = LanguageCell(task, small(kind), training, seed=1)
    losses = []
    for compiled in (True, False):
        (outcome,) = train_language([cell], Context(device="cuda", compile=compiled))
        assert outcome.status == "done" and outcome.facts["compile"] == compiled
        losses.append(outcome.metrics["final_valid_loss"])
    assert losses[1] is not None and losses[1] < 4.5  # it learns: log 512 is 6.2
    assert losses[0] == pytest.approx(losses[1], rel=0.03)


def experts(device: str, narrow: bool, x: Tensor) -> list[Tensor]:
    """Output and gradients of a mixture whose groups are of any size."""
    config = LanguageModelConfig(30, 1, (MoEConfig(64, d_hidden=48, n_experts=8, top_k=2),))
    mixer = build_language_model(config, seed=0, device=device).layers[0].mixer
    given = x.to(device).requires_grad_()
    with torch.autocast(device, torch.bfloat16, enabled=narrow):
        out = mixer(given)
    out.float().square().sum().backward()
    return [out, given.grad, *(p.grad for p in mixer.parameters())]  # type: ignore[list-item]


@pytest.mark.parametrize("rows", [1, 7, 61, 500])
def test_experts_of_uneven_groups_have_the_processor_s_gradients(rows: int) -> None:
    x = torch.randn(1, rows, 64, generator=torch.Generator().manual_seed(rows))
    for found, exact in zip(experts("cuda", True, x), experts("cpu", False, x), strict=True):
        error = (found.float().cpu() - exact).norm() / exact.norm().clamp(min=1e-6)
        assert float(error.detach()) < 0.05


@pytest.mark.parametrize("kind", ["mamba1", "mamba2", "transformer"])
def test_costs_by_length_are_measured_in_graphs(kind: str) -> None:
    model = inference_model(small(kind), 1, "cuda", torch.bfloat16)
    costs = measure_costs(model, 512, repeats=2, steps=4, seed=1)
    found = costs.metrics
    assert "not captured" not in "".join(costs.notes.values())
    assert 0 < found["token_device_ms"] < found["token_ms"]  # type: ignore[operator]
    assert found["step_error"] < 0.05  # type: ignore[operator]
    assert found["token_peak_bytes"] > found["state_bytes"] > 0  # type: ignore[operator]
    assert found["prefill_peak_bytes"] >= found["state_bytes"]  # type: ignore[operator]
