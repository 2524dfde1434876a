"""The command line ``python -m lib bench WHAT``: measure, print tables, keep records."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib import provenance, runner
from lib.bench import table
from lib.bench.config import readable
from lib.experiments import PROFILES, Context, Outcome, cells_of, find
from lib.experiments.foundations import KINDS, PREFIX
from lib.run_options import FAILED, USAGE_ERROR
from lib.store import Store, StoreError

ON_PROCESSOR = ("auto", "cpu")  # devices that the benchmark of a processor takes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``bench``, for whichever parser takes them."""
    parser.add_argument("what", choices=KINDS, help="what to measure")
    parser.add_argument("--device", default="auto",
                        help="auto, cpu or cuda; for the benchmark cpu: auto or cpu")  # fmt: skip
    parser.add_argument("--profile", help="paper, or quick (tiny sizes, on a processor, that say "
                        "nothing of speed; default: paper if the device has one)")  # fmt: skip
    parser.add_argument("--select", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--quick", action="store_true", help="half the repeats; the record is none that pages show"
    )


def bench(arguments: argparse.Namespace) -> int:
    """Measure what is asked for; returns 0, or 1 if a benchmark failed."""
    experiment = find(PREFIX + arguments.what)
    device = device_for(arguments.what, arguments.device)
    cells, profile = chosen(experiment, arguments.profile, device)
    cells = runner.select_cells(cells, arguments.select)
    if arguments.quick:
        cells = [dataclasses.replace(cell, repeats=max(1, cell.repeats // 2)) for cell in cells]
    store = Store.at(arguments.root)
    store.check_writable(experiment.name)
    print(f"{experiment.title}: {len(cells)} benchmarks ({profile}) on {device}", flush=True)
    failed = False
    started, clock = provenance.now(), time.perf_counter()
    for outcome in experiment.run(cells, Context(device=device)):
        wall = time.perf_counter() - clock
        record = runner.save_outcome(experiment, store, outcome, profile, device, started, wall)
        print(shown(outcome, wall), flush=True)
        print(f"  record: {record.name}", flush=True)
        failed = failed or outcome.status != "done"
        started, clock = provenance.now(), time.perf_counter()
    if arguments.what == "sweep":
        from lib.bench.recorded import recorded_sentence

        print(f"\n{recorded_sentence('achilles.phase_diagram', store=store)}")
    return FAILED if failed else 0


def device_for(what: str, asked: str) -> str:
    """The device that a benchmark is measured on: ``cpu`` is about a processor, whatever there is.

    Raises:
        ValueError: a device that is none, or a GPU for ``cpu``.
        RunError: a GPU where there is none.
    """
    if what == "cpu" and asked not in ON_PROCESSOR:
        raise ValueError(
            f"device is {asked!r}, allowed for the benchmark cpu: {', '.join(ON_PROCESSOR)}"
        )
    return "cpu" if what == "cpu" else runner.choose_device(asked)


def chosen(experiment: Any, profile: str | None, device: str) -> tuple[list[Any], str]:
    """The benchmarks for a device: those of `profile`, or of the first profile that has any.

    Raises:
        ValueError: the profile has none for this device; the message names those that have.
    """
    found = {
        name: cells
        for name in PROFILES
        if (cells := [cell for cell in cells_of(experiment, name) if cell.device == device])
    }
    name = profile or ("paper" if "paper" in found else "quick")
    if name not in found:
        raise ValueError(
            f"profile is {profile!r}, allowed for {experiment.name} on {device}: {', '.join(found)}"
        )
    return found[name], name


def shown(outcome: Outcome, wall: float) -> str:
    """The table of one outcome."""
    title = f"\n{readable(outcome.cell)} ({wall:.1f} s)"
    if outcome.reason:
        title += f"\n  {outcome.status}: {outcome.reason}"
    whole = table.text(title, table.HEADER, table.rows(outcome.metrics, outcome.facts))
    if outcome.metrics.get("minutes") is not None:
        metrics = outcome.metrics
        whole += (
            f"\n  {metrics['runs']:.0f} runs of {outcome.cell.steps} steps: "
            f"{metrics['minutes']:.1f} minutes of training, floor {metrics['floor_minutes']:.1f}"
        )
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m lib.bench``; returns the exit status: 0 well, 1 failed, 2 misused."""
    parser = argparse.ArgumentParser(prog="python -m lib.bench", description=__doc__)
    parser.add_argument("--root", type=Path, default=provenance.ROOT, help=argparse.SUPPRESS)
    add_arguments(parser)
    try:
        return bench(parser.parse_args(argv))
    except (ValueError, StoreError, runner.RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
