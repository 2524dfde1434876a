"""Pieces that the kernels of the Mamba-2 block share.

Kernels that mix time hold a few sequences at once and unroll the positions: a position is a tile
(sequences, channels), a tuple holds one tile a position. The convolution and the sums over earlier
positions are then plain arithmetic on tiles; only sums over channels cross threads.
"""

# The arguments of a kernel are pointers, sizes and constants; types say nothing here.
# mypy: ignore-errors
# ruff: noqa: RUF005
from __future__ import annotations

import triton
import triton.language as tl

from lib.ops.triton.elementwise import sigmoid


@triton.jit
def split(x):
    """x as a sum of two numbers that tensor cores multiply exactly (tf32 has 11 bits)."""
    high = (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    return high, x - high


@triton.jit
def dot(a, b, acc, EXACT: tl.constexpr):
    """acc + a b on tensor cores. EXACT: three products of the parts, without that of the low parts,
    an error of float32's size (2^-21 of a product). Otherwise one product, for which the hardware
    cuts its operands to tf32's 11 bits (2^-10)."""
    if EXACT:
        a_high, a_low = split(a)
        b_high, b_low = split(b)
        acc = tl.dot(a_low, b_high, acc, input_precision="tf32")
        acc = tl.dot(a_high, b_low, acc, input_precision="tf32")
        acc = tl.dot(a_high, b_high, acc, input_precision="tf32")
    else:
        acc = tl.dot(a, b, acc, input_precision="tf32")
    return acc


@triton.jit
def tile(base, rows, at, columns, ok, LENGTH: tl.constexpr, WIDTH: tl.constexpr):
    """Rows of (batch, LENGTH, WIDTH) at one position, some columns, in float32.

    Here and below `ok` says which rows exist; None means that all do.
    """
    # the position last: one address for all positions, each a constant away
    where = base + (rows * (LENGTH * WIDTH))[:, None] + columns[None, :]
    if ok is None:
        return tl.load(where + at * WIDTH).to(tl.float32)
    else:
        return tl.load(where + at * WIDTH, mask=ok[:, None], other=0.0).to(tl.float32)


@triton.jit
def put(base, value, rows, at, columns, ok, LENGTH: tl.constexpr, WIDTH: tl.constexpr):
    """Store what :func:`tile` loads."""
    where = base + (rows * (LENGTH * WIDTH))[:, None] + columns[None, :]
    if ok is None:
        tl.store(where + at * WIDTH, value)
    else:
        tl.store(where + at * WIDTH, value, mask=ok[:, None])


@triton.jit
def numbers(base, rows, at, ok, WIDTH: tl.constexpr):
    """Column `at` of base (batch, WIDTH): (S,)."""
    if ok is None:
        return tl.load(base + rows * WIDTH + at)
    else:
        return tl.load(base + rows * WIDTH + at, mask=ok, other=0.0)


@triton.jit
def step_sizes(dt, rows, ok, L: tl.constexpr):
    """dt at each position, a tuple of (S,)."""
    steps = ()
    for t in tl.static_range(L):
        steps = steps + (numbers(dt, rows, t, ok, L),)
    return steps


@triton.jit
def taps(weight, channels, TAPS: tl.constexpr):
    """The convolution's kernel (channels, TAPS), a tuple of (C,): first the current position's."""
    out = ()
    for k in tl.static_range(TAPS):
        out = out + (tl.load(weight + channels * TAPS + (TAPS - 1 - k)).to(tl.float32),)
    return out


@triton.jit
def positions(
    base, rows, columns, ok, L: tl.constexpr, LOW: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """Tiles at positions LOW .. L - 1."""
    out = ()
    for t in tl.static_range(LOW, L):
        out = out + (tile(base, rows, t, columns, ok, L, WIDTH),)
    return out


@triton.jit
def convolve(us, t: tl.constexpr, k, bias, LOW: tl.constexpr, TAPS: tl.constexpr):
    """The convolution at position t, from the u of positions LOW on."""
    value = bias[None, :] + k[0][None, :] * us[t - LOW]
    for j in tl.static_range(1, TAPS):
        if t - j >= LOW:
            value += k[j][None, :] * us[t - j - LOW]
    return value


@triton.jit
def activate(
    us, k, bias, FROM: tl.constexpr, LOW: tl.constexpr, L: tl.constexpr, TAPS: tl.constexpr,
    FAST: tl.constexpr,
):  # fmt: skip
    """silu(conv(u)) at positions FROM .. L - 1, from the u of positions LOW on."""
    out = ()
    for t in tl.static_range(FROM, L):
        c = convolve(us, t, k, bias, LOW, TAPS)
        out = out + (c * sigmoid(c, FAST),)
    return out


@triton.jit
def normed(x, norm_weight, tokens, ok, eps, M: tl.constexpr, NORM: tl.constexpr):
    """x (T, M), x / rms(x), and that times the norm's weight; without a norm x three times."""
    m = tl.arange(0, M)
    value = tl.load(x + tokens[:, None] * M + m[None, :], mask=ok[:, None], other=0.0)
    value = value.to(tl.float32)
    if NORM:
        scale = tl.rsqrt(tl.sum(value * value, 1) / M + eps)[:, None]
        weight = tl.load(norm_weight + m).to(tl.float32)
        return value * scale, scale, value * scale * weight[None, :]
    else:
        return value, tl.full((tokens.shape[0], 1), 1.0, tl.float32), value
