"""Chapter "Foundations": how fast the book's code is, against whom, and how far from the limit.

A cell is one benchmark (:mod:`lib.bench.config`), its record holds times and ratios measured in one
run. ``paper`` are the full benchmarks, for a GPU (``cpu``: for a processor); ``quick`` are the same
paths at sizes that a processor does in seconds, which say nothing about speed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd

from lib.bench.config import (
    Bench,
    BesideBench,
    BlockBench,
    CpuBench,
    LanguageBench,
    ScanBench,
    StepBench,
    SweepBench,
    readable,
)
from lib.experiments import Context, Experiment, Outcome
from lib.experiments.achilles import mamba2_model, third_party_model
from lib.models.config import LanguageModelConfig, Mamba1Config
from lib.store import Record

NOTEBOOK = "notebooks/foundations/speed.ipynb"
PREFIX = "foundations.bench_"
KINDS = ("scan", "block", "step", "language", "sweep", "beside", "cpu")

# the phase diagram: batches of 2,048 sequences, 36 runs a depth, 210 epochs of 123 steps
BATCH, LENGTH, RUNS, STEPS = 2048, 8, 36, 25_830
LAYERS = (2, 3, 4, 5, 6, 7)


def scan_cells(profile: str) -> list[ScanBench]:
    """The composite task's shape, longer sequences at as many tokens, a language model's shape, and
    that of its long prompt."""
    if profile == "quick":
        return [ScanBench(8, 16, 8, 16, device="cpu", input_sets=2, repeats=3)]
    if profile != "paper":
        return []
    cells = []
    for batch, length in ((BATCH, LENGTH), (1024, 16), (512, 32), (256, 64)):
        for direction in ("forward", "both"):
            cells.append(ScanBench(batch, 64, length, 128, direction=direction))
    for dtype in ("float32", "bfloat16"):
        for direction in ("forward", "both"):
            cells.append(ScanBench(8, 1536, 512, 16, dtype, direction, input_sets=2))  # type: ignore[arg-type]
    cells.append(ScanBench(1, 1536, 65_536, 16, "bfloat16", "forward", input_sets=2))
    return cells


def block_cells(profile: str) -> list[BlockBench]:
    """The phase diagram's layer, alone and as an ensemble of one depth."""
    if profile == "quick":
        return [BlockBench(8, 8, 16, 16, 16, 2, device="cpu", input_sets=2, repeats=3)]
    if profile != "paper":
        return []
    return [
        BlockBench(BATCH, LENGTH, 32, 128, 64, runs, input_sets=4 if runs == 1 else 2)
        for runs in (1, RUNS)
    ]


def step_cells(profile: str) -> list[StepBench]:
    """Training steps of the phase diagram's models at its greatest and least depth; those that have
    targets come first."""
    if profile == "quick":
        return [StepBench(mamba2_model(1, 1.0, d_state=16), 16, LENGTH, device="cpu", repeats=3)]
    if profile != "paper":
        return []
    cells = [
        StepBench(mamba2_model(n, 1.0, tied=True), BATCH, LENGTH, runs)
        for n in (7, 2)
        for runs in (RUNS, 1)
    ]
    official = [StepBench(third_party_model(n, 1.0), BATCH, LENGTH, repeats=10) for n in (7, 2)]
    return [official[0], *cells, official[1]]


def language_cells(profile: str) -> list[LanguageBench]:
    """The smallest published Mamba-1 language model (arXiv 2312.00752, table 12), training."""
    if profile == "quick":
        small = LanguageModelConfig(40, 1, (Mamba1Config(d_model=16, d_state=4),))
        return [LanguageBench(small, 2, 16, device="cpu", repeats=3)]
    if profile != "paper":
        return []
    block = Mamba1Config(d_model=768)
    return [LanguageBench(LanguageModelConfig(50_280, 24, (block,), tie_embeddings=True), 32, 512)]


def sweep_cells(profile: str) -> list[SweepBench]:
    """The phase diagram with Mamba-2: six depths, 12 gammas x 3 seeds at once."""
    if profile == "quick":
        models = tuple(mamba2_model(n, 1.0, d_state=16) for n in (1, 2))
        return [SweepBench(models, 16, LENGTH, 2, 10, device="cpu", repeats=3)]
    if profile != "paper":
        return []
    models = tuple(mamba2_model(n, 1.0, tied=True) for n in LAYERS)
    return [SweepBench(models, BATCH, LENGTH, RUNS, STEPS)]


def beside_cells(profile: str) -> list[BesideBench]:
    """Three seeds at each depth of the phase diagram: as few runs share a model in an ablation."""
    if profile == "quick":
        models = tuple(mamba2_model(n, 1.0, d_state=16) for n in (1, 2))
        return [BesideBench(models, 16, LENGTH, 2, 4, device="cpu", repeats=3)]
    if profile != "paper":
        return []
    return [BesideBench(tuple(mamba2_model(n, 1.0, tied=True) for n in LAYERS), BATCH, LENGTH, 3)]


def cpu_cells(profile: str) -> list[CpuBench]:
    """A model of 4 layers on 8 sequences of 128 tokens, one and two threads."""
    if profile == "quick":
        return [CpuBench(2, 16, 16, 1, 4, 32, repeats=3)]
    if profile != "paper":
        return []
    return [
        CpuBench(8, 128, 128, 4, threads=threads, direction=direction)
        for threads in (1, 2)
        for direction in ("forward", "both")
    ]


def run_benches(cells: Sequence[Bench], context: Context) -> Iterator[Outcome]:
    """Measure one benchmark after the other.

    Raises:
        ValueError: a benchmark is for another kind of device than the run's.
    """
    for cell in cells:
        if cell.device != context.device:
            raise ValueError(
                f"device is {context.device!r}, allowed for {readable(cell)}: {cell.device!r}"
            )
    for cell in context.each(cells):
        yield importlib.import_module(f"lib.bench.{cell.kind}").run(cell)


def bench_frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a record: the benchmark's fields and every metric."""
    rows: list[dict[str, Any]] = []
    for record in records:
        plain = {k: v for k, v in record.config.items() if not isinstance(v, (dict, list))}
        rows.append(
            {"readable": record.readable, "status": record.status, **plain, **record.metrics}
        )
    return pd.DataFrame(rows)


def _experiment(
    kind: str, title: str, cells: Callable[[str], list[Any]], protocol: int = 1
) -> Experiment:
    return Experiment(
        name=PREFIX + kind,
        title=title,
        protocol=protocol,
        notebook=NOTEBOOK,
        cells=cells,
        readable=readable,
        run=run_benches,
        frame=bench_frame,
        judged=False,  # targets, not claims
    )


EXPERIMENTS = (
    # 2: each contestant in the memory layout of its own model; 3: which has wide B and C apart
    _experiment("scan", "Speed: the selective scan", scan_cells, protocol=3),
    _experiment("block", "Speed: a Mamba-2 block", block_cells),
    _experiment("step", "Speed: a training step", step_cells),
    _experiment("language", "Speed: training a language model", language_cells),
    _experiment("sweep", "Speed: the whole phase diagram", sweep_cells),
    _experiment("beside", "Speed: small groups of runs beside each other", beside_cells),
    _experiment("cpu", "Speed: on a processor", cpu_cells),
)
