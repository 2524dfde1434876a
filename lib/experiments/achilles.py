"""Chapter "Achilles' Heel of Mamba" (arXiv 2509.17514): composite or symmetric?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib.config import from_dict
from lib.experiments import Context, Experiment, Outcome
from lib.experiments._model_names import depth, model_parts
from lib.experiments._training import Study, check_cell, train_cells
from lib.models.config import (
    InitialisationConfig,
    LanguageModelConfig,
    Mamba1Config,
    Mamba2Config,
    Mamba3Config,
)
from lib.store import Record
from lib.tasks import full_symmetry
from lib.tasks.composite import CompositeTask, Split, build, third_party
from lib.tasks.full_symmetry import SymmetryTask
from lib.training.config import TrainingConfig

if TYPE_CHECKING:
    import torch

    from lib.models.language_model import LanguageModel

WATCHED = ("composite", "symmetric", "seen")


@dataclass(frozen=True)
class CompositeCell:
    """One training run on the composite function task, or on its relative of full symmetry."""

    task: CompositeTask | SymmetryTask
    model: LanguageModelConfig
    training: TrainingConfig
    seed: int

    def __post_init__(self) -> None:
        check_cell(self)


def mamba2_model(
    n_layers: int, gamma: float | None, d_state: int = 128, tied: bool = False, d_model: int = 32
) -> LanguageModelConfig:
    """The paper's model (App. B to D), one SSM head. Where it is silent we choose: RMS norms before
    each block and at the end, gamma over the fan-in of embedding, projections and head, vocabulary
    201, and a head of its own or (`tied`) the embedding's weight, mamba_ssm's default."""
    return LanguageModelConfig(
        vocab_size=201,
        n_layers=n_layers,
        pattern=(Mamba2Config(d_model=d_model, d_state=d_state, headdim=2 * d_model),),
        tie_embeddings=tied,
        initialisation=InitialisationConfig(gamma=gamma),
    )


def mamba3_block(d_model: int, d_state: int = 128) -> Mamba3Config:
    """A block of Mamba-3, which has no short convolution, with one head as the paper's models."""
    return Mamba3Config(d_model=d_model, d_state=d_state, headdim=2 * d_model)


def third_party_model(n_layers: int, gamma: float) -> LanguageModelConfig:
    """The third party's Mamba-1 (github.com/hlife0/mamba-achilles): tied embedding, gamma over the
    output width on every weight matrix, the kernel included, and every bias zero. Its 100 tokens
    are padded to 104, as mamba_ssm does."""
    return LanguageModelConfig(
        vocab_size=104,
        n_layers=n_layers,
        pattern=(Mamba1Config(d_model=32, d_state=128),),
        tie_embeddings=True,
        initialisation=InitialisationConfig(
            gamma=gamma,
            scope=("embedding", "linear", "dt_proj", "conv", "head"),
            fan="output",
            zero_biases=True,
        ),
    )


THIRD_PARTY_TRAINING = TrainingConfig(epochs=200, lr_by="epoch", drop_last=False)


def composite_cells(profile: str) -> list[CompositeCell]:
    """Cells of ``achilles.composite``.

    paper: the paper's protocol (Mamba-2, 7 layers, gamma 1.0, 3 seeds), once with a head of its own
    and once with the head tied to the embedding, since the paper does not say. matched: the same on
    the third party's data, so that only the data differ; its own model is a cell of
    ``achilles.phase_diagram_mamba1``. quick: two layers, little data, for two processor cores.
    """
    if profile == "quick":
        task = CompositeTask(train_per_pair=600, test_per_pair=60)
        training = TrainingConfig(epochs=8, warmup_epochs=1, batch_size=150, lr_peak=6e-3)
        model = mamba2_model(2, 1.0, d_state=32)
        return [CompositeCell(task, model, training, seed) for seed in (1, 2)]
    data = CompositeTask() if profile == "paper" else third_party()
    return [
        CompositeCell(data, mamba2_model(7, 1.0, tied=tied), TrainingConfig(), seed)
        for tied in (False, True)
        for seed in (1, 2, 3)
    ]


def pinned_cells() -> list[CompositeCell]:
    """A run of 30 steps that ``verify`` repeats: both blocks would do, Mamba-2 is published."""
    task = CompositeTask(train_per_pair=100, test_per_pair=20)
    training = TrainingConfig(epochs=3, warmup_epochs=1, batch_size=150, lr_peak=4e-3)
    return [CompositeCell(task, mamba2_model(2, 1.0, d_state=16), training, 7)]


def composite_readable(cell: CompositeCell) -> str:
    """For example ``mamba2-L7-g1.0-s1`` or ``mamba1-L7-g1.0-mod100-s42``: what differs from the
    paper's model, task or training as we read them is named."""
    parts = [*model_parts(cell.model), *_task_parts(cell.task)]
    if cell.training.spare_dynamics:
        parts.append("spare")
    return "-".join([*parts, f"s{cell.seed}"])


def in_words(cell: CompositeCell) -> str:
    """A run for readers: "Mamba-2, 2 layers, gamma 1, tied weights, seed 1"."""
    model, block = cell.model, cell.model.pattern[0].kind
    name = {"mamba1": "Mamba-1", "mamba2": "Mamba-2", "attention": "Transformer"}.get(block, block)
    layers, gamma = depth(model), model.initialisation.gamma
    parts = [name, f"{layers} layer{'s' if layers != 1 else ''}"]
    parts.append("official initialisation" if gamma is None else f"gamma {gamma:g}")
    parts.append("tied weights" if model.tie_embeddings else "own output weights")
    return ", ".join([*parts, f"seed {cell.seed}"])


def _task_parts(task: CompositeTask | SymmetryTask) -> list[str]:
    return [
        *([f"shift{task.second_shift_of_4}"] if isinstance(task, SymmetryTask) else []),
        *([f"mod{task.modulus}"] if task.modulus else []),
        *([f"len{task.length}"] if task.length != 8 else []),
        *(["inner"] if not task.pair_may_end else []),
        *(["from0"] if task.position_base == 0 and task.modulus is None else []),
    ]


def summarise(curves: pd.DataFrame, watched: Sequence[str] = WATCHED) -> dict[str, float | None]:
    """Best and final accuracies. "Best" is over all epochs, separately for each label, as the
    paper's figure must be read (protocol section 0); "by tens" over every tenth, as the third
    party logged them.

    Args:
        watched: columns of `curves` that hold accuracies.
    """
    out: dict[str, float | None] = {"epochs": float(len(curves))}
    if not len(curves):
        return out
    tens = curves[curves["epoch"] % 10 == 0]
    for name in watched:
        best = curves[name].idxmax()
        out[f"best_{name}"] = float(curves.loc[best, name])
        out[f"best_{name}_epoch"] = float(curves.loc[best, "epoch"])
        out[f"best_{name}_by_tens"] = float(tens[name].max()) if len(tens) else None
        out[f"final_{name}"] = float(curves[name].iloc[-1])
    out["final_train_loss"] = float(curves["train_loss"].iloc[-1])
    out["final_train_accuracy"] = float(curves["train_accuracy"].iloc[-1])
    return out


def curves_with(records: Sequence[Record], table: pd.DataFrame) -> pd.DataFrame:
    """Learning curves of at least one record with the columns of `table`, which has a row for each
    record, in their order."""
    rows = table.to_dict("records")
    parts = [record.read_curves().assign(**row) for record, row in zip(records, rows, strict=True)]
    return pd.concat(parts, ignore_index=True)


def _built(task: CompositeTask | SymmetryTask, seed: int) -> tuple[Split, Split]:
    """Training and test split."""
    return full_symmetry.build(task, seed) if isinstance(task, SymmetryTask) else build(task, seed)


@lru_cache(maxsize=4)  # runs that train together differ in few seeds
def _held_out(task: CompositeTask, seed: int) -> Split:
    """The test sequences of a run with pair 43."""
    few = dataclasses.replace(task, train_per_pair=1, train_total=None)  # test draws are their own
    _, test = _built(few, seed)
    return test.take(test.where(43))


def held_out_answers(model: LanguageModel, cell: CompositeCell) -> dict[str, float]:
    """What a model answers to pair 43: ``answer_offset_-10`` is the share of the test sequences
    whose answer is the key - 10. An offset that no answer has is no metric."""
    from lib.analysis.composite import OFFSET, answer_offsets

    test = _held_out(cell.task, cell.seed).to(model.embedding.weight.device)
    found = answer_offsets(model, test, modulus=cell.task.modulus)
    return {f"{OFFSET}{offset:d}": share for offset, share in found.items()}


def answered_offsets(metrics: dict[str, float]) -> dict[int, float]:
    """:func:`held_out_answers` of a record's metrics: offset to share, empty where the run did not
    look (the first ones)."""
    from lib.analysis.composite import OFFSET

    return {
        int(name.removeprefix(OFFSET)): share
        for name, share in metrics.items()
        if name.startswith(OFFSET)
    }


def without_offsets(metrics: dict[str, float]) -> dict[str, float]:
    """A record's metrics but those of :func:`held_out_answers`, too many for a row of a table."""
    from lib.analysis.composite import OFFSET

    return {name: value for name, value in metrics.items() if not name.startswith(OFFSET)}


def composite_study(keep_weights: Callable[[Any], bool] = lambda cell: True) -> Study:
    """How composite cells are trained and measured.

    Args:
        keep_weights: whether the final weights of a cell are part of its outcome.
    """
    from lib.analysis.composite import last_token_loss, rates, rates_by_pair, stacked

    def data(task: CompositeTask, seed: int) -> tuple[tuple[torch.Tensor, ...], Split]:
        train, test = _built(task, seed)
        return (train.tokens, train.labels), test

    return Study(
        data=data,
        stacked=stacked,
        loss=last_token_loss,
        evaluate=rates,
        summarise=summarise,
        readable=composite_readable,
        final=rates_by_pair,
        inspect=held_out_answers,
        keep_weights=keep_weights,
    )


def run_composite(
    cells: Sequence[CompositeCell],
    context: Context,
    keep_weights: Callable[[CompositeCell], bool] = lambda cell: True,
) -> Iterator[Outcome]:
    """Train the cells: see :func:`lib.experiments._training.train_cells`.

    Args:
        keep_weights: whether the final weights of a cell are part of its outcome.
    """
    return train_cells(cells, context, composite_study(keep_weights))


def by_head(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by what their output weights are: "own" or "tied" to the embedding."""
    groups: dict[str, list[Record]] = {"own": [], "tied": []}
    for record in records:
        tied = from_dict(CompositeCell, record.config).model.tie_embeddings
        groups["tied" if tied else "own"].append(record)
    return {name: group for name, group in groups.items() if group}


def load_model(record: Record, device: str = "cpu") -> tuple[LanguageModel, CompositeCell]:
    """A published model with its cell, ready to answer.

    Raises:
        ValueError: the record kept no weights.
    """
    from lib.models.language_model import build_language_model
    from lib.training.checkpoints import load_checkpoint

    path = record.weights_path()
    if path is None:
        raise ValueError(f"record {record.name} kept no weights; run its cell again to have them")
    tensors, _ = load_checkpoint(path)
    cell = from_dict(CompositeCell, record.config)
    model = build_language_model(cell.model, seed=0, device=device)
    model.load_state_dict(tensors)
    return model.eval(), cell


def example_model(records: Sequence[Record], seed: int) -> tuple[LanguageModel, torch.Tensor, str]:
    """A model of the composite task, one of its test sequences (length,), and what model it is:
    the first of `records` that kept its weights, else an untrained one of the paper profile."""
    from lib.models.language_model import build_language_model

    record = next((r for r in records if r.weights), None)
    if record is not None:
        model, cell = load_model(record)
        title = f"trained {in_words(cell)}"
    else:
        cell = composite_cells("paper")[0]
        model, title = build_language_model(cell.model, seed=seed), "untrained model"
    _, test = build(dataclasses.replace(cell.task, test_per_pair=1), seed)
    return model, test.tokens[0], title


def reevaluate_composite(record: Record) -> dict[str, float]:
    """Final accuracies measured again from the record's weights and freshly built test data."""
    from lib.analysis.composite import accuracies

    model, cell = load_model(record)
    _, test = build(cell.task, cell.seed)
    found = accuracies(model, test, by_pair=True)
    rates = {k if k.startswith("pair_") else f"final_{k}": v for k, v in found.items()}
    return {**rates, **held_out_answers(model, cell)}


def composite_frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a finished record: block, data, n_layers, gamma, seed and every metric but those of
    :func:`held_out_answers`."""
    rows: list[dict[str, Any]] = []
    for record in records:
        cell = from_dict(CompositeCell, record.config)
        rows.append(
            {
                "block": cell.model.pattern[0].kind,
                "data": "paper" if cell.task.modulus is None else "third party",
                "n_layers": depth(cell.model),
                "gamma": cell.model.initialisation.gamma,
                "head": "tied" if cell.model.tie_embeddings else "own",
                "seed": cell.seed,
                "status": record.status,
                **without_offsets(record.metrics),
            }
        )
    return pd.DataFrame(rows)


EXPERIMENTS = (
    Experiment(
        name="achilles.composite",
        title="Composite or symmetric? The composite function task",
        protocol=1,
        notebook="notebooks/achilles/composite.ipynb",
        cells=composite_cells,
        readable=composite_readable,
        run=run_composite,
        frame=composite_frame,
        reevaluate=reevaluate_composite,
        pinned=pinned_cells,
    ),
)
