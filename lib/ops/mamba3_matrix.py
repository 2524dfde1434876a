"""Mamba-3's scan as a matrix: all of a short sequence at once, a longer one in chunks.

A token enters the recurrence of :mod:`lib.ops.mamba3` twice, at its own step and at the next, so
with the turned K and Q of that module::

    S_ij = exp(sum_{k=j+1..i} dt_k A_k) Q_i . K_j (trap_j dt_j + (1 - trap_{j+1}) dt_{j+1})   i > j
    S_ii = Q_i . K_i trap_i dt_i

and y = S x + D x (arXiv 2603.15569; mamba_ssm's ``mamba3_siso_fwd`` works in such chunks).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.ops import backends
from lib.ops.checks import compute_dtype, expect
from lib.ops.mamba3 import OP, Mamba3State, Steps, check, gather, outer, rotate
from lib.ops.ssd import decay_matrix


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
    :func:`lib.ops.mamba3.mamba3_scan`; float64 if dt or B is, else float32.

    Raises:
        ValueError: a shape or type that does not fit.
    """
    expect("dt", dt, "b l h")
    check(dt[..., None], dt, A, trap, B, C, angle, None, B_bias, C_bias, None, 1)
    kind = compute_dtype(B) if compute_dtype(B) == torch.float64 else compute_dtype(dt)
    steps = gather(dt[..., None], dt, A, trap, B, C, angle, B_bias, C_bias, kind)
    _, dt, A, trap, B, C, angle = steps
    total = _angles(angle, dt, None)
    K, Q = rotate(B, total), rotate(C, total)
    return _matrix(decay_matrix(dt * A), K, Q, *_weights(dt, trap))


def apply_mamba3_matrix(S: Tensor, x: Tensor) -> Tensor:
    """y (b, l, h, p) = S x for S (b, h, l, l) and x (b, l, h, p), in S's dtype, without D x."""
    return torch.einsum("bhij,bjhp->bihp", S, x.to(S.dtype))


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


def _quadratic(
    steps: Steps, state: Mamba3State | None, chunk_size: int
) -> tuple[Tensor, Mamba3State]:
    """The whole sequence as one matrix: one chunk."""
    return _chunked(steps, state, steps.x.shape[1])


def _chunked(
    steps: Steps, state: Mamba3State | None, chunk_size: int
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
            carried = state.ssm + late * outer(state.x, state.B)
        before = []
        for local_k, whole_k in zip(local.unbind(1), whole.unbind(1), strict=True):
            before.append(carried)
            carried = whole_k * carried + local_k
        seen = torch.einsum("blhn,bhpn->blhp", Q, torch.stack(before, dim=1).flatten(0, 1))
        y = y + reach[..., None] * seen
    y = y.reshape(b, c * q, h, p)[:, :length]
    return y, Mamba3State(last_angle, carried, last_K, last_x)


backends.register(
    OP, "quadratic", _quadratic, prefers=lambda facts: facts["length"] <= facts["chunk_size"]
)
backends.register(OP, "chunked", _chunked, prefers=lambda facts: True)
