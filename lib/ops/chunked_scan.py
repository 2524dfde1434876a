"""The parallel form of Mamba-1's scan in plain PyTorch, with a gradient that recomputes states.

The recurrence is that of :mod:`lib.ops.scan` (Gu and Dao 2023, arXiv 2312.00752, section 3.2).
Two levels of blocks, each for one reason:

*chunks* make small scans parallel. A sequence is cut into c chunks that advance side by side, as
if they were c sequences, so that l short steps become l / c wider ones. A first pass finds the
chunks' ends from a zero start, the ends are chained, and a second pass starts from the right state.

*segments* (and parts of the batch) keep the work in the processor's cache. States exist for one
segment of steps at a time; only the state before each segment is kept, and the gradient computes
the others again (as in section 3.3.2).

Only products of decays are formed, never their inverses, so strong decay cannot overflow.

Shapes here, with channels split as d = g r so that a group's r channels share B and C::

    dt, income, y   (l, b, g, r)        income is dt u
    A               (g, n, r)
    B, C            (l, b, g, n)
    start, last     (b, g, n, r)

Channels come last because they are many: broadcasts and vector units like a long last axis.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Sizes(NamedTuple):
    """Numbers of state entries (b d n) that suit a device.

    Attributes:
        step: a step should have at least as many, or its overhead outweighs its work.
        batch: a step should have at most as many; larger batches are scanned in parts.
        segment: states that are worked on at once, over all steps of a segment.
    """

    step: int
    batch: int
    segment: int


# measured on one thread with 16 to 1,536 channels and 8 to 1,000 steps; the core's cache is 1 MB
CPU = Sizes(step=1 << 13, batch=1 << 16, segment=1 << 18)
# not measured: a step must outweigh a kernel's launch, and memory, not cache, is the limit
GPU = Sizes(step=1 << 20, batch=1 << 26, segment=1 << 26)


def plan(length: int, entries: int, device: torch.device) -> tuple[int, int]:
    """Chunks and steps of a segment for `length` steps of a state of `entries` = b d n numbers."""
    sizes = CPU if device.type == "cpu" else GPU
    chunks = min(math.isqrt(length), sizes.step // max(1, entries))
    if chunks < 4:  # the first pass costs about a third: not worth it for a little parallelism
        chunks = 1
    steps = -(-length // chunks)
    return chunks, max(1, min(steps, sizes.segment // max(1, chunks * entries)))


def chunked_scan(
    dt: Tensor, income: Tensor, A: Tensor, B: Tensor, C: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Scan to (y, last state); shapes above. Gradients to all tensors, once differentiable."""
    length, batch = dt.shape[:2]
    sizes = CPU if dt.device.type == "cpu" else GPU
    rows = max(1, sizes.batch // max(1, start[0].numel()))
    if rows < batch:
        together = (t.split(rows, dim=1) for t in (dt, income, B, C))
        parts = [
            chunked_scan(dt_i, in_i, A, B_i, C_i, start_i)
            for dt_i, in_i, B_i, C_i, start_i in zip(*together, start.split(rows), strict=True)
        ]
        ys, lasts = zip(*parts, strict=True)
        return torch.cat(ys, dim=1), torch.cat(lasts)
    chunks, segment = plan(length, start.numel(), dt.device)
    pad = -length % chunks
    if pad:  # a step with dt = 0 neither decays nor adds: it leaves the state as it is
        dt, income, B, C = (
            torch.cat([t, t.new_zeros(pad, *t.shape[1:])]) for t in (dt, income, B, C)
        )
    y, last, _ = _Scan.apply(dt, income, A, B, C, start, chunks, segment)
    return y[:length], last


class _Scan(torch.autograd.Function):
    """(dt, income, A, B, C, start, chunks, segment) to (y, last, states before each segment)."""

    @staticmethod
    def forward(
        dt: Tensor, income: Tensor, A: Tensor, B: Tensor, C: Tensor, start: Tensor,
        chunks: int, segment: int,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        dt, income, B, C = (_fold(t, chunks) for t in (dt, income, B, C))
        blocks = _blocks(dt.shape[0], segment)
        state = start
        if chunks > 1:
            state = torch.zeros_like(start).repeat(chunks, 1, 1, 1)
            for s in blocks:
                state = _advance(_decay(dt[s], A), _outer(B[s], income[s]), state)[-1]
            state = _chain(state, _decay(dt.sum(0), A), start, chunks, backwards=False)
        kept, out = [], []
        for s in blocks:
            kept.append(state)
            states = _advance(_decay(dt[s], A), _outer(B[s], income[s]), state)
            out.append(_over_n(C[s], states))
            state = states[-1].clone()  # a view would keep all states of the segment alive
        last = state[-start.shape[0] :].clone()
        return _unfold(torch.cat(out), chunks), last, torch.stack(kept)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.chunks, ctx.segment = inputs
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(*tensors, output[2])

    @staticmethod
    @once_differentiable  # the kept states carry no gradient: a second derivative would be wrong
    def backward(ctx: Any, y_grad: Tensor, last_grad: Tensor, _: Tensor) -> tuple[Any, ...]:
        """With g_t = dL/dstate_t = C_t y_grad_t + a_{t+1} g_{t+1}: the same scan, backwards."""
        dt, income, A, B, C, start, kept = ctx.saved_tensors
        chunks = ctx.chunks
        dt, income, B, C, y_grad = (_fold(t, chunks) for t in (dt, income, B, C, y_grad))
        blocks = _blocks(dt.shape[0], ctx.segment)
        # what the future adds to the gradient of the state after the segment
        future = last_grad
        if chunks > 1:
            future = torch.zeros_like(kept[0])
            for s in reversed(blocks):
                decay = _decay(dt[s], A)
                future = decay[0] * _adjoints(decay, _outer(C[s], y_grad[s]), future)[0]
            future = _chain(future, _decay(dt.sum(0), A), last_grad, chunks, backwards=True)
        parts: list[tuple[Tensor, ...]] = []
        A_grad = torch.zeros_like(A)
        for s, before in zip(reversed(blocks), kept.flip(0).unbind(0), strict=True):
            decay = _decay(dt[s], A)
            states = _states(decay, _outer(B[s], income[s]), before)  # from `before` on
            g = _adjoints(decay, _outer(C[s], y_grad[s]), future)
            future = decay[0] * g[0]
            # dL/d(A dt) = g_t a_t state_{t-1}
            exponent_grad = states[:-1] * decay * g
            A_grad = A_grad + (exponent_grad * dt[s][..., None, :]).sum((0, 1))
            parts.append((
                (exponent_grad * A).sum(-2),
                _over_n(B[s], g),
                _over_r(g, income[s]),
                _over_r(states[1:], y_grad[s]),
            ))  # fmt: skip
        dt_grad, income_grad, B_grad, C_grad = (
            _unfold(torch.cat(part[::-1]), chunks) for part in zip(*parts, strict=True)
        )
        start_grad = future[: start.shape[0]]
        return dt_grad, income_grad, A_grad, B_grad, C_grad, start_grad, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        """Runs along a new axis are more groups: nothing mixes groups, and A has the axis too."""
        runs = info.batch_size
        *tensors, chunks, segment = inputs
        group_axis = (2, 2, 0, 2, 2, 1)
        merged = [
            (t.unsqueeze(axis).expand(*t.shape[:axis], runs, *t.shape[axis:]) if dim is None
             else t.movedim(dim, axis)).flatten(axis, axis + 1)
            for t, dim, axis in zip(tensors, in_dims, group_axis, strict=False)
        ]  # fmt: skip
        y, last, kept = _Scan.apply(*merged, chunks, segment)
        out = (y.unflatten(2, (runs, -1)), last.unflatten(1, (runs, -1)))
        return (*out, kept.unflatten(2, (runs, -1))), (2, 1, 2)


def _blocks(steps: int, segment: int) -> list[slice]:
    return [slice(first, min(first + segment, steps)) for first in range(0, steps, segment)]


def _fold(t: Tensor, chunks: int) -> Tensor:
    """(c q, b, ...) to (q, c b, ...): chunks become sequences of the batch."""
    return t if chunks == 1 else t.unflatten(0, (chunks, -1)).transpose(0, 1).flatten(1, 2)


def _unfold(t: Tensor, chunks: int) -> Tensor:
    return t if chunks == 1 else t.unflatten(1, (chunks, -1)).transpose(0, 1).flatten(0, 1)


def _decay(dt: Tensor, A: Tensor) -> Tensor:
    return (dt[..., None, :] * A).exp_()


def _outer(m: Tensor, x: Tensor) -> Tensor:
    """(..., n) and (..., r) to (..., n, r)."""
    return m[..., None] * x[..., None, :]


def _over_n(m: Tensor, states: Tensor) -> Tensor:
    """(..., n) and (..., n, r) to (..., r)."""
    return torch.matmul(m[..., None, :], states).squeeze(-2)


def _over_r(states: Tensor, x: Tensor) -> Tensor:
    """(..., n, r) and (..., r) to (..., n)."""
    # x from the left: the library takes six times as long for a matrix times a column
    return torch.matmul(x[..., None, :], states.transpose(-1, -2)).squeeze(-2)


def _states(decay: Tensor, income: Tensor, before: Tensor) -> Tensor:
    """state_t = decay_t state_{t-1} + income_t for all t, and `before` in front of them."""
    # new tensors and one stack: vmap follows the backward pass, and may map only some of them there
    out = [before]
    for a, i in zip(decay.unbind(0), income.unbind(0), strict=True):
        before = torch.addcmul(i, a, before)
        out.append(before)
    return torch.stack(out)


def _advance(decay: Tensor, income: Tensor, before: Tensor) -> Tensor:
    """state_t for all t, written over `income`: a tenth less time for the forward pass, which vmap
    never has to follow, since its rule makes one plain scan of all runs."""
    if torch.compiler.is_compiling():  # a compiler follows this under vmap, by itself
        return _states(decay, income, before)[1:]
    for a, i in zip(decay.unbind(0), income.unbind(0), strict=True):
        before = i.addcmul_(a, before)
    return income


def _adjoints(decay: Tensor, income: Tensor, future: Tensor) -> Tensor:
    """g_t = income_t + decay_{t+1} g_{t+1}, where the last step gets `future` instead."""
    decays, out = decay.unbind(0), list(income.unbind(0))
    out[-1] = out[-1] + future
    for t in range(len(out) - 2, -1, -1):
        out[t] = torch.addcmul(out[t], decays[t + 1], out[t + 1])
    return torch.stack(out)


def _chain(ends: Tensor, whole: Tensor, first: Tensor, chunks: int, *, backwards: bool) -> Tensor:
    """What enters each chunk (c b, ...), from what each makes of nothing and lets through."""
    order = -1 if backwards else 1
    entering = []
    for end, through in zip(ends.chunk(chunks)[::order], whole.chunk(chunks)[::order], strict=True):
        entering.append(first)
        first = torch.addcmul(end, through, first)
    return torch.cat(entering[::order])
