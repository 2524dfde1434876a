"""What happens between the projections of the Mamba-2 block: convolution, SiLU, the quadratic form
over time, gate, norm; then the projection out, by the program that has just made its input.

The way back is :mod:`lib.ops.triton.block_backward`.
"""

# mypy: ignore-errors
# ruff: noqa: RUF005
from __future__ import annotations

import triton
import triton.language as tl

from lib.ops.triton.block_parts import (
    activate,
    convolve,
    dot,
    exp,
    gather_up,
    positions,
    put,
    sigmoid,
    step_sizes,
    taps,
    tile,
)


@triton.jit
def mix(
    x, u, dt, conv, conv_bias, A_log, D, gate_weight, out_weight, G, gated, out,
    batch, eps,
    L: tl.constexpr, FIRST: tl.constexpr, M: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    TAPS: tl.constexpr, PAIRS: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr,
    EXACT: tl.constexpr, FAST: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """From u to the block's output.

    G (runs, batch, PAIRS), C_i . B_j at i (i + 1) / 2 + j; gated (runs, batch,
    L - FIRST, P), y silu(z) before the norm; out (runs, batch, L - FIRST, M).
    Grid (batch / ROWS, runs); TOKENS is ROWS (L - FIRST) or more.
    """
    run = tl.program_id(1).to(tl.int64)
    COLUMNS: tl.constexpr = 2 * P + 2 * N
    CONV: tl.constexpr = P + 2 * N
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = None
    if not EVEN:
        ok = rows < batch
    x += run * batch * L * M
    u += run * batch * L * COLUMNS
    dt += run * L * batch
    G += run * batch * PAIRS
    gated += run * batch * (L - FIRST) * P
    out += run * batch * (L - FIRST) * M
    conv += run * CONV * TAPS
    conv_bias += run * CONV
    LOW: tl.constexpr = FIRST - (TAPS - 1) if FIRST > TAPS - 1 else 0
    n = tl.arange(0, N)
    k = taps(conv, P + n, TAPS)
    bias = tl.load(conv_bias + P + n).to(tl.float32)
    us = positions(u, rows, 2 * P + n, ok, L, 0, COLUMNS)
    Bs = activate(us, k, bias, 0, 0, L, TAPS, FAST)
    k = taps(conv, P + N + n, TAPS)
    bias = tl.load(conv_bias + P + N + n).to(tl.float32)
    us = positions(u, rows, 2 * P + N + n, ok, L, LOW, COLUMNS)
    steps = step_sizes(dt, rows, ok, L)
    A = -tl.exp(tl.load(A_log + run).to(tl.float32))
    S = ()
    scores = ()
    for i in tl.static_range(FIRST, L):
        c = convolve(us, i, k, bias, LOW, TAPS)
        C = c * sigmoid(c, FAST)
        gap = tl.zeros((ROWS,), tl.float32)
        line = ()
        row = ()  # S_ij for j = i, i - 1 ... 0
        for back in tl.static_range(i + 1):
            g = tl.sum(C * Bs[i - back], 1)
            line = line + (g,)
            row = row + (g * exp(gap, FAST) * steps[i - back],)
            gap += A * steps[i - back]
        S = S + (row,)
        for j in tl.static_range(i + 1):
            scores = scores + (line[i - j],)
    pair = tl.arange(0, PAIRS)
    put(G, gather_up(scores, pair, FIRST * (FIRST + 1) // 2), rows, 0, pair, ok, 1, PAIRS)
    p = tl.arange(0, P)
    k = taps(conv, p, TAPS)
    bias = tl.load(conv_bias + p).to(tl.float32)
    us = positions(u, rows, P + p, ok, L, 0, COLUMNS)
    Xs = activate(us, k, bias, 0, 0, L, TAPS, FAST)
    skip = tl.load(D + run).to(tl.float32)
    weight = tl.load(gate_weight + run * P + p).to(tl.float32)
    for i in tl.static_range(FIRST, L):
        y = skip * Xs[i]
        for back in tl.static_range(i + 1):
            y += S[i - FIRST][back][:, None] * Xs[i - back]
        z = tile(u, rows, i, p, ok, L, COLUMNS)
        put(gated, y * z * sigmoid(z, FAST), rows, i - FIRST, p, ok, L - FIRST, P)
    tl.debug_barrier()  # gated is read again, by other threads of this program
    m = tl.arange(0, M)
    w = tl.load(out_weight + run * M * P + m[None, :] * P + p[:, None]).to(tl.float32)
    first = tl.program_id(0) * ROWS * (L - FIRST)
    token = first + tl.arange(0, TOKENS)
    keep = token < tl.minimum(first + ROWS * (L - FIRST), batch * (L - FIRST))
    value = tl.load(gated + token[:, None] * P + p[None, :], mask=keep[:, None], other=0.0)
    value = value * tl.rsqrt(tl.sum(value * value, 1) / P + eps)[:, None] * weight[None, :]
    value = dot(value, w, tl.zeros((TOKENS, M), tl.float32), EXACT)
    source = token // (L - FIRST) * L + FIRST + token % (L - FIRST)
    value += tl.load(x + source[:, None] * M + m[None, :], mask=keep[:, None], other=0.0)
    tl.store(out + token[:, None] * M + m[None, :], value, mask=keep[:, None])
