"""From contestants to an outcome: check, time, set against the floor, put into a record's form.

Metrics of a record, all numbers: ``<contestant>.ms`` with ``.ms_low``, ``.ms_high`` (quartiles),
``.ms_min``, ``.error`` and ``.floor_share``; ``floor_ms`` and its parts; for each contestant but
the first ``ratio.<contestant>`` (how many times faster the first one is), again with quartiles.
The samples are the record's curves; what was absent and why, notes, rates and method are its facts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch

from lib.bench.config import Bench
from lib.bench.floor import Floor, Rates, Work, floor, rates_of
from lib.bench.measure import (
    Clock,
    Contestant,
    Timing,
    captured,
    check,
    clock_of,
    measure,
    ratios,
)
from lib.bench.peers import gather
from lib.experiments import Outcome
from lib.peak_memory import DeviceMemory


def compare(
    bench: Bench,
    builders: Mapping[str, Callable[[], Contestant]],
    *,
    ours: str,
    work: Work,
    tolerance: float | Sequence[float],
    op: str,
    capture: bool = True,
    clock: Clock | None = None,
    rates: Rates | None = None,
) -> Outcome:
    """Measure one benchmark.

    Args:
        builders: contestants in order; the first that is present is what others are checked
            against.
        ours: the contestant that this is about; without it the outcome is failed, and so it is
            where results differ. What can be timed still is.
        work: of one call, for the floor.
        tolerance: largest relative difference of results, see :func:`lib.bench.measure.check`.
        op: what the contestants compute, for the record's list of backends.
        capture: on a GPU, time laps as CUDA graphs.
        clock, rates: of the device; measured if None.
    """
    started = time.perf_counter()
    device = torch.device(bench.device)
    memory = DeviceMemory(device)
    contestants, absent = gather(builders)
    errors, refused = check(contestants, tolerance)
    contestants = [contestant for contestant in contestants if contestant.name in errors]
    if device.type == "cuda" and capture:
        contestants = [captured(contestant) for contestant in contestants]
    timings = measure(contestants, clock or clock_of(device), repeats=bench.repeats, errors=errors)
    # who is wrong where two differ is not known here, so nobody's record is a good one
    problems = [f"{name}: {why}" for name, why in refused.items()]
    if ours in absent:
        problems.append(f"{ours} is absent: {absent[ours]}")
    reason = "; ".join(problems) or None
    limits = rates or rates_of(device)
    least = floor(work, limits)
    metrics = metrics_of(timings, ours, least, work)
    facts = {
        "backends": {op: [timing.name for timing in timings]},
        "compile": any("compile" in timing.note for timing in timings),
        "dtype": getattr(bench, "dtype", "float32"),
        "ours": ours,
        "absent": {**absent, **refused},
        "notes": {timing.name: timing.note for timing in timings},
        "laps": {timing.name: timing.laps for timing in timings},
        "rates": _rates(limits),
        "bench_seconds": round(time.perf_counter() - started, 3),
        "peak_memory_bytes": memory.bytes(),
    }
    status = "done" if reason is None else "failed"
    return Outcome(bench, status, reason, metrics, samples(timings), None, facts)


def metrics_of(
    timings: list[Timing], ours: str, least: Floor, work: Work
) -> dict[str, float | None]:
    """The numbers of a record."""
    out: dict[str, float | None] = {
        "floor_ms": 1e3 * least.seconds,
        **{f"floor_ms.{name}": 1e3 * seconds for name, seconds in least.parts.items()},
        "work.bytes": work.bytes,
        "work.flops": work.flops,
        "work.exponentials": work.exponentials,
    }
    for timing in timings:
        low, high = timing.quartiles
        out[f"{timing.name}.ms"] = timing.median
        out[f"{timing.name}.ms_low"], out[f"{timing.name}.ms_high"] = low, high
        out[f"{timing.name}.ms_min"] = timing.fastest
        out[f"{timing.name}.error"] = timing.error
        out[f"{timing.name}.floor_share"] = 1e3 * least.seconds / timing.median
    mine = next((timing for timing in timings if timing.name == ours), None)
    for timing in timings:
        if mine is not None and timing is not mine:
            middle, low, high = ratios(timing, mine)
            out[f"ratio.{timing.name}"] = middle
            out[f"ratio.{timing.name}.low"], out[f"ratio.{timing.name}.high"] = low, high
    return out


def samples(timings: list[Timing]) -> pd.DataFrame:
    """One row a repeat and contestant: repeat, contestant, ms."""
    return pd.DataFrame(
        [
            {"repeat": repeat, "contestant": timing.name, "ms": ms}
            for timing in timings
            for repeat, ms in enumerate(timing.ms, 1)
        ],
        columns=["repeat", "contestant", "ms"],
    )


def _rates(rates: Rates) -> dict[str, Any]:
    return {
        "name": rates.name,
        "source": rates.source,
        "bandwidth": rates.bandwidth,
        "fmas": rates.fmas,
        "products": rates.products,
        "half_products": rates.half_products,
        "exponentials": rates.exponentials,
        "measured": list(rates.measured),
    }
