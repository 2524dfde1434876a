"""Looking into models of the composite task that other experiments trained and published.

The paper opened one model for its Fig. 6 and does not say which (arXiv 2509.17514). Those that
``achilles.interventions`` trains to be opened have two layers, as its Fig. 5, and few of them
compose. Here the same is asked of the published models of the phase diagram, 2 to 7 layers, most of
which do; nothing is trained, so a cell takes a minute on a processor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from lib import provenance
from lib.config import from_dict, require
from lib.experiments import Context, Experiment, Outcome, find, interventions
from lib.experiments._inspection import inspect, kept_without
from lib.experiments.achilles import (
    CompositeCell,
    composite_readable,
    depth,
    load_model,
    without_offsets,
)
from lib.experiments.phase_diagram import TIED, keeps_weights
from lib.experiments.transformer import CONVOLVED, PLAIN
from lib.store import Record, Store, StoreError, read_record

if TYPE_CHECKING:
    from lib.models.language_model import LanguageModel

NAME, TRANSFORMERS = "achilles.opened", "achilles.opened_transformers"
# layers with the convolution and without that are published with weights
DEPTHS = {CONVOLVED: (3, 4, 5, 7), PLAIN: (2,)}
QUICK_EVERY = 37  # has no part in common with 480 keys and places, or with 400


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
    layers at gamma 0.5 and 1.0, one seed; then the Mamba-2 of that seed that were trained to be
    opened. quick: the least of them, few sequences. matched: none."""
    kept = [cell for cell in find(TIED).cells("paper") if keeps_weights(cell)]
    if profile == "quick":
        return [OpenedCell(kept[1], TIED, QUICK_EVERY, kept[1].seed)]
    if profile != "paper":
        return []
    others = [
        cell
        for cell in find(interventions.NAME).cells("paper")
        if cell.model.pattern[0].kind == "mamba2" and cell.seed == interventions.SEEDS[0]
    ]
    return [
        OpenedCell(cell, name, 1, cell.seed)
        for name, found in ((TIED, kept), (interventions.NAME, others))
        for cell in found
    ]


def transformer_cells(profile: str) -> list[OpenedCell]:
    """The same of Transformers, with Mamba's convolution and without. quick: one of those with it.
    matched: none."""
    found = [
        OpenedCell(cell, name, QUICK_EVERY if profile == "quick" else 1, cell.seed)
        for name, depths in DEPTHS.items()
        for cell in find(name).cells("paper")
        if keeps_weights(cell) and depth(cell.model) in depths
    ]
    return {"paper": found, "quick": found[1:2]}.get(profile, [])


def readable(cell: OpenedCell) -> str:
    """For example ``opened-mamba2-L7-g1.0-tied-s1``; of another experiment than the diagram with
    its name."""
    few = f"every{cell.every}-" if cell.every != 1 else ""
    where = "" if cell.experiment == TIED else f"{cell.experiment.rpartition('.')[2]}-"
    return f"opened-{where}{few}{composite_readable(cell.trained)}"


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


def found_in(model: LanguageModel, trained: CompositeCell, every: int) -> dict[str, float]:
    """What is found in a model: :func:`inspect`, and in Transformers :func:`kept_without`."""
    found = inspect(model, trained, every=every)
    if trained.model.pattern[0].kind == "attention":
        found |= kept_without(model, trained, every)
    return found


def run(cells: Sequence[OpenedCell], context: Context) -> Iterator[Outcome]:
    """Open the models, one after the other; every one is found before the first is opened."""
    sources = {cell: source(cell) for cell in cells}
    for cell in context.each(cells):
        record = sources[cell]
        if context.late:
            yield Outcome(cell, "stopped", "budget spent before it was opened")
            continue
        begun = time.perf_counter()
        model, trained = load_model(record, context.device)
        metrics = found_in(model, trained, cell.every)
        # what its record says of its training stands beside what is found in it
        metrics |= {k: v for k, v in record.metrics.items() if k.startswith(("best_", "final_"))}
        facts = {"backends": {}, "opened": {"record": record.name, "weights": record.weights}}
        seconds = time.perf_counter() - begun
        yield Outcome(cell, "done", metrics={**metrics}, facts=facts, wall_seconds=seconds)


def _opened(record: Record) -> Record:
    """The record, published beside this one, of the model that this one is about.

    Raises:
        StoreError: it is not there, is damaged, or has other weights by now.
    """
    assert record.folder is not None
    experiment, opened = record.config["experiment"], record.provenance["opened"]
    path = record.folder.parent / experiment / opened["record"]
    if not path.is_file():
        raise StoreError(f"the model that was opened is not there: {path.name} of {experiment}")
    found = read_record(path)
    if found.weights != opened["weights"]:
        raise StoreError(
            f"{path.name} of {experiment} has the weights {found.weights}; those that were opened "
            f"are {opened['weights']}: open it again (--fresh)"
        )
    return found


def weights_of(record: Record) -> Path | None:
    """The weights of the model that was opened.

    Raises:
        StoreError: they are not there, or others.
    """
    return _opened(record).weights_path()


def reevaluate(record: Record) -> dict[str, float]:
    """All that was found in the model, found again on the processor.

    Raises:
        StoreError: as :func:`weights_of`.
    """
    model, trained = load_model(_opened(record))
    return found_in(model, trained, from_dict(OpenedCell, record.config).every)


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a record: block, n_layers, gamma and seed of the model, the experiment that trained
    it, and every metric but those that say what 43 is answered; what ``lib.analysis.routes`` and
    the pages on interventions read."""
    rows = []
    for record in records:
        cell = from_dict(OpenedCell, record.config)
        model = cell.trained.model
        about = {"block": model.pattern[0].kind, "n_layers": depth(model), "seed": cell.seed,
                 "gamma": model.initialisation.gamma, "status": record.status,
                 "experiment": cell.experiment}  # fmt: skip
        rows.append({**about, **without_offsets(record.metrics)})
    return pd.DataFrame(rows)


# cuts, as metrics name them and as readers do
CUTS = {
    "after_pair": "S from key and anchors",
    "first_two": "S from key and first anchor",
    "second": "S from the second anchor",
    "combined": "all but the second anchor's convolution",
    "noise": "S from tokens before the key",
    "behind": "S from tokens behind the pair",
}
COMPOSED = {"uncut": "nothing", **{cut: CUTS[cut] for cut in ("after_pair", "combined")}}


# the same of Transformers, by the whole names of metrics
ATTENTION_CUTS = {
    "blocking_inner_mean_after_pair": "attention to key and anchors",
    "blocking_inner_mean_second": "attention to the second anchor",
    "blocking_inner_mean_first_two": "attention to key and first anchor",
    "kept_inner_first": "attention to the first anchor",
    "kept_inner_key": "attention to the key",
    "kept_inner_anchors": "the anchors' attention to the key",
    "kept_inner_joining": "the second anchor's taps to key and first",
    "kept_inner_next": "the next token's taps to key and first",
    "blocking_inner_mean_combined": "all but the second anchor's convolution",
    "kept_inner_next_alone": "all but the next token's convolution",
    "blocking_inner_mean_behind": "attention to tokens behind the pair",
    "blocking_inner_mean_noise": "attention to tokens before the key",
}


def heard(rows: pd.DataFrame) -> pd.DataFrame:
    """As :func:`kept`, of Transformers, by ATTENTION_CUTS."""
    return _shares(rows, "{}", ATTENTION_CUTS)


def kept(rows: pd.DataFrame) -> pd.DataFrame:
    """Of a :func:`frame`, a row a model in the words of readers, a column for each of CUTS: the
    share of answers, over all pairs, that stay as they were. The pair is never last."""
    return _shares(rows, "blocking_inner_mean_{}", CUTS)


def composed(rows: pd.DataFrame) -> pd.DataFrame:
    """The same for each of COMPOSED: the share of the sequences with pair 43 that are composed."""
    return _shares(rows, "composite_inner_{}", COMPOSED)


def _shares(rows: pd.DataFrame, metric: str, names: Mapping[str, str]) -> pd.DataFrame:
    if not len(rows):
        return pd.DataFrame(columns=list(names.values()))
    beside = {interventions.NAME: ", of this page", PLAIN: ", plain"}
    labels = [
        f"{n:g} layers, γ {gamma:g}{beside.get(experiment, '')}"
        for n, gamma, experiment in zip(
            rows["n_layers"], rows["gamma"], rows["experiment"], strict=True
        )
    ]
    found = rows.reindex(columns=[metric.format(cut) for cut in names])
    return found.set_axis(list(names.values()), axis=1).set_axis(labels)


def _experiment(
    name: str, title: str, page: str, grid: Callable[[str], list[OpenedCell]]
) -> Experiment:
    return Experiment(
        name=name,
        title=title,
        protocol=1,
        notebook=f"notebooks/achilles/{page}.ipynb",
        cells=grid,
        readable=readable,
        run=run,
        frame=frame,
        reevaluate=reevaluate,
        weights=weights_of,
        judged=False,  # the paper's claims are about one Mamba, and no depth is named
    )


EXPERIMENTS = (
    _experiment(NAME, "Published models of the phase diagram, looked into", "blocking", cells),
    _experiment(
        TRANSFORMERS,
        "Published Transformers of the composite task, looked into",
        "transformer_with_convolution",
        transformer_cells,
    ),
)
