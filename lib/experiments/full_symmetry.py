"""Does Mamba find a symmetry that all its training data have? (arXiv 2509.17514, Figs. 7a, 10, 11)

In the full symmetry task every pair means the same as its mirror, and yet, the paper reports, pair
43 is not answered as pair 34 is. The paper leaves out one shift of the task; it is a field of the
task, and other values are cells too. Whether it is Mamba's convolution that hides the symmetry the
paper does not try: models without one, or with one that treats all its inputs alike, are controls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pandas as pd

from lib.config import from_dict
from lib.experiments import Context, Experiment, Outcome
from lib.experiments._training import train_cells
from lib.experiments.achilles import (
    CompositeCell,
    composite_frame,
    composite_readable,
    composite_study,
    curves_with,
    load_model,
    mamba2_model,
    summarise,
)
from lib.experiments.transformer import transformer
from lib.models.config import LanguageModelConfig
from lib.store import Record
from lib.tasks.full_symmetry import SymmetryTask, build
from lib.training.config import TrainingConfig

NAME = "achilles.full_symmetry"
LAYERS = (2, 3, 4, 5, 6)  # Figs. 10 and 11
GAMMA = 0.5
SEEDS = (1, 2, 3)
# other values of the shift that the paper leaves out, at the least depth
OTHER_SHIFTS = (-4, 9)
WATCHED = ("composite", "symmetric", "seen", "mirror")
MAMBA, ATTENTION = "Mamba-2", "Transformer"
# Mamba-2 with another kernel, at the least depth; a Transformer has learned positions
KERNELS = {"all_one": f"{MAMBA}, kernel of ones", "none": f"{MAMBA}, no convolution"}
CONTROLS = (*KERNELS.values(), ATTENTION)


def model_of(kind: str, n_layers: int, d_model: int = 128) -> LanguageModelConfig:
    """The model of that kind: MAMBA, which is the paper's, or one of CONTROLS. Mambas have the
    embedding as output weights, a Transformer has its own (see :func:`transformer`)."""
    if kind == ATTENTION:
        return transformer(n_layers, GAMMA, d_model=d_model)
    model = mamba2_model(n_layers, GAMMA, tied=True, d_model=d_model)
    kernel = next((kernel for kernel, name in KERNELS.items() if name == kind), "standard")
    block: Any = model.pattern[0]
    return dataclasses.replace(model, pattern=(dataclasses.replace(block, conv_kind=kernel),))


def kind_of(model: LanguageModelConfig) -> str:
    """MAMBA or which of CONTROLS a model is."""
    block: Any = model.pattern[0]
    return ATTENTION if block.kind == "attention" else KERNELS.get(block.conv_kind, MAMBA)


def cells(profile: str) -> list[CompositeCell]:
    """Cells of a profile: 128 channels, gamma 0.5, 2 to 6 layers, three seeds; then other values of
    the unstated shift with 2 layers, then CONTROLS, of which there are no published numbers. quick:
    one small model for two shifts. matched: none."""
    if profile == "quick":
        training = TrainingConfig(epochs=3, warmup_epochs=1, batch_size=150, lr_peak=6e-3)
        model = mamba2_model(2, GAMMA, d_state=16, tied=True)
        tasks = [
            SymmetryTask(train_per_pair=60, test_per_pair=20, second_shift_of_4=shift)
            for shift in (SymmetryTask().second_shift_of_4, OTHER_SHIFTS[0])
        ]
        return [CompositeCell(task, model, training, 1) for task in tasks]
    if profile != "paper":
        return []
    plain, least = SymmetryTask(), LAYERS[0]
    grid = [(plain, MAMBA, n_layers) for n_layers in LAYERS]
    grid += [
        (dataclasses.replace(plain, second_shift_of_4=shift), MAMBA, least)
        for shift in OTHER_SHIFTS
    ]
    grid += [(plain, kind, least) for kind in CONTROLS]
    return [
        CompositeCell(task, model_of(kind, n_layers), TrainingConfig(), seed)
        for task, kind, n_layers in grid
        for seed in SEEDS
    ]


def run(cells: Sequence[CompositeCell], context: Context) -> Iterator[Outcome]:
    """Train the cells; after each epoch pair 34 is measured as well, and at the end what pair 43 is
    taken for."""
    from lib.analysis.composite import answered_as, rates_by_pair, symmetry_rates

    study = dataclasses.replace(
        composite_study(keep_weights=lambda cell: False),
        evaluate=symmetry_rates,
        final=lambda model, test: {**rates_by_pair(model, test), **answered_as(model, test)},
        summarise=partial(summarise, watched=WATCHED),
    )
    return train_cells(cells, context, study)


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """:func:`composite_frame` with the columns ``shift``, the second set's of anchor 4, ``model``,
    see :func:`kind_of`, and ``place``, in which figures put a run: depth and shift of a MAMBA."""
    table = composite_frame(records)
    cells = [from_dict(CompositeCell, record.config) for record in records]
    tasks = [cell.task for cell in cells]
    table["shift"] = [t.second_shift_of_4 if isinstance(t, SymmetryTask) else None for t in tasks]
    table["model"] = [kind_of(cell.model) for cell in cells]
    table["place"] = [_place(row) for row in table.to_dict("records")]
    return table


def _place(row: dict[Any, Any]) -> str:
    if row["model"] != MAMBA:
        return str(row["model"])
    shift = row["shift"]  # none of another task
    return f"{row['n_layers']} layers" + ("" if shift is None else f", shift {shift:+g}")


def beside_controls(table: pd.DataFrame) -> pd.DataFrame:
    """Of a :func:`frame` or :func:`curves` the controls and the MAMBA that they stand beside."""
    if not len(table):
        return table
    plain = (table["n_layers"] == LAYERS[0]) & (table["shift"] == SymmetryTask().second_shift_of_4)
    return table[plain].assign(place=table["model"])


def curves(records: Sequence[Record]) -> pd.DataFrame:
    """Learning curves of at least one record with columns of :func:`frame`."""
    columns = ["model", "n_layers", "shift", "place", "seed"]
    return curves_with(records, frame(records)[columns])


def answered(records: Sequence[Record]) -> pd.DataFrame:
    """What pair 43 is answered at the end, for readers: a row a model and depth, a column for the
    pairs as whose answers its own count, and the mean over seeds in percent; of runs that say so
    (the first ones did not look)."""
    table = frame(records)
    names = [name for name in table if str(name).startswith("answered_as_")]
    if not names:
        return pd.DataFrame()
    kept = table.dropna(subset=names)
    found = (100 * kept.groupby(["model", "n_layers", "shift"], sort=False)[names].mean()).round(1)
    return found.rename(columns=lambda name: name.removeprefix("answered_as_")).reset_index()


def reevaluate(record: Record) -> dict[str, float]:
    """Final accuracies measured again from the record's weights and freshly built test data."""
    from lib.analysis.composite import symmetry_rates

    model, cell = load_model(record)
    assert isinstance(cell.task, SymmetryTask)
    _, test = build(cell.task, cell.seed)
    return {f"final_{name}": float(value) for name, value in symmetry_rates(model, test).items()}


EXPERIMENTS = (
    Experiment(
        name=NAME,
        title="Full symmetry: does Mamba find what all its data have?",
        protocol=1,
        notebook="notebooks/achilles/full_symmetry.ipynb",
        cells=cells,
        readable=composite_readable,
        run=run,
        frame=frame,
        reevaluate=reevaluate,
    ),
)
