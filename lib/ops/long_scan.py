"""The fused scan of sequences of several chunks: how its work is cut.

See :mod:`lib.ops.triton.long_scan` for the kernels, :mod:`lib.ops.scan_kernels` for the ops.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lib.ops.kernel_calls import ceil_div, power_of_two


@dataclass(frozen=True)
class Sizes:
    """Sizes of the kernels' work.

    Attributes:
        steps: of a chunk, a power of two.
        backward_steps: of a chunk of the backward pass, of which `steps` is a multiple. States of a
            chunk are recomputed from the one before it, which the forward pass has kept.
        entries: of a state, neighbours, in a lane. Fewer mean more warps, which make the step
            sizes of their channels once each: a forward pass of 64 steps and more gained by 2
            (from 4: 3 to 47 %), of 16 steps it lost 8 %.
        forward_entries, several: those of forward passes over at least `several` steps.
        most, backward_most: states up to this size are kept in registers; at most 128, the
            `entries` of 32 lanes. Large states have few channels a program, and with them many
            partial sums of dB and dC: backward, 64 entries took 2.4 times as long as by the kernels
            for short sequences, 16 entries half as long. 0: those serve all.
        warps: of a forward program.
        narrow: most channels of models whose backward programs have one warp, of two: at 256 and
            384 channels that took 9 to 12 % less time. Wider ones would have twice the partial
            sums of dB and dC, which are as many as programs along the channels.
        registers: most registers of a backward thread; 168 leave room for 12 warps a processor.
        segment, fewest_segments: see :mod:`lib.ops.segments`. A segment has that many steps and
            more; fewer segments would not make up for the pass that finds their first states.
        filled, backward_filled: forward and backward warps that an H100 holds at once: 32, of 64
            registers a thread, and 12 on each of its 132 processors.
    """

    steps: int = 8
    backward_steps: int = 8
    entries: int = 4
    forward_entries: int = 2
    several: int = 64
    most: int = 64
    backward_most: int = 16
    warps: int = 1
    narrow: int = 512
    registers: int | None = 168
    segment: int = 1024
    fewest_segments: int = 4
    filled: int = 4224
    backward_filled: int = 1584


SIZES = Sizes()
WARP, WAVES = 32, 4


def serves(length: int, n: int, short: int, backward: bool = False) -> bool:
    """Whether sequences are long: more than the `short` steps of one chunk of the other kernels,
    with a state that fits into a warp's registers. A backward pass of the other kernels can follow
    a forward pass of these, in chunks of equal steps."""
    most = min(SIZES.most, SIZES.backward_most) if backward else SIZES.most
    return short < length and n <= most


def cut(n: int, length: int, channels: int | None = None) -> dict[str, int]:
    """A program's tile: DB channels, NB entries, J lanes along these; with the channels of a group,
    of the backward pass."""
    backward = channels is not None
    warps = SIZES.warps if channels is None else 1 if channels <= SIZES.narrow else 2
    fine = not backward and length >= SIZES.several and n <= WARP * SIZES.forward_entries
    entries = SIZES.forward_entries if fine else SIZES.entries
    wide = max(entries, power_of_two(n))
    lanes = wide // entries
    return {"DB": WARP * warps // lanes, "NB": wide, "J": lanes, "num_warps": warps}


def _stride(t: Tensor | None) -> int:
    return 0 if t is None or t.shape[3] == 1 else t.stride(3)


def placing(**tensors: Tensor | None) -> dict[str, int | bool]:
    """Constants of the kernels: strides along time, by name, and whether places of channels need
    64 bits."""
    there = [t for t in tensors.values() if t is not None]
    far = any(t.shape[2] * t.stride(2) >= 2**31 for t in there)
    return {**{name: _stride(t) for name, t in tensors.items()}, "FAR": far}


def share(groups: int, b: int, parts: int, warps: int) -> int:
    """Sequences of a backward program of so many warps. `groups` are those of all runs, `parts` the
    programs of a group's channels.

    Programs of one length run in waves, as many at once as a GPU holds, and the last wave takes as
    long as a full one. So a program has as many sequences as take least time, in up to WAVES waves:
    each program has sums of its own for A.
    """
    least, best, there = None, b, SIZES.backward_filled // warps
    for waves in range(1, WAVES + 1):
        blocks = waves * there // (groups * parts)
        each = ceil_div(b, max(1, blocks))
        count = ceil_div(ceil_div(b, each) * groups * parts, there)
        if least is None or count * each < least:
            least, best = count * each, each
    return best
