"""Weights in bfloat16 without a float32 copy: how many updates round away, and what is then learnt.

Experiment ``noise.bf16``. The third party tuned Mamba-1.4B with all weights in bfloat16 at a
learning rate of 3e-6, and Mamba-130M in float32 at 1e-5, and compared the two. Here one model after
phase 1 goes through phases 2 and 3 with both kinds of weights at several rates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib.experiments import Context, Experiment, Outcome
from lib.experiments import noise_phases as phases
from lib.experiments._noise_world import PhaseCell
from lib.experiments.noise import CHAPTER
from lib.store import Record

if TYPE_CHECKING:
    from torch import nn

NAME = f"{CHAPTER}.bf16"
RATES = (1e-3, 3e-6, 1e-5, 1e-4)
STORED = ("float32", "bfloat16")
STEPS = 10  # of which the updates are watched
LOSS = "loss in 2 / nats a token"
SEEDS = (1, 2, 3)


def cells(profile: str) -> list[PhaseCell]:
    """matched: Mamba-1 of 1M, character flips, four rates, weights in float32 and bfloat16, three
    seeds. quick: a tiny one at two rates. paper: none."""
    if profile == "paper":
        return []
    plain = [
        cell
        for cell in phases.cells(profile)
        if cell.noise == "char_flip" and phases.architecture(cell) == "mamba1"
        and cell.share == 1 and cell.samples is None
    ]  # fmt: skip
    seeds, rates = ((1,), (1e-2, 1e-5)) if profile == "quick" else (SEEDS, RATES)
    firsts = [next(cell for cell in plain if cell.seed == seed) for seed in seeds]
    return [at_rate(cell, rate, kind) for cell in firsts for rate in rates for kind in STORED]


def at_rate(cell: PhaseCell, rate: float, weights: Any) -> PhaseCell:
    """`cell` with phases 2 and 3 at a learning rate, with the weights stored so."""
    noisy, again = (
        dataclasses.replace(config, lr_peak=rate, lr_end=rate / 10, lr_start=rate / 100)
        for config in (cell.noisy, cell.again)
    )
    return dataclasses.replace(cell, noisy=noisy, again=again, weights=weights)


def readable(cell: PhaseCell) -> str:
    """For example ``mamba1-1M-char-flip-bfloat16-lr3e-06-s1``."""
    name = phases.readable(cell)
    return f"{name.rsplit('-', 1)[0]}-lr{cell.noisy.lr_peak:g}-s{cell.seed}"


def run(cells: Sequence[PhaseCell], context: Context) -> Iterator[Outcome]:
    """As for ``noise.matched``, and watch the updates of STEPS steps on the rows of phase 2 at the
    full rate, taken by a copy of the model after phase 1 (phase 2 itself warms up)."""
    from lib.experiments._noise_family import Family

    class Watched(Family):
        def inspect(self, clean: nn.Module, cell: PhaseCell) -> dict[str, Any]:
            return _watch(self, clean, cell)

    yield from phases.run_families(cells, context, readable, Watched)


def _watch(members: Any, clean: nn.Module, cell: PhaseCell) -> dict[str, Any]:
    from lib.analysis.answers import answer_loss
    from lib.analysis.rounding import lost_share, watch_updates
    from lib.training.phases import to_precision, twin

    model = to_precision(twin(clean), cell.weights)
    rows = members.rows(cell, "noisy")
    found = watch_updates(model, answer_loss, rows, cell.noisy, STEPS)
    weights = [parameter.detach() for parameter in clean.parameters()]
    found["lost_at_rate"] = lost_share(weights, cell.noisy.lr_peak)
    return found


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """As of ``noise.matched``, with ``rate``, the learning rate of phases 2 and 3."""
    table = phases.frame(records)
    rates = [r.config["noisy"]["lr_peak"] for r in records if r.status == "done"]
    return table.assign(rate=rates) if len(table) else table


def table(found: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, a row for each rate and kind of weights: percent, and the training loss of
    the last epoch of phase 2 in nats a token."""
    if not len(found):
        return found
    names = {
        "unmoved": "unmoved by a step", "would_round_away": "would be, in bfloat16",
        "own_noisy": "flipped after 2", "content_noisy": "known in 2",
        "own_again": "flipped after 3", "content_again": "known after 3",
    }  # fmt: skip
    keys = ["rate", "weights"]
    groups = found.groupby(keys, sort=True)
    means = groups[list(names)].mean() * 100
    means.insert(0, "seeds", groups["seed"].nunique())
    means.insert(3, LOSS, groups["train_loss_noisy"].mean())
    digits = {name: 2 if name == LOSS else 1 for name in (*names.values(), LOSS)}
    shown = means.rename(columns=names).round(digits).reset_index()
    return shown.assign(rate=[f"{rate:g}" for rate in shown["rate"]])


EXPERIMENTS = (
    Experiment(
        name=NAME,
        title="Weights in bfloat16: updates that round away",
        protocol=1,
        notebook="notebooks/noise/bf16.ipynb",
        cells=cells,
        readable=readable,
        run=run,
        frame=frame,
        judged=False,  # nobody published how many updates round away
    ),
)
