"""The Mamba-2 block's forward pass in one kernel, from x to the output.

u = in_weight xn is made a few columns at a time, written once for the backward pass, and used on
the spot. A program holds 8 sequences a warp, and its products' rows are ordered so that a thread's
share of the sum on tensor cores is all positions of one sequence (see `pieces`): the convolution
and the sums over earlier positions stay in registers, and u is never read again.
"""

# mypy: ignore-errors
# ruff: noqa: RUF005
from __future__ import annotations

import triton
import triton.language as tl

from lib.ops.triton.block_parts import (
    activate,
    dot,
    normed,
    put,
    step_sizes,
    taps,
)
from lib.ops.triton.elementwise import exp, sigmoid, softplus


@triton.jit
def pieces(value, LP: tl.constexpr, WARPS: tl.constexpr, STEP: tl.constexpr):
    """value (T, 2 STEP) as a tuple of (SEQ, STEP), each a thread's own registers: its first STEP
    columns at positions 0 .. LP - 1, then the others.

    Tensor cores leave rows g, g + 8, ... of a warp's 16 (one warp) or of every 16 WARPS rows (more)
    to the threads of group g, so rows are numbered (LP / 2, WARPS, 2, 8), where WARPS and 8 are
    the sequence and the others the position: taking positions apart moves no data. Of columns a
    thread has two neighbours in every 8; `load_parts` makes all of them neighbours in u.
    """
    value = tl.reshape(value, (LP // 2, WARPS, 2, 8, 2, STEP // 8, 4, 2))
    value = tl.permute(value, (1, 3, 6, 5, 7, 4, 0, 2))
    out = (tl.reshape(value, (WARPS * 8, STEP, 2 * LP)),)
    for level in tl.static_range(5):  # halves, the number's lowest bit first
        if LP >> level > 0:
            low = ()
            high = ()
            for i in tl.static_range(1 << level):
                part = out[i]
                if LP >> level > 1:
                    part = tl.reshape(part, (WARPS * 8, STEP, LP >> level, 2))
                first, second = tl.split(part)
                low = low + (first,)
                high = high + (second,)
            out = low + high
    return out


@triton.jit
def load_parts(weight, start, APART: tl.constexpr, M: tl.constexpr, STEP: tl.constexpr):
    """Weights (M, 2 STEP) of u's columns start .. start + STEP - 1 and of those APART later, in the
    order that `pieces` expects."""
    i = tl.arange(0, 2 * STEP)
    m = tl.arange(0, M)
    c = i // STEP * APART + i % 8 // 2 * (STEP // 4) + i % STEP // 8 * 2 + i % 2
    return tl.load(weight + start * M + (c[None, :] * M + m[:, None]))


@triton.jit
def two_parts(
    xn, w, STEP: tl.constexpr, LP: tl.constexpr, WARPS: tl.constexpr, EXACT: tl.constexpr
):  # fmt: skip
    """The columns of u whose weights are w, in pieces. One product for two parts: each reads all of
    xn from shared memory."""
    value = dot(xn, w.to(tl.float32), tl.zeros((xn.shape[0], 2 * STEP), tl.float32), EXACT)
    return pieces(value, LP, WARPS, STEP)


@triton.jit
def store(
    u, parts, rows, columns, ok, NUMBER: tl.constexpr, FROM: tl.constexpr, L: tl.constexpr,
    LP: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Store positions FROM .. L - 1 of the first or second part as these columns of u; returns
    their tiles."""
    out = ()
    for t in tl.static_range(FROM, L):
        put(u, parts[NUMBER * LP + t], rows, t, columns, ok, L, WIDTH)
        out = out + (parts[NUMBER * LP + t],)
    return out


@triton.jit
def quarters(tiles, SEQ: tl.constexpr, STEP: tl.constexpr):
    """Tiles (SEQ, STEP), each as a tuple of STEP / 4 tiles (SEQ, 4), a number a thread: a sum over
    these tuples stays in a thread."""
    out = ()
    for i in tl.static_range(len(tiles)):
        first, second = tl.split(tl.reshape(tiles[i], (SEQ, STEP // 2, 2)))
        if STEP == 8:
            out = out + ((first, second),)
        else:
            a, b = tl.split(tl.reshape(first, (SEQ, 4, 2)))
            c, d = tl.split(tl.reshape(second, (SEQ, 4, 2)))
            out = out + ((a, b, c, d),)
    return out


@triton.jit
def put_scores(G, scores, rows, ok, START: tl.constexpr, PAIRS: tl.constexpr):
    """Store numbers (SEQ,) as columns START on of G (batch, PAIRS), eight at a time: a whole
    sector of memory, and a select a number and column of a thread."""
    e = tl.arange(0, 8)
    for group in tl.static_range(START // 8, (START + len(scores) + 7) // 8):
        line = tl.zeros((rows.shape[0], 8), tl.float32)
        for i in tl.static_range(8):
            if group * 8 + i >= START and group * 8 + i < START + len(scores):
                line = tl.where((e == i)[None, :], scores[group * 8 + i - START][:, None], line)
        put(G, line, rows, 0, group * 8 + e, ok, 1, PAIRS)


@triton.jit
def forward(
    x, norm_weight, weight, dt_bias, conv, conv_bias, A_log, D, gate_weight, out_weight,
    u, raw, dt, G, gated, out, batch, eps,
    L: tl.constexpr, FIRST: tl.constexpr, M: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    TAPS: tl.constexpr, PAIRS: tl.constexpr, LP: tl.constexpr, WARPS: tl.constexpr,
    STEP: tl.constexpr, TOKENS: tl.constexpr, NORM: tl.constexpr,
    EXACT: tl.constexpr, FAST: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """From x to the block's output, and what the backward pass reads.

    u (runs, batch, L, 2 P + 2 N), of which z before FIRST and C before what the convolution
    reaches from there stay unwritten; raw, dt (runs, batch, L), dt = softplus(raw); G (runs,
    batch, PAIRS), C_i . B_j at i (i + 1) / 2 + j; gated (runs, batch, L - FIRST, P), y silu(z)
    before its norm; out (runs, batch, L - FIRST, M). LP is L or more, a power of two from 2 on;
    TOKENS is 8 WARPS (L - FIRST) or more, from 16 on. Grid (batch / (8 WARPS), runs).
    """
    run = tl.program_id(1).to(tl.int64)
    COLUMNS: tl.constexpr = 2 * P + 2 * N
    CONV: tl.constexpr = P + 2 * N
    SEQ: tl.constexpr = 8 * WARPS
    LOW: tl.constexpr = FIRST - (TAPS - 1) if FIRST > TAPS - 1 else 0
    x += run * batch * L * M
    u += run * batch * L * COLUMNS
    raw += run * L * batch
    dt += run * L * batch
    G += run * batch * PAIRS
    gated += run * batch * (L - FIRST) * P
    out += run * batch * (L - FIRST) * M
    weight += run * (COLUMNS + 1) * M
    conv += run * CONV * TAPS
    conv_bias += run * CONV
    start = tl.program_id(0) * SEQ
    rows = start + tl.arange(0, SEQ)
    ok = None
    if not EVEN:
        ok = rows < batch
    # rows of the products: sequences and positions as `pieces` wants them
    r = tl.arange(0, SEQ * LP)
    at = r // (2 * SEQ) * 2 + r // 8 % 2
    row = start + r // 16 % WARPS * 8 + r % 8
    tokens = row * L + at
    real = (row < batch) & (at < L)
    m = tl.arange(0, M)
    _, _, xn = normed(x, norm_weight + run * M, tokens, real, eps, M, NORM)
    w = tl.load(weight + COLUMNS * M + m).to(tl.float32)
    value = tl.sum(xn * w[None, :], 1) + tl.load(dt_bias + run).to(tl.float32)
    tl.store(raw + tokens, value, mask=real)
    tl.store(dt + tokens, softplus(value), mask=real)
    # G, a thread's share of every sum over states in one register
    e = tl.arange(0, STEP)
    sums = ()
    for _ in tl.static_range(L * (L + 1) // 2 - FIRST * (FIRST + 1) // 2):
        sums = sums + (tl.zeros((SEQ, 4), tl.float32),)
    w = load_parts(weight, 2 * P, N, M, STEP)  # a step ahead: nobody waits for weights
    for n0 in tl.range(0, N, STEP, num_stages=1):
        n = n0 + e
        k = taps(conv, P + n, TAPS)
        bias = tl.load(conv_bias + P + n).to(tl.float32)
        parts = two_parts(xn, w, STEP, LP, WARPS, EXACT)
        w = load_parts(weight, 2 * P + (n0 + STEP) % N, N, M, STEP)
        us = store(u, parts, rows, 2 * P + n, ok, 0, 0, L, LP, COLUMNS)
        Bs = quarters(activate(us, k, bias, 0, 0, L, TAPS, FAST), SEQ, STEP)
        k = taps(conv, P + N + n, TAPS)
        bias = tl.load(conv_bias + P + N + n).to(tl.float32)
        us = store(u, parts, rows, 2 * P + N + n, ok, 1, LOW, L, LP, COLUMNS)
        Cs = quarters(activate(us, k, bias, FIRST, LOW, L, TAPS, FAST), SEQ, STEP)
        more = ()
        for i in tl.static_range(FIRST, L):
            for j in tl.static_range(i + 1):
                g = sums[i * (i + 1) // 2 - FIRST * (FIRST + 1) // 2 + j]
                for q in tl.static_range(STEP // 4):
                    g += Cs[i - FIRST][q] * Bs[j][q]
                more = more + (g,)
        sums = more
    tl.debug_barrier()  # dt is read again, by other threads of this program
    steps = step_sizes(dt, rows, ok, L)
    A = -tl.exp(tl.load(A_log + run).to(tl.float32))
    scores = ()
    for i in tl.static_range(len(sums)):
        scores = scores + (tl.sum(sums[i], 1),)
    put_scores(G, scores, rows, ok, FIRST * (FIRST + 1) // 2, PAIRS)
    S = ()  # S_ij for j = i, i - 1 ... 0
    for i in tl.static_range(FIRST, L):
        gap = tl.zeros((SEQ,), tl.float32)
        line = ()
        for back in tl.static_range(i + 1):
            g = scores[i * (i + 1) // 2 - FIRST * (FIRST + 1) // 2 + i - back]
            line = line + (g * exp(gap, FAST) * steps[i - back],)
            gap += A * steps[i - back]
        S = S + (line,)
    skip = tl.load(D + run).to(tl.float32)
    w = load_parts(weight, 0, P, M, STEP)
    for p0 in tl.range(0, P, STEP, num_stages=1):
        p = p0 + e
        k = taps(conv, p, TAPS)
        bias = tl.load(conv_bias + p).to(tl.float32)
        parts = two_parts(xn, w, STEP, LP, WARPS, EXACT)
        w = load_parts(weight, (p0 + STEP) % P, P, M, STEP)
        zs = store(u, parts, rows, p, ok, 0, FIRST, L, LP, COLUMNS)
        us = store(u, parts, rows, P + p, ok, 1, 0, L, LP, COLUMNS)
        Xs = activate(us, k, bias, 0, 0, L, TAPS, FAST)
        for i in tl.static_range(FIRST, L):
            y = skip * Xs[i]
            for back in tl.static_range(i + 1):
                y += S[i - FIRST][back][:, None] * Xs[i - back]
            z = zs[i - FIRST]
            put(gated, y * z * sigmoid(z, FAST), rows, i - FIRST, p, ok, L - FIRST, P)
    tl.debug_barrier()  # and so is gated
    project_out(
        x, gated, gate_weight + run * P, out_weight + run * M * P, out, start, batch, eps,
        L, FIRST, M, P, SEQ, TOKENS, EXACT,
    )  # fmt: skip


@triton.jit
def project_out(
    x, gated, gate_weight, weight, out, start, batch, eps,
    L: tl.constexpr, FIRST: tl.constexpr, M: tl.constexpr, P: tl.constexpr, SEQ: tl.constexpr,
    TOKENS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """x + weight rms_norm(gated) for SEQ sequences from `start` on. The norm's scale, one number a
    token, is applied to the product; its weight, to `weight`."""
    m = tl.arange(0, M)
    first = start * (L - FIRST)
    token = first + tl.arange(0, TOKENS)
    keep = token < tl.minimum(first + SEQ * (L - FIRST), batch * (L - FIRST))
    value = tl.zeros((TOKENS, M), tl.float32)
    squares = tl.zeros((TOKENS,), tl.float32)
    for p0 in tl.range(0, P, 16, num_stages=1):
        p = p0 + tl.arange(0, 16)
        g = tl.load(gated + token[:, None] * P + p[None, :], mask=keep[:, None], other=0.0)
        squares += tl.sum(g * g, 1)
        w = tl.load(weight + m[None, :] * P + p[:, None]).to(tl.float32)
        w *= tl.load(gate_weight + p).to(tl.float32)[:, None]
        value = dot(g, w, value, EXACT)
    value *= tl.rsqrt(squares / P + eps)[:, None]
    source = token
    if FIRST > 0:
        source = token // (L - FIRST) * L + FIRST + token % (L - FIRST)
    value += tl.load(x + source[:, None] * M + m[None, :], mask=keep[:, None], other=0.0)
    tl.store(out + token[:, None] * M + m[None, :], value, mask=keep[:, None])
