"""How long the phase diagram takes: every depth's training step, times steps, for all runs.

An extrapolation: evaluations and the start of a run are not in it. Our step is alone here, so there
is nothing to compare it with; it has to be finite.
"""

from __future__ import annotations

import time

import torch

from lib.bench import step
from lib.bench.compare import samples
from lib.bench.config import StepBench, SweepBench
from lib.bench.floor import floor, rates_of
from lib.bench.measure import Timing, check, clock_of, measure
from lib.bench.peers import gather
from lib.bench.works import step_work
from lib.experiments import Outcome
from lib.models.config import Mamba2Config
from lib.ops.block import OP as BLOCK
from lib.ops.scan import OP as SCAN


def run(bench: SweepBench) -> Outcome:
    """Time the step at each depth, all runs at once, and add up: minutes of training."""
    started = time.perf_counter()
    device = torch.device(bench.device)
    rates, on_gpu = rates_of(device), bench.device == "cuda"
    metrics: dict[str, float | None] = {}
    timings: list[Timing] = []
    absent: dict[str, str] = {}
    seconds = least = 0.0
    for one in step.steps_of(bench):
        torch._dynamo.reset()
        model = one.model
        name = f"L{model.n_layers}"
        timing, reason = _time(one, name, "fused" if on_gpu else "auto", on_gpu)
        if timing is None:
            absent[name] = reason
            continue
        timings.append(timing)
        work = bench.runs * step_work(model, bench.batch, bench.length)
        low, high = timing.quartiles
        metrics.update({
            f"{name}.ms": timing.median, f"{name}.ms_low": low, f"{name}.ms_high": high,
            f"{name}.ms_min": timing.fastest, f"{name}.error": 0.0,
            f"{name}.floor_share": 1e3 * floor(work, rates).seconds / timing.median,
            f"{name}.ms_per_run": timing.median / bench.runs,
        })  # fmt: skip
        seconds += timing.median / 1e3 * bench.steps
        least += floor(work, rates).seconds * bench.steps
    if not absent:
        metrics.update({"minutes": seconds / 60, "floor_minutes": least / 60})
        metrics["runs"] = float(bench.runs * len(bench.models))
    reason_all = "; ".join(f"{name}: {why}" for name, why in absent.items()) or None
    op = BLOCK if isinstance(bench.models[0].pattern[0], Mamba2Config) else SCAN
    facts = {
        "backends": {op: ["fused" if on_gpu else "auto"]},
        "compile": on_gpu,
        "dtype": "float32",
        "ours": "",
        "absent": absent,
        "notes": {timing.name: timing.note for timing in timings},
        "bench_seconds": round(time.perf_counter() - started, 3),
    }
    status = "failed" if absent else "done"
    return Outcome(bench, status, reason_all, metrics, samples(timings), None, facts)


def _time(one: StepBench, name: str, backend: str, compile: bool) -> tuple[Timing | None, str]:
    found, absent = gather({name: lambda: step.contestant(one, name, backend, compile)})
    if not found:
        return None, absent[name]
    errors, refused = check(found, step.TOLERANCE)
    if refused:
        return None, refused[name]
    clock = clock_of(torch.device(one.device))
    return measure(found, clock, repeats=one.repeats, errors=errors)[0], ""
