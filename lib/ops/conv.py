"""Causal depthwise convolution with its state, as in a Mamba block."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.ops import backends
from lib.ops.checks import expect

OP = "causal_conv1d"
ACTIVATIONS = (None, "silu")


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    return_final_state: bool = False,
    *,
    initial_state: Tensor | None = None,
    backend: str = "auto",
) -> Any:
    """Each output is a weighted sum of the input at its own and the k - 1 earlier steps.

    Args:
        x: (b, d, l).
        weight: (d, k); tap k - 1 meets the step's own input.
        bias: (d,).
        activation: None or "silu", applied to the result.
        initial_state: (b, d, k - 1), the inputs just before `x`; zeros if None.
        backend: "auto", "reference", "shifts" or "conv1d".

    Returns:
        (b, d, l) in x's dtype; with `return_final_state` also (b, d, k - 1), the last inputs.

    Raises:
        ValueError: a shape or name that does not fit.
        BackendError: a named backend that cannot serve the call.
    """
    _check(x, weight, bias, activation, initial_state)
    taps = weight.shape[1]
    if initial_state is None:
        padded = F.pad(x, (taps - 1, 0))
    else:
        padded = torch.cat([initial_state.to(x.dtype), x], dim=2)
    name = backends.resolve(OP, backend, device=x.device, length=x.shape[2], dtype=x.dtype)
    out = backends.call(OP, name)(padded, weight.to(x.dtype), x.shape[2])
    if bias is not None:
        out = out + bias.to(x.dtype)[:, None]
    if activation == "silu":
        out = F.silu(out)
    # taken from the padded input, so that it is right for sequences shorter than the kernel
    return (out, padded[:, :, padded.shape[2] - (taps - 1) :]) if return_final_state else out


def causal_conv1d_step(
    state: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """One step: `state` (b, d, k - 1), `x` (b, d) to the output (b, d) and the next state."""
    window = torch.cat([state.to(x.dtype), x[:, :, None]], dim=2)
    out = (window * weight.to(x.dtype)).sum(2)
    if bias is not None:
        out = out + bias.to(x.dtype)
    if activation == "silu":
        out = F.silu(out)
    return out, window[:, :, 1:]


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, state: Tensor | None
) -> None:
    expect("x", x, "b d l")
    b, d, length = x.shape
    if length == 0:
        raise ValueError("x has length 0, allowed: at least 1")
    expect("weight", weight, "d k", d=d)
    k = weight.shape[1]
    if k == 0:
        raise ValueError("weight has 0 taps, allowed: at least 1")
    expect("bias", bias, "d", d=d)
    if state is not None and tuple(state.shape) != (b, d, k - 1):
        raise ValueError(
            f"initial_state has shape {tuple(state.shape)}, allowed: (b={b}, d={d}, k-1={k - 1})"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}, allowed: None, 'silu'")


def _reference(padded: Tensor, weight: Tensor, length: int) -> Tensor:
    """The definition: one weighted sum a step."""
    taps = weight.shape[1]
    steps = [(padded[:, :, t : t + taps] * weight).sum(2) for t in range(length)]
    return torch.stack(steps, dim=2)


def _shifts(padded: Tensor, weight: Tensor, length: int) -> Tensor:
    """k shifted multiply-adds over whole sequences; fuses into one kernel when compiled."""
    out = padded[:, :, :length] * weight[:, :1]
    for tap in range(1, weight.shape[1]):
        out = out + padded[:, :, tap : tap + length] * weight[:, tap : tap + 1]
    return out


def _conv1d(padded: Tensor, weight: Tensor, length: int) -> Tensor:
    return F.conv1d(padded, weight[:, None], groups=weight.shape[0])


backends.register(OP, "reference", _reference)
# on the processor the library's kernel wins from length 128 on, and loses below (measured: 8 x 256
# channels, forward and backward, 128 steps 1.6 ms against 3.6 ms; 128 x 320, 8 steps 4.0 against 2.1)
backends.register(
    OP, "conv1d", _conv1d,
    prefers=lambda facts: facts["device"].type == "cpu" and facts["length"] >= 64,
)  # fmt: skip
backends.register(OP, "shifts", _shifts, prefers=lambda facts: True)
