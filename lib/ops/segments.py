"""The fused scan of a few long sequences, such as one prompt: in segments that are scanned at once.

A program of :mod:`lib.ops.triton.long_scan` walks along a sequence, so that one sequence of a model
with 1,536 channels has 192 warps where an H100 runs thousands. But a state depends on the one that
a segment began with linearly: for a segment of steps 1 to m::

    state_m = exp(A sum_t delta_t) state_0 + (state_m for state_0 = 0)

So a first pass makes each segment's last state from zeros, and its sum of step sizes; a short
recurrence from segment to segment makes the states that they begin with; and the scan itself then
takes all segments at once. It is the chunked algorithm of Dao and Gu 2024 (arXiv 2405.21060,
section 6) over segments of a thousand steps. Forward only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lib.ops import long_scan, scan_kernels
from lib.ops.kernel_calls import ceil_div, launch, over_runs, strided


def how_many(sequences: int, channels: int, n: int, length: int) -> int:
    """Into how many segments sequences of so many channels should be cut, groups counted as
    sequences: as many as keep a GPU busy; 1 if they do so whole, or if there would be too few."""
    sizes = long_scan.SIZES
    tile = long_scan.cut(n, length)
    warps = sequences * ceil_div(channels, tile["DB"]) * sizes.warps
    count = min(sizes.filled // warps, length // sizes.segment)
    return count if count >= sizes.fewest_segments else 1


@torch.library.custom_op("mamba_book::selective_scan_ends", mutates_args=())
def _ends(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor | None, softplus: bool
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The last states (r, b, d, n) from zeros, and the sums of step sizes (r, b, d). Arguments as
    those of ``mamba_book::selective_scan``."""
    from lib.ops.triton.long_scan import long_forward

    last, total = _empty_ends(u, A)
    r, b, d, length = u.shape
    groups = B.shape[2]
    shape = scan_kernels.scan_constants(u, A, B, B, softplus)
    shape |= long_scan.cut(A.shape[2], length)
    shape |= long_scan.placing(UL=u, DL=delta, ZL=None, YL=None)
    shape["SAVE"] = shape["T"]
    programs = ceil_div(shape["CHANNELS"], shape["DB"]) * groups * b * r
    given = strided(u, delta, A, B, None, None, None, delta_bias, None, None)
    chunks = ceil_div(length, shape["T"])
    outputs = (None, last, None, total)
    launch(long_forward, programs, *given, *outputs, b, groups, length, chunks, d, **shape)
    return last, total


def _empty_ends(u: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    r, b, d, _ = u.shape
    return (
        u.new_empty(r, b, d, A.shape[2], dtype=torch.float32),
        u.new_empty(r, b, d, dtype=torch.float32),
    )


@_ends.register_fake
def _(u, delta, A, B, delta_bias, softplus):  # type: ignore[no-untyped-def]
    return _empty_ends(u, A)


_ends.register_vmap(over_runs(_ends))


def in_segments(
    count: int, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
    z: Tensor | None, delta_bias: Tensor | None, start: Tensor | None, softplus: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """y (b, d, l) and the last state (b, d, n) of sequences in `count` segments; what remains of
    them is a scan of its own. Arguments as those of :func:`lib.ops.scan.selective_scan`, B and C
    (b, g, n, l) with entries as neighbours in memory."""
    each = u.shape[2] // count // long_scan.SIZES.steps * long_scan.SIZES.steps
    head = count * each

    def cut(t: Tensor) -> Tensor:
        """Segments as runs: (..., l) to (count, ..., each), without a copy."""
        return t[..., :head].unflatten(-1, (count, each)).movedim(-2, 0)

    def all_runs(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.expand(count, *t.shape)

    A_s, bias_s = A.expand(count, *A.shape), all_runs(delta_bias)
    u_s, delta_s, B_s, C_s = (cut(t) for t in (u, delta, B, C))
    ends, total = _ends(u_s, delta_s, A_s, B_s, bias_s, softplus)
    decays = torch.exp(total[..., None] * A.float())
    state = torch.zeros_like(ends[0]) if start is None else start.float()
    starts = []
    for end, decay in zip(ends, decays, strict=True):
        starts.append(state)
        state = torch.addcmul(end, decay, state)
    y, _, _, _ = scan_kernels.forward_op(
        u_s, delta_s, A_s, B_s, C_s, all_runs(D), None if z is None else cut(z), bias_s,
        torch.stack(starts), softplus, False, False,
    )  # fmt: skip
    y = y.movedim(0, -2).flatten(-2)
    if head == u.shape[2]:
        return y, state
    rest = [None if t is None else t[None, ..., head:] for t in (u, delta, B, C, z)]
    own = [None if t is None else t[None] for t in (A, D, delta_bias, state)]
    y_rest, last, _, _ = scan_kernels.forward_op(
        *rest[:2], own[0], *rest[2:4], own[1], rest[4], *own[2:], softplus, True, False
    )
    return torch.cat([y.mT, y_rest[0].mT], 1).mT, last[0]
