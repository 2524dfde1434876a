"""Named activations: plain forward hooks read and replace what flows through a model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from lib.models.config import LanguageModelConfig, Mamba1Config, Mamba2Config
from lib.models.language_model import LanguageModel, build_language_model
from lib.models.layers import Activation

LENGTH = 8
MAMBA1 = Mamba1Config(16, d_state=4)
MAMBA2 = Mamba2Config(16, d_state=8, headdim=8, n_groups=2, chunk_size=LENGTH)
IN_MAMBA1 = ("pre_conv", "post_conv", "dt", "B", "C", "y", "z")
IN_MAMBA2 = (*IN_MAMBA1, "x", "S")


def make(block: Mamba1Config | Mamba2Config) -> LanguageModel:
    return build_language_model(LanguageModelConfig(30, 2, (block,)), seed=0).double()


def tokens(length: int = LENGTH) -> Tensor:
    return torch.randint(30, (2, length), generator=torch.Generator().manual_seed(0))


def run(model: LanguageModel, name: str, replace: Any, length: int = LENGTH) -> tuple[Tensor, int]:
    """Logits with `replace` applied to activation `name`, and how often it was called."""
    calls = 0

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        nonlocal calls
        calls += 1
        return replace(output)

    handle = model.get_submodule(name).register_forward_hook(hook)
    with torch.no_grad():
        logits = model(tokens(length))
    handle.remove()
    return logits, calls


CASES = [
    *((MAMBA1, f"layers.1.mixer.act_{name}") for name in IN_MAMBA1),
    *((MAMBA2, f"layers.1.mixer.act_{name}") for name in IN_MAMBA2),
    *((block, name) for block in (MAMBA1, MAMBA2) for name in ("act_embed", "layers.0.act_resid")),
]


@pytest.mark.parametrize(("block", "name"), CASES, ids=lambda v: getattr(v, "kind", v))
def test_every_activation_can_be_replaced(block: Any, name: str) -> None:
    model = make(block)
    with torch.no_grad():
        expected = model(tokens())
    same, calls = run(model, name, lambda output: None)
    assert calls == 1 and torch.equal(same, expected)
    other, _ = run(model, name, torch.zeros_like)
    assert other.isfinite().all() and not torch.allclose(other, expected)


@pytest.mark.parametrize(("block", "names"), [(MAMBA1, IN_MAMBA1), (MAMBA2, IN_MAMBA2)])
def test_no_activation_is_missing_from_the_list(block: Any, names: tuple[str, ...]) -> None:
    found = {n for n, module in make(block).named_modules() if isinstance(module, Activation)}
    inside = {f"layers.{i}.mixer.act_{name}" for i in (0, 1) for name in names}
    assert found == inside | {"act_embed", "layers.0.act_resid", "layers.1.act_resid"}


def test_blocking_columns_of_S_equals_the_sum_without_them() -> None:
    """The paper's intervention (arXiv 2509.17514, figure 6): tokens that later ones cannot see."""
    mixer = make(MAMBA2).layers[0].mixer
    seen: dict[str, Tensor] = {}
    for name in ("dt", "x", "B", "C", "y"):
        getattr(mixer, f"act_{name}").register_forward_hook(
            lambda module, inputs, output, name=name: seen.__setitem__(name, output)
        )
    blocked = [2, 3]

    def block(module: nn.Module, inputs: Any, S: Tensor) -> Tensor:
        keep = torch.ones(LENGTH, LENGTH, dtype=S.dtype)
        keep[:, blocked] = torch.eye(LENGTH, dtype=S.dtype)[:, blocked]
        return S * keep

    mixer.act_S.register_forward_hook(block)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        mixer(torch.randn(1, LENGTH, 16, generator=generator, dtype=torch.float64))
        dt, x, B, C, y = (seen[name][0] for name in ("dt", "x", "B", "C", "y"))
        A = -mixer.A_log.exp()
        expected = mixer.D[:, None] * x
        for head in range(4):
            for i in range(LENGTH):
                for j in range(i + 1):
                    if j in blocked and j != i:
                        continue
                    decay = torch.exp((A[head] * dt[j + 1 : i + 1, head]).sum())
                    S = decay * (C[i, head // 2] @ B[j, head // 2])
                    expected[i, head] += S * dt[j, head] * x[j, head]
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-12)


def test_S_shows_only_where_the_quadratic_form_runs() -> None:
    model = make(MAMBA2)
    assert run(model, "layers.0.mixer.act_S", lambda S: None, LENGTH)[1] == 1
    assert run(model, "layers.0.mixer.act_S", lambda S: None, LENGTH + 1)[1] == 0
    # asked for by name, it runs at any length
    named = LanguageModel(model.config, backend="quadratic").double()
    named.load_state_dict(model.state_dict())
    logits, calls = run(named, "layers.0.mixer.act_S", lambda S: None, LENGTH + 1)
    assert calls == 1
    with torch.no_grad():
        torch.testing.assert_close(logits, model(tokens(LENGTH + 1)), rtol=1e-10, atol=1e-10)


def test_the_gate_comes_after_y_in_both_blocks() -> None:
    """Replacing y by ones leaves a function of z alone, which the formulas give."""
    for block in (MAMBA1, MAMBA2):
        mixer = make(block).layers[0].mixer
        kept: list[Tensor] = []
        mixer.act_z.register_forward_hook(lambda module, inputs, z, kept=kept: kept.append(z))
        mixer.act_y.register_forward_hook(lambda module, inputs, y: torch.ones_like(y))
        x = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        with torch.no_grad():
            out, gate = mixer(x), silu(kept[0])
            if block is MAMBA2:
                by_group = gate.unflatten(-1, (2, -1))
                scale = (by_group.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
                gate = (by_group * scale).flatten(-2) * mixer.norm.weight
            torch.testing.assert_close(out, gate @ mixer.out_proj.weight.T, rtol=1e-9, atol=1e-11)
