"""Kernels of the causal depthwise convolution, with bias, SiLU and a state before the first step.

A thread walks along the steps of a stretch of a sequence with the last k - 1 inputs of its channels
in registers, so that each number is read once; channels lie next to each other in memory, as in a
model. The backward pass walks the same way: it makes what SiLU was applied to again, keeps the last
k - 1 slopes of the sum before SiLU as well, and is that many steps late with the gradient of x. It
reads on into the next stretch for that.
"""

# The arguments of a kernel are pointers, sizes and constants; types say nothing here.
# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton knows no starred expressions)
from __future__ import annotations

import triton
import triton.language as tl

from lib.ops.triton.elementwise import sigmoid


@triton.jit
def stretch(number, chunks, STEPS: tl.constexpr):
    """Sequence and first step of stretches."""
    return (number // chunks).to(tl.int64), number % chunks * STEPS


@triton.jit
def numbers_of(weight, weight_s, bias, bias_s, run, d, TAPS: tl.constexpr, CHANNELS: tl.constexpr):
    """Tap j, which meets the input j steps before, for each j; and the bias."""
    taps = ()
    for j in tl.static_range(TAPS):
        at = weight + run * weight_s[0] + d * weight_s[1] + (TAPS - 1 - j) * weight_s[2]
        taps = taps + (tl.load(at, mask=d < CHANNELS, other=0.0).to(tl.float32),)
    constant = tl.zeros(d.shape, tl.float32)
    if bias is not None:
        at = bias + run * bias_s[0] + d * bias_s[1]
        constant += tl.load(at, mask=d < CHANNELS, other=0.0).to(tl.float32)
    return taps, constant


@triton.jit
def inputs_before(x, x_s, start, start_s, run, b, d, first, ok, KEPT: tl.constexpr):
    """The KEPT inputs before step `first`, the oldest first: of x, of the start, or zero. `x` is at
    step `first`."""
    out = ()
    for j in tl.static_range(KEPT):
        there = ok & (first >= KEPT - j)
        value = tl.load(x - (KEPT - j) * x_s[3], mask=there, other=0.0).to(tl.float32)
        if start is not None:
            at = start + run * start_s[0] + b * start_s[1] + d * start_s[2]
            at += (first + j) * start_s[3]
            value += tl.load(at, mask=ok & (first < KEPT - j), other=0.0).to(tl.float32)
        out = out + (value,)
    return out


@triton.jit
def weighted(xs, taps, constant):
    """The sum before SiLU at the step of the newest of `xs`, which come oldest first."""
    value = constant + taps[0] * xs[len(taps) - 1]
    for j in tl.static_range(1, len(taps)):
        value += taps[j] * xs[len(taps) - 1 - j]
    return value


@triton.jit
def later(window, value):
    """The window a step on: without its oldest, with `value`."""
    out = ()
    for j in tl.static_range(1, len(window)):
        out = out + (window[j],)
    return out + (value,)


@triton.jit
def forward(
    x, x_s, weight, weight_s, bias, bias_s, start, start_s, y, y_s, batch, length, chunks,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, SILU: tl.constexpr, STEPS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """x, y (r, b, d, l), weight (r, d, k), bias (r, d), start (r, b, d, k - 1), with their strides.
    `chunks` stretches of STEPS steps a sequence. Grid: (blocks of channels, ROWS stretches, runs),
    flat."""
    BLOCKS: tl.constexpr = (CHANNELS + COLUMNS - 1) // COLUMNS
    pid = tl.program_id(0)
    d = pid % BLOCKS * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    lots = (batch * chunks + ROWS - 1) // ROWS
    run = (pid // BLOCKS // lots).to(tl.int64)
    number = pid // BLOCKS % lots * ROWS + tl.arange(0, ROWS)[:, None]
    ok = (number < batch * chunks) & (d < CHANNELS)
    b, first = stretch(number, chunks, STEPS)
    taps, constant = numbers_of(weight, weight_s, bias, bias_s, run, d, TAPS, CHANNELS)
    x += run * x_s[0] + b * x_s[1] + d * x_s[2] + first * x_s[3]
    y += run * y_s[0] + b * y_s[1] + d * y_s[2] + first * y_s[3]
    xs = inputs_before(x, x_s, start, start_s, run, b, d, first, ok, TAPS - 1)
    xs = (xs[0],) + xs  # a place for the step's own, as wide as the window
    for i in tl.static_range(STEPS):
        there = ok & (first + i < length)
        xs = later(xs, tl.load(x + i * x_s[3], mask=there, other=0.0).to(tl.float32))
        value = weighted(xs, taps, constant)
        if SILU:
            value = value * sigmoid(value, FAST)
        tl.store(y + i * y_s[3], value, mask=there)


@triton.jit
def backward(
    dy, dy_s, x, x_s, weight, weight_s, bias, bias_s, start, start_s, dx, dx_s, dstart, shares,
    batch, length, chunks, lots, each,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, SILU: tl.constexpr, STEPS: tl.constexpr,
    WHOLE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Gradients of :func:`forward`'s inputs: dx, dstart (r, b, d, k - 1), and a program's share of
    those of the taps, the first of `weight` first, and the bias, in shares (lots, r, k + 1, d).

    A program takes `each` times ROWS stretches; WHOLE says that a stretch is a sequence. Grid:
    (blocks of channels, lots, runs), flat.
    """
    BLOCKS: tl.constexpr = (CHANNELS + COLUMNS - 1) // COLUMNS
    KEPT: tl.constexpr = TAPS - 1
    pid = tl.program_id(0)
    d = pid % BLOCKS * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    lot = pid // BLOCKS % lots
    run = (pid // BLOCKS // lots).to(tl.int64)
    runs = tl.num_programs(0) // BLOCKS // lots
    taps, constant = numbers_of(weight, weight_s, bias, bias_s, run, d, TAPS, CHANNELS)
    dtaps = ()
    for _ in tl.static_range(TAPS):
        dtaps = dtaps + (tl.zeros((ROWS, COLUMNS), tl.float32),)
    dconstant = tl.zeros((ROWS, COLUMNS), tl.float32)
    n = 0
    while n < each:
        number = (lot * each + n) * ROWS + tl.arange(0, ROWS)[:, None]
        ok = (number < batch * chunks) & (d < CHANNELS)
        b, first = stretch(number, chunks, STEPS)
        x_at = x + run * x_s[0] + b * x_s[1] + d * x_s[2] + first * x_s[3]
        dy_at = dy + run * dy_s[0] + b * dy_s[1] + d * dy_s[2] + first * dy_s[3]
        dx_at = dx + run * dx_s[0] + b * dx_s[1] + d * dx_s[2] + first * dx_s[3]
        xs = inputs_before(x_at, x_s, start, start_s, run, b, d, first, ok, KEPT)
        xs = (xs[0],) + xs
        slopes = ()
        for _ in tl.static_range(TAPS):
            slopes = slopes + (tl.zeros((ROWS, COLUMNS), tl.float32),)
        for i in tl.static_range(STEPS + KEPT):
            slope = tl.zeros((ROWS, COLUMNS), tl.float32)
            if i < STEPS or not WHOLE:
                there = ok & (first + i < length)
                xs = later(xs, tl.load(x_at + i * x_s[3], mask=there, other=0.0).to(tl.float32))
                slope += tl.load(dy_at + i * dy_s[3], mask=there, other=0.0).to(tl.float32)
                if SILU:
                    value = weighted(xs, taps, constant)
                    gate = sigmoid(value, FAST)
                    value = value * gate
                    slope = slope * (gate + value * (1.0 - gate))
            slopes = later(slopes, slope)
            if i < STEPS:
                more = ()
                for j in tl.static_range(TAPS):
                    more = more + (dtaps[j] + slope * xs[KEPT - j],)
                dtaps = more
                dconstant += slope
            total = taps[0] * slopes[0]
            for j in tl.static_range(1, TAPS):
                total += taps[j] * slopes[j]
            if i >= KEPT:
                there = ok & (first + (i - KEPT) < length)
                tl.store(dx_at + (i - KEPT) * dx_s[3], total, mask=there)
            elif start is not None:
                at = dstart + ((run * batch + b) * CHANNELS + d) * KEPT + i
                tl.store(at, total, mask=ok & (first == 0))
        n += 1
    own = shares + ((lot * runs + run) * (TAPS + 1)) * CHANNELS + d
    for j in tl.static_range(TAPS):
        share = tl.sum(dtaps[j], 0, keep_dims=True)
        tl.store(own + (TAPS - 1 - j) * CHANNELS, share, mask=d < CHANNELS)
    tl.store(own + TAPS * CHANNELS, tl.sum(dconstant, 0, keep_dims=True), mask=d < CHANNELS)
