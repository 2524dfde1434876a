"""The kernels of Mamba-1's selective scan as custom ops, forward and backward, with all gradients.

Tensors have a leading axis of runs: ``torch.vmap`` over a model puts its axis there, so an ensemble
of runs, each with its own A, is one launch; ``torch.compile`` leaves the ops as they are. All is
computed in float32, without tensor cores; gradients are bit-equal from call to call. There are no
second derivatives (the backend ``reference`` has them) and, as for all custom ops, no
``torch.func.grad``: ``torch.autograd.grad`` and ``backward()`` work, outside vmap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lib.ops import long_scan
from lib.ops.kernel_calls import ceil_div, empty_as, launch, over_runs, power_of_two, strided


@dataclass(frozen=True)
class Sizes:
    """Sizes of the kernels' work.

    Attributes:
        steps: of a chunk, unrolled; states of a chunk are recomputed from the one before it.
        tile, backward_tile: state entries of a warp, four for each of its threads if 128.
        forward_entries, backward_entries: how many of a tile's belong to one channel.
        forward_warps, backward_warps: of a program.
        small_tile, small_entries: of a forward program, of one warp, where there would be fewer
            than `warps` in all otherwise: few sequences, however long.
        warps: two for each of the 528 schedulers of an H100, as many as their registers hold.
        hold: whether B and C stay in a backward thread's registers, which leaves room for 8 warps
            on a processor. If not, 168 registers, for 12 warps, are nearly enough.
        registers: most registers of a backward thread; None for as many as it likes.
        channels, fewest_channels: most channels of a backward program, and the fewest where there
            are few sequences.
        programs: that many backward programs should be there, but not many more: each has sums of
            its own for A. Twice what 132 processors of an H100 hold at once.
    """

    steps: int = 8
    tile: int = 256
    forward_entries: int = 4
    forward_warps: int = 1
    small_tile: int = 64
    small_entries: int = 16
    warps: int = 1056
    backward_tile: int = 128
    backward_entries: int = 128
    backward_warps: int = 1
    hold: bool = True
    registers: int | None = None
    channels: int = 64
    fewest_channels: int = 16
    programs: int = 2112


SIZES = Sizes()


def is_long(length: int, n: int, backward: bool = False) -> bool:
    """Whether :mod:`lib.ops.triton.long_scan` serves sequences with states of n entries."""
    return long_scan.serves(length, n, SIZES.steps, backward)


def _chunks(length: int, n: int, backward: bool = False) -> tuple[int, int]:
    """Chunks of a sequence and steps of a chunk, as even as they can be where all are computed by
    the kernels for short sequences. The states between those of a backward pass are kept."""
    if is_long(length, n):
        own = backward and is_long(length, n, backward=True)
        steps = long_scan.SIZES.backward_steps if own else long_scan.SIZES.steps
        return ceil_div(length, steps), steps
    chunks = ceil_div(length, SIZES.steps)
    return chunks, ceil_div(length, chunks)


def _tile(n: int, tile: int, entries: int, warps: int) -> dict[str, int]:
    """Channels and entries of a program's tile."""
    wide = min(entries, max(4, power_of_two(n)))
    return {"DB": tile * warps // wide, "NB": wide, "num_warps": warps}


def _alignment(*tensors: Tensor) -> int:
    """The most of 16, 8 and 4 bytes at multiples of which each step of each sequence begins: so
    many can be read at once. Triton itself asks for 16 or nothing, which slices of a wider tensor,
    as a model's B and C are, often miss."""
    begins = [
        place
        for m in tensors
        for place in (m.data_ptr(), *(m.stride(i) * m.element_size() for i in (0, 1, 2, 4)
                                      if m.shape[i] > 1))
    ]  # fmt: skip
    return math.gcd(16, *begins)


def scan_constants(
    u: Tensor, A: Tensor, B: Tensor, C: Tensor, softplus: bool, backward: bool = False
) -> dict[str, Any]:
    """The constants of all kernels. Time strides of B and C are among them: their addresses then
    cost nothing."""
    chunks, steps = _chunks(u.shape[3], A.shape[2], backward)
    more = u.shape[3] > 1  # the stride along an axis of one may be anything
    return {
        "CHANNELS": u.shape[2] // B.shape[2],
        "N": A.shape[2],
        "T": steps,
        "BL": B.stride(4) if more else 0,
        "CL": C.stride(4) if more else 0,
        "WHOLE": chunks * steps == u.shape[3],
        "ALIGNED": _alignment(B, C),
        "SOFTPLUS": softplus,
        "FAST": u.is_cuda,
    }


@torch.library.custom_op("mamba_book::selective_scan", mutates_args=())
def forward_op(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, start: Tensor | None, softplus: bool, want_last: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Arguments as in :func:`selective_scan`, each with a leading axis of runs, B and C (r, b, g,
    n, l) with entries as neighbours in memory. Returns y, the last state (empty if not wanted), and
    for the backward pass, if `keep`, the states between chunks (r, b, chunks - 1, d, n) and y
    before its gate (r, b, l, d) (empty without z)."""
    from lib.ops.triton.selective_scan_forward import forward

    out = _empty_outputs(u, A, z, want_last, keep)
    y, last, states, pre = out
    r, b, d, length = u.shape
    groups = B.shape[2]
    chunks = _chunks(length, A.shape[2])[0]
    shape = scan_constants(u, A, B, C, softplus)
    long = is_long(length, A.shape[2])
    given = (*strided(u, delta, A, B, C, D, z, delta_bias, start, y),
             states if keep or not long else None, last if want_last else None,
             pre if keep else None)  # fmt: skip
    where = (b, groups, length, chunks)
    if long:
        from lib.ops.triton.long_scan import long_forward

        shape |= long_scan.cut(A.shape[2], length)
        shape |= long_scan.placing(UL=u, DL=delta, ZL=z, YL=y)
        shape["SAVE"] = _chunks(length, A.shape[2], backward=True)[1]
        programs = ceil_div(shape["CHANNELS"], shape["DB"]) * groups * b * r
        launch(long_forward, programs, *given, None, *where, d, **shape)
        return out
    tile = _tile(A.shape[2], SIZES.tile, SIZES.forward_entries, SIZES.forward_warps)
    programs = ceil_div(shape["CHANNELS"], tile["DB"]) * groups * b * r
    if programs * tile["num_warps"] < SIZES.warps:
        tile = _tile(A.shape[2], SIZES.small_tile, SIZES.small_entries, 1)
        programs = ceil_div(shape["CHANNELS"], tile["DB"]) * groups * b * r
    zero = chunks == 1 and start is None
    launch(forward, programs, *given, *where, **shape, **tile, ZERO=zero, BYTES=B.element_size())
    return out


def _empty_outputs(
    u: Tensor, A: Tensor, z: Tensor | None, want_last: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r, b, d, length = u.shape
    n = A.shape[2]
    between = _chunks(length, n, backward=True)[0] - 1
    if not keep and is_long(length, n):
        between = 0  # kernels for short sequences pass the state on there

    def wide(there: bool, *size: int) -> Tensor:
        return torch.empty(size if there else (0,), dtype=torch.float32, device=u.device)

    return (
        empty_as(u),
        wide(want_last, r, b, d, n),
        wide(between > 0, r, b, between, d, n),
        wide(z is not None and keep, r, b, length, d),
    )


@torch.library.custom_op("mamba_book::selective_scan_backward", mutates_args=())
def backward_op(
    dy: Tensor, dlast: Tensor | None, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None, start: Tensor | None,
    states: Tensor, pre: Tensor, softplus: bool, start_too: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradients of u, delta, A, B, C, D, z, delta_bias and, with `start_too`, start; empty for
    those that are None. A state is d_state times as large as a step's input, and one that was
    given, such as a frozen encoder's, needs no gradient."""
    from lib.ops.triton.selective_scan_backward import backward

    r, b, d, length = u.shape
    groups, n = B.shape[2], A.shape[2]
    chunks, steps = _chunks(length, n, backward=True)
    long, channels = is_long(length, n, backward=True), d // groups
    shape = scan_constants(u, A, B, C, softplus, backward=True)
    if long:
        shape |= long_scan.cut(n, length, channels)
        part = shape["DB"]
        each = long_scan.share(r * groups, b, ceil_div(channels, part), shape["num_warps"])
    else:
        shape |= _tile(n, SIZES.backward_tile, SIZES.backward_entries, SIZES.backward_warps)
        part, each = _share(r * groups, b, channels, shape["DB"])
    parts, blocks = ceil_div(channels, part), ceil_div(b, each)

    def wide(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(size, dtype=dtype, device=u.device)

    du, ddelta = empty_as(u), empty_as(delta)
    dz = None if z is None else empty_as(z)
    # in their own dtypes where nothing remains to be added
    dB, dC = (
        wide(parts, r, b, groups, length, n, dtype=m.dtype if parts == 1 else torch.float32)
        for m in (B, C)
    )
    dstart = wide(r, b, d, n, dtype=start.dtype) if start is not None and start_too else None
    dA = wide(blocks, r, d, n)
    dD, dbias = (None if t is None else wide(blocks, r, d) for t in (D, delta_bias))
    programs = parts * groups * blocks * r
    given = (*strided(u, delta, A, B, C, D, z, delta_bias, start), states, pre,
             *strided(dy, dlast, du, ddelta, dz), dB, dC, dstart, dA, dD, dbias)  # fmt: skip
    if long:
        from lib.ops.triton.long_scan import long_backward

        launch(
            long_backward, programs, *given, b, groups, length, chunks, d, each, **shape,
            **long_scan.placing(UL=u, DL=delta, ZL=z, YL=dy, DUL=du, DDL=ddelta, DZL=dz),
            W=shape["num_warps"], maxnreg=long_scan.SIZES.registers,
        )  # fmt: skip
    else:
        # a program's own: dt, x and dy, sums over entries (once more if these are taken in several
        # blocks) and a tile's before them, the gradient of the state between chunks, B and C; in
        # whole lines of the cache
        sums, whole = (2 if n <= shape["NB"] else 4), power_of_two(steps)
        own = part * (whole * (3 + sums) + (n if chunks > 1 else 0)) + 2 * whole * shape["DB"]
        own = ceil_div(own + (0 if SIZES.hold else 2 * steps * shape["NB"]), 32) * 32
        launch(
            backward, programs, *given, wide(programs, own), b, groups, length, chunks, each,
            **shape, PART=part, STEPS=power_of_two(steps), THREADS=32 * SIZES.backward_warps,
            SCRATCH=own, HOLD=SIZES.hold, WIDE=min(64, power_of_two(part)), maxnreg=SIZES.registers,
            ZERO=chunks == 1 and start is None, BYTES=B.element_size(),
        )  # fmt: skip

    def total(shares: Tensor | None, like: Tensor | None) -> Tensor:
        """Sum over programs, in one order."""
        if shares is None or like is None:
            return wide(0)
        return (shares[0] if shares.shape[0] == 1 else shares.sum(0)).to(like.dtype)

    return [
        du, ddelta, total(dA, A), total(dB, B).transpose(3, 4), total(dC, C).transpose(3, 4),
        total(dD, D), wide(0) if dz is None else dz, total(dbias, delta_bias),
        wide(0) if dstart is None else dstart,
    ]  # fmt: skip


def _share(groups: int, b: int, channels: int, tile: int) -> tuple[int, int]:
    """Channels and sequences of a backward program; `groups` are those of all runs.

    Fewer channels cost more partial sums of dB and dC, so they come only where there are too few
    sequences to keep a GPU busy. The same shapes have the same share, whatever the device.
    """
    part = max(tile, min(SIZES.channels, ceil_div(channels, tile) * tile) // tile * tile)
    least = max(tile, SIZES.fewest_channels)
    while part > least and groups * b * ceil_div(channels, part) < SIZES.programs // 2:
        part = ceil_div(part // 2, tile) * tile
    lots = max(1, SIZES.programs // (groups * ceil_div(channels, part)))
    return part, ceil_div(b, lots)


@forward_op.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, start, softplus, want_last, keep):  # type: ignore[no-untyped-def]
    return _empty_outputs(u, A, z, want_last, keep)


@backward_op.register_fake
def _(dy, dlast, u, delta, A, B, C, D, z, delta_bias, start, *rest):  # type: ignore[no-untyped-def]
    start = start if rest[-1] else None

    def like(t: Tensor | None) -> Tensor:
        return u.new_empty(0, dtype=torch.float32) if t is None else t.new_empty(t.shape)

    def entries(m: Tensor) -> Tensor:
        return m.new_empty(*m.shape[:3], m.shape[4], m.shape[3]).transpose(3, 4)

    dz = like(z) if z is None else empty_as(z)
    return [
        empty_as(u), empty_as(delta), like(A), entries(B), entries(C), like(D), dz,
        like(delta_bias), like(start),
    ]  # fmt: skip


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.softplus, ctx.want_last, _ = inputs
    ctx.set_materialize_grads(False)  # zeros of the states' size, for nothing
    ctx.save_for_backward(*tensors, *output[2:])


def _gradients(ctx: Any, dy: Tensor | None, dlast: Tensor | None, *_: Any) -> tuple[Any, ...]:
    tensors = ctx.saved_tensors
    u = tensors[0]
    if dy is None:
        dy = u.new_zeros(()).expand(u.shape)
    start_too = ctx.needs_input_grad[8]
    grads = backward_op(dy, dlast if ctx.want_last else None, *tensors, ctx.softplus, start_too)
    given = [t is not None for t in tensors[:8]] + [start_too]
    return (*(g if here else None for g, here in zip(grads, given, strict=True)), None, None, None)


forward_op.register_autograd(_gradients, setup_context=_save)
forward_op.register_vmap(over_runs(forward_op))
backward_op.register_vmap(over_runs(backward_op))
