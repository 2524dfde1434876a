"""Back through the projection into the Mamba-2 block, and through the norm before it.

The gradient of u, the widest tensor (2 p + 2 n channels a token), is read once here for both of its
products on tensor cores.
"""

# mypy: ignore-errors
# ruff: noqa: RUF005
from __future__ import annotations

import triton
import triton.language as tl

from lib.ops.triton.block_parts import dot, normed


@triton.jit
def needed(tokens, ok, column, L: tl.constexpr, FIRST: tl.constexpr, P: tl.constexpr,
           N: tl.constexpr, TAPS: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    """Which tokens have a use for the WIDE columns from `column` on: z from FIRST, C from what the
    convolution reaches at FIRST, everything else always."""
    if FIRST > 0:
        at = tokens % L
        early = (column + WIDE > P) & (column < 2 * P + N)
        late_C = (column >= 2 * P + N) & (at >= FIRST - (TAPS - 1))
        return ok & (early | late_C | (at >= FIRST))
    else:
        return ok


@triton.jit
def project_in_backward(
    dout, x, norm_weight, weight, raw, du, d_dt, dx, share, batch, eps,
    L: tl.constexpr, FIRST: tl.constexpr, M: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    TAPS: tl.constexpr, TOKENS: tl.constexpr, WIDE: tl.constexpr, TILES: tl.constexpr,
    STAGES: tl.constexpr, NORM: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """dx, and each program's share of the gradients of `weight`, the norm's weight and dt_bias:
    share (runs, programs, (2 P + 2 N + 1) M + M + 1). Grid (batch L / (TOKENS TILES), runs)."""
    run = tl.program_id(1).to(tl.int64)
    COLUMNS: tl.constexpr = 2 * P + 2 * N
    x += run * batch * L * M
    dx += run * batch * L * M
    dout += run * batch * (L - FIRST) * M
    du += run * batch * L * COLUMNS
    raw += run * L * batch
    d_dt += run * L * batch
    weight += run * (COLUMNS + 1) * M
    norm_weight += run * M
    share += (run * tl.num_programs(0) + tl.program_id(0)) * ((COLUMNS + 1) * M + M + 1)
    m = tl.arange(0, M)
    start = tl.program_id(0) * (TOKENS * TILES)
    total = batch * L
    # dt's column first
    acc_dt = tl.zeros((M,), tl.float32)
    acc_bias = tl.zeros((TOKENS,), tl.float32)
    dt_weight = tl.load(weight + COLUMNS * M + m).to(tl.float32)
    xns = ()
    dxns = ()
    for number in tl.static_range(TILES):
        tokens = start + number * TOKENS + tl.arange(0, TOKENS)
        ok = tokens < total
        _, _, xn = normed(x, norm_weight, tokens, ok, eps, M, NORM)
        d_raw = tl.load(d_dt + tokens, mask=ok, other=0.0)
        d_raw = d_raw * tl.sigmoid(tl.load(raw + tokens, mask=ok, other=0.0))
        acc_bias += d_raw
        acc_dt += tl.sum(xn * d_raw[:, None], 0)
        xns = xns + (xn,)
        dxns = dxns + (d_raw[:, None] * dt_weight[None, :],)
    tl.store(share + COLUMNS * M + m, acc_dt)
    tl.store(share + (COLUMNS + 2) * M, tl.sum(acc_bias))
    # a loop, not unrolled: what one part of the columns needs is dropped before the next
    for c0 in tl.range(0, COLUMNS, WIDE, num_stages=STAGES):
        c = c0 + tl.arange(0, WIDE)
        w = tl.load(weight + c[:, None] * M + m[None, :]).to(tl.float32)
        acc = tl.zeros((WIDE, M), tl.float32)
        more = ()
        for number in tl.static_range(TILES):
            tokens = start + number * TOKENS + tl.arange(0, TOKENS)
            keep = needed(tokens, tokens < total, c0, L, FIRST, P, N, TAPS, WIDE)
            d = tl.load(du + tokens[:, None] * COLUMNS + c[None, :], mask=keep[:, None], other=0.0)
            more = more + (dot(d, w, dxns[number], EXACT),)
            acc = dot(tl.trans(d), xns[number], acc, EXACT)
        dxns = more
        tl.store(share + c[:, None] * M + m[None, :], acc)
    acc_norm = tl.zeros((M,), tl.float32)
    for number in tl.static_range(TILES):
        tokens = start + number * TOKENS + tl.arange(0, TOKENS)
        ok = tokens < total
        dxn = dxns[number]
        if NORM:
            hat, scale, _ = normed(x, norm_weight, tokens, ok, eps, M, NORM)
            acc_norm += tl.sum(dxn * hat, 0)
            dxn = dxn * tl.load(norm_weight + m).to(tl.float32)[None, :]
            dxn = scale * (dxn - hat * (tl.sum(dxn * hat, 1) / M)[:, None])
        at = tokens % L
        late = ok & (at >= FIRST)
        row = tokens // L * (L - FIRST) + at - FIRST
        residual = tl.load(dout + row[:, None] * M + m[None, :], mask=late[:, None], other=0.0)
        tl.store(dx + tokens[:, None] * M + m[None, :], dxn + residual, mask=ok[:, None])
    tl.store(share + (COLUMNS + 1) * M + m, acc_norm)
