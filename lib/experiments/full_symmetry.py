"""Does Mamba find a symmetry that all its training data have? (arXiv 2509.17514, Figs. 7a, 10, 11)

In the full symmetry task every pair means the same as its mirror, and yet, the paper reports, pair
43 is not answered as pair 34 is. The paper leaves out one shift of the task; it is a field of the
task, and other values are cells too. Whether it is Mamba's convolution that hides the symmetry the
paper does not try: models without one, or with a symmetric kernel, are controls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

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
    depth,
    load_model,
    mamba2_model,
    mamba3_block,
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
MAMBA, MAMBA3, ATTENTION = "Mamba-2", "Mamba-3", "Transformer"
# Mamba-2 with another kernel: trained and symmetric, of ones and not trained, none
KERNELS = {
    "palindromic": f"{MAMBA}, palindromic kernel",
    "all_one": f"{MAMBA}, kernel of ones",
    "none": f"{MAMBA}, no convolution",
}
# with their depths: on the composite task no convolution was symmetric with two layers, not with
# five (``achilles.beyond``)
CONTROLS = (
    *((kind, LAYERS[0]) for kind in KERNELS.values()),
    (KERNELS["none"], 5),
    (MAMBA3, LAYERS[0]),
    (ATTENTION, LAYERS[0]),
)


def model_of(kind: str, n_layers: int, d_model: int = 128) -> LanguageModelConfig:
    """The model of that kind: MAMBA, which is the paper's, one of KERNELS, MAMBA3, which has no
    convolution, or ATTENTION, which has learned positions. The output weights of all are the
    embedding.

    Raises:
        KeyError: no such kind.
    """
    if kind == ATTENTION:
        model = transformer(n_layers, GAMMA, d_model=d_model)
        return dataclasses.replace(model, tie_embeddings=True)
    model = mamba2_model(n_layers, GAMMA, tied=True, d_model=d_model)
    if kind == MAMBA3:
        return dataclasses.replace(model, pattern=(mamba3_block(d_model),))
    kernels = {MAMBA: "standard", **{name: kernel for kernel, name in KERNELS.items()}}
    block = dataclasses.replace(cast(Any, model.pattern[0]), conv_kind=kernels[kind])
    return dataclasses.replace(model, pattern=(block,))


def kind_of(model: LanguageModelConfig) -> str:
    """MAMBA, or which kind of CONTROLS a model is."""
    block: Any = model.pattern[0]
    others = {"attention": ATTENTION, "mamba3": MAMBA3}
    return others.get(block.kind) or KERNELS.get(block.conv_kind, MAMBA)


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
    grid += [(plain, kind, n_layers) for kind, n_layers in CONTROLS]
    return [
        CompositeCell(task, model_of(kind, n_layers), TrainingConfig(), seed)
        for task, kind, n_layers in grid
        for seed in SEEDS
    ]


def run(cells: Sequence[CompositeCell], context: Context) -> Iterator[Outcome]:
    """Train the cells; after each epoch pair 34 is measured as well, and at the end what pair 43 is
    taken for. Weights are kept of one seed at the least depth."""
    from lib.analysis.composite import answered_as, rates_by_pair, symmetry_rates

    study = dataclasses.replace(
        composite_study(keep_weights=_keeps_weights),
        evaluate=symmetry_rates,
        final=lambda model, test: {**rates_by_pair(model, test), **answered_as(model, test)},
        summarise=partial(summarise, watched=WATCHED),
    )
    return train_cells(cells, context, study)


def _keeps_weights(cell: CompositeCell) -> bool:
    return cell.seed == SEEDS[0] and depth(cell.model) == LAYERS[0]


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
        return _named(row["model"], row["n_layers"])
    depth = f"{row['n_layers']} layers"
    # none of another task
    return depth if pd.isna(row["shift"]) else f"{depth}, shift {row['shift']:+g}"


def _named(model: str, n_layers: int) -> str:
    return f"{model}, {n_layers} layers"


def beside_controls(table: pd.DataFrame) -> pd.DataFrame:
    """Of a :func:`frame` or :func:`curves` the controls and the MAMBAs of their depths; nothing as
    long as no control is among them."""
    if not len(table) or (table["model"] == MAMBA).all():
        return table[:0]
    depths = {n_layers for _, n_layers in CONTROLS}
    plain = table["n_layers"].isin(depths) & (table["shift"] == SymmetryTask().second_shift_of_4)
    found = table[plain]
    return found.assign(place=list(map(_named, found["model"], found["n_layers"])))


def curves(records: Sequence[Record]) -> pd.DataFrame:
    """Learning curves of at least one record with columns of :func:`frame`."""
    columns = ["model", "n_layers", "shift", "place", "seed"]
    return curves_with(records, frame(records)[columns])


def answered(records: Sequence[Record]) -> pd.DataFrame:
    """What pair 43 is answered at the end, for readers: a row a control or a MAMBA of its depth, a
    column for the pairs as whose answers its own count, and the mean over seeds in percent; of runs
    that say so (the first ones did not look)."""
    table = beside_controls(frame(records))
    names = [name for name in table if str(name).startswith("answered_as_")]
    if not names:
        return pd.DataFrame()
    kept = table.dropna(subset=names)
    found = (100 * kept.groupby("place", sort=False)[names].mean()).round(1).reset_index()
    return found.rename(columns=lambda name: name.removeprefix("answered_as_"))


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
