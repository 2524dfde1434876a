"""Back through what happens between the projections of the Mamba-2 block: convolution, SiLU, the
quadratic form over time, gate, norm; and through the projection out.

Everything between the projections is computed again from u; only G (a number a pair of positions)
is kept, since it is a sum over all states. Gradients of the small weights are sums over
the batch: each program writes its share, added up afterwards in a fixed order.
"""

# mypy: ignore-errors
# ruff: noqa: RUF005, SIM108
from __future__ import annotations

import triton
import triton.language as tl

from lib.ops.triton.block_parts import (
    activate,
    convolve,
    dot,
    exp,
    gather_up,
    numbers,
    positions,
    put,
    sigmoid,
    step_sizes,
    taps,
    tile,
)


@triton.jit
def channels_backward(
    ds, us, k, bias, du, rows, columns, ok, sums, channels, fresh,
    FROM: tl.constexpr, LOW: tl.constexpr, L: tl.constexpr, TAPS: tl.constexpr,
    WIDTH: tl.constexpr, CONV: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """From the gradient `ds` of channels after SiLU, at positions FROM on, to that of u (stored,
    at LOW on) and to the sums (S, TAPS + 1, CONV) for the convolution's kernel and bias, which are
    added to unless `fresh`."""
    zero = tl.zeros_like(us[0])
    d_bias = zero
    dk = ()
    for _ in tl.static_range(TAPS):
        dk = dk + (zero,)
    dcs = ()
    for t in tl.static_range(FROM, L):
        c = convolve(us, t, k, bias, LOW, TAPS)
        gate = sigmoid(c, FAST)
        d = ds[t - FROM] * gate * (1.0 + c * (1.0 - gate))
        dcs = dcs + (d,)
        d_bias += d
        more = ()
        for j in tl.static_range(TAPS):
            if t - j >= LOW:
                more = more + (dk[j] + d * us[t - j - LOW],)
            else:
                more = more + (dk[j],)
        dk = more
    for t in tl.static_range(LOW, L):
        d = zero
        for j in tl.static_range(TAPS):
            if t + j >= FROM and t + j < L:
                d += k[j][None, :] * dcs[t + j - FROM]
        put(du, d, rows, t, columns, ok, L, WIDTH)
    for j in tl.static_range(TAPS):
        add(sums, dk[j], TAPS - 1 - j, channels, fresh, TAPS + 1, CONV)
    add(sums, d_bias, TAPS, channels, fresh, TAPS + 1, CONV)


@triton.jit
def add(sums, value, at, columns, fresh, LENGTH: tl.constexpr, WIDTH: tl.constexpr):
    """Add to, or (fresh) store, one line of sums (S, LENGTH, WIDTH): this thread's alone."""
    where = sums + (tl.arange(0, value.shape[0]) * (LENGTH * WIDTH))[:, None] + columns[None, :]
    where += at * WIDTH
    old = tl.full(value.shape, 1, tl.int1) & (not fresh)
    tl.store(where, value + tl.load(where, mask=old, other=0.0))


@triton.jit
def mix_backward(
    dout, u, dt, conv, conv_bias, A_log, D, gate_weight, out_weight, G, gated,
    dgated, du, d_dt, sums, share, batch, eps,
    L: tl.constexpr, FIRST: tl.constexpr, M: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    TAPS: tl.constexpr, PAIRS: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr,
    CHUNK: tl.constexpr, TILES: tl.constexpr, EXACT: tl.constexpr, FAST: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Back from the output to u, residual aside: du (as u), d_dt (as dt), and shares of the
    weights' gradients: sums (runs, programs, ROWS, TAPS + 1, CONV) for the convolution's kernel
    and bias; share (runs, programs, M P + P + 2) for out_weight, gate_weight, A_log and D.

    dgated: scratch, as gated. Grid (batch / (ROWS TILES), runs).
    """
    run = tl.program_id(1).to(tl.int64)
    COLUMNS: tl.constexpr = 2 * P + 2 * N
    CONV: tl.constexpr = P + 2 * N
    dout += run * batch * (L - FIRST) * M
    u += run * batch * L * COLUMNS
    du += run * batch * L * COLUMNS
    dt += run * L * batch
    d_dt += run * L * batch
    G += run * batch * PAIRS
    gated += run * batch * (L - FIRST) * P
    dgated += run * batch * (L - FIRST) * P
    conv += run * CONV * TAPS
    conv_bias += run * CONV
    program = run * tl.num_programs(0) + tl.program_id(0)
    sums += program * ROWS * ((TAPS + 1) * CONV)
    share += program * (M * P + P + 2)
    LOW: tl.constexpr = FIRST - (TAPS - 1) if FIRST > TAPS - 1 else 0
    m = tl.arange(0, M)
    p = tl.arange(0, P)
    A = -tl.exp(tl.load(A_log + run).to(tl.float32))
    skip = tl.load(D + run).to(tl.float32)
    none = tl.zeros((ROWS,), tl.float32)
    zero_p = tl.zeros((ROWS, P), tl.float32)
    zero_n = tl.zeros((ROWS, CHUNK), tl.float32)
    acc_out = tl.zeros((M, P), tl.float32)
    acc_gate = zero_p
    acc_A = none
    acc_D = none
    for number in tl.range(0, TILES, num_stages=1):
        block = tl.program_id(0) * TILES + number
        rows = block * ROWS + tl.arange(0, ROWS)
        ok = None
        if not EVEN:
            ok = rows < batch
        # back through the projection out
        w = tl.load(out_weight + run * M * P + m[:, None] * P + p[None, :]).to(tl.float32)
        first = block * ROWS * (L - FIRST)
        token = first + tl.arange(0, TOKENS)
        keep = token < tl.minimum(first + ROWS * (L - FIRST), batch * (L - FIRST))
        d = tl.load(dout + token[:, None] * M + m[None, :], mask=keep[:, None], other=0.0)
        d = d.to(tl.float32)
        y = tl.load(gated + token[:, None] * P + p[None, :], mask=keep[:, None], other=0.0)
        y = y * tl.rsqrt(tl.sum(y * y, 1) / P + eps)[:, None]
        y = y * tl.load(gate_weight + run * P + p).to(tl.float32)[None, :]
        acc_out = dot(tl.trans(d), y, acc_out, EXACT)
        d = dot(d, w, tl.zeros((TOKENS, P), tl.float32), EXACT)
        tl.store(dgated + token[:, None] * P + p[None, :], d, mask=keep[:, None])
        tl.debug_barrier()  # dgated is read again, by other threads of this program
        # S once more
        steps = step_sizes(dt, rows, ok, L)
        S = ()
        for i in tl.static_range(FIRST, L):
            gap = none
            row = ()
            for back in tl.static_range(i + 1):
                g = numbers(G, rows, i * (i + 1) // 2 + i - back, ok, PAIRS)
                row = row + (g * exp(gap, FAST) * steps[i - back],)
                gap += A * steps[i - back]
            S = S + (row,)
        # gated norm, gate, y
        weight = tl.load(gate_weight + run * P + p).to(tl.float32)
        k = taps(conv, p, TAPS)
        bias = tl.load(conv_bias + p).to(tl.float32)
        us = positions(u, rows, P + p, ok, L, 0, COLUMNS)
        Xs = activate(us, k, bias, 0, 0, L, TAPS, FAST)
        dys = ()
        for i in tl.static_range(FIRST, L):
            y = skip * Xs[i]
            for back in tl.static_range(i + 1):
                y += S[i - FIRST][back][:, None] * Xs[i - back]
            z = tile(u, rows, i, p, ok, L, COLUMNS)
            s = sigmoid(z, FAST)
            g = y * z * s
            r = tl.rsqrt(tl.sum(g * g, 1) / P + eps)[:, None]
            g = g * r
            d = tile(dgated, rows, i - FIRST, p, ok, L - FIRST, P)
            acc_gate += d * g
            d = d * weight[None, :]
            d = r * (d - g * (tl.sum(d * g, 1) / P)[:, None])
            dys = dys + (d * z * s,)
            put(du, d * y * s * (1.0 + z * (1.0 - s)), rows, i, p, ok, L, COLUMNS)
        # dS, and from it the gradients of G, dt and A
        dG = ()
        d_steps = ()
        d_decays = ()
        for _ in tl.static_range(L):
            d_steps = d_steps + (none,)
            d_decays = d_decays + (none,)
        for i in tl.static_range(FIRST, L):
            gap = none
            direct = ()
            row = ()
            for back in tl.static_range(i + 1):
                value = tl.sum(dys[i - FIRST] * Xs[i - back], 1)
                if back == 0:
                    acc_D += value
                value = value * exp(gap, FAST)
                row = row + (value * steps[i - back],)
                g = numbers(G, rows, i * (i + 1) // 2 + i - back, ok, PAIRS)
                direct = direct + (value * g,)
                gap += A * steps[i - back]
            dG = dG + (row,)
            before = none  # sum over j < t of what S_ij passes to its decay
            new_steps = ()
            new_decays = ()
            for t in tl.static_range(L):
                if t <= i:
                    new_steps = new_steps + (d_steps[t] + direct[i - t],)
                    new_decays = new_decays + (d_decays[t] + before,)
                    before += direct[i - t] * steps[t]
                else:
                    new_steps = new_steps + (d_steps[t],)
                    new_decays = new_decays + (d_decays[t],)
            d_steps = new_steps
            d_decays = new_decays
        values = ()
        for t in tl.static_range(L):
            acc_A += d_decays[t] * steps[t]
            values = values + (d_steps[t] + A * d_decays[t],)
        at = tl.arange(0, 16)
        where = d_dt + (rows * L)[:, None] + at[None, :]
        exists = (rows < batch)[:, None] & (at < L)[None, :]
        tl.store(where, gather_up(values, at, 0), mask=exists)
        ds = ()
        for t in tl.static_range(L):
            d = zero_p
            if t >= FIRST:
                d += skip * dys[t - FIRST]
            for i in tl.static_range(t if t > FIRST else FIRST, L):
                d += S[i - FIRST][i - t][:, None] * dys[i - FIRST]
            ds = ds + (d,)
        channels_backward(
            ds, us, k, bias, du, rows, P + p, ok, sums, p, number == 0,
            0, 0, L, TAPS, COLUMNS, CONV, FAST,
        )  # fmt: skip
        for n0 in tl.range(0, N, CHUNK, num_stages=1):  # C, then B
            n = n0 + tl.arange(0, CHUNK)
            k_B = taps(conv, P + n, TAPS)
            bias_B = tl.load(conv_bias + P + n).to(tl.float32)
            u_B = positions(u, rows, 2 * P + n, ok, L, 0, COLUMNS)
            Bs = activate(u_B, k_B, bias_B, 0, 0, L, TAPS, FAST)
            k_C = taps(conv, P + N + n, TAPS)
            bias_C = tl.load(conv_bias + P + N + n).to(tl.float32)
            u_C = positions(u, rows, 2 * P + N + n, ok, L, LOW, COLUMNS)
            Cs = activate(u_C, k_C, bias_C, FIRST, LOW, L, TAPS, FAST)
            dCs = ()
            for i in tl.static_range(FIRST, L):
                v = zero_n
                for back in tl.static_range(i + 1):
                    v += dG[i - FIRST][back][:, None] * Bs[i - back]
                dCs = dCs + (v,)
            channels_backward(
                dCs, u_C, k_C, bias_C, du, rows, 2 * P + N + n, ok, sums, P + N + n, number == 0,
                FIRST, LOW, L, TAPS, COLUMNS, CONV, FAST,
            )  # fmt: skip
            dBs = ()
            for t in tl.static_range(L):
                v = zero_n
                for i in tl.static_range(t if t > FIRST else FIRST, L):
                    v += dG[i - FIRST][i - t][:, None] * Cs[i - FIRST]
                dBs = dBs + (v,)
            channels_backward(
                dBs, u_B, k_B, bias_B, du, rows, 2 * P + n, ok, sums, P + n, number == 0,
                0, 0, L, TAPS, COLUMNS, CONV, FAST,
            )  # fmt: skip
    tl.store(share + m[:, None] * P + p[None, :], acc_out)
    tl.store(share + M * P + p, tl.sum(acc_gate, 0))
    tl.store(share + M * P + P, tl.sum(acc_A) * A)
    tl.store(share + M * P + P + 1, tl.sum(acc_D))
