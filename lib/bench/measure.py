"""How a time is measured: in turns, after warm-up, on inputs that rotate, checked first.

Every contestant computes the same thing; its result is compared with the first one's before a clock
starts, and nothing that is not finite is timed. Then each repeat times all of them one after the
other (ours, peer, ours, peer ...), so that whatever else the machine does meets all alike, and
ratios are formed within a repeat. One timing covers whole laps over the input sets.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Call = Callable[[], Any]


class BenchError(RuntimeError):
    """Contestants that cannot be told apart."""


@dataclass(frozen=True)
class Contestant:
    """One way to compute what is compared.

    Attributes:
        name: unique among the contestants.
        calls: one for each input set.
        outputs: the tensors by which it is checked, of the first input set.
        reset: run before each timing, outside of it.
        note: shown beside its times.
        most_laps: laps that one timing may cover, where there is a limit.
        graph: a lap as a CUDA graph, or None (see :func:`captured`).
    """

    name: str
    calls: tuple[Call, ...]
    outputs: Callable[[], Sequence[Tensor]]
    reset: Call | None = None
    note: str = ""
    most_laps: int = 1000
    graph: Any = None

    def lap(self) -> None:
        """Every call once."""
        if self.graph is not None:
            self.graph.replay()
            return
        for call in self.calls:
            call()


@dataclass(frozen=True)
class Timing:
    """Times of one contestant.

    Attributes:
        name: the contestant's.
        ms: milliseconds of a call, one a repeat.
        error: largest relative difference (in norm) of its outputs to the first contestant's.
        laps: laps over the input sets that one timing covers.
        note: the contestant's.
    """

    name: str
    ms: tuple[float, ...]
    error: float
    laps: int
    note: str = ""

    @property
    def median(self) -> float:
        """Median over repeats."""
        return statistics.median(self.ms)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile over repeats."""
        return quartiles(self.ms)

    @property
    def fastest(self) -> float:
        """Least over repeats: what a busy machine disturbs least."""
        return min(self.ms)


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """First and third quartile, by linear interpolation; a single value is both."""
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def ratios(peer: Timing, ours: Timing) -> tuple[float, float, float]:
    """How many times faster `ours` is than `peer`: median and quartiles of the repeats' ratios."""
    found = [p / o for p, o in zip(peer.ms, ours.ms, strict=True)]
    return (statistics.median(found), *quartiles(found))


class Clock(Protocol):
    """Measures how long some work takes."""

    def time(self, work: Call) -> float:
        """Seconds that `work` took, all of it finished."""
        ...


class CpuClock:
    """The processor's clock."""

    def time(self, work: Call) -> float:
        """Wall seconds of `work`."""
        started = time.perf_counter()
        work()
        return time.perf_counter() - started


class CudaClock:
    """Events on the GPU's own stream: the host's part counts only where the GPU waits for it."""

    def time(self, work: Call) -> float:
        """Seconds between an event before and an event after `work`."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3


def clock_of(device: torch.device) -> Clock:
    """The clock that fits `device`."""
    return CudaClock() if device.type == "cuda" else CpuClock()


def captured(contestant: Contestant) -> Contestant:
    """The same contestant with a lap as one CUDA graph, so that launches cost it nothing.

    What cannot be captured runs call by call, and its note says so.
    """
    try:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                contestant.lap()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            contestant.lap()
        torch.cuda.synchronize()
    except Exception as error:
        return _noted(contestant, f"not captured ({first_line(error)})", None)
    return _noted(contestant, "CUDA graph", graph)


def _noted(contestant: Contestant, text: str, graph: Any) -> Contestant:
    note = "; ".join(filter(None, [contestant.note, text]))
    return dataclasses.replace(contestant, note=note, graph=graph)


def first_line(error: Exception) -> str:
    """Kind of an error and the first line of what it says."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:200]


def check(
    contestants: Sequence[Contestant], tolerance: float | Sequence[float]
) -> tuple[dict[str, float], dict[str, str]]:
    """Compare every contestant's outputs with the first one's.

    Args:
        tolerance: largest relative difference, of all outputs or one each, of which the last holds
            for all outputs that follow.

    Returns:
        Name to largest relative difference, of those that may be timed; and name to reason, of
        those that may not: an output is not finite, or further than `tolerance` from the first's.
    """
    allowed = [tolerance] if isinstance(tolerance, (int, float)) else list(tolerance)
    errors: dict[str, float] = {}
    refused: dict[str, str] = {}
    first, expected = "", list[Tensor]()
    for contestant in contestants:
        outputs = [tensor.detach() for tensor in contestant.outputs()]
        bad = [i for i, tensor in enumerate(outputs) if not bool(torch.isfinite(tensor).all())]
        if bad:
            refused[contestant.name] = f"refused: output {bad[0]} is not finite"
            continue
        if not expected:
            first, expected = contestant.name, outputs
        found = list(map(relative_error, outputs, expected))
        limits = [allowed[min(i, len(allowed) - 1)] for i in range(len(found))]
        far = [(error, limit) for error, limit in zip(found, limits, strict=True) if error > limit]
        if len(outputs) != len(expected):
            refused[contestant.name] = (
                f"refused: it has {len(outputs)} outputs, {first} has {len(expected)}"
            )
        elif far:
            error, limit = max(far)
            refused[contestant.name] = (
                f"refused: it differs from {first} by {error:.1e}, allowed: {limit:.0e}"
            )
        else:
            errors[contestant.name] = max(found, default=0.0)
    return errors, refused


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm of `exact` (or alone, where that is zero)."""
    if found.shape != exact.shape:
        return math.inf
    gap = float((found.double() - exact.double()).norm())
    whole = float(exact.double().norm())
    return gap / whole if whole > 0 else gap


def measure(
    contestants: Sequence[Contestant],
    clock: Clock,
    *,
    repeats: int,
    errors: dict[str, float],
    warmup: int = 1,
    window: float = 0.01,
) -> list[Timing]:
    """Time all contestants in turns.

    Args:
        contestants: with different names; checked before (see :func:`check`).
        clock: of the device.
        repeats: timings of each.
        errors: what :func:`check` found.
        warmup: laps of each before the first timing, beside those that the check took.
        window: seconds that one timing should last at least; laps are added until it does.

    Raises:
        BenchError: two contestants of one name.
    """
    names = [contestant.name for contestant in contestants]
    if len(set(names)) != len(names):
        raise BenchError(f"contestants are {names}, allowed: different names")
    laps = []
    for contestant in contestants:
        for _ in range(warmup):
            contestant.lap()
        one = _timed(contestant, clock, 1)
        wanted = math.ceil(window / one) if one > 0 else contestant.most_laps
        laps.append(max(1, min(contestant.most_laps, wanted)))
    samples: list[list[float]] = [[] for _ in contestants]
    for _ in range(repeats):
        for contestant, count, found in zip(contestants, laps, samples, strict=True):
            seconds = _timed(contestant, clock, count)
            found.append(1e3 * seconds / (count * len(contestant.calls)))
    return [
        Timing(contestant.name, tuple(found), errors[contestant.name], count, contestant.note)
        for contestant, count, found in zip(contestants, laps, samples, strict=True)
    ]


def _timed(contestant: Contestant, clock: Clock, laps: int) -> float:
    if contestant.reset is not None:
        contestant.reset()

    def work() -> None:
        for _ in range(laps):
            contestant.lap()

    return clock.time(work)
