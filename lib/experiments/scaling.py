"""Chapter "Stories": what language models of equal size cost, by length of the context.

A cell measures one model at one length, and at half of it; see :mod:`lib.bench.by_length`. Times do
not hang on what weights are worth, so these are random.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from lib.config import from_dict, require
from lib.experiments import Context, Experiment, Outcome
from lib.experiments.stories import NAMES, architecture
from lib.models.config import LanguageModelConfig
from lib.models.presets import SIZES, non_embedding, preset
from lib.store import Record

NAME = "stories.scaling_with_length"
COMPARED = ("mamba1", "mamba2", "transformer")
DEVICES = ("cpu", "cuda")
VOCAB = 50_280  # of the published 130M; no other size hangs on it
# first what the answer needs most: the largest lengths, whose halves are measured with them
GPU_LENGTHS = tuple(2**k for k in (16, 17, 14, 15, 12, 13, 11, 10))
CPU_LENGTHS = tuple(2**k for k in (12, 11, 10, 9, 8))
QUICK_LENGTHS = (128, 256, 512)
COSTS = {
    "prefill_ms": "time to read the context",
    "token_ms": "time of one more token",
    "token_device_ms": "time of one more token, the device's own",
    "prefill_peak_bytes": "peak memory while reading",
    "token_peak_bytes": "peak memory for one more token",
    "state_bytes": "kept between tokens",
}


@dataclass(frozen=True)
class ScalingCell:
    """One model at one context length.

    Attributes:
        length: tokens of the context, even.
        device: where it is measured.
        dtype: of the weights; see :func:`lib.bench.by_length.inference_model`.
        steps: tokens that one timing of decoding makes.
        repeats: timings of each cost.
        seed: of weights and tokens.
    """

    model: LanguageModelConfig
    length: int
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    steps: int = 16
    repeats: int = 5
    seed: int = 1

    def __post_init__(self) -> None:
        fits = self.length >= 4 and self.length % 2 == 0
        require(self, "length", fits, "even numbers from 4 on")
        require(self, "device", self.device in DEVICES, ", ".join(DEVICES))
        require(self, "dtype", self.dtype in ("float32", "bfloat16"), "float32, bfloat16")
        for name in ("steps", "repeats"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        require(self, "seed", self.seed >= 0, "0 or more")


def cells(profile: str) -> list[ScalingCell]:
    """matched: 130M on a GPU up to 131,072 tokens, 16M on a processor up to 4,096. quick: 1M on a
    processor up to 512. paper: none."""
    if profile == "quick":
        return [
            ScalingCell(preset(kind, "1M", 512), length, "cpu", "float32", 4, 3)
            for length in QUICK_LENGTHS
            for kind in COMPARED
        ]
    if profile != "matched":
        return []
    plans: tuple[tuple[str, tuple[int, ...], Any, Any], ...] = (
        ("130M", GPU_LENGTHS, "cuda", "bfloat16"), ("16M", CPU_LENGTHS, "cpu", "float32"),
    )  # fmt: skip
    return [
        ScalingCell(preset(kind, size, VOCAB), length, device, dtype)
        for size, lengths, device, dtype in plans
        for length in lengths
        for kind in COMPARED
    ]


def size_of(cell: ScalingCell) -> str:
    """Name of the model's size, or of its parameters if it is none of the presets."""
    kind, vocab = architecture(cell), cell.model.vocab_size
    for size in SIZES:
        if preset(kind, size, vocab) == cell.model:
            return size
    return f"{non_embedding(cell.model)}p"


def readable(cell: ScalingCell) -> str:
    """For example ``mamba1-130M-cuda-l65536-s1``."""
    return f"{architecture(cell)}-{size_of(cell)}-{cell.device}-l{cell.length}-s{cell.seed}"


def run(chosen: Sequence[ScalingCell], context: Context) -> Iterator[Outcome]:
    """Measure one cell after the other, while the budget lasts.

    Raises:
        ValueError: a cell is for another kind of device than the run's.
    """

    import torch

    from lib.bench.by_length import inference_model, measure_costs
    from lib.ops import backends

    for cell in chosen:
        if cell.device != context.device:
            raise ValueError(
                f"device is {context.device!r}, allowed for {readable(cell)}: {cell.device!r}; "
                f"choose the cells of this one with --select device={context.device}"
            )
    models: dict[ScalingCell, Any] = {}  # drawing 130M weights takes longer than most measurements
    for cell in context.each(chosen):
        if context.late:
            yield Outcome(cell, "stopped")
            return
        key = dataclasses.replace(cell, length=4)
        with backends.recording() as used:
            if key not in models:
                dtype = getattr(torch, cell.dtype)
                models[key] = inference_model(
                    cell.model, cell.seed, cell.device, dtype, context.backend
                )
            try:
                costs = measure_costs(
                    models[key], cell.length, repeats=cell.repeats, steps=cell.steps, seed=cell.seed
                )
            except (torch.OutOfMemoryError, ValueError) as error:
                yield Outcome(cell, "failed", str(error).partition("\n")[0][:200])
                continue
        facts = {
            "backends": {op: list(names) for op, names in used.items()},
            "dtype": cell.dtype, "compile": False, "notes": costs.notes,
        }  # fmt: skip
        yield Outcome(cell, "done", None, costs.metrics, costs.repeats, facts=facts)


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a record: architecture, model (its name), size, device, length and every metric."""
    rows: list[dict[str, Any]] = []
    for record in records:
        cell = from_dict(ScalingCell, record.config)
        kind = architecture(cell)
        rows.append(
            {
                "architecture": kind, "model": NAMES.get(kind, kind), "size": size_of(cell),
                "device": cell.device, "length": cell.length, "seed": cell.seed,
                "status": record.status, **record.metrics,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def by_length(table: pd.DataFrame, cost: str) -> pd.DataFrame:
    """A cost of :mod:`lib.bench.by_length` from :func:`frame`'s table: columns model, length and
    value (the median), by length; halves of the shortest lengths too, which have no record of their
    own."""
    if cost not in table:
        return pd.DataFrame(columns=["model", "length", "value"])
    own = table[["model", "length"]].assign(value=table[cost])
    half = own.assign(length=own["length"] // 2, value=table[f"half_{cost}"])
    both = pd.concat([own, half]).dropna().drop_duplicates(["model", "length"])
    return both.sort_values("length", kind="stable").reset_index(drop=True)


def exponents(table: pd.DataFrame, costs: Sequence[str], largest: int = 4) -> pd.DataFrame:
    """Fitted to the `largest` lengths of each model: columns cost (in the words of COSTS), model,
    exponent, low and high (its 95 % interval) and the shortest and longest length. A cost that
    stays has exponent 0."""
    from lib.analysis.scaling import power_law

    rows = []
    for cost in costs:
        for model, some in by_length(table, cost).groupby("model", sort=False):
            law = power_law(some["length"].tolist(), some["value"].tolist(), largest)
            low, high = law.interval or (None, None)
            rows.append(
                {
                    "cost": COSTS.get(cost, cost), "model": model, "exponent": law.exponent,
                    "low": low, "high": high, "shortest": round(law.shortest),
                    "longest": some["length"].max(),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def straight(table: pd.DataFrame, cost: str, largest: int = 4) -> pd.DataFrame:
    """A straight line, least squares of relative distances, through the `largest` lengths of each
    model: columns model, fixed (what no token adds to), per_1000 (added by 1,000 tokens), off (the
    largest distance from the line, as a part of the value) and points. A cost with a fixed part
    has an exponent below 1 that comes near it as contexts grow."""
    import numpy as np

    rows = []
    for model, some in by_length(table, cost).groupby("model", sort=False):
        some = some.nlargest(largest, "length")
        if len(some) < 3:  # two points are on a line whatever they are
            continue
        values = some["value"].to_numpy(float)
        sides = np.stack([np.ones(len(some)), some["length"].to_numpy(float) / 1000], axis=1)
        line, *_ = np.linalg.lstsq(sides / values[:, None], np.ones(len(some)))
        off = float(np.abs(sides @ line / values - 1).max())
        rows.append(
            {"model": model, "fixed": line[0], "per_1000": line[1], "off": off, "points": len(some)}
        )
    return pd.DataFrame(rows, columns=["model", "fixed", "per_1000", "off", "points"])


def counted(cells: Sequence[ScalingCell]) -> dict[str, float]:
    """Exponent that a count of operations gives reading, by model: between the longest of `cells`
    and half of it."""
    import math

    from lib.analysis.flops import prefill_flops

    out = {}
    for cell in sorted(cells, key=lambda cell: cell.length):
        name = NAMES[architecture(cell)]
        whole, half = (prefill_flops(cell.model, n) for n in (cell.length, cell.length // 2))
        out[name] = math.log2(whole / half)
    return out


EXPERIMENTS = (
    Experiment(
        name=NAME,
        title="Cost by length of the context",
        protocol=1,
        notebook="notebooks/stories/scaling_with_length.ipynb",
        cells=cells,
        readable=readable,
        run=run,
        frame=frame,
    ),
)
