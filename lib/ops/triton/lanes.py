"""How the lanes of a warp share work on a scan: who makes what for whom, and sums among them.

A tile has d channels and J E state entries: J lanes lie along entries, E neighbours a lane. What
has no entry is made by the J lanes of a channel in turn, each for K of a chunk's T steps.
"""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from lib.ops.triton.selective_scan_backward import spread
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
