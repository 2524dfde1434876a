"""Kernels of Mamba-1's selective scan for sequences of several chunks, such as those of language
models: a program walks along one sequence and keeps its channels' states in registers.

Lanes of a warp lie along state entries, E neighbours a lane, and along channels. What has no entry
(step sizes, inputs, outputs and their gradients) would be the same for the J lanes of a channel: so
each makes that of K of a chunk's T steps, and hands it to the others when its step comes. Sums over
entries end with each lane holding those of its own steps.

Counts of the compiled code (an H100's, bfloat16, softplus, gate and D, 16 entries): a warp's chunk
of 8 steps is 259 instructions forward, of 4 channels, and 1,178 backward, of 8 channels, with 104
exchanges between lanes. At 1.755 GHz, if no scheduler waits, batch 8 with 1,536 channels and 512
steps takes 55 and 125 microseconds; an H100 took 78 forward, and 477 backward with the sums of dB
and dC, where an H200's kernels for short sequences took 333 and 670 (there each lane makes every
step size itself, and few warps wait for each other's sums at every chunk).
"""

# mypy: ignore-errors
# ruff: noqa: RUF005, SIM102  (Triton knows no starred expressions, and asks of an `and` that both
# sides are known while it compiles, or neither)
from __future__ import annotations

import triton
import triton.language as tl

from lib.ops.triton.elementwise import exp2, sigmoid, softplus
from lib.ops.triton.lanes import (
    hand_out,
    hidden,
    over_entries,
    read_own,
    step_of,
    sum_over,
    write_own,
)
from lib.ops.triton.selective_scan_backward import LN2, place
from lib.ops.triton.selective_scan_forward import LOG2E, everywhere, read, until, write


@triton.jit
def long_forward(
    u, u_s, delta, delta_s, A, A_s, B, B_s, C, C_s, D, D_s, z, z_s, bias, bias_s, start, start_s,
    y, y_s, states, last, pre, total, batch, groups, length, chunks, d_inner,
    CHANNELS: tl.constexpr, N: tl.constexpr, T: tl.constexpr, DB: tl.constexpr, NB: tl.constexpr,
    J: tl.constexpr, UL: tl.constexpr, DL: tl.constexpr, ZL: tl.constexpr, YL: tl.constexpr,
    BL: tl.constexpr, CL: tl.constexpr, WHOLE: tl.constexpr, ALIGNED: tl.constexpr,
    SOFTPLUS: tl.constexpr, FAR: tl.constexpr, FAST: tl.constexpr, SAVE: tl.constexpr,
):  # fmt: skip
    """As ``forward``, for N <= NB: DB channels of a sequence a program, all of its chunks. FAR: a
    channel may lie 2^31 numbers and more from the first. states, pre: None if nothing follows that
    needs them; a state is kept after every SAVE steps, of which T is a multiple. Without y (and C,
    D, z) only the last state is made; total (r, b, d): the sum of step sizes."""
    BLOCKS: tl.constexpr = (CHANNELS + DB - 1) // DB
    E: tl.constexpr = NB // J
    K: tl.constexpr = (T + J - 1) // J
    pid = tl.program_id(0)
    block = pid % BLOCKS
    group = pid // BLOCKS % groups
    seq = (pid // BLOCKS // groups).to(tl.int64)
    run = seq // batch
    b = seq % batch
    within = block * DB + tl.arange(0, DB)[:, None]
    d = hidden(group * CHANNELS + within, FAST)
    n = tl.arange(0, NB)[None, :]
    j = tl.zeros((DB, 1), tl.int32) + tl.arange(0, J)[None, :]
    ok = everywhere()
    if CHANNELS % DB:
        ok = within < CHANNELS
    ok_n = everywhere()
    if N % NB:
        ok_n = n < N
    ok_dn = ok & ok_n
    # what moves on from chunk to chunk is scalar; channels' places beside it are found once
    u += run * u_s[0] + b * u_s[1]
    delta += run * delta_s[0] + b * delta_s[1]
    if y is not None:
        y += run * y_s[0] + b * y_s[1]
    entry = d * N + n
    if FAR:
        d = d.to(tl.int64)
    u_d = d * u_s[2]
    delta_d = d * delta_s[2]
    B += run * B_s[0] + b * B_s[1] + group * B_s[2]
    B = tl.multiple_of(B, ALIGNED)
    if y is not None:
        y_d = d * y_s[2]
        C += run * C_s[0] + b * C_s[1] + group * C_s[2]
        C = tl.multiple_of(C, ALIGNED)
    if z is not None:
        z += run * z_s[0] + b * z_s[1]
        z_d = d * z_s[2]
    if states is not None:
        states += seq * ((length + SAVE - 1) // SAVE - 1) * d_inner * N
    if pre is not None:
        pre += seq * length * d_inner
    a = read(A + run * A_s[0] + d * A_s[1] + n * A_s[2], ok_dn) * LOG2E
    if bias is not None:
        lift = read(bias + run * bias_s[0] + d * bias_s[1], ok)
    if D is not None:
        skip = read(D + run * D_s[0] + d * D_s[1], ok)
    h = tl.zeros((DB, NB), tl.float32)
    if start is not None:
        h = read(place(start, start_s, run, b, d, n), ok_dn)
    if total is not None:
        passed = tl.zeros((DB, J), tl.float32)
    chunk = 0
    while chunk < chunks:
        first = chunk * T
        dts = ()
        xs = ()
        us = ()
        for k in tl.static_range(K):
            t = step_of(j, k, T, J)
            # a step beyond the end neither decays nor adds: it leaves the state as it is
            there = until(ok, first + t, length, WHOLE)
            dt = read_own(delta + (delta_d + t * DL), there)
            if bias is not None:
                dt += lift
            if SOFTPLUS:
                dt = softplus(dt, FAST)
            if not WHOLE:
                dt = tl.where(there, dt, 0.0)
            u_t = read_own(u + (u_d + t * UL), there)
            dts = dts + (dt,)
            xs = xs + (dt * u_t,)
            us = us + (u_t,)
            if total is not None:
                passed += dt
        parts = ()
        for t in tl.static_range(T):
            ok_t = until(ok_n, first + t, length, WHOLE)
            b_t = read(B + n + t * BL, ok_t)
            h = exp2(hand_out(dts, t, T, J, E) * a, FAST) * h + hand_out(xs, t, T, J, E) * b_t
            if y is not None:
                c_t = read(C + n + t * CL, ok_t)
                parts = parts + (over_entries(h * c_t, J, E),)
            if states is not None and (t + 1) % SAVE == 0:
                if first + t + 1 < length:
                    write(states + t // SAVE * d_inner * N + entry, h, ok_dn)
        if last is not None:
            if chunk + 1 == chunks:
                write(last + seq * d_inner * N + entry, h, ok_dn)
        if y is not None:
            sums = sum_over(parts, j, J)
            for k in tl.static_range(K):
                t = step_of(j, k, T, J)
                there = until(ok, first + t, length, WHOLE)
                value = sums[k]
                if D is not None:
                    value += skip * us[k]
                if z is not None:
                    if pre is not None:
                        write_own(pre + (d + t * d_inner), value, there)
                    gate = read_own(z + (z_d + t * ZL), there)
                    value = value * gate * sigmoid(gate, FAST)
                write_own(y + (y_d + t * YL), value, there)
            y += T * YL
            C += T * CL
        u += T * UL
        delta += T * DL
        B += T * BL
        if z is not None:
            z += T * ZL
        if pre is not None:
            pre += T * d_inner
        if states is not None:
            states += T // SAVE * d_inner * N
        chunk += 1
    if total is not None:
        # where there are more lanes than steps several have the same ones: the first of them counts
        counts = T * j % J < T
        passed = tl.sum(tl.where(counts, passed, 0.0), 1, keep_dims=True)
        write(total + seq * d_inner + d, passed, ok)


@triton.jit
def long_backward(
    u, u_s, delta, delta_s, A, A_s, B, B_s, C, C_s, D, D_s, z, z_s, bias, bias_s, start, start_s,
    states, pre, dy, dy_s, dlast, dlast_s, du, du_s, ddelta, ddelta_s, dz, dz_s, dB, dC, dstart,
    dA, dD, dbias, batch, groups, length, chunks, d_inner, per_program,
    CHANNELS: tl.constexpr, N: tl.constexpr, T: tl.constexpr, DB: tl.constexpr, NB: tl.constexpr,
    J: tl.constexpr, W: tl.constexpr, UL: tl.constexpr, DL: tl.constexpr, ZL: tl.constexpr,
    YL: tl.constexpr, DUL: tl.constexpr, DDL: tl.constexpr, DZL: tl.constexpr,
    BL: tl.constexpr, CL: tl.constexpr, WHOLE: tl.constexpr, ALIGNED: tl.constexpr,
    SOFTPLUS: tl.constexpr, FAR: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """As ``backward``, for N <= NB: DB channels, of W warps, of `per_program` sequences a program.

    With w = cdiv(CHANNELS, DB): dB, dC (w, r, b, g, l, n), dA (p, r, d, n), dD, dbias (p, r, d).
    Grid: (w, g, p, r), flat. UL, DL ... CL: time strides, YL that of dy.
    """
    PARTS: tl.constexpr = (CHANNELS + DB - 1) // DB
    E: tl.constexpr = NB // J
    K: tl.constexpr = (T + J - 1) // J
    PER_WARP: tl.constexpr = DB // W
    pid = tl.program_id(0)
    part = pid % PARTS
    group = pid // PARTS % groups
    blocks = (batch + per_program - 1) // per_program
    runs = tl.num_programs(0) // PARTS // groups // blocks
    block = pid // PARTS // groups % blocks
    run = (pid // PARTS // groups // blocks).to(tl.int64)
    within = part * DB + tl.arange(0, DB)[:, None]
    d = hidden(group * CHANNELS + within, FAST)
    n = tl.arange(0, NB)[None, :]
    j = tl.zeros((DB, 1), tl.int32) + tl.arange(0, J)[None, :]
    lanes = tl.arange(0, PER_WARP * J)
    lane = tl.zeros((W, PER_WARP * J, E), tl.int32) + lanes[None, :, None]
    # after sums over channels: a lane's entries, and where its steps begin
    own_n = (lanes % J * E)[:, None] + tl.arange(0, E)[None, :]
    own_t = T * (lanes // J)[:, None] // PER_WARP
    ok_own = everywhere()
    if N % NB:
        ok_own = own_n < N
    ok = everywhere()
    if CHANNELS % DB:
        ok = within < CHANNELS
    ok_n = everywhere()
    if N % NB:
        ok_n = n < N
    ok_dn = ok & ok_n
    a = read(A + run * A_s[0] + d * A_s[1] + n * A_s[2], ok_dn) * LOG2E
    if bias is not None:
        lift = read(bias + run * bias_s[0] + d * bias_s[1], ok)
    if D is not None:
        skip = read(D + run * D_s[0] + d * D_s[1], ok)
    entry = d * N + n
    if FAR:
        d = d.to(tl.int64)
    u_d = d * u_s[2]
    delta_d = d * delta_s[2]
    dy_d = d * dy_s[2]
    du_d = d * du_s[2]
    ddelta_d = d * ddelta_s[2]
    if z is not None:
        z_d = d * z_s[2]
        dz_d = d * dz_s[2]
    da = tl.zeros((DB, NB), tl.float32)
    skips = tl.zeros((DB, J), tl.float32)
    lifts = tl.zeros((DB, J), tl.float32)
    b = block * per_program
    end = tl.minimum(b + per_program, batch)
    b = b.to(tl.int64)
    while b < end:
        seq = run * batch + b
        later = (chunks - 1).to(tl.int64) * T  # where the last chunk begins
        u_b = u + run * u_s[0] + b * u_s[1] + later * UL
        delta_b = delta + run * delta_s[0] + b * delta_s[1] + later * DL
        dy_b = dy + run * dy_s[0] + b * dy_s[1] + later * YL
        du_b = du + run * du_s[0] + b * du_s[1] + later * DUL
        ddelta_b = ddelta + run * ddelta_s[0] + b * ddelta_s[1] + later * DDL
        B_b = B + run * B_s[0] + b * B_s[1] + group * B_s[2]
        C_b = C + run * C_s[0] + b * C_s[1] + group * C_s[2]
        B_b = tl.multiple_of(B_b, ALIGNED) + later * BL
        C_b = tl.multiple_of(C_b, ALIGNED) + later * CL
        if z is not None:
            z_b = z + run * z_s[0] + b * z_s[1] + later * ZL
            dz_b = dz + run * dz_s[0] + b * dz_s[1] + later * DZL
            pre_b = pre + (seq * length + later) * d_inner
        states_b = states + (seq * (chunks - 1) + chunks - 2) * d_inner * N
        g = tl.zeros((DB, NB), tl.float32)
        if dlast is not None:
            g = read(place(dlast, dlast_s, run, b, d, n), ok_dn)
        chunk = chunks - 1
        while chunk >= 0:
            first = chunk * T
            dts = ()
            xs = ()
            dys = ()
            us = ()
            slopes = ()
            for k in tl.static_range(K):
                t = step_of(j, k, T, J)
                there = until(ok, first + t, length, WHOLE)
                dt = read_own(delta_b + (delta_d + t * DL), there)
                if bias is not None:
                    dt += lift
                if SOFTPLUS:
                    slopes = slopes + (sigmoid(dt, FAST),)
                    dt = softplus(dt, FAST)
                if not WHOLE:
                    dt = tl.where(there, dt, 0.0)
                u_t = read_own(u_b + (u_d + t * UL), there)
                dy_t = read_own(dy_b + (dy_d + t * YL), there)
                if z is not None:
                    z_t = read_own(z_b + (z_d + t * ZL), there)
                    ungated = read_own(pre_b + (d + t * d_inner), there)
                    gate = sigmoid(z_t, FAST)
                    dz_t = dy_t * ungated * gate * (1.0 + z_t * (1.0 - gate))
                    write_own(dz_b + (dz_d + t * DZL), dz_t, there)
                    dy_t = dy_t * z_t * gate
                dts = dts + (dt,)
                xs = xs + (dt * u_t,)
                dys = dys + (dy_t,)
                us = us + (u_t,)
            h = tl.zeros((DB, NB), tl.float32)
            if chunk > 0:
                h = read(states_b + entry, ok_dn)
            elif start is not None:
                h = read(place(start, start_s, run, b, d, n), ok_dn)
            befores = ()
            dcs = ()
            for t in tl.static_range(T):
                b_t = read(B_b + n + t * BL, until(ok_n, first + t, length, WHOLE))
                befores = befores + (h,)
                decay = exp2(hand_out(dts, t, T, J, E) * a, FAST)
                h = decay * h + hand_out(xs, t, T, J, E) * b_t
                dcs = dcs + (tl.reshape(hand_out(dys, t, T, J, E) * h, (W, PER_WARP * J, E)),)
            # sums over channels: of a warp's by exchange, and, below, of the program's warps
            dcs = sum_over(dcs, lane, PER_WARP, J)
            dbs = ()
            of_x = ()
            of_dt = ()
            for t in tl.static_range(T - 1, -1, -1):
                ok_t = until(ok_n, first + t, length, WHOLE)
                # read again, by a load that differs from the first one: registers are dearer
                b_t = tl.load(
                    B_b + n + t * BL, mask=ok_t, other=0.0, eviction_policy="evict_last"
                ).to(tl.float32)
                c_t = read(C_b + n + t * CL, ok_t)
                dt = hand_out(dts, t, T, J, E)
                g += hand_out(dys, t, T, J, E) * c_t
                dbs = (tl.reshape(hand_out(xs, t, T, J, E) * g, (W, PER_WARP * J, E)),) + dbs
                of_x = (over_entries(g * b_t, J, E),) + of_x
                g = g * exp2(dt * a, FAST)
                q = g * befores[t]
                da += dt * q
                of_dt = (over_entries(q * a, J, E),) + of_dt
            dx = sum_over(of_x, j, J)
            ddt = sum_over(of_dt, j, J)
            for k in tl.static_range(K):
                t = step_of(j, k, T, J)
                there = until(ok, first + t, length, WHOLE)
                du_t = dx[k] * dts[k]
                if D is not None:
                    du_t += dys[k] * skip
                    skips += dys[k] * us[k]
                write_own(du_b + (du_d + t * DUL), du_t, there)
                ddt_t = ddt[k] * LN2 + dx[k] * us[k]
                if SOFTPLUS:
                    ddt_t *= slopes[k]
                write_own(ddelta_b + (ddelta_d + t * DDL), ddt_t, there)
                if bias is not None:
                    if not WHOLE:
                        ddt_t = tl.where(there, ddt_t, 0.0)
                    lifts += ddt_t
            dbs = sum_over(dbs, lane, PER_WARP, J)
            at = (((part * runs + run) * batch + b) * groups + group) * length + first
            for k in tl.static_range(len(dbs)):
                where = (at + own_t + k) * N + own_n
                there = until(ok_own, first + own_t + k, length, WHOLE)
                write(dB + where, tl.sum(dbs[k], 0), there)
                write(dC + where, tl.sum(dcs[k], 0), there)
            u_b -= T * UL
            delta_b -= T * DL
            dy_b -= T * YL
            du_b -= T * DUL
            ddelta_b -= T * DDL
            B_b -= T * BL
            C_b -= T * CL
            if z is not None:
                z_b -= T * ZL
                dz_b -= T * DZL
                pre_b -= T * d_inner
            states_b -= d_inner * N
            chunk -= 1
        if dstart is not None:
            write(dstart + seq * d_inner * N + entry, g, ok_dn)
        b += 1
    own = (block * runs + run) * d_inner + d
    write(dA + own * N + n, da, ok_dn)
    # where there are more lanes than steps several have the same ones: the first of them counts
    counts = T * j % J < T
    if D is not None:
        write(dD + own, tl.sum(tl.where(counts, skips, 0.0), 1, keep_dims=True), ok)
    if bias is not None:
        write(dbias + own, tl.sum(tl.where(counts, lifts, 0.0), 1, keep_dims=True), ok)
