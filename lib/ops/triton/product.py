"""A product of float32 matrices on tensor cores, as three products in tf32.

Counts of one of the 8 warps of a program, for a tile of 128 x 128 over 32 of the sum, compiled for
an H100: 307 to 340 instructions, a third of which split numbers in two and a fifth of which add to
the sum, 12 of them of tensor cores; a program's take its processor 614 to 680 cycles to issue and
1,536 to multiply, about 2,200 if nothing overlaps. The same in float32's own multiply-adds takes
4,096, and 5,600 to 6,800 at the 60 to 73 % of them that cuBLAS reached in a Mamba-1's training
step.
"""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def split(x):
    """x rounded to the 11 bits that tf32 has, and the rest. (Triton's own tf32x3 looks for what is
    not finite too, in more instructions; here infinity becomes NaN.)"""
    most = ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return most, x - most


@triton.jit
def product(
    a, a_r, a_m, a_k, b, b_r, b_k, b_n, out, runs, M, N, K, slices,
    EACH: tl.constexpr, TM: tl.constexpr, TN: tl.constexpr, TK: tl.constexpr,
    UNIT: tl.constexpr, A_ROWS: tl.constexpr, B_ROWS: tl.constexpr,
):  # fmt: skip
    """out (slices, r, m, n): sums over k of a (r, m, k) b (r, k, n), EACH of k a slice, which is
    a multiple of TK. Sizes, and strides but those of neighbours in memory, are in UNITs: so the
    compiler knows that as many numbers can be read at once (by itself it finds out for 16 alone).
    Neighbours are in rows, if A_ROWS and B_ROWS, or in columns. Grid, flat: tiles, those of a row
    of tiles next to each other because they share a; slices; runs."""
    M *= UNIT
    N *= UNIT
    K *= UNIT
    a_r *= UNIT
    b_r *= UNIT
    if A_ROWS:
        a_m *= UNIT
    else:
        a_k *= UNIT
    if B_ROWS:
        b_k *= UNIT
    else:
        b_n *= UNIT
    across = tl.cdiv(N, TN)
    tiles = tl.cdiv(M, TM) * across
    pid = tl.program_id(0)
    tile = pid % tiles
    part = pid // tiles % slices
    run = (pid // tiles // slices).to(tl.int64)
    m = (tile // across * TM + tl.arange(0, TM))[:, None]
    n = (tile % across * TN + tl.arange(0, TN))[None, :]
    k = tl.arange(0, TK)
    first = part * EACH
    end = tl.minimum(first + EACH, K)
    end = tl.multiple_of(end, UNIT)
    a += run * a_r + m * a_m
    b += run * b_r + n * b_n
    total = tl.zeros((TM, TN), tl.float32)
    for k0 in tl.range(0, EACH, TK):
        here = first + k0 + k
        ok = here < end
        left = tl.load(a + here[None, :] * a_k, mask=(m < M) & ok[None, :], other=0.0)
        right = tl.load(b + here[:, None] * b_k, mask=(n < N) & ok[:, None], other=0.0)
        left, left_rest = split(left)
        right, right_rest = split(right)
        stretch = tl.dot(left_rest, right, input_precision="tf32")
        stretch = tl.dot(left, right_rest, stretch, input_precision="tf32")
        # tensor cores cut off what they add to: a long sum is made outside them
        total += tl.dot(left, right, stretch, input_precision="tf32")
    out += (part * runs + run) * M * N
    tl.store(out + m * N + n, total, mask=(m < M) & (n < N))
