"""Mamba-2's state-space dual: one scan as recurrence, as matrix, or in chunks.

Dao and Gu 2024 (arXiv 2405.21060), sections 3 to 6. For head h with scalar decay A::

    state_t = exp(A dt_t) state_{t-1} + dt_t x_t B_t^T          (p, n)
    y_t     = state_t C_t + D x_t

or, with S_ij = exp(sum_{k=j+1..i} A dt_k) C_i . B_j for i >= j, simply y = S (dt x) + D x.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.ops import backends
from lib.ops.checks import compute_dtype, expect, expect_real

OP = "ssd"


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    return_last_state: bool = False,
    *,
    initial_state: Tensor | None = None,
    chunk_size: int = 64,
    backend: str = "auto",
) -> Any:
    """The state-space dual; arguments as mamba_ssm's ``mamba_chunk_scan_combined``.

    Args:
        x: (b, l, h, p).
        dt: (b, l, h), before `dt_bias` and softplus if those are asked for.
        A: (h,), negative.
        B, C: (b, l, g, n); g divides h.
        D: (h,) or (h, p), skip connection.
        z: (b, l, h, p); the result is multiplied by silu(z).
        dt_bias: (h,).
        dt_softplus: apply softplus to dt + dt_bias.
        initial_state: (b, h, p, n) before the first step; zeros if None.
        chunk_size: "auto" uses the quadratic form up to this length, and chunks of it beyond.
        backend: "auto", "reference", "quadratic" or "chunked".

    Returns:
        (b, l, h, p) in x's dtype; with `return_last_state` also (b, h, p, n) in float32 (float64
        for float64 input), in which everything is computed.

    Raises:
        ValueError: a shape, type or name that does not fit.
        BackendError: a named backend that cannot serve the call.
    """
    _check(x, dt, A, B, C, D, z, dt_bias, initial_state, chunk_size)
    name = backends.resolve(
        OP, backend, device=x.device, length=x.shape[1], chunk_size=chunk_size, dtype=x.dtype
    )
    kind = compute_dtype(x)
    step = step_size(dt, dt_bias, dt_softplus)
    u, B, C = x.to(kind), B.to(kind), C.to(kind)
    state = None if initial_state is None else initial_state.to(kind)
    y, last = backends.call(OP, name)(u, step, A.to(kind), B, C, state, chunk_size)
    y = finish(y, u, D, z).to(x.dtype)
    return (y, last) if return_last_state else y


def step_size(dt: Tensor, dt_bias: Tensor | None, dt_softplus: bool) -> Tensor:
    """dt after bias and softplus, in the compute dtype; heads (or channels) last."""
    step = dt.to(compute_dtype(dt))
    if dt_bias is not None:
        step = step + dt_bias.to(step.dtype)
    return F.softplus(step) if dt_softplus else step


def finish(y: Tensor, x: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """Skip connection and gate: y + D x, times silu(z). y, x, z (..., h, p); D (h,) or (h, p)."""
    if D is not None:
        y = y + x * (D.to(x.dtype)[:, None] if D.dim() == 1 else D.to(x.dtype))
    return y if z is None else y * F.silu(z.to(y.dtype))


def ssd_matrix(
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    """S (b, h, l, l): how much token j (column) reaches token i (row), without dt_j.

    S_ij = exp(sum_{k=j+1..i} A dt_k) C_i . B_j for i >= j, else 0 (arXiv 2405.21060, eq. 6).
    Shapes of the arguments as in :func:`ssd`.
    """
    step = step_size(dt, dt_bias, dt_softplus)
    heads = step.shape[2]
    scores = torch.einsum("bign,bjgn->bgij", C.to(step.dtype), B.to(step.dtype))
    scores = scores.repeat_interleave(heads // scores.shape[1], dim=1)
    return _decay(step * A.to(step.dtype)) * scores


def apply_ssd_matrix(S: Tensor, x: Tensor, dt: Tensor) -> Tensor:
    """y (b, l, h, p) = S (dt x); `dt` (b, l, h) after bias and softplus."""
    return torch.einsum("bhij,bjhp->bihp", S, x * dt[..., None])


def ssd_step(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """One step: state (b, h, p, n), x (b, h, p), dt (b, h), B, C (b, g, n) to y (b, h, p) and the
    next state."""
    kind = state.dtype
    step = step_size(dt, dt_bias, dt_softplus).to(kind)
    u = x.to(kind)
    B, C = (_per_head(m.to(kind), u.shape[1], 1) for m in (B, C))
    decay = torch.exp(step * A.to(kind))[..., None, None]
    state = decay * state + (step[..., None] * u)[..., None] * B[:, :, None, :]
    y = torch.einsum("bhpn,bhn->bhp", state, C)
    return finish(y, u, D, z).to(x.dtype), state


def _per_head(m: Tensor, heads: int, dim: int) -> Tensor:
    """Repeat groups along `dim` so that each head has its own B or C."""
    return m.repeat_interleave(heads // m.shape[dim], dim=dim)


def _decay(log: Tensor) -> Tensor:
    """exp(sum_{k=j+1..i} log_k), lower triangular: (b, l, h) to (b, h, l, l)."""
    length = log.shape[1]
    total = log.transpose(1, 2).cumsum(-1)
    gap = total[..., :, None] - total[..., None, :]
    keep = torch.ones(length, length, dtype=torch.bool, device=log.device).tril()
    # masked before the exponential: above the diagonal the sums are positive and may overflow,
    # and inf * 0 in the backward pass is NaN
    return torch.exp(gap.masked_fill(~keep, float("-inf")))


def _reference(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, chunk_size: int
) -> tuple[Tensor, Tensor]:
    b, _, h, p = u.shape
    if state is None:
        state = u.new_zeros(b, h, p, B.shape[3])
    out = []
    # unbind, not indexing: the backward pass of t-indexed slices costs a full tensor a step
    for x_t, dt_t, B_t, C_t in zip(*(t.unbind(1) for t in (u, dt, B, C)), strict=True):
        y, state = ssd_step(state, x_t, dt_t, A, B_t, C_t)
        out.append(y)
    return torch.stack(out, dim=1), state


def _quadratic(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, chunk_size: int
) -> tuple[Tensor, Tensor]:
    y = apply_ssd_matrix(ssd_matrix(dt, A, B, C), u, dt)
    total = (dt * A).cumsum(1)  # (b, l, h)
    heads = u.shape[2]
    left = torch.exp(total[:, -1:] - total)  # decay from each step to the end
    last = torch.einsum(
        "blh,blhp,blhn->bhpn", left * dt, u, _per_head(B, heads, 2)
    )
    if state is not None:
        reach = torch.exp(total)  # decay from before the first step to each step
        y = y + torch.einsum("blh,blhn,bhpn->blhp", reach, _per_head(C, heads, 2), state)
        last = last + reach[:, -1, :, None, None] * state
    return y, last


def _chunked(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """Block decomposition (arXiv 2405.21060, section 6): quadratic inside chunks of q steps, a
    recurrence over the c chunks between them."""
    b, length, h, p = u.shape
    q = min(chunk_size, length)
    c = -(-length // q)
    pad = c * q - length
    if pad:  # a step with dt = 0 neither decays nor adds: it leaves the state as it is
        u, B, C = (F.pad(t, (0, 0, 0, 0, 0, pad)) for t in (u, B, C))
        dt = F.pad(dt, (0, 0, 0, pad))
    blocks = [t.reshape(b * c, q, *t.shape[2:]) for t in (u, dt, B, C)]
    y, local = _quadratic(blocks[0], blocks[1], A, blocks[2], blocks[3], None, q)
    y, local = y.reshape(b, c, q, h, p), local.reshape(b, c, h, p, -1)
    total = (dt * A).reshape(b, c, q, h).cumsum(2)
    whole = torch.exp(total[:, :, -1])[..., None, None]  # (b, c, h, 1, 1)
    carried = u.new_zeros(local[:, 0].shape) if state is None else state
    before = []
    for local_k, whole_k in zip(local.unbind(1), whole.unbind(1), strict=True):
        before.append(carried)
        carried = whole_k * carried + local_k
    heads_C = _per_head(C, h, 2).reshape(b, c, q, h, -1)
    y = y + torch.einsum(
        "bcqh,bcqhn,bchpn->bcqhp", torch.exp(total), heads_C, torch.stack(before, dim=1)
    )
    return y.reshape(b, c * q, h, p)[:, :length], carried


def _check(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    dt_bias: Tensor | None, initial_state: Tensor | None, chunk_size: int,
) -> None:  # fmt: skip
    for name, tensor in (("x", x), ("A", A), ("B", B), ("C", C)):
        expect_real(name, tensor)
    expect("x", x, "b l h p")
    b, length, h, p = x.shape
    if length == 0:
        raise ValueError("x has length 0, allowed: at least 1")
    expect("dt", dt, "b l h", b=b, l=length, h=h)
    expect("A", A, "h", h=h)
    expect("B", B, "b l g n", b=b, l=length)
    g, n = B.shape[2:]
    expect("C", C, "b l g n", b=b, l=length, g=g, n=n)
    if g == 0 or h % g:
        raise ValueError(f"B has {g} groups, allowed: a divisor of the {h} heads")
    if D is not None and tuple(D.shape) not in ((h,), (h, p)):
        raise ValueError(f"D has shape {tuple(D.shape)}, allowed: (h={h}) or (h={h}, p={p})")
    expect("z", z, "b l h p", b=b, l=length, h=h, p=p)
    expect("dt_bias", dt_bias, "h", h=h)
    expect("initial_state", initial_state, "b h p n", b=b, h=h, p=p, n=n)
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}, allowed: at least 1")


backends.register(OP, "reference", _reference)
backends.register(
    OP, "quadratic", _quadratic, prefers=lambda facts: facts["length"] <= facts["chunk_size"]
)
backends.register(OP, "chunked", _chunked, prefers=lambda facts: True)
