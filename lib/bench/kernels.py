"""Where the time of a training step goes: ``python -m lib.bench.kernels EXPERIMENT``.

For whoever makes it faster. A step of an experiment's first group of runs, or of the first language
model or decoder, as the trainer takes it (as a CUDA graph on a GPU, on random tokens), is timed and
then watched: one line for each kernel, or operation on a processor, with its time in a step.
Nothing is recorded.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from lib import runner
from lib.bench.alone import Alone, trainer_of
from lib.bench.config import StepBench
from lib.bench.measure import Contestant, clock_of, measure
from lib.bench.step import contestant, of_trainer
from lib.experiments import find
from lib.experiments._memory_cell import MemoryCell
from lib.experiments._training import shared_parts
from lib.ops import backends
from lib.run_options import USAGE_ERROR, add_prefer

STEPS = 5  # that are watched
REPEATS = 3  # timings


def bench_of(cells: Sequence[Any], runs: int | None, device: str) -> StepBench:
    """The training step of the first of `cells` and of those that can train with it, or of `runs`.

    Raises:
        ValueError: cells whose answer is not the last token, or fewer than one run.
    """
    first = cells[0]
    # tasks whose answer is one token know the largest one
    if not hasattr(getattr(first, "task", None), "largest_token"):
        raise ValueError(
            f"a cell is a {type(first).__name__}, allowed: one whose answer is its sequences' last "
            "token, such as those of achilles.composite"
        )
    if runs is not None and runs < 1:
        raise ValueError(f"runs is {runs}, allowed: 1 or more")

    alike = sum(shared_parts(cell) == shared_parts(first) for cell in cells)
    shared = (first.model, first.training.batch_size, first.task.length, runs or alike)
    return StepBench(*shared, device="cuda" if device == "cuda" else "cpu", repeats=REPEATS)


def kernels(step: Contestant, device: torch.device) -> list[tuple[str, float, float]]:
    """Names, calls and microseconds in a step, most time first."""
    on_gpu = device.type == "cuda"
    assert step.reset is not None
    step.reset()
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        for _ in range(STEPS):
            step.lap()
        if on_gpu:
            torch.cuda.synchronize(device)
    field = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = [(e.key, e.count / STEPS, getattr(e, field) / STEPS) for e in seen.key_averages()]
    return sorted((row for row in rows if row[2] > 0), key=lambda row: -row[2])


def parser_of(name: str, description: str | None) -> argparse.ArgumentParser:
    """Arguments that name the training step of an experiment."""
    parser = argparse.ArgumentParser(prog=f"python -m lib.bench.{name}", description=description)
    parser.add_argument("experiment")
    parser.add_argument("--profile", default="paper", help="of the experiment")
    parser.add_argument("--select", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--runs", type=int, help="at once (default: all that can)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    return parser


def named_by(arguments: argparse.Namespace) -> tuple[StepBench, torch.device]:
    """The step of a group of runs that arguments name, and where.

    Raises:
        ValueError, RunError: naming what does not fit.
    """
    device, cells = chosen_by(arguments)
    return bench_of(cells, arguments.runs, device.type), device


def chosen_by(arguments: argparse.Namespace) -> tuple[torch.device, Sequence[Any]]:
    """Where, and the cells that arguments name.

    Raises:
        ValueError, RunError: naming what does not fit.
    """
    device = torch.device(runner.choose_device(arguments.device))
    found = find(arguments.experiment)
    return device, runner.chosen_cells(found, arguments.profile, arguments.select, None)


def headline(experiment: str, bench: StepBench | Alone) -> str:
    """What is measured, in a line."""
    if isinstance(bench, StepBench):
        runs, batch, length = bench.runs, bench.batch, bench.length
    else:
        runs, batch, length = 1, bench.training.batch_size, bench.task.length
    return (
        f"{experiment}: {runs} {'run' if runs == 1 else 'runs'}, {bench.model.n_layers} layers of "
        f"{bench.model.d_model} channels, batch {batch}, length {length}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 0 well, 2 misused."""
    parser = parser_of("kernels", __doc__)
    parser.add_argument("--top", type=int, default=30, help="lines (default: 30)")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction,
        help="(default: on a GPU, but for decoders; a run asks whether it pays)",
    )  # fmt: skip
    add_prefer(parser)
    arguments = parser.parse_args(argv)
    with contextlib.ExitStack() as inside:
        try:
            device, cells = chosen_by(arguments)
            bench: StepBench | Alone
            if isinstance(cells[0], Alone):
                bench = _only(cells[0], arguments.runs)
            else:
                bench = bench_of(cells, arguments.runs, device.type)
            inside.enter_context(backends.preferences(arguments.prefer, device))
        except (ValueError, runner.RunError, backends.BackendError) as error:
            print(f"error: {error}", file=sys.stderr)
            return USAGE_ERROR
        print(headline(arguments.experiment, bench))
        show(bench, device, arguments.top, arguments.compile)
    return 0


def _only(cell: Alone, runs: int | None) -> Alone:
    if runs not in (None, 1):
        raise ValueError(f"runs is {runs}, allowed: 1, for a {type(cell).__name__} trains alone")
    return cell


def show(
    bench: StepBench | Alone, device: torch.device, top: int, compile: bool | None = None
) -> None:
    """Time the step, then print where its time goes; `compile`: None for as in a run."""
    if compile is None:
        compile = device.type == "cuda" and not isinstance(bench, MemoryCell)
    if isinstance(bench, StepBench):
        step = contestant(bench, "step", "auto", compile)
    else:
        step = of_trainer(trainer_of(bench, device, compile), "step", compile)
    (timing,) = measure([step], clock_of(device), repeats=REPEATS, errors={step.name: 0.0})
    print(f"{timing.median:10.3f} ms a step")
    for name, calls, time in kernels(step, device)[:top]:
        print(f"{time:10.1f} us {calls:7.1f} calls  {name[:110]}")


if __name__ == "__main__":
    sys.exit(main())
