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
GROUP = 64  # chunks between which the state is passed on one by one


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
        backend: "auto", "reference", "quadratic", "chunked" or, never taken by "auto", "mamba_ssm",
            whose products are in x's dtype: for bfloat16 and float16 on a GPU.

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
    step = step_size(dt.to(kind), dt_bias, dt_softplus)
    u = x.to(kind)
    inputs = (x, B, C) if name == "mamba_ssm" else (u, B.to(kind), C.to(kind))
    state = None if initial_state is None else initial_state.to(kind)
    y, last = backends.call(OP, name)(inputs[0], step, A.to(kind), *inputs[1:], state, chunk_size)
    y = finish(y.to(kind), u, D, z).to(x.dtype)
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
    Shapes of the arguments as in :func:`ssd`; float64 if dt or B is, else float32.

    Raises:
        ValueError: a shape or type that does not fit.
    """
    expect("dt", dt, "b l h")
    _check(dt[..., None], dt, A, B, C, None, None, dt_bias, None, 1)
    kind = compute_dtype(B) if compute_dtype(B) == torch.float64 else compute_dtype(dt)
    step = step_size(dt.to(kind), dt_bias, dt_softplus)
    return _matrix(decay_matrix(step * A.to(kind)), B.to(kind), C.to(kind))


def apply_ssd_matrix(S: Tensor, x: Tensor, dt: Tensor, D: Tensor | None = None) -> Tensor:
    """y (b, l, h, p) = S (dt x) + D x for S (b, h, l, l), x (b, l, h, p), D (h,), in S's dtype.

    `dt` (b, l, h) is after bias and softplus; y has no gate, nor without D a skip connection.

    Raises:
        ValueError: a shape that does not fit.
    """
    expect("S", S, "b h i j")
    b, h, length, _ = S.shape
    expect("S", S, "b h l l", b=b, h=h, l=length)
    expect("x", x, "b l h p", b=b, l=length, h=h)
    expect("dt", dt, "b l h", b=b, l=length, h=h)
    x, dt = x.to(S.dtype), dt.to(S.dtype)
    if D is not None and length < x.shape[3]:  # dt and D in the matrix, which is the smaller one
        S = S * dt.transpose(1, 2)[:, :, None]
        S = S + torch.eye(length, device=S.device) * D.to(S.dtype)[:, None, None]
        return torch.einsum("bhij,bjhp->bihp", S, x)
    return finish(torch.einsum("bhij,bjhp->bihp", S, x * dt[..., None]), x, D, None)


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
    """One step of :func:`ssd`, for decoding.

    Args:
        state: (b, h, p, n), in float32 or float64, in which the step is computed.
        x, z: (b, h, p).
        dt: (b, h).
        A, D, dt_bias, dt_softplus: as in :func:`ssd`.
        B, C: (b, g, n) with g dividing h.

    Returns:
        Output (b, h, p) in x's dtype and the next state (b, h, p, n) in the state's.

    Raises:
        ValueError: a shape or type that does not fit.
    """
    _check(
        x[:, None], dt[:, None], A, B[:, None], C[:, None], D,
        None if z is None else z[:, None], dt_bias, state, 1, "state",
    )  # fmt: skip
    kind = state.dtype
    step = step_size(dt.to(kind), dt_bias, dt_softplus)
    u = x.to(kind)
    B, C = (m.to(kind).repeat_interleave(u.shape[1] // m.shape[1], dim=1) for m in (B, C))
    decay = torch.exp(step * A.to(kind))[..., None, None]
    state = decay * state + (step[..., None] * u)[..., None] * B[:, :, None, :]
    y = torch.einsum("bhpn,bhn->bhp", state, C)
    return finish(y, u, D, z).to(x.dtype), state


def ssd_last(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """y (b, h, p) at the last step alone, without skip connection, in dt's dtype: the last row of
    S, see :func:`ssd_matrix`, in one pass over the steps.

    Args:
        x: (b, l, h, p).
        dt: (b, l, h), after bias and softplus.
        A: (h,).
        B: (b, l, g, n); C: (b, g, n), of the last step.

    Raises:
        ValueError: a shape or type that does not fit.
    """
    expect("dt", dt, "b l h")
    _check(x, dt, A, B, C[:, None].expand_as(B), None, None, None, None, 1)
    kind = dt.dtype
    total = (dt * A).double().cumsum(1)  # in float64 as in decay_matrix
    reach = torch.exp((total[:, -1:] - total).to(kind)) * dt
    scores = (B.to(kind) * C.to(kind)[:, None]).sum(-1)  # (b, l, g)
    reach = reach * scores.repeat_interleave(dt.shape[2] // scores.shape[2], dim=2)
    return (reach[..., None] * x.to(kind)).sum(1)


def decay_matrix(log: Tensor) -> Tensor:
    """exp(sum_{k=j+1..i} log_k), lower triangular: (b, l, h) to (b, h, l, l)."""
    length = log.shape[1]
    # a difference of two long sums has the rounding error of the longest: after a step of -1000 a
    # decay of 0.999 would be off by 1e-4 in float32, so the sums alone are in float64
    total = log.transpose(1, 2).double().cumsum(-1)
    gap = (total[..., :, None] - total[..., None, :]).to(log.dtype)
    keep = torch.ones(length, length, dtype=torch.bool, device=log.device).tril()
    # masked before the exponential: above the diagonal the sums are positive and may overflow,
    # and inf * 0 in the backward pass is NaN
    return torch.exp(gap.masked_fill(~keep, float("-inf")))


def _matrix(decay: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Decays (b, h, l, l) times C_i . B_j, which the heads of a group share."""
    scores = torch.einsum("bign,bjgn->bgij", C, B)
    return (decay.unflatten(1, (B.shape[2], -1)) * scores[:, :, None]).flatten(1, 2)


def _read(state: Tensor, C: Tensor) -> Tensor:
    """C_i . state for each i: (b, h, p, n) and (b, l, g, n) to (b, l, h, p)."""
    grouped = state.unflatten(1, (C.shape[2], -1))
    return torch.einsum("blgn,bgrpn->blgrp", C, grouped).flatten(2, 3)


def _write(x: Tensor, B: Tensor) -> Tensor:
    """Sum over l of x B^T: (b, l, h, p) and (b, l, g, n) to (b, h, p, n)."""
    grouped = x.unflatten(2, (B.shape[2], -1))
    return torch.einsum("blgrp,blgn->bgrpn", grouped, B).flatten(1, 2)


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
    """The whole sequence as one matrix, S = L o (C B^T) with the decays L (section 5.1)."""
    decay = decay_matrix(dt * A)
    y = apply_ssd_matrix(_matrix(decay, B, C), u, dt)
    left = decay[:, :, -1].transpose(1, 2)  # (b, l, h), from each step to the end
    last = _write((left * dt)[..., None] * u, B)
    if state is not None:
        reach = torch.exp((dt * A).cumsum(1))  # (b, l, h), from before the first step to each
        y = y + reach[..., None] * _read(state, C)
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
    u, dt, B, C = (t.reshape(b * c, q, *t.shape[2:]) for t in (u, dt, B, C))
    y, local = _quadratic(u, dt, A, B, C, None, q)
    local = local.unflatten(0, (b, c))  # each chunk's last state, had it started from zero
    total = (dt * A).cumsum(1)
    reach = torch.exp(total)  # (b c, q, h), from before a chunk to each step
    start = u.new_zeros(local[:, 0].shape) if state is None else state
    before, carried = _carry(local, total[:, -1].unflatten(0, (b, c)), start)
    y = y + reach[..., None] * _read(before.flatten(0, 1), C)
    return y.reshape(b, c * q, h, p)[:, :length], carried


@torch.compiler.disable  # kernels that choose their sizes when first called cannot be traced
def _mamba_ssm(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """mamba_ssm's Triton kernels: products in the dtype of u on tensor cores, sums in float32."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    y, last = mamba_chunk_scan_combined(
        u, dt, A, B.to(u.dtype), C.to(u.dtype), chunk_size, initial_states=state,
        return_final_states=True,
    )  # fmt: skip
    return y, last.to(dt.dtype)


def _mamba_ssm_refuses(facts: dict[str, Any]) -> str | None:
    if facts["dtype"] not in (torch.bfloat16, torch.float16):
        return (
            f"dtype is {facts['dtype']}, allowed: bfloat16, float16; mamba_ssm would round float32 "
            "to tf32 in products; backend 'chunked' does not"
        )
    size = facts["chunk_size"]
    if size < 16 or size & (size - 1):
        return f"chunk_size is {size}, allowed: a power of two from 16 on; use chunked"
    return None


def _carry(local: Tensor, log: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The states before each of c chunks, and after the last.

    Up to GROUP chunks go one by one. More are taken in groups, inside which one product does what
    the steps did: a loop over 2,000 chunks would wait for its calls, not for its work.

    Args:
        local: (b, c, h, p, n), each chunk's last state, had it started from zero.
        log: (b, c, h), logarithm of what a chunk leaves of the state before it.
        state: (b, h, p, n) before the first.

    Returns:
        (b, c, h, p, n) and (b, h, p, n).
    """
    b, c, h = log.shape
    if c <= GROUP:
        states = [state]
        for local_k, whole_k in zip(local.unbind(1), torch.exp(log).unbind(1), strict=True):
            states.append(whole_k[..., None, None] * states[-1] + local_k)
        return torch.stack(states[:-1], dim=1), states[-1]
    groups = -(-c // GROUP)
    pad = groups * GROUP - c  # a chunk that leaves all and adds nothing
    local = F.pad(local, (0, 0, 0, 0, 0, 0, 0, pad)).reshape(b * groups, GROUP, *local.shape[2:])
    log = F.pad(log, (0, 0, 0, pad)).reshape(b * groups, GROUP, h)
    decay = decay_matrix(log)  # (b groups, h, GROUP, GROUP): from after chunk j to after chunk i
    after = torch.einsum("xhij,xjhpn->xihpn", decay, local)  # from zero at the group's start
    inside = F.pad(after[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
    starts, state = _carry(
        after[:, -1].unflatten(0, (b, groups)), log.sum(1).unflatten(0, (b, groups)), state
    )
    reach = torch.exp(F.pad(log[:, :-1], (0, 0, 1, 0)).cumsum(1))  # from a group's start
    before = inside + reach[..., None, None] * starts.flatten(0, 1)[:, None]
    return before.reshape(b, groups * GROUP, *local.shape[2:])[:, :c], state


def _check(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    dt_bias: Tensor | None, initial_state: Tensor | None, chunk_size: int,
    state_name: str = "initial_state",
) -> None:  # fmt: skip
    expect("x", x, "b l h p")
    for name, tensor in (("x", x), ("A", A), ("B", B), ("C", C)):
        expect_real(name, tensor)
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
    expect(state_name, initial_state, "b h p n", b=b, h=h, p=p, n=n)
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}, allowed: at least 1")


backends.register(OP, "reference", _reference)
backends.register(
    OP, "quadratic", _quadratic, prefers=lambda facts: facts["length"] <= facts["chunk_size"]
)
backends.register(OP, "chunked", _chunked, prefers=lambda facts: True)
backends.register(
    OP, "mamba_ssm", _mamba_ssm, missing=backends.mamba_ssm_missing, refuses=_mamba_ssm_refuses
)
