"""Mamba-3's state-space part, one input and one output a head: recurrence, matrix, chunks.

Lahoti et al. 2026 (arXiv 2603.15569) and mamba_ssm's ``mamba3_siso_combined``. B and C get a bias
for each head and are turned by angles that add up over time, pair after pair of their entries. With
a = exp(dt A), the turned K = R(sum of dt angle) B and Q = R(...) C, a state (p, n) follows ::

    state_t = a_t state_{t-1} + a_t (1 - trap_t) dt_t x_{t-1} K_{t-1}^T + trap_t dt_t x_t K_t^T
    y_t     = state_t Q_t + D x_t

Turning B and C by the sum of all angles up to t is turning the state itself at each step, which is
a state of complex numbers. `trap` weighs the two ends of a step: 1 is Mamba-2's rule, 1/2 the
trapezoid. Token j thus enters twice, at its own step and at the next ::

    S_ij = exp(sum_{k=j+1..i} dt_k A_k) Q_i . K_j (trap_j dt_j + (1 - trap_{j+1}) dt_{j+1})   i > j
    S_ii = Q_i . K_i trap_i dt_i

and y = S x + D x.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.ops import backends
from lib.ops.checks import compute_dtype, expect, expect_real
from lib.ops.ssd import decay_matrix, finish

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
    _check(x, dt, A, trap, B, C, angle, D, B_bias, C_bias, initial_state, chunk_size)
    name = backends.resolve(
        OP, backend, device=x.device, length=x.shape[1], chunk_size=chunk_size, dtype=x.dtype
    )
    kind = compute_dtype(x)
    steps = _steps(x, dt, A, trap, B, C, angle, B_bias, C_bias, kind)
    state = None
    if initial_state is not None:
        state = Mamba3State(*(part.to(kind) for part in initial_state))
    y, last = backends.call(OP, name)(steps, state, chunk_size)
    y = finish(y, steps.x, D, None).to(x.dtype)
    return (y, last) if return_last_state else y


def mamba3_matrix(
    dt: Tensor,
    A: Tensor,
    trap: Tensor,
    B: Tensor,
    C: Tensor,
    angle: Tensor,
    B_bias: Tensor | None = None,
    C_bias: Tensor | None = None,
) -> Tensor:
    """S (b, h, l, l): how much token j (column) reaches token i (row), step sizes included.

    They are part of it, unlike in :func:`lib.ops.ssd.ssd_matrix`, because token j is weighed by its
    own step and by the next one, which has no part in S_jj. Shapes of the arguments as in
    :func:`mamba3_scan`; float64 if dt or B is, else float32.

    Raises:
        ValueError: a shape or type that does not fit.
    """
    expect("dt", dt, "b l h")
    _check(dt[..., None], dt, A, trap, B, C, angle, None, B_bias, C_bias, None, 1)
    kind = compute_dtype(B) if compute_dtype(B) == torch.float64 else compute_dtype(dt)
    steps = _steps(dt[..., None], dt, A, trap, B, C, angle, B_bias, C_bias, kind)
    _, dt, A, trap, B, C, angle = steps
    total = _angles(angle, dt, None)
    K, Q = rotate(B, total), rotate(C, total)
    return _matrix(decay_matrix(dt * A), K, Q, *_weights(dt, trap))


def apply_mamba3_matrix(S: Tensor, x: Tensor) -> Tensor:
    """y (b, l, h, p) = S x for S (b, h, l, l) and x (b, l, h, p), in S's dtype, without D x."""
    return torch.einsum("bhij,bjhp->bihp", S, x.to(S.dtype))


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
    _check(
        x[:, None], dt[:, None], A[:, None], trap[:, None], B[:, None], C[:, None], angle[:, None],
        D, B_bias, C_bias, state, 1, "state",
    )  # fmt: skip
    now = _steps(x, dt, A, trap, B, C, angle, B_bias, C_bias, state.ssm.dtype)
    y, state = _advance(state, now)
    return finish(y, now.x, D, None).to(x.dtype), state


def rotate(vectors: Tensor, angle: Tensor) -> Tensor:
    """Turn entries (0, 1), (2, 3), ... of `vectors` (..., n) by `angle` (..., a), 2 a <= n."""
    turning = 2 * angle.shape[-1]
    first, second = vectors[..., :turning].unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = torch.cos(angle), torch.sin(angle)
    turned = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1)
    return torch.cat((turned.flatten(-2), vectors[..., turning:]), dim=-1)


class _Steps(NamedTuple):
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


def _steps(
    x: Tensor, dt: Tensor, A: Tensor, trap: Tensor, B: Tensor, C: Tensor, angle: Tensor,
    B_bias: Tensor | None, C_bias: Tensor | None, kind: torch.dtype,
) -> _Steps:  # fmt: skip
    x, dt, A, trap, B, C, angle = (t.to(kind) for t in (x, dt, A, trap, B, C, angle))
    heads = x.shape[-2]
    return _Steps(
        x, dt, A, trap, _by_head(B, B_bias, heads), _by_head(C, C_bias, heads), angle
    )  # fmt: skip


def _by_head(vectors: Tensor, bias: Tensor | None, heads: int) -> Tensor:
    """B or C of groups (..., g, n) to those of heads (..., h, n), with bias."""
    groups, n = vectors.shape[-2:]
    shared = vectors[..., :, None, :].expand(*vectors.shape[:-1], heads // groups, n)
    shared = shared.flatten(-3, -2)
    return shared if bias is None else shared + bias.to(vectors.dtype)


def _angles(angle: Tensor, dt: Tensor, start: Tensor | None) -> Tensor:
    """Angles up to each step: rates (b, l, a) and dt (b, l, h) to (b, l, h, a) in [0, 2 pi)."""
    # in float64: in float32 an angle of hundreds of turns has lost the digits that cos needs
    total = (angle[:, :, None, :] * dt[..., None]).double().cumsum(1)
    if start is not None:
        total = total + start[:, None]
    return torch.remainder(total, 2 * math.pi).to(dt.dtype)


def _weights(dt: Tensor, trap: Tensor) -> tuple[Tensor, Tensor]:
    """What a token weighs at its own step, and at all later ones, without decay: (b, l, h) each.

    The last token has no next step here: its second part is added when that step is known.
    """
    own = trap * dt
    return own, own + F.pad(((1 - trap) * dt)[:, 1:], (0, 0, 0, 1))


def _matrix(decay: Tensor, K: Tensor, Q: Tensor, own: Tensor, weight: Tensor) -> Tensor:
    """S (b, h, l, l) from decays (b, h, l, l), turned B and C (b, l, h, n), weights (b, l, h)."""
    diagonal = torch.eye(K.shape[1], dtype=torch.bool, device=K.device)
    own, weight = own.transpose(1, 2)[..., None, :], weight.transpose(1, 2)[..., None, :]
    scores = torch.einsum("bihn,bjhn->bhij", Q, K)
    return decay * scores * torch.where(diagonal, own, weight)


def _advance(state: Mamba3State, now: _Steps) -> tuple[Tensor, Mamba3State]:
    """One step of the recurrence."""
    x, dt, A, trap, B, C, angle = now
    total = torch.remainder(state.angle + angle[:, None, :] * dt[..., None], 2 * math.pi)
    K, Q = rotate(B, total), rotate(C, total)
    decay = torch.exp(dt * A)
    ssm = (
        decay[..., None, None] * state.ssm
        + (decay * (1 - trap) * dt)[..., None, None] * _outer(state.x, state.B)
        + (trap * dt)[..., None, None] * _outer(x, K)
    )
    return torch.einsum("bhpn,bhn->bhp", ssm, Q), Mamba3State(total, ssm, K, x)


def _outer(x: Tensor, B: Tensor) -> Tensor:
    """x B^T: (b, h, p) and (b, h, n) to (b, h, p, n)."""
    return x[..., None] * B[:, :, None, :]


def _reference(
    steps: _Steps, state: Mamba3State | None, chunk_size: int
) -> tuple[Tensor, Mamba3State]:
    """Step by step, as the definition says."""
    if state is None:
        x, B = steps.x[:, 0], steps.B[:, 0]
        angle = steps.dt[:, 0, :, None] * steps.angle[:, :1]
        state = Mamba3State(*(torch.zeros_like(t) for t in (angle, _outer(x, B), B, x)))
    out = []
    # unbind, not indexing: the backward pass of t-indexed slices costs a full tensor a step
    for now in zip(*(t.unbind(1) for t in steps), strict=True):
        y, state = _advance(state, _Steps(*now))
        out.append(y)
    return torch.stack(out, dim=1), state


def _quadratic(
    steps: _Steps, state: Mamba3State | None, chunk_size: int
) -> tuple[Tensor, Mamba3State]:
    """The whole sequence as one matrix: one chunk."""
    return _chunked(steps, state, steps.x.shape[1])


def _chunked(
    steps: _Steps, state: Mamba3State | None, chunk_size: int
) -> tuple[Tensor, Mamba3State]:
    """The matrix inside chunks of q steps, a recurrence over the c chunks between them.

    A token's second weight comes from the step after it, in the next chunk perhaps; it is there
    from the start, so that chunks share nothing but a state, as those of Mamba-2 do.
    """
    x, dt, A, trap, B, C, angle = steps
    b, length, h, p = x.shape
    total = _angles(angle, dt, None if state is None else state.angle)
    K, Q = rotate(B, total), rotate(C, total)
    last_angle, last_K, last_x = total[:, -1], K[:, -1], x[:, -1]
    own, weight = _weights(dt, trap)
    log = dt * A
    q = min(chunk_size, length)
    c = -(-length // q)
    pad = c * q - length
    if pad:  # a step with dt = 0 neither decays nor adds: it leaves the state as it is
        x, K, Q = (F.pad(t, (0, 0, 0, 0, 0, pad)) for t in (x, K, Q))
        own, weight, log = (F.pad(t, (0, 0, 0, pad)) for t in (own, weight, log))
    if c > 1:
        x, K, Q = (t.reshape(b * c, q, *t.shape[2:]) for t in (x, K, Q))
        own, weight, log = (t.reshape(b * c, q, h) for t in (own, weight, log))
    decay = decay_matrix(log)
    y = apply_mamba3_matrix(_matrix(decay, K, Q, own, weight), x)
    left = decay[:, :, -1].transpose(1, 2)  # (b c, q, h), from each step to the end of its chunk
    carried = torch.einsum("blhp,blhn->bhpn", (left * weight)[..., None] * x, K)
    if c > 1 or state is not None:
        local = carried.unflatten(0, (b, c))  # each chunk's last state, had it started from zero
        reach = torch.exp(log.cumsum(1))  # (b c, q, h), from before a chunk to each step
        whole = reach[:, -1, :, None, None].unflatten(0, (b, c))  # (b, c, h, 1, 1)
        carried = torch.zeros_like(local[:, 0])
        if state is not None:  # with what the first step adds of the token before it
            late = ((1 - trap) * dt)[:, 0, :, None, None]
            carried = state.ssm + late * _outer(state.x, state.B)
        before = []
        for local_k, whole_k in zip(local.unbind(1), whole.unbind(1), strict=True):
            before.append(carried)
            carried = whole_k * carried + local_k
        seen = torch.einsum("blhn,bhpn->blhp", Q, torch.stack(before, dim=1).flatten(0, 1))
        y = y + reach[..., None] * seen
    y = y.reshape(b, c * q, h, p)[:, :length]
    return y, Mamba3State(last_angle, carried, last_K, last_x)


def _check(
    x: Tensor, dt: Tensor, A: Tensor, trap: Tensor, B: Tensor, C: Tensor, angle: Tensor,
    D: Tensor | None, B_bias: Tensor | None, C_bias: Tensor | None, state: Mamba3State | None,
    chunk_size: int, state_name: str = "initial_state",
) -> None:  # fmt: skip
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
backends.register(
    OP, "quadratic", _quadratic, prefers=lambda facts: facts["length"] <= facts["chunk_size"]
)
backends.register(OP, "chunked", _chunked, prefers=lambda facts: True)
