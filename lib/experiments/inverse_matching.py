"""The inverse sequence matching task: Mamba, Mamba with a bypass, Transformer (arXiv 2509.17514,
section 5, Figs. 9 and 13 to 17)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib.config import from_dict
from lib.experiments import Context, Experiment, Outcome
from lib.experiments._training import Study, check_cell, train_cells
from lib.experiments.achilles import (
    curves_with,
    depth,
    mamba2_model,
    mamba3_block,
    model_parts,
    summarise,
)
from lib.experiments.transformer import transformer
from lib.models.config import LanguageModelConfig
from lib.store import Record
from lib.tasks.inverse_matching import InverseTask, MatchingTests, build
from lib.training.config import TrainingConfig

if TYPE_CHECKING:
    import torch

NAME = "achilles.inverse_matching"
D_MODEL = 128
MAMBA_LAYERS = (2, 3, 4, 5)  # Figs. 13 and 14
GAMMAS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SEEDS = (1, 2, 3)
TRAINING = TrainingConfig(batch_size=1024)
WATCHED = ("test", "ood")
KINDS = {
    "mamba": "Mamba-2",
    "residual": "Mamba-2, residual bypass and positions",
    "gated": "Mamba-2, gated bypass and positions",
    "transformer": "Transformer",
}
# The bypasses come with positions, here as in the paper: each of the two by itself, and no
# convolution to be passed by, without positions and with; a kernel that cannot tell order, and
# Mamba-3, which has no short convolution. Of these there are no published numbers.
CONTROLS = {
    "positions": "Mamba-2, positions alone",
    "bypass": "Mamba-2, residual bypass alone",
    "bare": "Mamba-2, no convolution",
    "bare positions": "Mamba-2, no convolution, positions",
    "palindromic": "Mamba-2, palindromic kernel",
    "mamba3": "Mamba-3",
    "mamba3 positions": "Mamba-3, positions",
}
CONTROL_GAMMAS = (0.6, 0.8, 1.0)
# of each Mamba-2: kernel, bypass, whether it has learned positions
BUILT = {
    "mamba": ("standard", "none", False),
    "residual": ("standard", "residual", True),
    "gated": ("standard", "gated", True),
    "positions": ("standard", "none", True),
    "bypass": ("standard", "residual", False),
    "bare": ("none", "none", False),
    "bare positions": ("none", "none", True),
    "palindromic": ("palindromic", "none", False),
}
OWN = ", own output weights"


@dataclass(frozen=True)
class MatchingCell:
    """One training run on the inverse sequence matching task."""

    task: InverseTask
    model: LanguageModelConfig
    training: TrainingConfig
    seed: int

    def __post_init__(self) -> None:
        check_cell(self)


def model_of(
    kind: str, n_layers: int, gamma: float, length: int, d_model: int = D_MODEL,
    d_state: int = 128, tied: bool = True,
) -> LanguageModelConfig:  # fmt: skip
    """The model called `kind` (see KINDS and CONTROLS) for sequences of `length`. Bypasses stand
    beside the convolution of x, B and C, and come with learned positions, but for the control.

    Args:
        tied: whether a Mamba's output weights are its embedding, as in the phase diagram; a
            Transformer's never are. If they are, the embeddings of tokens that training never shows
            are trained after all: each step pushes them away from the answer as it does all others.
    """
    if kind == "transformer":
        return transformer(n_layers, gamma, d_model=d_model, max_length=length)
    plain = mamba2_model(n_layers, gamma, d_state=d_state, tied=tied, d_model=d_model)
    block: Any = plain.pattern[0]
    if kind.startswith("mamba3"):  # one head, as the others
        block, placed = mamba3_block(d_model, d_state), kind.endswith("positions")
    else:
        kernel, bypass, placed = BUILT.get(kind, ("standard", kind, True))
        block = dataclasses.replace(block, conv_kind=kernel, conv_bypass=bypass)
    if not placed:
        return dataclasses.replace(plain, pattern=(block,))
    return dataclasses.replace(
        plain, pattern=(block,), positional_encoding="learned", max_length=length
    )


def cells(profile: str) -> list[MatchingCell]:
    """Cells of a profile: the two-layer models of Figs. 9 and 15 to 17 first, then deeper Mambas,
    then the Mambas of two layers with output weights of their own, of which the paper says nothing;
    six gammas, three seeds each; last the CONTROLS, two layers, three gammas, three seeds. quick:
    each of KINDS once, small. matched: none."""
    if profile == "quick":
        task = InverseTask(layers=1, train_samples=600, test_samples=60, ood_samples=60)
        training = TrainingConfig(epochs=3, warmup_epochs=1, batch_size=100, lr_peak=6e-3)
        return [
            MatchingCell(task, model_of(kind, 1, 0.6, task.length, 32, 16), training, 1)
            for kind in KINDS
        ]
    if profile != "paper":
        return []
    grid: list[tuple[str, int, bool, tuple[float, ...]]] = [
        (kind, MAMBA_LAYERS[0], True, GAMMAS) for kind in KINDS
    ]
    grid += [("mamba", n_layers, True, GAMMAS) for n_layers in MAMBA_LAYERS[1:]]
    grid += [(kind, MAMBA_LAYERS[0], False, GAMMAS) for kind in KINDS if kind != "transformer"]
    grid += [(kind, MAMBA_LAYERS[0], True, CONTROL_GAMMAS) for kind in CONTROLS]
    tasks = {n_layers: InverseTask(layers=n_layers) for n_layers in MAMBA_LAYERS}
    return [
        MatchingCell(tasks[n], model_of(kind, n, gamma, tasks[n].length, tied=tied), TRAINING, seed)
        for kind, n, tied, gammas in grid
        for seed in SEEDS
        for gamma in gammas
    ]


def readable(cell: MatchingCell) -> str:
    """For example ``mamba2-L2-g0.6-tied-m128-residual-learned-s1``."""
    return "-".join([*model_parts(cell.model), f"s{cell.seed}"])


def run(cells: Sequence[MatchingCell], context: Context) -> Iterator[Outcome]:
    """Train the cells."""
    from lib.analysis.composite import last_token_loss
    from lib.analysis.inverse_matching import rates, stacked

    def data(task: InverseTask, seed: int) -> tuple[tuple[torch.Tensor, ...], MatchingTests]:
        train, tests = build(task, seed)
        return (train.tokens, train.labels), tests

    study = Study(
        data=data,
        stacked=stacked,
        loss=last_token_loss,
        evaluate=rates,
        summarise=partial(summarise, watched=WATCHED),
        readable=readable,
        keep_weights=lambda cell: False,
    )
    return train_cells(cells, context, study)


def kind_of(model: LanguageModelConfig) -> str:
    """Which of KINDS and CONTROLS a model is."""
    block: Any = model.pattern[0]
    if block.kind == "attention":
        return "transformer"
    if block.kind == "mamba3":
        return "mamba3" if model.positional_encoding == "none" else "mamba3 positions"
    built = block.conv_kind, block.conv_bypass, model.positional_encoding != "none"
    return next(kind for kind, parts in BUILT.items() if parts == built)


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a record: model (as in KINDS or CONTROLS, with its layers and, if so, OWN), n_layers,
    gamma, seed and every metric; ``final_train`` is the accuracy over the last epoch's batches."""
    rows: list[dict[str, Any]] = []
    names = KINDS | CONTROLS
    for record in records:
        cell = from_dict(MatchingCell, record.config)
        n_layers, kind = depth(cell.model), kind_of(cell.model)
        own = kind != "transformer" and not cell.model.tie_embeddings
        layers = "layer" if n_layers == 1 else "layers"
        rows.append(
            {
                "kind": kind,
                "model": f"{names[kind]}, {n_layers} {layers}{OWN if own else ''}",
                "n_layers": n_layers,
                "gamma": cell.model.initialisation.gamma,
                "seed": cell.seed,
                "status": record.status,
                **record.metrics,
                "final_train": record.metrics.get("final_train_accuracy"),
            }
        )
    return pd.DataFrame(rows)


def curves(records: Sequence[Record]) -> pd.DataFrame:
    """Learning curves with the columns ``model`` (as in :func:`frame`), ``gamma`` and ``seed``;
    ``train`` is the accuracy over an epoch's batches. Empty without records."""
    if not records:
        return pd.DataFrame(columns=["model", "gamma", "seed", "epoch", "train", *WATCHED])
    named = curves_with(records, frame(records)[["model", "gamma", "seed"]])
    return named.rename(columns={"train_accuracy": "train"})


EXPERIMENTS = (
    Experiment(
        name=NAME,
        title="The inverse sequence matching task",
        protocol=1,
        notebook="notebooks/achilles/inverse_matching.ipynb",
        cells=cells,
        readable=readable,
        run=run,
        frame=frame,
    ),
)
