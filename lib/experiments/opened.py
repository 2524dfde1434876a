"""Looking into models of the composite task that other experiments trained and published.

The paper opened one model for its Fig. 6 and does not say which (arXiv 2509.17514). Those that
``achilles.interventions`` trains to be opened have two layers, as its Fig. 5, and few of them
compose. Here the same is asked of the published models of the phase diagram, 2 to 7 layers, most of
which do; nothing is trained, so a cell takes a minute on a processor.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from lib import provenance
from lib.config import from_dict, require
from lib.experiments import Context, Experiment, Outcome, find
from lib.experiments.achilles import CompositeCell, composite_readable, depth, load_model
from lib.experiments.interventions import inspect
from lib.experiments.phase_diagram import TIED, keeps_weights
from lib.store import Record, Store

NAME = "achilles.opened"
QUICK_EVERY = 60


@dataclass(frozen=True)
class OpenedCell:
    """One published model.

    Attributes:
        trained: its run.
        experiment: whose run that was.
        every: asked of every n-th sequence; 480 a pair are there, or 400 if it is never last.
        seed: that of the run.
    """

    trained: CompositeCell
    experiment: str
    every: int
    seed: int

    def __post_init__(self) -> None:
        require(self, "every", 1 <= self.every <= 80, "1..80")
        require(self, "seed", self.seed == self.trained.seed, f"{self.trained.seed}, the run's")


def cells(profile: str) -> list[OpenedCell]:
    """Cells of a profile. paper: every model of the phase diagram whose weights are kept, 2 to 7
    layers at gamma 0.5 and 1.0, one seed. quick: the least of them, few sequences. matched: none.
    """
    kept = [cell for cell in find(TIED).cells("paper") if keeps_weights(cell)]
    if profile == "quick":
        return [OpenedCell(kept[1], TIED, QUICK_EVERY, kept[1].seed)]
    if profile != "paper":
        return []
    return [OpenedCell(cell, TIED, 1, cell.seed) for cell in kept]


def readable(cell: OpenedCell) -> str:
    """For example ``opened-mamba2-L7-g1.0-tied-s1``."""
    few = f"every{cell.every}-" if cell.every != 1 else ""
    return f"opened-{few}{composite_readable(cell.trained)}"


def source(cell: OpenedCell) -> Record:
    """The record of the model that is opened.

    Raises:
        ValueError: it has no weights here, or there is none; says how to have them.
    """
    store, protocol = Store.at(provenance.ROOT), find(cell.experiment).protocol
    (found,) = store.records(cell.experiment, protocol, [cell.trained])
    if found is None or found.weights_path() is None:
        which = f"{composite_readable(cell.trained)} of {cell.experiment}"
        lacks = "record" if found is None else "weights"
        raise ValueError(
            f"the run {which} has no {lacks} here; to have both: "
            f"python -m lib run {cell.experiment} --profile paper --fresh"
        )
    return found


def run(cells: Sequence[OpenedCell], context: Context) -> Iterator[Outcome]:
    """Open the models, one after the other; every one is found before the first is opened."""
    sources = [source(cell) for cell in cells]
    for cell, record in zip(cells, sources, strict=True):
        if context.deadline is not None and time.monotonic() >= context.deadline:
            yield Outcome(cell, "stopped", "before it was opened")
            continue
        begun = time.perf_counter()
        model, trained = load_model(record, context.device)
        metrics = inspect(model, trained, every=cell.every)
        # what its record says of its training stands beside what is found in it
        metrics |= {k: v for k, v in record.metrics.items() if k.startswith(("best_", "final_"))}
        facts = {"backends": {}, "opened": {"record": record.name, "weights": record.weights}}
        seconds = time.perf_counter() - begun
        yield Outcome(cell, "done", metrics={**metrics}, facts=facts, wall_seconds=seconds)


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a record: block, n_layers, gamma and seed of the model, and every metric; what
    ``lib.analysis.routes`` and the pages on interventions read."""
    rows = []
    for record in records:
        cell = from_dict(OpenedCell, record.config)
        model = cell.trained.model
        about = {"block": model.pattern[0].kind, "n_layers": depth(model), "seed": cell.seed,
                 "gamma": model.initialisation.gamma, "status": record.status}  # fmt: skip
        rows.append({**about, **record.metrics})
    return pd.DataFrame(rows)


def by_depth(table: pd.DataFrame) -> pd.DataFrame:
    """Of a :func:`frame`, for readers: how each model composes at the end, what it keeps when S is
    cut behind the pair, how often the twin's answer comes out of the exchange, and how often it
    does with nothing exchanged; empty where nothing has run."""
    names = {
        "n_layers": "layers",
        "gamma": "gamma",
        "final_composite": "composite at the end",
        "blocking_inner_mean_after_pair": "kept under the cut",
        "substitution_inner_mean": "the twin's after the exchange",
        "substitution_inner_mean_nothing": "the twin's anyway",
    }
    return table.reindex(columns=list(names)).rename(columns=names)


EXPERIMENTS = (
    Experiment(
        name=NAME,
        title="Published models of the phase diagram, looked into",
        protocol=1,
        notebook="notebooks/achilles/blocking.ipynb",
        cells=cells,
        readable=readable,
        run=run,
        frame=frame,
        judged=False,  # the paper's claims are about one model, and no depth is named
    ),
)
