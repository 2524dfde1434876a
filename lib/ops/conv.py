"""Causal depthwise convolution with its state, as in a Mamba block.

A backend is called with (x, weight, bias, activation, initial_state) of :func:`causal_conv1d` and
returns the output; all but that of :mod:`lib.ops.fused_conv` share the padding and the ending.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.ops import backends
from lib.ops.checks import compute_dtype, expect, expect_real

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
        backend: "auto", "reference", "shifts", "conv1d" or "fused".

    Returns:
        (b, d, l) in x's dtype; with `return_final_state` also (b, d, k - 1), the last inputs, for
        the next call's `initial_state`. Sums are formed in float32 (float64 for float64 input).

    Raises:
        ValueError: a shape or name that does not fit.
        BackendError: a named backend that is missing or cannot serve the call.
    """
    _check(x, weight, bias, activation, initial_state)
    taps = weight.shape[1]
    name = backends.resolve(
        OP, backend, device=x.device, length=x.shape[2], dtype=x.dtype, taps=taps
    )
    out = backends.call(OP, name)(x, weight, bias, activation, initial_state)
    if not return_final_state:
        return out
    # no step of a long sequence needs what was before it
    recent = x[:, :, max(0, x.shape[2] - (taps - 1)) :]
    padded = _padded(recent, taps, initial_state)
    return out, padded[:, :, padded.shape[2] - (taps - 1) :]


def causal_conv1d_step(
    state: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of :func:`causal_conv1d`, for decoding.

    Args:
        state: (b, d, k - 1), the inputs just before `x`.
        x: (b, d).
        weight, bias, activation: as in :func:`causal_conv1d`.

    Returns:
        Output (b, d) and the next state (b, d, k - 1), both in x's dtype.

    Raises:
        ValueError: a shape or name that does not fit.
    """
    expect("x", x, "b d")
    _check(x[:, :, None], weight, bias, activation, state, "state")
    window = torch.cat([state.to(x.dtype), x[:, :, None]], dim=2)
    out = _finish(_reference(window, weight, 1), bias, activation, x.dtype)
    return out[:, :, 0], window[:, :, 1:]


def _padded(x: Tensor, taps: int, state: Tensor | None) -> Tensor:
    """x with the k - 1 inputs before it."""
    if state is None:
        return F.pad(x, (taps - 1, 0))
    return torch.cat([state.to(x.dtype), x], dim=2)


def _on_padded(sums: Callable[[Tensor, Tensor, int], Tensor]) -> Callable[..., Tensor]:
    """A backend made of the weighted sums over a padded input."""

    def run(
        x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None,
        initial_state: Tensor | None,
    ) -> Tensor:  # fmt: skip
        padded = _padded(x, weight.shape[1], initial_state)
        return _finish(sums(padded, weight, x.shape[2]), bias, activation, x.dtype)

    return run


def _finish(out: Tensor, bias: Tensor | None, activation: str | None, dtype: torch.dtype) -> Tensor:
    if bias is not None:
        out = out + bias.to(out.dtype)[:, None]
    return (F.silu(out) if activation == "silu" else out).to(dtype)


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, state: Tensor | None,
    state_name: str = "initial_state",
) -> None:  # fmt: skip
    expect("x", x, "b d l")
    expect_real("x", x)
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
            f"{state_name} has shape {tuple(state.shape)}, allowed: (b={b}, d={d}, k-1={k - 1})"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}, allowed: None, 'silu'")


def _reference(padded: Tensor, weight: Tensor, length: int) -> Tensor:
    """The definition: one weighted sum a step."""
    kind = compute_dtype(padded)
    padded, weight = padded.to(kind), weight.to(kind)
    taps = weight.shape[1]
    steps = [(padded[:, :, t : t + taps] * weight).sum(2) for t in range(length)]
    return torch.stack(steps, dim=2)


def _shifts(padded: Tensor, weight: Tensor, length: int) -> Tensor:
    """k shifted multiply-adds over whole sequences; fuses into one kernel when compiled."""
    kind = compute_dtype(padded)  # sums of bfloat16 would be rounded k times
    padded, weight = padded.to(kind), weight.to(kind)
    out = padded[:, :, :length] * weight[:, :1]
    for tap in range(1, weight.shape[1]):
        out = out + padded[:, :, tap : tap + length] * weight[:, tap : tap + 1]
    return out


def _conv1d(padded: Tensor, weight: Tensor, length: int) -> Tensor:
    """The library's convolution, in the input's dtype (it sums in float32)."""
    out = F.conv1d(padded, weight.to(padded.dtype)[:, None], groups=weight.shape[0])
    return out.to(compute_dtype(padded))


backends.register(OP, "reference", _on_padded(_reference))
# on the processor the library's kernel wins for long sequences and loses for short ones (measured,
# forward and backward: 8 x 256 channels, 128 steps, 1.6 ms against 3.6; 128 x 320, 8 steps, 4.0 ms
# against 2.1); on a GPU the kernels of lib.ops.fused_conv come first
backends.register(
    OP, "conv1d", _on_padded(_conv1d),
    prefers=lambda facts: facts["device"].type == "cpu" and facts["length"] >= 64,
)  # fmt: skip
backends.register(OP, "shifts", _on_padded(_shifts), prefers=lambda facts: True)
