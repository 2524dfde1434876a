"""Mamba-1's selective scan: sequential, parallel in chunks, or by mamba_ssm's CUDA kernels.

Gu and Dao 2023 (arXiv 2312.00752), section 3.2 and algorithm 2. For channel d and state entry n::

    state_t = exp(delta_t A) state_{t-1} + delta_t B_t u_t
    y_t     = sum_n C_t state_t + D u_t
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.ops import backends
from lib.ops.checks import compute_dtype, expect, expect_real

OP = "selective_scan"


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    initial_state: Tensor | None = None,
    backend: str = "auto",
) -> Any:
    """The selective scan; arguments as mamba_ssm's ``selective_scan_fn``.

    Args:
        u, delta: (b, d, l).
        A: (d, n), negative, real.
        B, C: (d, n) constant, (b, n, l), or (b, g, n, l) with g dividing d.
        D: (d,), skip connection.
        z: (b, d, l); the result is multiplied by silu(z).
        delta_bias: (d,).
        delta_softplus: apply softplus to delta + delta_bias.
        initial_state: (b, d, n) before the first step; zeros if None.
        backend: "auto", "reference", "chunked" or "mamba_ssm".

    Returns:
        (b, d, l) in u's dtype; with `return_last_state` also (b, d, n) in float32 (float64 for
        float64 input), in which everything is computed.

    Raises:
        ValueError: a shape, type or name that does not fit.
        BackendError: a named backend that is missing or cannot serve the call.
    """
    _check(u, delta, A, B, C, D, z, delta_bias, initial_state)
    name = backends.resolve(
        OP, backend, device=u.device, length=u.shape[2], dtype=u.dtype,
        initial_state=initial_state is not None,
    )  # fmt: skip
    run = backends.call(OP, name)
    y, last = run(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state)
    return (y, last) if return_last_state else y


def selective_state_step(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """One step: state (b, d, n); u, delta, z (b, d); B, C (d, n), (b, n) or (b, g, n) to y (b, d)
    and the next state. A two-dimensional B or C of b = d rows is read as (b, n)."""
    kind = state.dtype
    b, d = u.shape
    step = _step_size(delta[:, :, None], delta_bias, delta_softplus)[:, :, 0].to(kind)
    x = u.to(kind)
    B, C = (_to_channels(m, b, d).to(kind) for m in (B, C))
    state = torch.exp(step[:, :, None] * A.to(kind)) * state + (step * x)[:, :, None] * B
    y = (state * C).sum(2)
    return _finish(y[:, :, None], x[:, :, None], D, None if z is None else z[:, :, None])[
        :, :, 0
    ].to(u.dtype), state


def _to_channels(m: Tensor, b: int, d: int) -> Tensor:
    """B or C of one step, (b, n), (b, g, n) or (d, n), to something that broadcasts to (b, d, n)."""
    if m.dim() == 3:
        return m.repeat_interleave(d // m.shape[1], dim=1)
    return m[:, None, :] if m.shape[0] == b else m[None]


def _step_size(delta: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    step = delta.to(compute_dtype(delta))
    if bias is not None:
        step = step + bias.to(step.dtype)[:, None]
    return F.softplus(step) if softplus else step


def _finish(y: Tensor, u: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    if D is not None:
        y = y + u * D.to(u.dtype)[:, None]
    return y if z is None else y * F.silu(z.to(y.dtype))


def _over_time(m: Tensor, d: int, length: int, kind: torch.dtype) -> Tensor:
    """B or C in any of its shapes, time first: (l or 1, b or 1, d or 1, n)."""
    m = m.to(kind)
    if m.dim() == 2:
        return m[None, None]
    if m.dim() == 3:
        return m.permute(2, 0, 1)[:, :, None, :]
    if m.shape[1] == 1:  # one group: broadcasting is cheaper than a copy for each channel
        return m.permute(3, 0, 1, 2)
    return m.repeat_interleave(d // m.shape[1], dim=1).permute(3, 0, 1, 2)


def _reference(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The definition: one step after the other."""
    b, d, length = u.shape
    kind = compute_dtype(u)
    step = _step_size(delta.to(kind), delta_bias, delta_softplus)
    x, A = u.to(kind), A.to(kind)
    state = u.new_zeros(b, d, A.shape[1], dtype=kind)
    if initial_state is not None:
        state = initial_state.to(kind)
    Bs, Cs = (_over_time(m, d, length, kind).expand(length, -1, -1, -1) for m in (B, C))
    out = []
    # unbind, not indexing: the backward pass of t-indexed slices costs a full tensor a step
    for x_t, dt_t, B_t, C_t in zip(
        x.unbind(2), step.unbind(2), Bs.unbind(0), Cs.unbind(0), strict=True
    ):
        state = torch.exp(dt_t[:, :, None] * A) * state + (dt_t * x_t)[:, :, None] * B_t
        out.append((state * C_t).sum(2))
    return _finish(torch.stack(out, dim=2), x, D, z).to(u.dtype), state


def _chunked(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Two scans of about sqrt(l) steps instead of one of l.

    The sequence is cut into c chunks of q steps. First all chunks advance together, q steps, each
    from a zero state, keeping their states and how much of their start would be left. Then the
    c chunk ends are chained, and each state gets what is left of the state before its chunk. Only
    products of decays are formed, never their inverses, so strong decay cannot overflow.
    """
    b, d, length = u.shape
    kind = compute_dtype(u)
    n = A.shape[1]
    q = max(1, math.isqrt(length))
    c = -(-length // q)
    pad = c * q - length
    step = _step_size(delta.to(kind), delta_bias, delta_softplus)
    x, A = u.to(kind), A.to(kind)

    def chunks(t: Tensor) -> Tensor:
        """(l, ...) to (q, c, ...): position in the chunk first, so that steps are contiguous."""
        if t.shape[0] == 1:
            return t[None]
        if pad:  # a step with delta = 0 neither decays nor adds: it leaves the state as it is
            t = torch.cat([t, t.new_zeros(pad, *t.shape[1:])])
        return t.reshape(c, q, *t.shape[1:]).transpose(0, 1)

    dt = chunks(step.permute(2, 0, 1))[..., None]  # (q, c, b, d, 1)
    xs = chunks(x.permute(2, 0, 1))[..., None]
    Bs, Cs = (chunks(_over_time(m, d, length, kind)) for m in (B, C))
    decay = torch.exp(dt * A)  # (q, c, b, d, n)
    income = (dt * xs) * Bs

    states, lefts = [], []
    state = left = None
    for a_i, in_i in zip(decay.unbind(0), income.unbind(0), strict=True):
        state = in_i if state is None else torch.addcmul(in_i, a_i, state)
        left = a_i if left is None else left * a_i
        states.append(state)
        lefts.append(left)
    carried = u.new_zeros(b, d, n, dtype=kind)
    if initial_state is not None:
        carried = initial_state.to(kind)
    before = []
    for end, left_k in zip(states[-1].unbind(0), lefts[-1].unbind(0), strict=True):
        before.append(carried)
        carried = torch.addcmul(end, left_k, carried)
    starts = torch.stack(before)  # (c, b, d, n)
    whole = torch.stack([torch.addcmul(s, l, starts) for s, l in zip(states, lefts, strict=True)])
    y = (whole * Cs).sum(-1)  # (q, c, b, d)
    y = y.transpose(0, 1).reshape(c * q, b, d)[:length].permute(1, 2, 0)
    return _finish(y, x, D, z).to(u.dtype), carried


def _mamba_ssm(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    y, last = selective_scan_fn(
        u, delta.to(u.dtype), A.float(), B, C,
        D=None if D is None else D.float(), z=z,
        delta_bias=None if delta_bias is None else delta_bias.float(),
        delta_softplus=delta_softplus, return_last_state=True,
    )  # fmt: skip
    return y, last


def _mamba_ssm_refuses(facts: dict[str, Any]) -> str | None:
    if facts["initial_state"]:
        return "mamba_ssm's kernel takes no initial_state; backend 'chunked' does"
    if facts["dtype"] == torch.float64:
        return "mamba_ssm's kernel has no float64; backend 'chunked' has"
    return None


def _check(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, initial_state: Tensor | None,
) -> None:  # fmt: skip
    for name, tensor in (("u", u), ("A", A), ("B", B), ("C", C)):
        expect_real(name, tensor)
    expect("u", u, "b d l")
    b, d, length = u.shape
    if length == 0:
        raise ValueError("u has length 0, allowed: at least 1")
    expect("delta", delta, "b d l", b=b, d=d, l=length)
    expect("A", A, "d n", d=d)
    n = A.shape[1]
    for name, m in (("B", B), ("C", C)):
        if m.dim() == 2:
            expect(name, m, "d n", d=d, n=n)
        elif m.dim() == 3:
            expect(name, m, "b n l", b=b, n=n, l=length)
        else:
            expect(name, m, "b g n l", b=b, n=n, l=length)
            if m.shape[1] == 0 or d % m.shape[1]:
                raise ValueError(f"{name} has {m.shape[1]} groups, allowed: a divisor of d={d}")
    expect("D", D, "d", d=d)
    expect("z", z, "b d l", b=b, d=d, l=length)
    expect("delta_bias", delta_bias, "d", d=d)
    expect("initial_state", initial_state, "b d n", b=b, d=d, n=n)


backends.register(OP, "reference", _reference)
backends.register(
    OP, "mamba_ssm", _mamba_ssm,
    missing=backends.mamba_ssm_missing, refuses=_mamba_ssm_refuses,
    prefers=lambda facts: facts["device"].type == "cuda",
)  # fmt: skip
backends.register(OP, "chunked", _chunked, prefers=lambda facts: True)
