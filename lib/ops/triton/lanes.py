"""How the lanes of a warp share work on a scan: who makes what for whom, and sums among them.

A tile has d channels and J E state entries: J lanes lie along entries, E neighbours a lane. What
has no entry is made by the J lanes of a channel in turn, each for K of a chunk's T steps.
"""

# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton knows no starred expressions)
from __future__ import annotations

import triton
import triton.language as tl

from lib.ops.triton.selective_scan_forward import read, write


@triton.jit
def hidden(x, FAST: tl.constexpr):
    """x, of which the compiler knows nothing. It would lay lanes along channels, which are
    neighbours in memory, and move what it has loaded to where lanes lie along steps."""
    if FAST:
        x = tl.inline_asm_elementwise(
            "mov.b32 $0, $1;", "=r,r", [x], dtype=tl.int32, is_pure=True, pack=1
        )
    return x


@triton.jit
def read_own(where, ok):
    """What lanes have of their own steps, from `where` (d, J). Turned over and back, since among
    axes of which it knows nothing the compiler takes the first to be the lanes' innermost."""
    return tl.trans(read(tl.trans(where), tl.trans(ok)))


@triton.jit
def write_own(where, value, ok):
    """As :func:`read_own`."""
    write(tl.trans(where), tl.trans(value), tl.trans(ok))


@triton.jit
def step_of(j, k: tl.constexpr, T: tl.constexpr, J: tl.constexpr):
    """The step of a chunk that is lane j's k-th own."""
    return T * j // J + k


@triton.jit
def hand_out(own, t: tl.constexpr, T: tl.constexpr, J: tl.constexpr, E: tl.constexpr):
    """Step t of what the lanes have of their own steps, K tensors (d, J), for all: (d, J E)."""
    K: tl.constexpr = len(own)
    LANE: tl.constexpr = t * J // T if J > T else t // K
    mine = own[t % K]
    if J > 1:
        mine = tl.gather(mine, tl.full(mine.shape, LANE, tl.int32), 1)
    return spread(mine, E)


@triton.jit
def over_entries(value, J: tl.constexpr, E: tl.constexpr):
    """(d, J E) to (d, J): the sum over each lane's entries."""
    D: tl.constexpr = value.shape[0]
    return tl.sum(tl.reshape(value, (D, J, E)), 2)


@triton.jit
def across(x, j, APART: tl.constexpr, NEAR: tl.constexpr):
    """x (d, J, ...) of j with the bit APART flipped. NEAR: d J are the lanes of a warp, j the inner
    axis, so that it takes one instruction that needs no index."""
    if NEAR:
        flip: tl.constexpr = f"shfl.sync.bfly.b32 $0, $1, {APART}, 0x1f, 0xffffffff;"
        yours = tl.inline_asm_elementwise(flip, "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        yours = tl.gather(x, j ^ APART, 1)
    return yours


@triton.jit
def exchange(low, high, j, APART: tl.constexpr, NEAR: tl.constexpr):
    """Two tensors (d, j, ...) to one: where j has the bit APART, high plus the high of j - APART,
    elsewhere low plus the low of j + APART."""
    upper = (j & APART) != 0
    yours = across(tl.where(upper, low, high), j, APART, NEAR)
    return tl.where(upper, high, low) + yours


@triton.jit
def sum_over(values, j, J: tl.constexpr, EACH: tl.constexpr = 1, NEAR: tl.constexpr = False):
    """v tensors (d, J, ...), of which only sums over J are wanted, to max(1, v / J): the k-th holds
    at j the sum of the values' v j / J + k, rounded down. With EACH the axis is (J EACH), and what
    is summed are the places that differ by multiples of EACH.

    Each step halves the number of tensors, so about v exchanges between threads are made and not
    v log2(J), and every thread ends with sums of its own to store.
    """
    APART: tl.constexpr = J // 2 * EACH
    if APART == 0:
        out = values
    elif len(values) == 1:
        yours = across(values[0], j, APART, NEAR)
        out = sum_over((values[0] + yours,), j, J // 2, EACH, NEAR)
    else:
        HALF: tl.constexpr = len(values) // 2
        half = ()
        for k in tl.static_range(HALF):
            half = half + (exchange(values[k], values[k + HALF], j, APART, NEAR),)
        out = sum_over(half, j, J // 2, EACH, NEAR)
    return out


@triton.jit
def spread(value, E: tl.constexpr):
    """(d, j) to (d, j E): the same for E neighbours."""
    D: tl.constexpr = value.shape[0]
    J: tl.constexpr = value.shape[1]
    return tl.reshape(tl.broadcast_to(value[:, :, None], (D, J, E)), (D, J * E))


@triton.jit
def numbers(where, STEPS: tl.constexpr, J: tl.constexpr, E: tl.constexpr):
    """The STEPS numbers from each `where` (d, 1), each as (d, J E), in loads of four."""
    D: tl.constexpr = where.shape[0]
    out = ()
    if STEPS < 4:
        for i in tl.static_range(STEPS):
            out = out + (tl.load(where + i),)
    else:
        for i in tl.static_range(0, STEPS, 4):
            four = tl.load(where + i + tl.arange(0, 4 * J)[None, :] % 4)
            even, odd = tl.split(tl.reshape(four, (D, J, 2, 2)))
            zero, two = tl.split(even)
            one, three = tl.split(odd)
            out = out + (spread(zero, E), spread(one, E), spread(two, E), spread(three, E))
    return out
