"""Kernels of the causal depthwise convolution, with bias, SiLU and a state before the first step.

A program takes a tile of tokens (all steps of all sequences of a run, in a row) and channels, with
the channels next to each other in memory as in a model. The kernels are limited by memory: a
forward pass reads and writes each number once, the k - 1 other reads of an input come from cache;
the backward pass reads x and dy and writes dx, and makes what SiLU was applied to again.
"""

# The arguments of a kernel are pointers, sizes and constants; types say nothing here.
# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton knows no starred expressions)
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def before(x, x_s, start, start_s, run, b, d, t, ok, length, TAPS: tl.constexpr):
    """Inputs at times t, which may be negative (the start, or zero) or at least length (zero)."""
    there = ok & (t >= 0) & (t < length)
    where = x + run * x_s[0] + b * x_s[1] + d * x_s[2] + t * x_s[3]
    value = tl.load(where, mask=there, other=0.0).to(tl.float32)
    if start is not None:
        where = start + run * start_s[0] + b * start_s[1] + d * start_s[2]
        where += (t + TAPS - 1) * start_s[3]
        value += tl.load(where, mask=ok & (t < 0) & (t > -TAPS), other=0.0).to(tl.float32)
    return value


@triton.jit
def forward(
    x, x_s, weight, weight_s, bias, bias_s, start, start_s, y, y_s, batch, length,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, SILU: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """x, y (r, b, d, l), weight (r, d, k), bias (r, d), start (r, b, d, k - 1), with their strides.
    Grid: (blocks of channels, blocks of tokens, runs), flat."""
    BLOCKS: tl.constexpr = (CHANNELS + COLUMNS - 1) // COLUMNS
    pid = tl.program_id(0)
    d = pid % BLOCKS * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    tokens = batch * length
    lots = (tokens + ROWS - 1) // ROWS
    run = (pid // BLOCKS // lots).to(tl.int64)
    row = pid // BLOCKS % lots * ROWS + tl.arange(0, ROWS)[:, None]
    ok = (row < tokens) & (d < CHANNELS)
    b = (row // length).to(tl.int64)
    t = row % length
    value = tl.zeros((ROWS, COLUMNS), tl.float32)
    if bias is not None:
        at = bias + run * bias_s[0] + d * bias_s[1]
        value += tl.load(at, mask=d < CHANNELS, other=0.0).to(tl.float32)
    for j in tl.static_range(TAPS):
        at = weight + run * weight_s[0] + d * weight_s[1] + (TAPS - 1 - j) * weight_s[2]
        tap = tl.load(at, mask=d < CHANNELS, other=0.0).to(tl.float32)
        value += tap * before(x, x_s, start, start_s, run, b, d, t - j, ok, length, TAPS)
    if SILU:
        value = value * tl.sigmoid(value)
    tl.store(y + run * y_s[0] + b * y_s[1] + d * y_s[2] + t * y_s[3], value, mask=ok)


@triton.jit
def backward(
    dy, dy_s, x, x_s, weight, weight_s, bias, bias_s, start, start_s, dx, dx_s, dstart, dweight,
    dbias, batch, length, lots, each,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, SILU: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradients of :func:`forward`'s inputs.

    A program takes `each` tiles of tokens; with a start, those of its k - 1 steps too. dstart
    (r, b, d, k - 1); the shares of a program in dweight (lots, r, k, d) and dbias (lots, r, d).
    Grid: (blocks of channels, lots, runs), flat.
    """
    BLOCKS: tl.constexpr = (CHANNELS + COLUMNS - 1) // COLUMNS
    EXTRA: tl.constexpr = TAPS - 1 if start is not None else 0
    pid = tl.program_id(0)
    d = pid % BLOCKS * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    ok_d = d < CHANNELS
    lot = pid // BLOCKS % lots
    run = (pid // BLOCKS // lots).to(tl.int64)
    runs = tl.num_programs(0) // BLOCKS // lots
    span = length + EXTRA
    tokens = batch * span
    taps = ()
    dtaps = ()
    for j in tl.static_range(TAPS):  # tap j meets the input j steps before
        at = weight + run * weight_s[0] + d * weight_s[1] + (TAPS - 1 - j) * weight_s[2]
        taps = taps + (tl.load(at, mask=ok_d, other=0.0).to(tl.float32),)
        dtaps = dtaps + (tl.zeros((ROWS, COLUMNS), tl.float32),)
    constant = tl.zeros((1, COLUMNS), tl.float32)
    dconstant = tl.zeros((ROWS, COLUMNS), tl.float32)
    if bias is not None:
        at = bias + run * bias_s[0] + d * bias_s[1]
        constant = tl.load(at, mask=ok_d, other=0.0).to(tl.float32)
    i = 0
    while i < each:
        row = (lot * each + i) * ROWS + tl.arange(0, ROWS)[:, None]
        ok = (row < tokens) & ok_d
        b = (row // span).to(tl.int64)
        t = row % span - EXTRA
        # inputs at t - (TAPS - 1) .. t + TAPS - 1, where SiLU is to be made again
        LATER: tl.constexpr = TAPS - 1 if SILU else 0
        xs = ()
        for j in tl.static_range(TAPS + LATER):
            at_j = t - (TAPS - 1) + j
            xs = xs + (before(x, x_s, start, start_s, run, b, d, at_j, ok, length, TAPS),)
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        sums = ()
        for j in tl.static_range(TAPS):
            there = ok & (t + j >= 0) & (t + j < length)
            where = dy + run * dy_s[0] + b * dy_s[1] + d * dy_s[2] + (t + j) * dy_s[3]
            grad = tl.load(where, mask=there, other=0.0).to(tl.float32)
            if SILU:
                value = constant
                for k in tl.static_range(TAPS):
                    value += taps[k] * xs[TAPS - 1 + j - k]
                gate = tl.sigmoid(value)
                grad = grad * gate * (1.0 + value * (1.0 - gate))
            total += taps[j] * grad
            if j == 0:
                for k in tl.static_range(TAPS):
                    sums = sums + (dtaps[k] + grad * xs[TAPS - 1 - k],)
                dconstant += grad
        dtaps = sums
        where = dx + run * dx_s[0] + b * dx_s[1] + d * dx_s[2] + t * dx_s[3]
        tl.store(where, total, mask=ok & (t >= 0))
        if start is not None:
            where = dstart + ((run * batch + b) * CHANNELS + d) * (TAPS - 1) + t + (TAPS - 1)
            tl.store(where, total, mask=ok & (t < 0))
        i += 1
    own = (lot * runs + run) * CHANNELS
    for j in tl.static_range(TAPS):
        share = tl.sum(dtaps[j], 0, keep_dims=True)
        tl.store(dweight + own * TAPS + (TAPS - 1 - j) * CHANNELS + d, share, mask=ok_d)
    if bias is not None:
        tl.store(dbias + own + d, tl.sum(dconstant, 0, keep_dims=True), mask=ok_d)
