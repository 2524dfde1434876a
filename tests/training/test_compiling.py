"""Layers compiled one by one: the same numbers, one compilation for all that are alike."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from lib.analysis.language import next_token_loss
from lib.models.language_model import LanguageModel, build_language_model
from lib.models.presets import preset
from lib.training.compiling import compile_layers, eagerly


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def small(kind: str) -> LanguageModel:
    config = dataclasses.replace(preset(kind, "1M", 64), n_layers=6)
    return build_language_model(config, seed=1, backend="auto")


@pytest.mark.parametrize("kind", ["mamba2", "transformer", "moe"])
def test_equal_layers_share_one_compilation_and_give_the_same_gradients(kind: str) -> None:
    plain, compiled = small(kind), small(kind)
    names = list(compiled.state_dict())
    counter = CompileCounterWithBackend("eager")
    compile_layers(compiled, counter)  # type: ignore[arg-type]
    assert list(compiled.state_dict()) == names
    tokens = torch.randint(64, (2, 18), generator=torch.Generator().manual_seed(0))
    losses = []
    for model in (plain, compiled):
        # experts can be traced in bfloat16 alone, as they train on a GPU
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "moe"):
            loss, _ = next_token_loss(model, tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        losses.append(loss.detach())
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-6)
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert counter.frame_count == (1 if kind == "mamba2" else 2)  # attention, and what follows it


def test_eagerly_nothing_is_compiled_and_nothing_forgotten() -> None:
    model = small("mamba2")
    counter = CompileCounterWithBackend("eager")
    compile_layers(model, counter)  # type: ignore[arg-type]
    tokens = torch.zeros(2, 16, dtype=torch.int64)
    model(tokens)
    assert counter.frame_count == 1
    with eagerly(), torch.no_grad():
        model(tokens[:, :7])
    assert counter.frame_count == 1
    model(tokens)
    assert counter.frame_count == 1


def test_a_dozen_kinds_of_call_are_all_compiled() -> None:
    """As of models beside each other; the compiler itself gives up at the ninth."""
    model = small("mamba2")
    counter = CompileCounterWithBackend("eager")
    compile_layers(model, counter)  # type: ignore[arg-type]
    for length in range(1, 13):
        model(torch.zeros(2, length, dtype=torch.int64))
    assert counter.frame_count == 12
