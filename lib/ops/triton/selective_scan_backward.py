"""Backward kernel of Mamba-1's selective scan: states computed again, every sum in one order.

With a_t = exp(dt_t A), x_t = dt_t u_t and g_t = dL/dstate_t = C_t dy_t + a_{t+1} g_{t+1}::

    dC_t = sum_d dy_t state_t    dx_t = sum_n B_t g_t
    dB_t = sum_d x_t g_t         ddt_t = sum_n A g_t a_t state_{t-1}
    dA = sum_{b,t} dt_t g_t a_t state_{t-1}

A program is a warp that walks over some channels of a few sequences of one run. What belongs to
(sequence, entry), 32 numbers for 8 steps, stays in its registers: B_t, C_t and the sums dB_t, dC_t
of NB entries, most often all. What belongs to (channel, entry) comes and goes once for each tile of
DB channels: A is read, dA added to; what belongs to (sequence, channel) too, after a sum over the
tile's entries. The states of a tile over a chunk of T steps are in registers. dA, dD and the bias's
gradient are summed over a program's sequences in a buffer of its own, and over programs afterwards.

dA is added to where it lies, in the second-level cache, by instructions for which nobody waits.
They are atomic, but no two threads add to one number, and those of one thread come in its order: so
results are bit-equal from run to run. (When dA was read, added to and written again, a profile had
its warps waiting for it a fifth of the time: the buffers of all programs, 34 MB, are pushed out of
the cache by what else goes through it.)

Registers leave room for few warps, which must not wait. What a tile reads lies in a processor's own
cache: A, since the programs of a processor are of one run where they can be, and dt, x and dy, as
they are fetched after they have been written. The next tile's are loaded, four steps at once, while
this one is computed, and this one's sums are exchanged while the next is begun, which is when
exponentials leave time. The loop has no branch, across which a compiler moves nothing. The next
sequence's inputs are brought to the cache while this one is computed. With one channel a tile its
numbers are the same for all threads, so the compiler puts them into the registers that a warp's
threads share.

Counts for each state entry and step, of an H100's instructions at 8 steps, 128 entries a block and
no first state: 0.9 exponentials (8 cycles of a scheduler each, beside the rest), 10.4 products and
fused multiply-adds, 0.5 exchanges between threads with as many additions and twice as many choices,
0.3 loads and stores, 0.8 moves to shared registers; 15.2 with everything around. 2^27 entries and
steps (batch 2048, 64 channels, 8 steps, 128 entries) take the 528 schedulers 69 microseconds at
1.755 GHz if none ever waits. Bytes there: 54 MB of inputs and gradients; dA's buffers, 32 KB a
program, of which each sequence adds to all; and 34 MB to add up.
"""

# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton knows no starred expressions)
from __future__ import annotations

import triton
import triton.language as tl

from lib.ops.triton.elementwise import exp2, softplus
from lib.ops.triton.lanes import numbers, sum_over
from lib.ops.triton.prefetch import fetch, fetch_rows
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
def store_sums(parts, c, values, j, J: tl.constexpr, NEAR: tl.constexpr):
    """Over the lanes of channels c, of `values` (DB, J), to their places in `parts`."""
    V: tl.constexpr = len(values)
    sums = sum_over(values, j, J, 1, NEAR)
    at = parts + c * V + j * V // J
    for k in tl.static_range(len(sums)):
        tl.store(at + k, sums[k])


@triton.jit
def of_tile(A, A_s, rows, q, n, ok, left, DB: tl.constexpr, STEPS: tl.constexpr,
            J: tl.constexpr, E: tl.constexpr, RAGGED: tl.constexpr):  # fmt: skip
    """A, dt, x and dy of the DB channels from q."""
    c = q + tl.arange(0, DB)[:, None]
    if RAGGED:
        ok = ok & (c < left)
    row = rows + c * 3 * STEPS
    return (
        read(A + c * A_s[1] + n * A_s[2], ok), numbers(row, STEPS, J, E),
        numbers(row + STEPS, STEPS, J, E), numbers(row + 2 * STEPS, STEPS, J, E),
    )  # fmt: skip


@triton.jit
def backward(
    u, u_s, delta, delta_s, A, A_s, B, B_s, C, C_s, D, D_s, z, z_s, bias, bias_s, start, start_s,
    states, pre, dy, dy_s, dlast, dlast_s, du, du_s, ddelta, ddelta_s, dz, dz_s, dB, dC, dstart,
    dA, dD, dbias, scratch, batch, groups, length, chunks, per_program,
    CHANNELS: tl.constexpr, PART: tl.constexpr, N: tl.constexpr, T: tl.constexpr,
    STEPS: tl.constexpr, DB: tl.constexpr, NB: tl.constexpr, THREADS: tl.constexpr,
    SCRATCH: tl.constexpr, HOLD: tl.constexpr, WIDE: tl.constexpr, BL: tl.constexpr,
    CL: tl.constexpr, WHOLE: tl.constexpr, ZERO: tl.constexpr, ALIGNED: tl.constexpr,
    SOFTPLUS: tl.constexpr, FAST: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    """Gradients of all inputs of :func:`forward`.

    A program takes PART of a group's CHANNELS, a multiple of DB, and `per_program` sequences of a
    run. With w parts of a group and p = cdiv(batch, per_program): dB, dC (w, r, b, g, l, n), dA
    (p, r, d, n), dD, dbias (p, r, d), dstart (r, b, d, n). STEPS: T rounded up to a power of two.
    scratch: a program's own SCRATCH numbers. THREADS of a program. HOLD: keep B and C in registers,
    not in the scratch, from which each tile reads them again. ZERO: chunks start from no state.
    WIDE: channels that element-wise work takes at once. Grid: (w, g, p, r), flat.
    """
    PARTS: tl.constexpr = (CHANNELS + PART - 1) // PART
    RAGGED: tl.constexpr = CHANNELS % PART != 0
    pid = tl.program_id(0)
    blocks = (batch + per_program - 1) // per_program
    runs = tl.num_programs(0) // PARTS // groups // blocks
    # programs go to processors in turn: if runs divide their number, all of one are of one run,
    # whose A then stays in its cache
    run = (pid % runs).to(tl.int64)
    part = pid // runs % PARTS
    group = pid // runs // PARTS % groups
    block = pid // runs // PARTS // groups
    d_inner = groups * CHANNELS
    channel = group * CHANNELS + part * PART  # the program's first, and how many are left from it
    left = CHANNELS - part * PART
    own = (block * runs + run) * d_inner + channel
    A += run * A_s[0] + channel * A_s[1]
    dA += own * N
    copies = scratch + pid.to(tl.int64) * SCRATCH  # B and C (2, T, NB), if not in registers
    rows = copies  # dt, x and dy (PART, 3, STEPS)
    if not HOLD:
        rows = copies + 2 * T * NB
    # dx and ddt (PART, STEPS, 2): sums over a block of entries; before them a tile's of nothing
    parts = rows + 3 * STEPS * PART + 2 * STEPS * DB
    totals = parts  # and over all of them
    if N > NB:
        totals = parts + 2 * STEPS * PART
    carried = totals + 2 * STEPS * PART  # the gradient of the state before the later chunk
    steps = tl.arange(0, STEPS)[:, None]
    J: tl.constexpr = THREADS // DB  # threads along entries, with E neighbours each
    E: tl.constexpr = NB // J
    V: tl.constexpr = 2 * STEPS  # sums over entries for a channel
    j = tl.zeros((DB, 1), tl.int32) + tl.arange(0, J)[None, :]
    b = block * per_program
    end = tl.minimum(b + per_program, batch)
    b = b.to(tl.int64)
    again = False  # whether this program's sums have begun
    # of the next sequence's last chunk: where it begins, its steps, a channel of each line
    final = (chunks - 1) * T
    late = tl.minimum(final + steps, length - 1)
    lines = tl.arange(0, triton.next_power_of_2((PART + 31) // 32))[None, :] * 32
    lines = channel + tl.minimum(lines, tl.minimum(left, PART) - 1)
    # zeros to add to: to write the first sequence's instead would take a branch, and the compiler
    # moves nothing across one
    for n0 in tl.range(0, N, NB, num_stages=1):
        n = n0 + tl.arange(0, NB)[None, :]
        for q0 in tl.range(0, PART, DB, num_stages=1):
            c = q0 + tl.arange(0, DB)[:, None]
            write(dA + c * N + n, tl.zeros((DB, NB), tl.float32), (n < N) & (c < left))
    while b < end:
        seq = run * batch + b
        B_b = B + (run * B_s[0] + b * B_s[1] + group * B_s[2])
        C_b = C + (run * C_s[0] + b * C_s[1] + group * C_s[2])
        B_b = tl.multiple_of(B_b, ALIGNED)
        C_b = tl.multiple_of(C_b, ALIGNED)
        coming = tl.minimum(b + 1, end - 1)
        to_B = B_b + (coming - b) * B_s[1] + final * BL
        to_C = C_b + (coming - b) * C_s[1] + final * CL
        fetch_rows(to_B, BL, length - final, T, N, BYTES, 2, FAST)
        fetch_rows(to_C, CL, length - final, T, N, BYTES, 2, FAST)
        fetch(place(u, u_s, run, coming, lines, late), 2, FAST)
        fetch(place(delta, delta_s, run, coming, lines, late), 2, FAST)
        fetch(place(dy, dy_s, run, coming, lines, late), 2, FAST)
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
                at = rows + d * 3 * STEPS + steps
                write(at, dt, ok)
                write(at + STEPS, dt * u_t, ok)
                write(at + 2 * STEPS, dy_t, ok)
            tl.debug_barrier()  # other threads of this program read what was written
            fetch_rows(rows, 0, 1, 1, 3 * STEPS * PART, 4, 1, FAST)
            for n0 in tl.range(0, N, NB, num_stages=1):
                n = n0 + tl.arange(0, NB)[None, :]
                ok_n = everywhere()
                if N % NB:
                    ok_n = n < N
                B_n = B_b + n + first * BL
                C_n = C_b + n + first * CL
                bs = ()
                cs = ()
                dbs = ()
                dcs = ()
                for i in tl.static_range(T):
                    ok_i = until(ok_n, first + i, length, WHOLE)
                    bs = bs + (read(B_n + i * BL, ok_i),)
                    cs = cs + (read(C_n + i * CL, ok_i),)
                    dbs = dbs + (tl.zeros((DB, NB), tl.float32),)
                    dcs = dcs + (tl.zeros((DB, NB), tl.float32),)
                if not HOLD:
                    copy = copies + (n - n0) + tl.zeros((DB, 1), tl.int32)
                    for i in tl.static_range(T):
                        tl.store(copies + (n - n0) + i * NB, bs[i])
                        tl.store(copies + (n - n0) + (T + i) * NB, cs[i])
                    tl.debug_barrier()
                here = of_tile(A, A_s, rows, 0, n, ok_n, left, DB, STEPS, J, E, RAGGED)
                pending = ()
                for _ in tl.static_range(V):
                    pending = pending + (tl.zeros((DB, J), tl.float32),)
                for q0 in tl.range(0, PART, DB, num_stages=1):
                    c = q0 + tl.arange(0, DB)[:, None]
                    store_sums(parts, c - DB, pending, j, J, FAST and THREADS == 32)
                    ok_c = ok_n
                    if RAGGED:
                        ok_c = ok_n & (c < left)
                    a, dts, xs, dys = here
                    a *= LOG2E
                    if chunk > 0:
                        earlier = seq * (chunks - 1) + chunk - 1
                        h = read(states + (earlier * d_inner + channel + c) * N + n, ok_c)
                    else:
                        if start is not None:
                            h = read(place(start, start_s, run, b, channel + c, n), ok_c)
                        else:
                            h = tl.zeros((DB, NB), tl.float32)
                    decays = ()
                    befores = ()
                    more = ()
                    for i in tl.static_range(T):
                        b_i = bs[i] if HOLD else tl.load(copy + i * NB)
                        before = h
                        h = xs[i] * b_i
                        decay = h  # for nothing: zeros do not decay
                        if i > 0 or not ZERO:
                            decay = exp2(dts[i] * a, FAST)
                            h += decay * before
                        decays = decays + (decay,)
                        befores = befores + (before,)
                        more = more + (dcs[i] + dys[i] * h,)
                    dcs = more
                    if chunk + 1 < chunks:
                        g = read(carried + c * N + n, ok_c)
                    else:
                        if dlast is not None:
                            g = read(place(dlast, dlast_s, run, b, channel + c, n), ok_c)
                        else:
                            g = tl.zeros((DB, NB), tl.float32)
                    more = ()
                    values = ()
                    for _ in tl.static_range(2 * (STEPS - T)):
                        values = values + (tl.zeros((DB, J), tl.float32),)
                    da = tl.zeros((DB, NB), tl.float32)
                    if ZERO:
                        # nobody needs dt of a first step from nothing, so its register would go to
                        # another number, which then waits until what was loaded into it has come
                        da += dts[0] * 0.0
                    for i in tl.static_range(T - 1, -1, -1):
                        if HOLD:
                            b_i = bs[i]
                            c_i = cs[i]
                        else:  # b_i is read again, by a load that differs from the first one
                            b_i = tl.load(copy + i * NB, eviction_policy="evict_last")
                            c_i = tl.load(copy + (T + i) * NB)
                        g += dys[i] * c_i
                        more = (dbs[i] + xs[i] * g,) + more
                        dx = tl.sum(tl.reshape(g * b_i, (DB, J, E)), 2)
                        ddt = tl.zeros((DB, J), tl.float32)
                        if i > 0 or not ZERO:
                            g = g * decays[i]
                            q = g * befores[i]
                            da += dts[i] * q
                            ddt = tl.sum(tl.reshape(q * a, (DB, J, E)), 2)
                        values = (dx, ddt) + values
                    # the next tile's numbers come while sums are exchanged, and not earlier: only
                    # now this tile's are not needed any more
                    q = tl.minimum(q0 + DB, PART - DB)
                    here = of_tile(A, A_s, rows, q, n, ok_n, left, DB, STEPS, J, E, RAGGED)
                    pending = values
                    dbs = more
                    # no other thread adds there, and a thread's own additions keep their order
                    if RAGGED or N % NB:
                        tl.atomic_add(dA + c * N + n, da, mask=ok_c, sem="relaxed")
                    else:  # the interpreter adds too little where a mask is smaller than its tile
                        tl.atomic_add(dA + c * N + n, da, sem="relaxed")
                    if chunk > 0:
                        write(carried + c * N + n, g, ok_c)
                    elif dstart is not None:
                        write(dstart + (seq * d_inner + channel + c) * N + n, g, ok_c)
                final_c = PART - DB + tl.arange(0, DB)[:, None]
                store_sums(parts, final_c, pending, j, J, FAST and THREADS == 32)
                step = (((part * runs + run) * batch + b) * groups + group) * length + first
                for i in tl.static_range(T):
                    ok_i = until(ok_n, first + i, length, WHOLE)
                    write(dB + (step + i) * N + n, tl.sum(dbs[i], 0, keep_dims=True), ok_i)
                    write(dC + (step + i) * N + n, tl.sum(dcs[i], 0, keep_dims=True), ok_i)
                tl.debug_barrier()
                if N > NB:
                    for p0 in tl.range(0, PART * V, WIDE * STEPS, num_stages=1):
                        at = p0 + tl.arange(0, WIDE * STEPS)[None, :]
                        ok = everywhere()
                        if 2 * PART % WIDE:
                            ok = at < PART * V
                        add_up(totals + at, read(parts + at, ok), ok, n0 > 0)
                    tl.debug_barrier()  # before the parts are written again
            # element-wise work after the scan
            for p0 in tl.range(0, PART, WIDE, num_stages=1):
                d = p0 + tl.arange(0, WIDE)[None, :]
                ok = kept(d, steps, T, STEPS, PART, WIDE)
                ok_d = exists(d, left, PART, WIDE, RAGGED)
                inside = until(ok & ok_d, first + steps, length, WHOLE)
                t = first + steps
                at = rows + d * 3 * STEPS + steps
                dx = read(totals + d * V + 2 * steps, ok)
                u_t = read(place(u, u_s, run, b, channel + d, t), inside)
                du_t = dx * read(at, ok)
                if D is not None:
                    dy_t = read(at + 2 * STEPS, ok)
                    du_t += dy_t * read(D + run * D_s[0] + (channel + d) * D_s[1], ok_d)
                    add_up(dD + own + d, tl.sum(dy_t * u_t, 0, keep_dims=True), ok_d, again)
                write(place(du, du_s, run, b, channel + d, t), du_t, inside)
                ddt = read(totals + d * V + 2 * steps + 1, ok) * LN2 + dx * u_t
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
