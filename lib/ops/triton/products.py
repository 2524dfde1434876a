"""Products of many rows with a small matrix, for many runs at once: a linear map and its gradients.

What a GPU's library does with float32 leaves its tensor cores idle; here each product is three of
tf32 parts, which has float32's accuracy (see :func:`lib.ops.triton.block_parts.dot`).

Tensor cores cut a sum's last bits off where float32 rounds them, so that errors of one sign add up:
of long sums a relative 7e-9 for each row that is summed over (seen on an H200 for 576 to 2,368 rows
of random numbers). So they add up no more than a tile's own rows, from zero, and what tiles come to
is added outside of them.
"""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from lib.ops.triton.block_parts import dot


@triton.jit
def rows_product(
    x, x_s, weight, weight_s, y, y_s, rows,
    K: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """y (r, rows, N) = x (r, rows, K) weight (r, K, N), each with its strides. Grid: (tiles of
    columns, tiles of rows, runs), flat: programs that read the same rows run at the same time."""
    BLOCKS: tl.constexpr = (N + COLUMNS - 1) // COLUMNS
    EVEN: tl.constexpr = K % DEPTH == 0
    lots = (rows + ROWS - 1) // ROWS
    pid = tl.program_id(0)
    run = (pid // BLOCKS // lots).to(tl.int64)
    i = pid // BLOCKS % lots * ROWS + tl.arange(0, ROWS)
    n = pid % BLOCKS * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, DEPTH)
    here, wanted = i[:, None] < rows, n[None, :] < N
    x += run * x_s[0] + i.to(tl.int64)[:, None] * x_s[1] + k[None, :] * x_s[2]
    weight += run * weight_s[0] + k[:, None] * weight_s[1] + n[None, :] * weight_s[2]
    acc = tl.zeros((ROWS, COLUMNS), tl.float32)
    for k0 in tl.range(0, K, DEPTH, num_stages=STAGES):
        if EVEN:
            a = tl.load(x + k0 * x_s[2], mask=here, other=0.0)
            b = tl.load(weight + k0 * weight_s[1], mask=wanted, other=0.0)
        else:
            left = k0 + k < K
            a = tl.load(x + k0 * x_s[2], mask=here & left[None, :], other=0.0)
            b = tl.load(weight + k0 * weight_s[1], mask=left[:, None] & wanted, other=0.0)
        acc += dot(a, b, tl.zeros((ROWS, COLUMNS), tl.float32), True)
    y += run * y_s[0] + i.to(tl.int64)[:, None] * y_s[1] + n[None, :] * y_s[2]
    tl.store(y, acc, mask=here & wanted)


@triton.jit
def weight_gradient(
    dy, dy_s, x, x_s, share, rows,
    K: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr, EACH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A program's share (r, lots, N, K) of the sum over rows of dy (r, rows, N) times x (r, rows,
    K): EACH times ROWS rows, in order. Grid: (tiles of K, tiles of N, lots, runs), flat."""
    ACROSS: tl.constexpr = (K + WIDTH - 1) // WIDTH
    BLOCKS: tl.constexpr = (N + COLUMNS - 1) // COLUMNS
    lots = (rows + ROWS * EACH - 1) // (ROWS * EACH)
    pid = tl.program_id(0)
    k = pid % ACROSS * WIDTH + tl.arange(0, WIDTH)
    n = pid // ACROSS % BLOCKS * COLUMNS + tl.arange(0, COLUMNS)
    place = (pid // ACROSS // BLOCKS).to(tl.int64)
    run, lot = place // lots, place % lots
    i = tl.arange(0, ROWS)
    first = lot * EACH * ROWS
    x += run * x_s[0] + (first + i)[:, None] * x_s[1] + k[None, :] * x_s[2]
    dy += run * dy_s[0] + (first + i)[None, :] * dy_s[1] + n[:, None] * dy_s[2]
    acc = tl.zeros((COLUMNS, WIDTH), tl.float32)
    for step in tl.range(0, EACH, num_stages=STAGES):
        ok = first + step * ROWS + i < rows
        a = tl.load(dy, mask=ok[None, :] & (n[:, None] < N), other=0.0)
        b = tl.load(x, mask=ok[:, None] & (k[None, :] < K), other=0.0)
        acc += dot(a, b, tl.zeros((COLUMNS, WIDTH), tl.float32), True)
        dy += ROWS * dy_s[1]
        x += ROWS * x_s[1]
    share += place * (N * K) + n[:, None] * K + k[None, :]
    tl.store(share, acc, mask=(n[:, None] < N) & (k[None, :] < K))
