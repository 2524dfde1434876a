"""Mamba-3's state-space part, one input and one output a head, as a recurrence.

Lahoti et al. 2026 (arXiv 2603.15569) and mamba_ssm's ``mamba3_siso_combined``. B and C get a bias
for each head and are turned by angles that add up over time, pair after pair of their entries. With
a = exp(dt A), the turned K = R(sum of dt angle) B and Q = R(...) C, a state (p, n) follows ::

    state_t = a_t state_{t-1} + a_t (1 - trap_t) dt_t x_{t-1} K_{t-1}^T + trap_t dt_t x_t K_t^T
    y_t     = state_t Q_t + D x_t

Turning B and C by the sum of all angles up to t is turning the state itself at each step, which is
a state of complex numbers. `trap` weighs the two ends of a step: 1 is Mamba-2's rule, 1/2 the
trapezoid. The same function as a matrix is in :mod:`lib.ops.mamba3_matrix`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lib.ops import backends
from lib.ops.checks import compute_dtype, expect, expect_real
from lib.ops.ssd import finish

OP = "mamba3"


class Mamba3State(NamedTuple):
    """What the recurrence keeps between tokens, in the scan's dtype.

    Attributes:
        angle: (b, h, a), the angles so far, modulo 2 pi.
        ssm: (b, h, p, n).
        B: (b, h, n), the last B, with bias and turned.
        x: (b, h, p), the last x.
    """

    angle: Tensor
    ssm: Tensor
    B: Tensor
    x: Tensor


def mamba3_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    trap: Tensor,
    B: Tensor,
    C: Tensor,
    angle: Tensor,
    D: Tensor | None = None,
    B_bias: Tensor | None = None,
    C_bias: Tensor | None = None,
    return_last_state: bool = False,
    *,
    initial_state: Mamba3State | None = None,
    chunk_size: int = 64,
    backend: str = "auto",
) -> Any:
    """Mamba-3 over a sequence.

    Args:
        x: (b, l, h, p).
        dt: (b, l, h), step sizes, not negative.
        A: (b, l, h), negative: unlike Mamba-2's it depends on the input.
        trap: (b, l, h) in [0, 1], weight of the later end of a step (the paper's lambda).
        B, C: (b, l, g, n); g divides h.
        angle: (b, l, a) with 2 a <= n, radians per unit of dt; entries (0, 1), (2, 3), ... of B
            and C are the pairs, those from 2 a on are not turned. All heads share the rates, but
            not dt.
        D: (h,), skip connection.
        B_bias, C_bias: (h, n).
        initial_state: before the first step; zeros if None.
        chunk_size: "auto" uses the matrix up to this length, and chunks of it beyond.
        backend: "auto", "reference", "quadratic" or "chunked".

    Returns:
        (b, l, h, p) in x's dtype; with `return_last_state` also a :class:`Mamba3State` in float32
        (float64 for float64 input), in which everything is computed.

    Raises:
        ValueError: a shape, type or name that does not fit.
        BackendError: a named backend that cannot serve the call.
    """
    check(x, dt, A, trap, B, C, angle, D, B_bias, C_bias, initial_state, chunk_size)
    name = backends.resolve(
        OP, backend, device=x.device, length=x.shape[1], chunk_size=chunk_size, dtype=x.dtype
    )
    kind = compute_dtype(x)
    steps = gather(x, dt, A, trap, B, C, angle, B_bias, C_bias, kind)
    state = None
    if initial_state is not None:
        state = Mamba3State(*(part.to(kind) for part in initial_state))
    y, last = backends.call(OP, name)(steps, state, chunk_size)
    y = finish(y, steps.x, D, None).to(x.dtype)
    return (y, last) if return_last_state else y


def mamba3_step(
    state: Mamba3State,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    trap: Tensor,
    B: Tensor,
    C: Tensor,
    angle: Tensor,
    D: Tensor | None = None,
    B_bias: Tensor | None = None,
    C_bias: Tensor | None = None,
) -> tuple[Tensor, Mamba3State]:
    """One token: the arguments of :func:`mamba3_scan` without their axis l.

    Returns:
        y (b, h, p) in x's dtype, and the next state in the state's.

    Raises:
        ValueError: a shape or type that does not fit.
    """
    check(
        x[:, None], dt[:, None], A[:, None], trap[:, None], B[:, None], C[:, None], angle[:, None],
        D, B_bias, C_bias, state, 1, "state",
    )  # fmt: skip
    now = gather(x, dt, A, trap, B, C, angle, B_bias, C_bias, state.ssm.dtype)
    y, state = _advance(state, now)
    return finish(y, now.x, D, None).to(x.dtype), state


def rotate(vectors: Tensor, angle: Tensor) -> Tensor:
    """Turn entries (0, 1), (2, 3), ... of `vectors` (..., n) by `angle` (..., a), 2 a <= n."""
    turning = 2 * angle.shape[-1]
    first, second = vectors[..., :turning].unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = torch.cos(angle), torch.sin(angle)
    turned = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1)
    return torch.cat((turned.flatten(-2), vectors[..., turning:]), dim=-1)


class Steps(NamedTuple):
    """Inputs of all steps (b, l, ...), or of one (b, ...), in the scan's dtype.

    B and C are each head's own (..., h, n), with bias and not turned.
    """

    x: Tensor
    dt: Tensor
    A: Tensor
    trap: Tensor
    B: Tensor
    C: Tensor
    angle: Tensor


def gather(
    x: Tensor, dt: Tensor, A: Tensor, trap: Tensor, B: Tensor, C: Tensor, angle: Tensor,
    B_bias: Tensor | None, C_bias: Tensor | None, kind: torch.dtype,
) -> Steps:  # fmt: skip
    """The arguments of :func:`mamba3_scan`, or of one step, in dtype `kind`."""
    x, dt, A, trap, B, C, angle = (t.to(kind) for t in (x, dt, A, trap, B, C, angle))
    heads = x.shape[-2]
    B, C = _by_head(B, B_bias, heads), _by_head(C, C_bias, heads)
    return Steps(x, dt, A, trap, B, C, angle)


def _by_head(vectors: Tensor, bias: Tensor | None, heads: int) -> Tensor:
    """B or C of groups (..., g, n) to those of heads (..., h, n), with bias."""
    groups, n = vectors.shape[-2:]
    shared = vectors[..., :, None, :].expand(*vectors.shape[:-1], heads // groups, n)
    shared = shared.flatten(-3, -2)
    return shared if bias is None else shared + bias.to(vectors.dtype)


def _advance(state: Mamba3State, now: Steps) -> tuple[Tensor, Mamba3State]:
    """One step of the recurrence."""
    x, dt, A, trap, B, C, angle = now
    total = torch.remainder(state.angle + angle[:, None, :] * dt[..., None], 2 * math.pi)
    K, Q = rotate(B, total), rotate(C, total)
    decay = torch.exp(dt * A)
    ssm = (
        decay[..., None, None] * state.ssm
        + (decay * (1 - trap) * dt)[..., None, None] * outer(state.x, state.B)
        + (trap * dt)[..., None, None] * outer(x, K)
    )
    return torch.einsum("bhpn,bhn->bhp", ssm, Q), Mamba3State(total, ssm, K, x)


def outer(x: Tensor, B: Tensor) -> Tensor:
    """x B^T: (b, h, p) and (b, h, n) to (b, h, p, n)."""
    return x[..., None] * B[:, :, None, :]


def _reference(
    steps: Steps, state: Mamba3State | None, chunk_size: int
) -> tuple[Tensor, Mamba3State]:
    """Step by step, as the definition says."""
    if state is None:
        x, B = steps.x[:, 0], steps.B[:, 0]
        angle = steps.dt[:, 0, :, None] * steps.angle[:, :1]
        state = Mamba3State(*(torch.zeros_like(t) for t in (angle, outer(x, B), B, x)))
    out = []
    # unbind, not indexing: the backward pass of t-indexed slices costs a full tensor a step
    for now in zip(*(t.unbind(1) for t in steps), strict=True):
        y, state = _advance(state, Steps(*now))
        out.append(y)
    return torch.stack(out, dim=1), state


def check(
    x: Tensor, dt: Tensor, A: Tensor, trap: Tensor, B: Tensor, C: Tensor, angle: Tensor,
    D: Tensor | None, B_bias: Tensor | None, C_bias: Tensor | None, state: Mamba3State | None,
    chunk_size: int, state_name: str = "initial_state",
) -> None:  # fmt: skip
    """Raise a ValueError that names the argument of :func:`mamba3_scan` that does not fit."""
    expect("x", x, "b l h p")
    for name, tensor in (("x", x), ("A", A), ("B", B), ("C", C)):
        expect_real(name, tensor)
    b, length, h, p = x.shape
    if length == 0:
        raise ValueError("x has length 0, allowed: at least 1")
    for name, tensor in (("dt", dt), ("A", A), ("trap", trap)):
        expect(name, tensor, "b l h", b=b, l=length, h=h)
    expect("B", B, "b l g n", b=b, l=length)
    g, n = B.shape[2:]
    expect("C", C, "b l g n", b=b, l=length, g=g, n=n)
    if g == 0 or h % g:
        raise ValueError(f"B has {g} groups, allowed: a divisor of the {h} heads")
    expect("angle", angle, "b l a", b=b, l=length)
    a = angle.shape[2]
    if not 1 <= a <= n // 2:
        raise ValueError(f"angle has {a} rates, allowed: 1 to {n // 2}, half of B's entries")
    expect("D", D, "h", h=h)
    expect("B_bias", B_bias, "h n", h=h, n=n)
    expect("C_bias", C_bias, "h n", h=h, n=n)
    if state is not None:
        expect(f"{state_name}.angle", state.angle, "b h a", b=b, h=h, a=a)
        expect(f"{state_name}.ssm", state.ssm, "b h p n", b=b, h=h, p=p, n=n)
        expect(f"{state_name}.B", state.B, "b h n", b=b, h=h, n=n)
        expect(f"{state_name}.x", state.x, "b h p", b=b, h=h, p=p)
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}, allowed: at least 1")


backends.register(OP, "reference", _reference)
