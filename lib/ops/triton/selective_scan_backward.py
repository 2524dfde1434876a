"""Backward kernel of Mamba-1's selective scan: states computed again, gradients without atomics.

With a_t = exp(dt_t A), x_t = dt_t u_t and g_t = dL/dstate_t = C_t dy_t + a_{t+1} g_{t+1}::

    dC_t = sum_d dy_t state_t    dx_t = sum_n B_t g_t
    dB_t = sum_d x_t g_t         ddt_t = sum_n A g_t a_t state_{t-1}
    dA = sum_{b,t} dt_t g_t a_t state_{t-1}

A program is a warp that walks over some channels of a few sequences of one run. What belongs to
(sequence, entry), 32 numbers for 8 steps, stays in its registers: B_t, C_t and the sums dB_t, dC_t
of NB entries. What belongs to (channel, entry), A and dA, is read and written once for each tile
of DB channels; what belongs to (sequence, channel) too, after a sum over the tile's entries. The
states of a tile over a chunk of T steps are in registers. Every sum has one order, so results are
bit-equal from run to run: dA, dD and the bias's are summed over a program's sequences in a buffer
of its own, and over programs afterwards.

Counts for each state entry and step, of an H100's instructions at 8 steps and 32 entries a block:
one exponential (8 cycles of a scheduler, beside the rest), 11.1 products and fused multiply-adds,
0.4 exchanges between threads with as many additions and twice as many choices, 0.9 loads and
stores; 17 with everything around. 2^27 entries and steps (batch 2048, 64 channels, 8 steps, 128
entries) take the 528 schedulers 77 microseconds at 1.755 GHz if none ever waits. Bytes there: 54 MB
of inputs and gradients; dA's buffers, written and read (2 s - 1) times by a program with s
sequences, 32 KB each time, 100 MB in all, mostly in the second-level cache, and 34 MB to add up.
"""

# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton knows no starred expressions)
from __future__ import annotations

import triton
import triton.language as tl

from lib.ops.triton.elementwise import exp2, softplus
from lib.ops.triton.selective_scan_forward import (
    LOG2E,
    everywhere,
    read,
    until,
    write,
)

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def place(base, s, run, b, d, t):
    """Where (run, b, d, t) lies in a tensor of strides s."""
    return base + run * s[0] + b * s[1] + d * s[2] + t * s[3]


@triton.jit
def kept(d, t, T: tl.constexpr, STEPS: tl.constexpr, PART: tl.constexpr, WIDE: tl.constexpr):
    """Where the scratch exists, for element-wise work on channels d (1, WIDE) and steps (STEPS, 1)
    of a chunk."""
    ok = everywhere()
    if PART % WIDE:
        ok = d < PART
    if T != STEPS:
        ok = ok & (t < T)
    return ok


@triton.jit
def exists(d, left, PART: tl.constexpr, WIDE: tl.constexpr, RAGGED: tl.constexpr):
    """Which of the channels d exist, if `left` do."""
    ok = everywhere()
    if RAGGED or PART % WIDE:
        ok = d < tl.minimum(left, PART)
    return ok


@triton.jit
def raw_step(delta, delta_s, bias, bias_s, run, b, d, t, ok_d, inside):
    """What dt is made from: delta and its bias."""
    raw = read(place(delta, delta_s, run, b, d, t), inside)
    if bias is not None:
        raw += read(bias + run * bias_s[0] + d * bias_s[1], ok_d)
    return raw


@triton.jit
def add_up(where, value, ok, again):
    """Add to a sum of the program's own; the first time (not `again`) there is none yet."""
    value += tl.load(where, mask=ok & again, other=0.0)
    write(where, value, ok)


@triton.jit
def exchange(low, high, j, APART: tl.constexpr):
    """Two tensors (d, j) to one: where j has the bit APART, high plus the high of j - APART,
    elsewhere low plus the low of j + APART."""
    upper = (j & APART) != 0
    yours = tl.gather(tl.where(upper, low, high), j ^ APART, 1)
    return tl.where(upper, high, low) + yours


@triton.jit
def sum_over(values, j, J: tl.constexpr):
    """Many tensors (d, J), of which only sums over J are wanted, to 1 / J as many: of v, the k-th
    holds at j the sum of the values' v / J j + k.

    Each step halves the number of tensors, so v exchanges between threads are made and not
    v log2(J), and every thread ends with sums of its own to store.
    """
    APART: tl.constexpr = J // 2
    if APART == 0:
        out = values
    else:
        HALF: tl.constexpr = len(values) // 2
        half = ()
        for k in tl.static_range(HALF):
            half = half + (exchange(values[k], values[k + HALF], j, APART),)
        out = sum_over(half, j, APART)
    return out


@triton.jit
def backward(
    u, u_s, delta, delta_s, A, A_s, B, B_s, C, C_s, D, D_s, z, z_s, bias, bias_s, start, start_s,
    states, pre, dy, dy_s, dlast, dlast_s, du, du_s, ddelta, ddelta_s, dz, dz_s, dB, dC, dstart,
    dA, dD, dbias, scratch, batch, groups, length, chunks, per_program,
    CHANNELS: tl.constexpr, PART: tl.constexpr, N: tl.constexpr, T: tl.constexpr,
    STEPS: tl.constexpr, DB: tl.constexpr, NB: tl.constexpr, WIDE: tl.constexpr,
    BL: tl.constexpr, CL: tl.constexpr, WHOLE: tl.constexpr, SOFTPLUS: tl.constexpr,
    FAST: tl.constexpr,
):  # fmt: skip
    """Gradients of all inputs of :func:`forward`.

    A program takes PART of a group's CHANNELS, a multiple of DB, and `per_program` sequences of a
    run. With w parts of a group and p = cdiv(batch, per_program): dB, dC (w, r, b, g, l, n), dA
    (p, r, d, n), dD, dbias (p, r, d), dstart (r, b, d, n). STEPS: T rounded up to a power of two.
    scratch: a program's own, (3 T + 4 STEPS) PART numbers and, with several chunks, PART N. WIDE:
    channels that element-wise work takes at once. Grid: (w, g, p, r), flat.
    """
    PARTS: tl.constexpr = (CHANNELS + PART - 1) // PART
    RAGGED: tl.constexpr = CHANNELS % PART != 0
    pid = tl.program_id(0)
    part = pid % PARTS
    group = pid // PARTS % groups
    blocks = (batch + per_program - 1) // per_program
    runs = tl.num_programs(0) // PARTS // groups // blocks
    block = pid // PARTS // groups % blocks
    run = (pid // PARTS // groups // blocks).to(tl.int64)
    d_inner = groups * CHANNELS
    channel = group * CHANNELS + part * PART  # the program's first, and how many are left from it
    left = CHANNELS - part * PART
    own = (block * runs + run) * d_inner + channel
    A += run * A_s[0] + channel * A_s[1]
    B += run * B_s[0] + group * B_s[2]
    C += run * C_s[0] + group * C_s[2]
    dA += own * N
    size = (3 * T + 4 * STEPS) * PART
    if chunks > 1:
        size += PART * N
    dts = scratch + pid.to(tl.int64) * size
    xs = dts + T * PART
    dys = dts + 2 * T * PART
    parts = dts + 3 * T * PART  # dx and ddt (PART, STEPS): sums over a block of entries
    totals = parts + 2 * STEPS * PART  # and over all of them
    carried = totals + 2 * STEPS * PART  # the gradient of the state before the later chunk
    steps = tl.arange(0, STEPS)[:, None]
    J: tl.constexpr = NB // 4  # threads along entries, with four each
    SPREAD: tl.constexpr = STEPS >= J and J > 1
    j = tl.zeros((DB, 1), tl.int32) + tl.arange(0, J)[None, :]
    b = block * per_program
    end = tl.minimum(b + per_program, batch)
    b = b.to(tl.int64)
    again = False  # whether this program's sums have begun
    while b < end:
        seq = run * batch + b
        chunk = chunks - 1
        while chunk >= 0:
            first = chunk * T
            # element-wise work before the scan: dt, x and the gradient of y before its gate
            for p0 in tl.range(0, PART, WIDE, num_stages=1):
                d = p0 + tl.arange(0, WIDE)[None, :]
                ok = kept(d, steps, T, STEPS, PART, WIDE)
                ok_d = exists(d, left, PART, WIDE, RAGGED)
                inside = until(ok & ok_d, first + steps, length, WHOLE)
                t = first + steps
                dt = raw_step(delta, delta_s, bias, bias_s, run, b, channel + d, t, ok_d, inside)
                if SOFTPLUS:
                    dt = softplus(dt)
                dt = tl.where(inside, dt, 0.0)  # a step that is not there leaves the state as it is
                u_t = read(place(u, u_s, run, b, channel + d, t), inside)
                dy_t = read(place(dy, dy_s, run, b, channel + d, t), inside)
                if z is not None:
                    z_t = read(place(z, z_s, run, b, channel + d, t), inside)
                    ungated = read(pre + (seq * length + t) * d_inner + channel + d, inside)
                    gate = tl.sigmoid(z_t)
                    dz_t = dy_t * ungated * gate * (1.0 + z_t * (1.0 - gate))
                    write(place(dz, dz_s, run, b, channel + d, t), dz_t, inside)
                    dy_t = dy_t * z_t * gate
                at = steps * PART + d
                write(dts + at, dt, ok)
                write(xs + at, dt * u_t, ok)
                write(dys + at, dy_t, ok)
            tl.debug_barrier()  # other threads of this program read what was written
            for n0 in tl.range(0, N, NB, num_stages=1):
                n = n0 + tl.arange(0, NB)[None, :]
                ok_n = everywhere()
                if N % NB:
                    ok_n = n < N
                B_n = B + b * B_s[1] + n * B_s[3] + first * B_s[4]
                C_n = C + b * C_s[1] + n * C_s[3] + first * C_s[4]
                bs = ()
                cs = ()
                dbs = ()
                dcs = ()
                for i in tl.static_range(T):
                    ok_i = until(ok_n, first + i, length, WHOLE)
                    bs = bs + (read(B_n + i * (BL if BL else B_s[4]), ok_i),)
                    cs = cs + (read(C_n + i * (CL if CL else C_s[4]), ok_i),)
                    dbs = dbs + (tl.zeros((DB, NB), tl.float32),)
                    dcs = dcs + (tl.zeros((DB, NB), tl.float32),)
                for q0 in tl.range(0, PART, DB, num_stages=1):
                    c = q0 + tl.arange(0, DB)[:, None]
                    ok_c = ok_n
                    if RAGGED:
                        ok_c = ok_n & (c < left)
                    a = read(A + c * A_s[1] + n * A_s[2], ok_c) * LOG2E
                    if chunk > 0:
                        before = seq * (chunks - 1) + chunk - 1
                        h = read(states + (before * d_inner + channel + c) * N + n, ok_c)
                    else:
                        if start is not None:
                            h = read(place(start, start_s, run, b, channel + c, n), ok_c)
                        else:
                            h = tl.zeros((DB, NB), tl.float32)
                    decays = ()
                    befores = ()
                    more = ()
                    for i in tl.static_range(T):
                        decay = exp2(tl.load(dts + i * PART + c) * a, FAST)
                        decays = decays + (decay,)
                        befores = befores + (h,)
                        h = decay * h + tl.load(xs + i * PART + c) * bs[i]
                        more = more + (dcs[i] + tl.load(dys + i * PART + c) * h,)
                    dcs = more
                    if chunk + 1 < chunks:
                        g = read(carried + c * N + n, ok_c)
                    else:
                        if dlast is not None:
                            g = read(place(dlast, dlast_s, run, b, channel + c, n), ok_c)
                        else:
                            g = tl.zeros((DB, NB), tl.float32)
                    da = tl.zeros((DB, NB), tl.float32)
                    more = ()
                    values = ()
                    if SPREAD:
                        for _ in tl.static_range(2 * (STEPS - T)):
                            values = values + (tl.zeros((DB, J), tl.float32),)
                    for i in tl.static_range(T - 1, -1, -1):
                        g += tl.load(dys + i * PART + c) * cs[i]
                        more = (dbs[i] + tl.load(xs + i * PART + c) * g,) + more
                        dx = g * bs[i]
                        g = g * decays[i]
                        q = g * befores[i]
                        da += tl.load(dts + i * PART + c) * q
                        ddt = q * a
                        if SPREAD:
                            dx = tl.sum(tl.reshape(dx, (DB, J, 4)), 2)
                            values = (dx, tl.sum(tl.reshape(ddt, (DB, J, 4)), 2)) + values
                        else:
                            tl.store(parts + c * STEPS + i, tl.sum(dx, 1, keep_dims=True))
                            at = parts + PART * STEPS + c * STEPS + i
                            tl.store(at, tl.sum(ddt, 1, keep_dims=True))
                    if SPREAD:
                        sums = sum_over(values, j, J)
                        for k in tl.static_range(2 * STEPS // J):
                            at = parts + (k % 2 * PART + c) * STEPS + STEPS // J * j + k // 2
                            tl.store(at, sums[k])
                    dbs = more
                    add_up(dA + c * N + n, da, ok_c, again)
                    if chunk > 0:
                        write(carried + c * N + n, g, ok_c)
                    elif dstart is not None:
                        write(dstart + (seq * d_inner + channel + c) * N + n, g, ok_c)
                row = (((part * runs + run) * batch + b) * groups + group) * length + first
                for i in tl.static_range(T):
                    ok_i = until(ok_n, first + i, length, WHOLE)
                    write(dB + (row + i) * N + n, tl.sum(dbs[i], 0, keep_dims=True), ok_i)
                    write(dC + (row + i) * N + n, tl.sum(dcs[i], 0, keep_dims=True), ok_i)
                tl.debug_barrier()
                for p0 in tl.range(0, 2 * PART * STEPS, WIDE * STEPS, num_stages=1):
                    at = p0 + tl.arange(0, WIDE * STEPS)[None, :]
                    ok = everywhere()
                    if 2 * PART % WIDE:
                        ok = at < 2 * PART * STEPS
                    add_up(totals + at, read(parts + at, ok), ok, n0 > 0)
                tl.debug_barrier()  # before the parts are written again
            # element-wise work after the scan
            for p0 in tl.range(0, PART, WIDE, num_stages=1):
                d = p0 + tl.arange(0, WIDE)[None, :]
                ok = kept(d, steps, T, STEPS, PART, WIDE)
                ok_d = exists(d, left, PART, WIDE, RAGGED)
                inside = until(ok & ok_d, first + steps, length, WHOLE)
                t = first + steps
                at = steps * PART + d
                dx = read(totals + d * STEPS + steps, ok)
                u_t = read(place(u, u_s, run, b, channel + d, t), inside)
                du_t = dx * read(dts + at, ok)
                if D is not None:
                    dy_t = read(dys + at, ok)
                    du_t += dy_t * read(D + run * D_s[0] + (channel + d) * D_s[1], ok_d)
                    add_up(dD + own + d, tl.sum(dy_t * u_t, 0, keep_dims=True), ok_d, again)
                write(place(du, du_s, run, b, channel + d, t), du_t, inside)
                ddt = read(totals + (PART + d) * STEPS + steps, ok) * LN2 + dx * u_t
                if SOFTPLUS:
                    ddt *= tl.sigmoid(
                        raw_step(delta, delta_s, bias, bias_s, run, b, channel + d, t, ok_d, inside)
                    )
                write(place(ddelta, ddelta_s, run, b, channel + d, t), ddt, inside)
                if bias is not None:
                    ddt = tl.where(inside, ddt, 0.0)
                    add_up(dbias + own + d, tl.sum(ddt, 0, keep_dims=True), ok_d, again)
            tl.debug_barrier()  # before the scratch is written again
            again = True
            chunk -= 1
        b += 1
