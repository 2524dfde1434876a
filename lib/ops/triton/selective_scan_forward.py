"""Forward kernel of Mamba-1's selective scan, made for short sequences and large batches.

A program is a warp (or a few) that holds the states of DB channels of one sequence, NB entries at
a time, over a chunk of T steps that are unrolled. Lanes lie along entries and channels, four
neighbouring entries a thread, so B_t and C_t are loaded once for all channels of the program, and
the sum over entries is made once a chunk, after all blocks of entries. All lines of a chunk's B and
C are fetched at its start: a block of entries needs a part of each, and a profile had the warps
waiting for those parts, block after block, a third of the time.

Counts for each state entry and step: one exponential (a quarter of a warp's instruction takes one
cycle: 8 cycles of a scheduler), two products and two fused multiply-adds (1 cycle each), and a
quarter of a load for all channels of a thread; a first step from no state has no exponential. So
the exponentials are the limit: 2^27 entries and steps (batch 2048, 64 channels, 8 steps, 128
entries) on 132 processors of an H100 that make 16 a cycle take 7/8 of 36 microseconds at 1.755 GHz;
the 29 MB of inputs and outputs take 10.
"""

# The arguments of a kernel are pointers, sizes and constants; types say nothing here.
# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton knows no starred expressions)
from __future__ import annotations

import triton
import triton.language as tl

from lib.ops.triton.elementwise import exp2, softplus
from lib.ops.triton.prefetch import fetch_rows

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def everywhere():
    """A mask that the compiler takes away again: everything exists."""
    return tl.full((1, 1), True, tl.int1)


@triton.jit
def read(where, ok):
    """Load in float32, zero where it is not ok."""
    return tl.load(where, mask=ok, other=0.0).to(tl.float32)


@triton.jit
def write(where, value, ok):
    """Store where it is ok."""
    tl.store(where, value, mask=ok)


@triton.jit
def until(ok, t, length, WHOLE: tl.constexpr):
    """Where ok and t < length, which holds for all t if chunks are WHOLE."""
    if not WHOLE:
        ok = ok & (t < length)
    return ok


@triton.jit
def forward(
    u, u_s, delta, delta_s, A, A_s, B, B_s, C, C_s, D, D_s, z, z_s, bias, bias_s, start, start_s,
    y, y_s, states, last, pre, batch, groups, length, chunks,
    CHANNELS: tl.constexpr, N: tl.constexpr, T: tl.constexpr, DB: tl.constexpr, NB: tl.constexpr,
    BL: tl.constexpr, CL: tl.constexpr, WHOLE: tl.constexpr, ZERO: tl.constexpr,
    ALIGNED: tl.constexpr, SOFTPLUS: tl.constexpr, FAST: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    """y, and the states that the backward pass starts chunks from.

    u, delta, z, y (r, b, d, l), A (r, d, n), B, C (r, b, g, n, l), D, bias (r, d), start
    (r, b, d, n), each with its strides. `between` chunks' states go to states (r, b, chunks - 1,
    d, n), the last to last (r, b, d, n) if given, and y before its gate to pre (r, b, l, d) if
    there is z and a place for it. Entries of B and C are neighbours, their steps BL and CL apart.
    CHANNELS of each of the groups. ZERO: chunks start from no state, as the only chunk does
    without `start`. Each step of B and C begins at a multiple of ALIGNED bytes,
    so many are read at once. Grid: (blocks of channels, batch, runs), flat, the blocks of
    channels next to each other because they share B and C.
    """
    BLOCKS: tl.constexpr = (CHANNELS + DB - 1) // DB
    pid = tl.program_id(0)
    block = pid % BLOCKS
    group = pid // BLOCKS % groups
    seq = (pid // BLOCKS // groups).to(tl.int64)
    run = seq // batch
    b = seq % batch
    d_inner = groups * CHANNELS
    within = block * DB + tl.arange(0, DB)[:, None]
    d = group * CHANNELS + within
    ok = everywhere()
    if CHANNELS % DB:
        ok = within < CHANNELS
    u += run * u_s[0] + b * u_s[1] + d * u_s[2]
    delta += run * delta_s[0] + b * delta_s[1] + d * delta_s[2]
    y += run * y_s[0] + b * y_s[1] + d * y_s[2]
    A += run * A_s[0] + d * A_s[1]
    B += run * B_s[0] + b * B_s[1] + group * B_s[2]
    C += run * C_s[0] + b * C_s[1] + group * C_s[2]
    B = tl.multiple_of(B, ALIGNED)
    C = tl.multiple_of(C, ALIGNED)
    if z is not None:
        z += run * z_s[0] + b * z_s[1] + d * z_s[2]
    if pre is not None:
        pre += (seq * length) * d_inner + d
    states += (seq * (chunks - 1)) * d_inner * N + d * N
    chunk = 0
    while chunk < chunks:
        first = chunk * T
        left = tl.minimum(length - first, T)
        fetch_rows(B + first * BL, BL, left, T, N, BYTES, 1, FAST)
        fetch_rows(C + first * CL, CL, left, T, N, BYTES, 1, FAST)
        dts = ()
        xs = ()
        ys = ()
        for t in tl.static_range(T):
            # a step beyond the end neither decays nor adds: it leaves the state as it is
            there = until(ok, first + t, length, WHOLE)
            dt = read(delta + (first + t) * delta_s[3], there)
            if bias is not None:
                dt += read(bias + run * bias_s[0] + d * bias_s[1], ok)
            if SOFTPLUS:
                dt = softplus(dt)
            dt = tl.where(there, dt, 0.0)
            dts = dts + (dt,)
            xs = xs + (dt * read(u + (first + t) * u_s[3], there),)
            ys = ys + (tl.zeros((DB, NB), tl.float32),)
        for n0 in tl.range(0, N, NB, num_stages=1):
            n = n0 + tl.arange(0, NB)[None, :]
            ok_n = everywhere()
            if N % NB:
                ok_n = n < N
            ok_dn = ok & ok_n
            a = read(A + n * A_s[2], ok_dn) * LOG2E
            if chunk == 0:
                if start is not None:
                    h = read(start + run * start_s[0] + b * start_s[1] + d * start_s[2]
                             + n * start_s[3], ok_dn)  # fmt: skip
                else:
                    h = tl.zeros((DB, NB), tl.float32)
            else:
                h = read(states + (chunk - 1) * d_inner * N + n, ok_dn)
            more = ()
            for t in tl.static_range(T):
                ok_t = until(ok_n, first + t, length, WHOLE)
                b_t = read(B + n + first * BL + t * BL, ok_t)
                c_t = read(C + n + first * CL + t * CL, ok_t)
                new = xs[t] * b_t
                if t > 0 or not ZERO:
                    new += exp2(dts[t] * a, FAST) * h
                h = new
                more = more + (ys[t] + h * c_t,)
            ys = more
            if chunk + 1 < chunks:
                write(states + chunk * d_inner * N + n, h, ok_dn)
            elif last is not None:
                write(last + seq * d_inner * N + d * N + n, h, ok_dn)
        for t in tl.static_range(T):
            there = until(ok, first + t, length, WHOLE)
            value = tl.sum(ys[t], 1, keep_dims=True)
            if D is not None:
                skip = read(D + run * D_s[0] + d * D_s[1], ok)
                value += skip * read(u + (first + t) * u_s[3], there)
            if z is not None:
                if pre is not None:
                    write(pre + (first + t) * d_inner, value, there)
                gate = read(z + (first + t) * z_s[3], there)
                value = value * gate * tl.sigmoid(gate)
            write(y + (first + t) * y_s[3], value, there)
        tl.debug_barrier()  # the next chunk reads the states that this one wrote
        chunk += 1
