"""The phase diagram of "Achilles' Heel of Mamba" (arXiv 2509.17514, Fig. 4): depth against gamma.

Three experiments of the chapter ``achilles`` share one page. The paper does not say whether the
output weights are tied to the embedding. At the one cell that ``achilles.composite`` ran (7 layers,
gamma 1.0) only tied weights gave the paper's numbers, so the diagram is drawn with them first; that
was decided before any other cell had run. The other reading is an experiment of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd

from lib.analysis.phase import Diagram
from lib.config import from_dict
from lib.experiments import Context, Experiment, Outcome, find
from lib.experiments.achilles import (
    THIRD_PARTY_TRAINING,
    CompositeCell,
    answered_offsets,
    composite_frame,
    composite_readable,
    depth,
    held_out_answers,
    load_model,
    mamba2_model,
    reevaluate_composite,
    run_composite,
    third_party_model,
)
from lib.store import Record
from lib.tasks.composite import (
    HELD_OUT,
    CompositeTask,
    composed_shift,
    symmetric_shift,
    third_party,
    trained_shift,
)
from lib.training.config import TrainingConfig

# Fig. 4's axes
LAYERS = (2, 3, 4, 5, 6, 7)
GAMMAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.5, 2.0)
SEEDS = (1, 2, 3)
THIRD_PARTY_SEED = 42

TIED = "achilles.phase_diagram"
OWN = "achilles.phase_diagram_own"
MAMBA1 = "achilles.phase_diagram_mamba1"

# the axes of the quick profile: enough for a map, little enough for two processor cores
QUICK_LAYERS = (2, 3)
QUICK_GAMMAS = (0.3, 0.7, 1.0)
QUICK_TASK = CompositeTask(train_per_pair=80, test_per_pair=30)
QUICK_TRAINING = TrainingConfig(epochs=3, warmup_epochs=1, batch_size=150, lr_peak=6e-3)


def mamba2_cells(profile: str, tied: bool) -> list[CompositeCell]:
    """Cells of the paper's protocol, by layers, then gamma, then seed: the 36 of one depth train
    together, and a diagram that is broken off has whole rows.

    quick: two depths, three gammas, two seeds on little data. matched: none.
    """
    if profile == "quick":
        return [
            CompositeCell(
                QUICK_TASK, mamba2_model(n, gamma, d_state=16, tied=tied), QUICK_TRAINING, seed
            )
            for n in QUICK_LAYERS
            for gamma in QUICK_GAMMAS
            for seed in (1, 2)
        ]
    if profile != "paper":
        return []
    return [
        CompositeCell(CompositeTask(), mamba2_model(n, gamma, tied=tied), TrainingConfig(), seed)
        for n in LAYERS
        for gamma in GAMMAS
        for seed in SEEDS
    ]


def mamba1_cells(profile: str) -> list[CompositeCell]:
    """Cells of the third party's protocol (Mamba-1, its data, its one seed) over the same axes.

    quick: two gammas at two layers on little data of its kind. matched: none.
    """
    if profile == "quick":
        task = dataclasses.replace(third_party(), train_total=1_200, test_per_pair=30)
        training = TrainingConfig(
            epochs=3, warmup_epochs=1, batch_size=200, lr_peak=6e-3, lr_by="epoch", drop_last=False
        )
        models = [third_party_model(2, gamma) for gamma in (0.3, 1.0)]
        theirs: Any = models[0].pattern[0]  # a Mamba-1 block
        block = dataclasses.replace(theirs, d_state=16)
        small = [dataclasses.replace(model, pattern=(block,)) for model in models]
        return [CompositeCell(task, model, training, THIRD_PARTY_SEED) for model in small]
    if profile != "paper":
        return []
    return [
        CompositeCell(
            third_party(), third_party_model(n, gamma), THIRD_PARTY_TRAINING, THIRD_PARTY_SEED
        )
        for n in LAYERS
        for gamma in GAMMAS
    ]


def keeps_weights(cell: CompositeCell) -> bool:
    """Whether a cell's final weights are kept: one seed at two gammas, for pages that look inside
    the models; the weights of all cells would outweigh everything else that a run leaves."""
    first = cell.seed in (SEEDS[0], THIRD_PARTY_SEED)
    return first and cell.model.initialisation.gamma in (0.5, 1.0)


def run_diagram(cells: Sequence[CompositeCell], context: Context) -> Iterator[Outcome]:
    """Train the cells, those of one depth together."""
    return run_composite(cells, context, keep_weights=keeps_weights)


def diagram(name: str, profile: str, records: Sequence[Record]) -> Diagram:
    """The runs of one of this module's experiments over the axes of the paper's maps."""
    experiment = find(name)
    seeds = {cell.seed for cell in experiment.cells(profile)}
    return Diagram(experiment.frame(records), LAYERS, GAMMAS, len(seeds))


def known_offsets() -> dict[str, int]:
    """What an answer to pair 43 may be taken for, to its distance from the key: the two solutions,
    then the trained pairs that begin as it does."""
    found = {"composite": composed_shift(HELD_OUT), "symmetric": symmetric_shift(HELD_OUT)}
    others = [(HELD_OUT[0], second) for second in (1, 2, 4)]
    return found | {f"as pair {a}{b}": trained_shift((a, b)) for a, b in others}


def answers_frame(records: Sequence[Record]) -> pd.DataFrame:
    """What models answer to pair 43 at the end of training: n_layers, gamma, seed, offset (answer
    less key) and share of the test sequences. Of runs whose records do not say it, those are asked
    again whose weights were kept."""
    rows = []
    for record in records:
        found = answered_offsets(record.metrics)
        if not found and record.weights is not None:
            found = answered_offsets(held_out_answers(*load_model(record)))
        cell = from_dict(CompositeCell, record.config)
        rows += [
            {
                "n_layers": depth(cell.model),
                "gamma": cell.model.initialisation.gamma,
                "seed": cell.seed,
                "offset": offset,
                "share": share,
            }
            for offset, share in found.items()
        ]
    return pd.DataFrame(rows, columns=["n_layers", "gamma", "seed", "offset", "share"])


def answers_sentence(answered: pd.DataFrame) -> str:
    """How often the commonest answer that is no solution is one of :func:`known_offsets`.

    Args:
        answered: of :func:`answers_frame`, not empty.
    """
    solutions = {known_offsets()[name] for name in ("composite", "symmetric")}
    names = {offset: name for name, offset in known_offsets().items()}
    others = answered[~answered["offset"].isin(solutions)]
    models = others.groupby(["n_layers", "gamma", "seed"])
    top = others.loc[models["share"].idxmax(), "offset"].map(names).fillna("none of these")
    counts = [f"{name} in {count}" for name, count in top.value_counts().items()]
    return (
        f"Beside the two solutions, the commonest answer of the {len(top)} models is that of "
        f"{', of '.join(counts)}.".replace("as pair", "pair").replace("of none", "none")
    )


def _experiment(name: str, title: str, cells: Callable[[str], list[CompositeCell]]) -> Experiment:
    return Experiment(
        name=name,
        title=title,
        protocol=1,
        notebook="notebooks/achilles/phase_diagram.ipynb",
        cells=cells,
        readable=composite_readable,
        run=run_diagram,
        frame=composite_frame,
        reevaluate=reevaluate_composite,
    )


EXPERIMENTS = (
    _experiment(
        TIED,
        "The phase diagram: depth and initialisation, output weights tied",
        lambda profile: mamba2_cells(profile, tied=True),
    ),
    _experiment(
        OWN,
        "The phase diagram with output weights of their own",
        lambda profile: mamba2_cells(profile, tied=False),
    ),
    _experiment(MAMBA1, "The phase diagram of a third party, with Mamba-1", mamba1_cells),
)
