"""A training's steps and what is measured after an epoch, captured as CUDA graphs.

A step of a small model is hundreds of short kernels, and the host would take longer to launch them
than the device to run them. A graph launches them all at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.training.compiling import eagerly

WARM_UP = 3  # steps before the capture: kernels are compiled and the optimiser gets its moments


@dataclass(frozen=True)
class Graphs:
    """What a training replays.

    Attributes:
        step: of a whole batch.
        smaller: the step of an epoch's smaller last batch, or None if there is none.
        measuring: of an epoch; writes `table`.
        table: (names, runs), to be read before anything else is replayed.
    """

    step: torch.cuda.CUDAGraph
    smaller: torch.cuda.CUDAGraph | None
    measuring: torch.cuda.CUDAGraph
    table: Tensor


def capture(
    step: Callable[[], None],
    smaller: Callable[[], None] | None,
    measure: Callable[[], Tensor],
    rewind: Callable[[], None],
    restore: Callable[[], None],
) -> Graphs:
    """Capture the three; all share their memory, since they never run at once.

    Args:
        step, smaller, measure: what is captured. Each must read all that changes from tensors of
            the device. `smaller` runs once an epoch, which is not worth compiling for: what is
            compiled runs there as it was written.
        rewind: sets the counters to the first step of the first epoch; see :func:`warm_up`.
        restore: undoes what the warm-up has done.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        warm_up(step, smaller, measure, rewind)
    torch.cuda.current_stream().wait_stream(stream)
    restore()
    # products' scratch memory: trainings whose graphs run at once must not have the same
    torch._C._cuda_clearCublasWorkspaces()
    whole, last, measuring = torch.cuda.CUDAGraph(), None, torch.cuda.CUDAGraph()
    with torch.cuda.graph(whole, stream=stream):
        step()
    if smaller is not None:
        last = torch.cuda.CUDAGraph()
        with eagerly(), torch.cuda.graph(last, pool=whole.pool(), stream=stream):
            smaller()
    with torch.cuda.graph(measuring, pool=whole.pool(), stream=stream):
        table = measure()
    torch._C._cuda_clearCublasWorkspaces()
    restore()
    return Graphs(whole, last, measuring, table)


def warm_up(
    step: Callable[[], None],
    smaller: Callable[[], None] | None,
    measure: Callable[[], Tensor],
    rewind: Callable[[], None],
) -> None:
    """Run what :func:`capture` is given, so that all is compiled and has its memory.

    Each step is taken from where `rewind` leads: from a checkpoint near its end, steps in a row
    would read past the epoch's last whole batch, or past the last step's learning rate.
    """
    for _ in range(WARM_UP):
        rewind()
        step()
    if smaller is not None:
        rewind()
        with eagerly():
            smaller()
    measure()
