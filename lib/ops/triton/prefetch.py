"""Lines of memory brought to a cache before they are loaded.

A load holds a register until it has come, and the kernels of short sequences have none to spare; a
line that is merely fetched holds nothing, and nobody waits for it.
"""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

L1 = tl.constexpr("prefetch.global.L1 [$1]; mov.u32 $0, 0;")
L2 = tl.constexpr("prefetch.global.L2 [$1]; mov.u32 $0, 0;")


@triton.jit
def fetch(where, LEVEL: tl.constexpr, FAST: tl.constexpr):
    """Have the lines that `where` points into brought to the cache of a processor (LEVEL 1) or of
    all (2), without waiting and without a register for them. The interpreter has no caches."""
    if FAST:
        asm: tl.constexpr = L1 if LEVEL == 1 else L2
        tl.inline_asm_elementwise(
            asm, "=r,l", [where.to(tl.int64)], dtype=tl.int32, is_pure=False, pack=1
        )


@triton.jit
def fetch_rows(
    base, stride, rows, T: tl.constexpr, N: tl.constexpr, BYTES: tl.constexpr, LEVEL: tl.constexpr,
    FAST: tl.constexpr,
):  # fmt: skip
    """:func:`fetch` for `rows`, at most T, each of N neighbours of BYTES, `stride` apart."""
    LINE: tl.constexpr = 128 // BYTES
    EACH: tl.constexpr = (N + LINE - 1) // LINE
    ROUND: tl.constexpr = triton.next_power_of_2(EACH)
    at = tl.arange(0, triton.next_power_of_2(T) * ROUND)
    row = tl.minimum(at // ROUND, rows - 1)
    fetch(base + row * stride + tl.minimum(at % ROUND * LINE, N - 1), LEVEL, FAST)
