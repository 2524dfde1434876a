"""Costs by context length: what is timed is right, and what can be counted is exact."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lib.bench import by_length
from lib.bench.by_length import inference_model, measure_costs
from lib.models.config import (
    AttentionConfig,
    FeedForwardConfig,
    LanguageModelConfig,
    Mamba1Config,
    Mamba2Config,
)

MODELS = {
    "mamba1": LanguageModelConfig(40, 2, (Mamba1Config(16, d_state=4),), tie_embeddings=True),
    "mamba2": LanguageModelConfig(40, 2, (Mamba2Config(16, d_state=8, headdim=16),)),
    "transformer": LanguageModelConfig(
        40, 4, (AttentionConfig(16, n_heads=2, d_qk=16, d_v=16, rope_theta=1e4),
                FeedForwardConfig(16, d_hidden=24)), tie_embeddings=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_states_are_counted_and_every_time_has_its_half_and_exponent(kind: str) -> None:
    model = inference_model(MODELS[kind], 1, "cpu", torch.float32)
    costs = measure_costs(model, 32, repeats=3, steps=2, seed=1)
    found = costs.metrics
    sizes = {
        "mamba1": 2 * (32 * 3 + 32 * 4) * 4,  # layers (channels x taps before, channels x state)
        "mamba2": 2 * ((32 + 2 * 8) * 3 + 32 * 8) * 4,
        "transformer": 2 * 2 * 16 * 32 * 4,  # layers, keys and values, width, tokens
    }
    grows = kind == "transformer"
    assert found["state_bytes"] == sizes[kind]
    assert found["half_state_bytes"] == sizes[kind] / (2 if grows else 1)
    assert found["exponent_state_bytes"] == float(grows)
    assert found["weight_bytes"] == 4 * sum(p.numel() for p in model.parameters())
    assert found["step_error"] == pytest.approx(0, abs=1e-5)
    assert list(costs.repeats["repeat"]) == [0, 1, 2]
    for name in ("prefill_ms", "token_ms"):
        whole, half = costs.repeats[name], costs.repeats[f"half_{name}"]
        assert (whole > 0).all() and (half > 0).all()
        assert found[name] == whole.median() and found[f"half_{name}"] == half.median()
        assert found[f"exponent_{name}"] == pytest.approx(math.log2((whole / half).median()))
    # a processor has no graphs and does not say how much memory was used at most
    assert not any("device" in name or "peak" in name for name in found)


def test_only_what_decides_on_forgetting_stays_in_float32() -> None:
    model = inference_model(MODELS["mamba1"], 1, "cpu", torch.bfloat16)
    kept = {name.rsplit("mixer.", 1)[-1] for name, p in model.named_parameters()
            if p.dtype == torch.float32}  # fmt: skip
    assert kept == {"A_log", "D", "dt_proj.bias"}
    assert model.head.weight is model.embedding.weight and not model.training
    assert measure_costs(model, 8, repeats=1, steps=1, seed=1).metrics["step_error"] < 0.05


def test_the_clock_sees_both_sides_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Clock:
        def time(self, work: object) -> float:
            side = work.__self__  # type: ignore[attr-defined]
            seen.append(side.length)
            return side.length / 1e3 if work == side.read else 0.004

    monkeypatch.setattr(by_length, "clock_of", lambda device: Clock())
    model = inference_model(MODELS["mamba1"], 1, "cpu", torch.float32)
    found = measure_costs(model, 16, repeats=2, steps=4, seed=1).metrics
    assert seen == [16, 8, 16, 8] * 2
    assert (found["prefill_ms"], found["half_prefill_ms"]) == (16, 8)
    assert found["exponent_prefill_ms"] == 1 and found["exponent_token_ms"] == 0
    assert found["token_ms"] == 1  # 4 ms for 4 tokens


@pytest.mark.parametrize("length", [2, 7])
def test_a_length_without_a_half_is_refused(length: int) -> None:
    model = inference_model(MODELS["mamba1"], 1, "cpu", torch.float32)
    with pytest.raises(ValueError, match=f"length is {length}, allowed: even numbers from 4 on"):
        measure_costs(model, length, repeats=1, steps=1, seed=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", MODELS)
def test_a_step_that_forgets_what_was_read_is_not_timed(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = inference_model(MODELS[kind], 1, "cpu", dtype)
    step = model.step
    start = model.initial_states(1)
    monkeypatch.setattr(model, "step", lambda token, states, position: step(token, start, 0))
    message = rf"step_error is .*, allowed: up to .* in {dtype}; a step after reading does not give"
    with pytest.raises(ValueError, match=message):
        measure_costs(model, 16, repeats=1, steps=1, seed=1)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-3), (torch.bfloat16, 0.05)])
def test_each_type_of_weights_has_a_bound_for_its_rounding(
    dtype: torch.dtype, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = inference_model(MODELS["mamba2"], 1, "cpu", dtype)
    step = model.step

    def off_by(part: float) -> None:
        def wrong(token: Tensor, states: Any, position: int) -> Any:
            logits, states = step(token, states, position)
            return logits.double() * (1 + part), states

        monkeypatch.setattr(model, "step", wrong)

    off_by(0.98 * most)
    found = measure_costs(model, 16, repeats=1, steps=1, seed=1).metrics["step_error"]
    assert found == pytest.approx(0.98 * most, rel=0.01)
    for part in (1.02 * most, math.nan):
        off_by(part)
        with pytest.raises(ValueError, match=f"allowed: up to {most:g} in {dtype}"):
            measure_costs(model, 16, repeats=1, steps=1, seed=1)


def test_a_model_that_gives_no_numbers_is_not_timed() -> None:
    model = inference_model(MODELS["mamba1"], 1, "cpu", torch.float32)
    model.embedding.weight.fill_(math.nan)
    with pytest.raises(ValueError, match="logits are not finite"):
        measure_costs(model, 8, repeats=1, steps=1, seed=1)
