"""Do all scans compute the same? Each against a sequential scan in float64."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from lib.ops import backends
from lib.ops.scan import selective_scan
from lib.ops.ssd import ssd

# float32 rounds at 6e-8; a scan of some hundred steps may lose two digits to it
ALLOWED = {"forward": 1e-5, "gradient": 1e-4}

Scan = Callable[..., Tensor]
# inputs in float32, the exact scan, and the candidates by name
Case = tuple[dict[str, Tensor], Scan, dict[str, Scan]]


def scan_agreement(
    length: int = 200, channels: int = 8, d_state: int = 16, seed: int = 0
) -> pd.DataFrame:
    """Every backend that runs here, and transformers' own scans, against float64.

    Differences are ||found - exact|| / ||exact||, of the output and of the gradient of a random
    weighting of the output with respect to the input.

    Returns:
        one row an op, implementation and pass: relative difference and what is allowed.
    """
    generator = torch.Generator().manual_seed(seed)
    rows: list[dict[str, object]] = []
    for op, (inputs, exact, candidates) in {
        "Mamba-1 selective scan": _mamba1(length, channels, d_state, generator),
        "Mamba-2 state-space dual": _mamba2(length, channels, d_state, generator),
    }.items():
        weight = torch.randn(exact(**_double(inputs)).shape, generator=generator)
        truth = _passes(exact, _double(inputs), weight.double())
        for name, function in candidates.items():
            found = _passes(function, inputs, weight)
            for kind, allowed in ALLOWED.items():
                gap = (found[kind].double() - truth[kind]).norm() / truth[kind].norm()
                rows.append(
                    {
                        "op": op, "implementation": name, "pass": kind,
                        "relative difference": float(gap), "allowed": allowed,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def _double(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in inputs.items()}


def _passes(function: Scan, inputs: dict[str, Tensor], weight: Tensor) -> dict[str, Tensor]:
    first = next(iter(inputs))
    leaf = inputs[first].clone().requires_grad_()
    out = function(**{**inputs, first: leaf})
    (gradient,) = torch.autograd.grad((out * weight).sum(), leaf)
    return {"forward": out.detach(), "gradient": gradient}


def _here(op: str) -> list[str]:
    """Backends of `op` that can run on the processor."""
    device = torch.device("cpu")
    return [name for name in backends.backends(op) if backends.missing(op, name, device) is None]


def _mamba1(length: int, channels: int, d_state: int, generator: torch.Generator) -> Case:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    inputs = {
        "u": draw(2, channels, length), "delta": draw(2, channels, length) - 2,
        "A": -torch.rand(channels, d_state, generator=generator) * 8,
        "B": draw(2, d_state, length), "C": draw(2, d_state, length), "D": draw(channels),
    }  # fmt: skip

    def ours(name: str) -> Scan:
        return lambda **kw: selective_scan(**kw, delta_softplus=True, backend=name)

    candidates = {f"lib, {name}": ours(name) for name in _here("selective_scan")}
    if _transformers_has("mamba.modeling_mamba", "mamba_selective_scan"):
        candidates["transformers"] = _transformers_mamba1
    return inputs, ours("reference"), candidates


def _transformers_mamba1(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor
) -> Tensor:
    """The scan of transformers' Mamba, written by others."""
    from transformers.models.mamba import modeling_mamba

    out = modeling_mamba.mamba_selective_scan(u, delta, A, B, C, D, delta_softplus=True)
    return out[0] if isinstance(out, tuple) else out


def _transformers_mamba2(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor
) -> Tensor:
    """The chunked scan of transformers' Mamba-2, written by others."""
    from transformers.models.mamba2 import modeling_mamba2

    out = modeling_mamba2.mamba2_chunk_scan(x, dt, A, B, C, 64, D=D, dt_softplus=True)
    return out[0] if isinstance(out, tuple) else out


def _transformers_has(module: str, name: str) -> bool:
    """transformers before 5.20 or so keeps its scans inside the blocks, where they cannot be called
    alone; the oracle tests of whole models cover those versions."""
    import importlib

    return hasattr(importlib.import_module(f"transformers.models.{module}"), name)


def _mamba2(length: int, channels: int, d_state: int, generator: torch.Generator) -> Case:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    inputs = {
        "x": draw(2, length, 2, channels), "dt": draw(2, length, 2) - 2,
        "A": -torch.rand(2, generator=generator) * 8, "B": draw(2, length, 1, d_state),
        "C": draw(2, length, 1, d_state), "D": draw(2),
    }  # fmt: skip

    def ours(name: str) -> Scan:
        return lambda **kw: ssd(**kw, dt_softplus=True, backend=name)

    candidates = {f"lib, {name}": ours(name) for name in _here("ssd")}
    if _transformers_has("mamba2.modeling_mamba2", "mamba2_chunk_scan"):
        candidates["transformers"] = _transformers_mamba2
    return inputs, ours("reference"), candidates
