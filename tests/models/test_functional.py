"""Models as functions: stacked runs under vmap, gradients through it, and torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state

from lib.models.config import LanguageModelConfig, Mamba1Config, Mamba2Config
from lib.models.language_model import LanguageModel, build_language_model

MODELS: dict[str, LanguageModelConfig] = {
    "mamba1": LanguageModelConfig(30, 2, (Mamba1Config(16, d_state=4),)),
    "mamba2": LanguageModelConfig(30, 2, (Mamba2Config(16, d_state=8, headdim=8, chunk_size=8),)),
    # tensors that are no parameters: the kernel of ones and the table of sines
    "buffers": LanguageModelConfig(
        30, 2,
        (Mamba2Config(16, d_state=8, headdim=8, n_groups=2, conv_kind="all_one", chunk_size=8),
         Mamba1Config(16, d_state=4, conv_kind="none")),
        positional_encoding="sinusoidal", max_length=20,
    ),
    "kernels": LanguageModelConfig(
        30, 2,
        (Mamba2Config(16, d_state=8, headdim=16, conv_kind="palindromic", conv_bypass="gated"),
         Mamba1Config(16, d_state=4, conv_frozen=True, conv_bypass="residual")),
    ),
}  # fmt: skip
# within one chunk of Mamba-2, and over several
LENGTHS = [8, 19]


def make(name: str, seed: int = 0) -> LanguageModel:
    return build_language_model(MODELS[name], seed=seed).double()


def tokens(length: int, seed: int = 0) -> Tensor:
    return torch.randint(30, (2, length), generator=torch.Generator().manual_seed(seed))


def gradients(model: LanguageModel, run: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, Any]:
    model.zero_grad()
    run(x).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def close(found: Tensor, expected: Tensor, name: str = "") -> None:
    torch.testing.assert_close(
        found, expected, rtol=1e-9, atol=1e-11, msg=lambda text: f"{name}: {text}"
    )


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", list(MODELS))
def test_stacked_models_under_vmap_equal_each_alone(name: str, length: int) -> None:
    """What ensembles of runs stand on: the same model with a leading axis, gradients included."""
    models = [make(name, seed) for seed in range(3)]
    parameters, buffers = stack_module_state(models)
    batches = torch.stack([tokens(length, seed) for seed in range(3)])

    def one(p: Any, b: Any, x: Tensor) -> Tensor:
        return functional_call(models[0], (p, b), (x,), {"last_token_only": True})

    found = torch.vmap(one)(parameters, buffers, batches)
    # each run's loss depends on its own parameters only, so the sum has each run's gradient
    found.square().mean((1, 2)).sum().backward()
    for run, model in enumerate(models):
        alone = model(batches[run], last_token_only=True)
        close(found[run], alone)
        alone.square().mean().backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None
            close(parameters[key].grad[run], parameter.grad, key)


@pytest.mark.parametrize(
    ("name", "length"), [("mamba1", 8), ("mamba2", 8), ("buffers", 19), ("kernels", 8)]
)
def test_compiles_whole_with_gradients(name: str, length: int) -> None:
    torch.compiler.reset()
    model, x = make(name), tokens(length)
    # decomposed, as inductor does it: plain aot_eager has softplus' backward in another layout
    compiled = torch.compile(model, backend="aot_eager_decomp_partition", fullgraph=True)
    close(compiled(x), model(x))
    found, expected = gradients(model, compiled, x), gradients(model, model, x)
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        close(found[key], gradient, key)
