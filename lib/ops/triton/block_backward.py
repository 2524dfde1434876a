"""Back through what happens between the projections of the Mamba-2 block.

Everything is computed again from u; only G (a number a pair of positions) and the gate's output are
kept. `gate_backward` goes from the block's output to G: it needs sums over the channels of X.
`states_backward` goes from G to B and C: plain arithmetic on single channels. Apart they hold few
registers each, so that more warps wait for memory at once; a number a pair passes between them.
`out_backward` is a product over all tokens, apart since it needs no positions.

Gradients of the small weights are sums over the batch: each program writes its share, added up
afterwards in a fixed order.
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
    numbers,
    positions,
    put,
    step_sizes,
    taps,
    tile,
)
from lib.ops.triton.elementwise import exp, sigmoid


@triton.jit
def nothing(shape: tl.constexpr, COUNT: tl.constexpr):
    """A tuple of zero tiles, to add to."""
    out = ()
    for _ in tl.static_range(COUNT):
        out = out + (tl.zeros(shape, tl.float32),)
    return out


@triton.jit
def bend(
    us, k, bias, FROM: tl.constexpr, LOW: tl.constexpr, L: tl.constexpr, TAPS: tl.constexpr,
    FAST: tl.constexpr,
):  # fmt: skip
    """silu(conv(u)) at positions FROM .. L - 1 from the u of positions LOW on, and the slopes of
    silu there."""
    out = ()
    slopes = ()
    for t in tl.static_range(FROM, L):
        c = convolve(us, t, k, bias, LOW, TAPS)
        s = sigmoid(c, FAST)
        c = c * s
        out = out + (c,)
        slopes = slopes + (s + c * (1.0 - s),)
    return out, slopes


@triton.jit
def convolve_backward(
    ds, us, k, sums, du, rows, columns, ok,
    FROM: tl.constexpr, LOW: tl.constexpr, L: tl.constexpr, TAPS: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """From the gradient `ds` of the convolution, at positions FROM on, to that of u (stored, at
    LOW on); returns sums, a tile a tap and one of the bias, with this tile's added."""
    for t in tl.static_range(LOW, L):
        d = tl.zeros_like(us[0])
        for j in tl.static_range(TAPS):
            if t + j >= FROM and t + j < L:
                d += k[j][None, :] * ds[t + j - FROM]
        put(du, d, rows, t, columns, ok, L, WIDTH)
    out = ()
    for j in tl.static_range(TAPS):
        value = sums[j]
        for t in tl.static_range(FROM, L):
            if t - j >= LOW:
                value += ds[t - FROM] * us[t - j - LOW]
        out = out + (value,)
    value = sums[TAPS]
    for t in tl.static_range(FROM, L):
        value += ds[t - FROM]
    return out + (value,)


@triton.jit
def pairs(steps, A, pair, FIRST: tl.constexpr, PAIRS: tl.constexpr):
    """A (dt_j+1 + ... + dt_i) and dt_j in column i (i + 1) / 2 + j, from i = FIRST on: (S, PAIRS)
    each."""
    zero = tl.zeros_like(steps[0])
    gap = tl.zeros((zero.shape[0], PAIRS), tl.float32)
    start = gap
    line = ()
    for i in tl.static_range(len(steps)):
        more = ()
        for j in tl.static_range(i):
            more = more + (line[j] + A * steps[i],)
        line = more + (zero,)
        if i >= FIRST:
            for j in tl.static_range(i + 1):
                here = (pair == i * (i + 1) // 2 + j)[None, :]
                start = tl.where(here, steps[j][:, None], start)
                if j < i:
                    gap = tl.where(here, line[j][:, None], gap)
    return gap, start


@triton.jit
def put_sums(sums, values, more, columns, TAPS: tl.constexpr, WIDTH: tl.constexpr):
    """Store the sums over rows of :func:`convolve_backward`'s tiles: a line a tap, oldest first,
    the bias, and `more`, another tile, if there is one.

    Sums over rows cross warps, which then wait for each other: so few sums of joined tiles.
    """
    zero = tl.zeros_like(values[0])
    third = zero
    fourth = zero
    if TAPS > 2:
        third = values[2]
    if TAPS > 3:
        fourth = values[3]
    total = tl.sum(tl.join(tl.join(values[0], values[1]), tl.join(third, fourth)), 0)
    two = tl.arange(0, 2)
    tap = two[None, :, None] + 2 * two[None, None, :]
    where = sums + (TAPS - 1 - tap) * WIDTH + columns[:, None, None]
    tl.store(where, total, mask=(tap < TAPS) & (columns >= 0)[:, None, None])
    if more is None:
        tl.store(sums + TAPS * WIDTH + columns, tl.sum(values[TAPS], 0))
    else:
        total = tl.sum(tl.join(values[TAPS], more), 0)
        tl.store(sums + (TAPS + two)[None, :] * WIDTH + columns[:, None], total)


@triton.jit
def gate_backward(
    dout, u, dt, conv, conv_bias, A_log, D, gate_weight, out_weight, G,
    du, d_dt, dG, share, batch, eps,
    L: tl.constexpr, FIRST: tl.constexpr, M: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    TAPS: tl.constexpr, PAIRS: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr,
    EXACT: tl.constexpr, FAST: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """From the gradient of the output (residual aside) to those of G (as G), dt (as dt), and of z
    and X in du (as u); share (runs, programs, TAPS + 2, P) for the convolution of X and, in the
    first two columns of the last line, A_log and D.

    Grid (batch / ROWS, runs); TOKENS is ROWS (L - FIRST) or more, ROWS P no less than the threads.
    One tile a program: in a loop over tiles the compiler computes every address ahead, and has no
    registers left for the tile.
    """
    run = tl.program_id(1).to(tl.int64)
    COLUMNS: tl.constexpr = 2 * P + 2 * N
    CONV: tl.constexpr = P + 2 * N
    LINE: tl.constexpr = FIRST * (FIRST + 1) // 2  # the first pair that is used
    dout += run * batch * (L - FIRST) * M
    u += run * batch * L * COLUMNS
    du += run * batch * L * COLUMNS
    dt += run * L * batch
    d_dt += run * L * batch
    G += run * batch * PAIRS
    dG += run * batch * PAIRS
    conv += run * CONV * TAPS
    conv_bias += run * CONV
    gate_weight += run * P
    out_weight += run * M * P
    share += (run * tl.num_programs(0) + tl.program_id(0)) * ((TAPS + 2) * P)
    m = tl.arange(0, M)
    p = tl.arange(0, P)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = None
    if not EVEN:
        ok = rows < batch
    pair = tl.arange(0, PAIRS)
    i_of = tl.zeros((PAIRS,), tl.int32)
    for i in tl.static_range(1, L):
        i_of += (pair >= i * (i + 1) // 2).to(tl.int32)
    j_of = pair - i_of * (i_of + 1) // 2
    real = ((pair >= LINE) & (pair < L * (L + 1) // 2))[None, :]
    if not EVEN:
        real = real & ok[:, None]
    first = tl.program_id(0) * ROWS * (L - FIRST)
    token = first + tl.arange(0, TOKENS)
    keep = token < tl.minimum(first + ROWS * (L - FIRST), batch * (L - FIRST))
    # loads stay in their order, and none passes a store: so what is needed later comes first
    d = tl.load(dout + token[:, None] * M + m[None, :], mask=keep[:, None], other=0.0)
    w = tl.load(out_weight + m[:, None] * P + p[None, :]).to(tl.float32)
    w = w * tl.load(gate_weight + p).to(tl.float32)[None, :]
    S = tl.load(G + (rows * PAIRS)[:, None] + pair[None, :], mask=real, other=0.0)
    steps = step_sizes(dt, rows, ok, L)
    us = positions(u, rows, P + p, ok, L, 0, COLUMNS)
    z = tile(u, rows, FIRST, p, ok, L, COLUMNS)
    # Back through the projection out and the norm's weight. To lie a position a tile, what comes
    # out goes through memory: where du of z stands in the end.
    d = dot(d.to(tl.float32), w, tl.zeros((TOKENS, P), tl.float32), EXACT)
    source = token // (L - FIRST) * L + FIRST + token % (L - FIRST)
    tl.store(du + source[:, None] * COLUMNS + p[None, :], d, mask=keep[:, None])
    # S_ij = G_ij exp(A (dt_j+1 + ... + dt_i)) dt_j, with D on the diagonal. Made a pair a thread,
    # needed whole in every thread of a sequence: through memory too, where dG stands in the end.
    A = -tl.exp(tl.load(A_log + run).to(tl.float32))
    gap, step = pairs(steps, A, pair, FIRST, PAIRS)
    S = S * exp(gap, FAST) * step
    S = tl.where((i_of == j_of)[None, :], S + tl.load(D + run).to(tl.float32), S)
    put(dG, S, rows, 0, pair, ok, 1, PAIRS)
    tl.debug_barrier()  # other threads of this program read both
    d = tile(du, rows, FIRST, p, ok, L, COLUMNS)
    S = ()
    for j in tl.static_range(FIRST + 1):
        S = S + (numbers(dG, rows, LINE + j, ok, PAIRS),)
    k = taps(conv, p, TAPS)
    bias = tl.load(conv_bias + p).to(tl.float32)
    Xs = activate(us, k, bias, 0, 0, L, TAPS, FAST)
    dXs = nothing((ROWS, P), L)
    dS = tl.zeros((ROWS, PAIRS), tl.float32)
    d_skip = tl.zeros((ROWS,), tl.float32)
    for i in tl.static_range(FIRST, L):
        y = S[0][:, None] * Xs[0]
        for j in tl.static_range(1, i + 1):
            y += S[j][:, None] * Xs[j]
        # gate and norm
        s = sigmoid(z, FAST)
        z = z * s
        g = y * z
        r = tl.rsqrt(tl.sum(g * g, 1) / P + eps)
        d = r[:, None] * d - g * (r * r * r * (tl.sum(d * g, 1) / P))[:, None]
        dy = d * z
        dz = d * y * (s + z * (1.0 - s))
        more = ()
        for j in tl.static_range(L):
            if j <= i:
                more = more + (dXs[j] + S[j][:, None] * dy,)
            else:
                more = more + (dXs[j],)
        dXs = more
        if i + 1 < L:  # of the next position, before this one's store
            z = tile(u, rows, i + 1, p, ok, L, COLUMNS)
            d = tile(du, rows, i + 1, p, ok, L, COLUMNS)
            more = ()
            for j in tl.static_range(i + 2):
                more = more + (numbers(dG, rows, (i + 1) * (i + 2) // 2 + j, ok, PAIRS),)
            S = more
        put(du, dz, rows, i, p, ok, L, COLUMNS)
        for j in tl.static_range(i + 1):
            value = tl.sum(dy * Xs[j], 1)
            dS = tl.where((pair == i * (i + 1) // 2 + j)[None, :], value[:, None], dS)
        d_skip += value  # of the diagonal
    # from dS to the gradients of G, dt and A
    us = positions(u, rows, P + p, ok, L, 0, COLUMNS)
    g = tl.load(G + (rows * PAIRS)[:, None] + pair[None, :], mask=real, other=0.0)
    dS = dS * exp(gap, FAST)
    tl.debug_barrier()  # all have read S
    put(dG, dS * step, rows, 0, pair, ok, 1, PAIRS)
    dS = dS * g
    passed = dS * step  # to the exponent
    d_steps = tl.zeros((ROWS, PAIRS), tl.float32)
    for t in tl.static_range(L):
        value = tl.where(((j_of < t) & (t <= i_of))[None, :], A * passed, 0.0)
        value = tl.sum(tl.where((j_of == t)[None, :], dS, value), 1)
        d_steps = tl.where((pair == t)[None, :], value[:, None], d_steps)
    where = d_dt + (rows * L)[:, None] + pair[None, :]
    tl.store(where, d_steps, mask=(rows < batch)[:, None] & (pair < L)[None, :])
    # and back through SiLU and convolution of X
    _, slopes = bend(us, k, bias, 0, 0, L, TAPS, FAST)
    ds = ()
    for t in tl.static_range(L):
        ds = ds + (dXs[t] * slopes[t],)
    sums = nothing((ROWS, P), TAPS + 1)
    sums = convolve_backward(ds, us, k, sums, du, rows, P + p, ok, 0, 0, L, TAPS, COLUMNS)
    ones = tl.where((p == 0)[None, :], tl.sum(passed * gap, 1)[:, None], 0.0)
    ones = tl.where((p == 1)[None, :], d_skip[:, None], ones)
    put_sums(share, sums, ones, p, TAPS, P)


@triton.jit
def out_backward(
    dout, gated, gate_weight, out_weight, share, batch, eps,
    L: tl.constexpr, FIRST: tl.constexpr, M: tl.constexpr, P: tl.constexpr, TOKENS: tl.constexpr,
    TILES: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Shares (runs, programs, M P + P) of the gradients of out_weight and gate_weight.

    Both come from one product Q = dout^T (gated / rms): of out_weight Q times gate_weight, of
    gate_weight the sum over M of Q times out_weight. Grid (batch (L - FIRST) / (TOKENS TILES),
    runs).
    """
    run = tl.program_id(1).to(tl.int64)
    total = batch * (L - FIRST)
    dout += run * total * M
    gated += run * total * P
    share += (run * tl.num_programs(0) + tl.program_id(0)) * (M * P + P)
    m = tl.arange(0, M)
    p = tl.arange(0, P)
    acc = tl.zeros((P, M), tl.float32)  # not (M, P): from 64 rows on the fast instruction serves
    for number in tl.range(0, TILES, num_stages=1):
        token = (tl.program_id(0) * TILES + number) * TOKENS + tl.arange(0, TOKENS)
        keep = (token < total)[:, None]
        d = tl.load(dout + token[:, None] * M + m[None, :], mask=keep, other=0.0)
        g = tl.load(gated + token[:, None] * P + p[None, :], mask=keep, other=0.0)
        g = g * tl.rsqrt(tl.sum(g * g, 1) / P + eps)[:, None]
        acc = dot(tl.trans(g), d.to(tl.float32), acc, EXACT)
    at = m[None, :] * P + p[:, None]
    weight = tl.load(gate_weight + run * P + p).to(tl.float32)
    tl.store(share + at, acc * weight[:, None])
    w = tl.load(out_weight + run * M * P + at).to(tl.float32)
    tl.store(share + M * P + p, tl.sum(acc * w, 1))


@triton.jit
def states_backward(
    u, conv, conv_bias, dG, du, sums, batch,
    L: tl.constexpr, FIRST: tl.constexpr, P: tl.constexpr, N: tl.constexpr, TAPS: tl.constexpr,
    PAIRS: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, TILES: tl.constexpr,
    FAST: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """From the gradient of G to those of B and C in du (as u), and shares of the convolution of B
    and C: sums (runs, programs, TAPS + 1, 2 N).

    Grid (N / CHUNK batch / (ROWS TILES), runs): the parts of a row side by side.
    """
    run = tl.program_id(1).to(tl.int64)
    COLUMNS: tl.constexpr = 2 * P + 2 * N
    CONV: tl.constexpr = P + 2 * N
    PARTS: tl.constexpr = N // CHUNK
    LOW: tl.constexpr = FIRST - (TAPS - 1) if FIRST > TAPS - 1 else 0
    u += run * batch * L * COLUMNS
    du += run * batch * L * COLUMNS
    dG += run * batch * PAIRS
    conv += run * CONV * TAPS
    conv_bias += run * CONV
    program = tl.program_id(0) // PARTS
    n = tl.program_id(0) % PARTS * CHUNK + tl.arange(0, CHUNK)
    sums += (run * (tl.num_programs(0) // PARTS) + program) * ((TAPS + 1) * 2 * N)
    k_B = taps(conv, P + n, TAPS)
    bias_B = tl.load(conv_bias + P + n).to(tl.float32)
    k_C = taps(conv, P + N + n, TAPS)
    bias_C = tl.load(conv_bias + P + N + n).to(tl.float32)
    sums_B = nothing((ROWS, CHUNK), TAPS + 1)
    sums_C = nothing((ROWS, CHUNK), TAPS + 1)
    for number in tl.range(0, TILES, num_stages=1):
        rows = (program * TILES + number) * ROWS + tl.arange(0, ROWS)
        ok = None
        if not EVEN:
            ok = rows < batch
        u_B = positions(u, rows, 2 * P + n, ok, L, 0, COLUMNS)
        u_C = positions(u, rows, 2 * P + N + n, ok, L, LOW, COLUMNS)
        Bs, slopes_B = bend(u_B, k_B, bias_B, 0, 0, L, TAPS, FAST)
        Cs, slopes_C = bend(u_C, k_C, bias_C, FIRST, LOW, L, TAPS, FAST)
        ds_C = ()
        dBs = nothing((ROWS, CHUNK), L)
        for i in tl.static_range(FIRST, L):
            dC = tl.zeros((ROWS, CHUNK), tl.float32)
            more = ()
            for j in tl.static_range(L):
                if j <= i:
                    g = numbers(dG, rows, i * (i + 1) // 2 + j, ok, PAIRS)[:, None]
                    dC += g * Bs[j]
                    more = more + (dBs[j] + g * Cs[i - FIRST],)
                else:
                    more = more + (dBs[j],)
            dBs = more
            ds_C = ds_C + (dC * slopes_C[i - FIRST],)
        sums_C = convolve_backward(
            ds_C, u_C, k_C, sums_C, du, rows, 2 * P + N + n, ok, FIRST, LOW, L, TAPS, COLUMNS
        )
        ds_B = ()
        for t in tl.static_range(L):
            ds_B = ds_B + (dBs[t] * slopes_B[t],)
        sums_B = convolve_backward(
            ds_B, u_B, k_B, sums_B, du, rows, 2 * P + n, ok, 0, 0, L, TAPS, COLUMNS
        )
    put_sums(sums, sums_B, None, n, TAPS, 2 * N)
    put_sums(sums, sums_C, None, N + n, TAPS, 2 * N)
