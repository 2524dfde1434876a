"""Mamba-1's selective scan: sequential, parallel in chunks, or by CUDA kernels.

The kernels are mamba_ssm's, or those of :mod:`lib.ops.fused_scan`. A backend is called with the
arguments of :func:`selective_scan` in their order and returns (y, last state); where the last state
is not wanted, it may be anything.

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
from lib.ops.chunked_scan import chunked_scan

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
        backend: "auto", "reference", "chunked", "mamba_ssm" or "fused".

    Returns:
        (b, d, l) in u's dtype; with `return_last_state` also (b, d, n) in float32 (float64 for
        float64 input), in which everything is computed. Gradients flow to all tensors; "chunked"
        and "fused" recompute states for them and are once differentiable, for second derivatives
        there is "reference".

    Raises:
        ValueError: a shape, type or name that does not fit.
        BackendError: a named backend that is missing or cannot serve the call.
    """
    _check(u, delta, A, B, C, D, z, delta_bias, initial_state)
    name = backends.resolve(
        OP, backend, device=u.device, length=u.shape[2], dtype=u.dtype,
        initial_state=initial_state is not None,
        last_state_grad=return_last_state and _wants_grad(u, delta, A, B),
        d_state=A.shape[1], groups=(_groups(B), _groups(C)),
    )  # fmt: skip
    run = backends.call(OP, name)
    y, last = run(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, return_last_state
    )
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
    """One step of :func:`selective_scan`, for decoding.

    Args:
        state: (b, d, n), in float32 or float64, in which the step is computed.
        u, delta, z: (b, d).
        A: (d, n).
        B, C: (b, n), or (b, g, n) with g dividing d.
        D, delta_bias, delta_softplus: as in :func:`selective_scan`.

    Returns:
        Output (b, d) in u's dtype and the next state (b, d, n) in the state's.

    Raises:
        ValueError: a shape or type that does not fit.
    """
    expect("u", u, "b d")
    d = u.shape[1]
    for name, m in (("B", B), ("C", C)):
        if m.dim() not in (2, 3):  # and not (d, n): nothing could tell it from (b, n) where b = d
            raise ValueError(f"{name} has shape {tuple(m.shape)}, allowed: (b, n) or (b, g, n)")
    # from here on a sequence of length 1
    delta, B, C = delta[..., None], B[..., None], C[..., None]
    z = None if z is None else z[..., None]
    _check(u[..., None], delta, A, B, C, D, z, delta_bias, state, "state")
    kind = state.dtype
    step = _step_size(delta.to(kind), delta_bias, delta_softplus)  # (b, d, 1)
    x = u[..., None].to(kind)
    B, C = (_over_time(m, d, kind)[0] for m in (B, C))  # (b, 1 or d, n)
    state = torch.exp(step * A.to(kind)) * state + step * x * B
    y = (state * C).sum(2, keepdim=True)
    return _finish(y, x, D, z)[..., 0].to(u.dtype), state


def _groups(m: Tensor) -> int:
    """Groups of channels that share B or C over time; 0 if it is constant, (d, n)."""
    return m.shape[1] if m.dim() == 4 else m.dim() - 2


def _wants_grad(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _step_size(delta: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    step = delta.to(compute_dtype(delta))
    if bias is not None:
        step = step + bias.to(step.dtype)[:, None]
    return F.softplus(step) if softplus else step


def _finish(y: Tensor, u: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    if D is not None:
        y = y + u * D.to(u.dtype)[:, None]
    return y if z is None else y * F.silu(z.to(y.dtype))


def _over_time(m: Tensor, d: int, kind: torch.dtype) -> Tensor:
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
    want_last: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The definition: one step after the other."""
    b, d, length = u.shape
    kind = compute_dtype(u)
    step = _step_size(delta.to(kind), delta_bias, delta_softplus)
    x, A = u.to(kind), A.to(kind)
    state = u.new_zeros(b, d, A.shape[1], dtype=kind)
    if initial_state is not None:
        state = initial_state.to(kind)
    Bs, Cs = (_over_time(m, d, kind).expand(length, -1, -1, -1) for m in (B, C))
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
    want_last: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Parallel, in cache-sized blocks: see :mod:`lib.ops.chunked_scan`."""
    b, d, length = u.shape
    kind = compute_dtype(u)
    n = A.shape[1]
    step = _step_size(delta.to(kind), delta_bias, delta_softplus)
    x = u.to(kind)
    B, C = (_in_groups(m.to(kind), b, length) for m in (B, C))
    g = math.lcm(B.shape[2], C.shape[2])
    B, C = (m.repeat_interleave(g // m.shape[2], dim=2) if m.shape[2] < g else m for m in (B, C))

    def channels_last(t: Tensor) -> Tensor:  # (b, d, l) to (l, b, g, r)
        return t.permute(2, 0, 1).unflatten(2, (g, -1)).contiguous()

    def state_layout(t: Tensor) -> Tensor:  # (..., d, n) to (..., g, n, r)
        return t.unflatten(-2, (g, -1)).transpose(-1, -2).contiguous()

    start = u.new_zeros(b, d, n, dtype=kind) if initial_state is None else initial_state.to(kind)
    y, last = chunked_scan(
        channels_last(step), channels_last(step * x), state_layout(A.to(kind)), B, C,
        state_layout(start),
    )  # fmt: skip
    y = y.flatten(2).permute(1, 2, 0)
    return _finish(y, x, D, z).to(u.dtype), last.transpose(-1, -2).flatten(1, 2)


def _in_groups(m: Tensor, b: int, length: int) -> Tensor:
    """B or C in any of its shapes to (l, b, g, n); constant ones have a group for each channel."""
    if m.dim() == 2:
        return m.expand(length, b, -1, -1)
    if m.dim() == 3:
        return m.permute(2, 0, 1)[:, :, None].contiguous()
    return m.permute(3, 0, 1, 2).contiguous()


def _mamba_ssm(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, initial_state: Tensor | None,
    want_last: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    y, last = selective_scan_fn(
        u, delta.to(u.dtype), A.float(),
        *(m.float() if m.dim() == 2 else m.to(u.dtype) for m in (B, C)),
        D=None if D is None else D.float(), z=None if z is None else z.to(u.dtype),
        delta_bias=None if delta_bias is None else delta_bias.float(),
        delta_softplus=delta_softplus, return_last_state=True,
    )  # fmt: skip
    return y, last


def _mamba_ssm_refuses(facts: dict[str, Any]) -> str | None:
    if facts["initial_state"]:
        return "mamba_ssm's kernel takes no initial_state; backend 'chunked' does"
    if facts["dtype"] == torch.float64:
        return "mamba_ssm's kernel has no float64; backend 'chunked' has"
    if facts["last_state_grad"]:  # upstream ignores it without a word
        return "mamba_ssm's kernel has no gradient of the last state; backend 'chunked' has"
    return None


def _single_cpu_step(facts: dict[str, Any]) -> bool:
    return bool(facts["length"] == 1 and facts["device"].type == "cpu")


def _check(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, initial_state: Tensor | None, state_name: str = "initial_state",
) -> None:  # fmt: skip
    expect("u", u, "b d l")
    for name, tensor in (("u", u), ("A", A), ("B", B), ("C", C)):
        expect_real(name, tensor)
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
    expect(state_name, initial_state, "b d n", b=b, d=d, n=n)


# one step has nothing to be parallel in
backends.register(OP, "reference", _reference, prefers=_single_cpu_step)
backends.register(
    OP, "mamba_ssm", _mamba_ssm,
    missing=backends.mamba_ssm_missing, refuses=_mamba_ssm_refuses,
    prefers=lambda facts: facts["device"].type == "cuda",
)  # fmt: skip
backends.register(OP, "chunked", _chunked, prefers=lambda facts: True)
