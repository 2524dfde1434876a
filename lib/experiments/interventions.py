"""Looking into trained models of the composite task: which tokens carry the answer, and where.

Experiment ``achilles.interventions`` of the chapter "Achilles' Heel of Mamba" (arXiv 2509.17514,
Figs. 5, 6 and 12). Its cells are composite cells; when one has been trained, its model is blocked,
substituted and measured, and its weights are kept, for pages that draw it or let a reader cut it.
The paper does not say which models it opened, so there are several. The third party's results name
its checkpoint: 7 layers, gamma 1, seed 42.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib.analysis.routes import NAMES, USUAL, model_name
from lib.experiments import Context, Experiment, Outcome
from lib.experiments._asked_now import ENDS, ENDS_TEXT
from lib.experiments._asked_now import alike_untouched as alike_untouched
from lib.experiments._asked_now import kept_of_held_out as kept_of_held_out
from lib.experiments._asked_now import read_later_table as read_later_table
from lib.experiments._inspection import CHOICES_TEXT, inspect
from lib.experiments._training import train_cells
from lib.experiments.achilles import (
    THIRD_PARTY_TRAINING,
    CompositeCell,
    composite_frame,
    composite_readable,
    composite_study,
    depth,
    in_words,
    load_model,
    mamba2_model,
    reevaluate_composite,
    third_party_model,
)
from lib.store import Record
from lib.tasks.composite import CompositeTask, third_party
from lib.training.config import TrainingConfig

if TYPE_CHECKING:
    from lib.models.language_model import LanguageModel
    from lib.tasks.composite import Split

NAME = "achilles.interventions"
LAYERS = USUAL  # 2, as drawn in Fig. 5, and as in Fig. 12
GAMMAS = (0.5, 1.0, 1.5, 2.0)  # Fig. 12 has 1.0
THIRD_PARTY_GAMMAS = (0.5, 1.0)
OPENED = (7, 1.0)  # layers and gamma of the model that the third party opened
SEEDS = (1, 2, 3)
THIRD_PARTY_SEEDS = (42, 1, 2)


def cells(profile: str) -> list[CompositeCell]:
    """Cells of a profile: the paper's Mamba-2 at four gammas and the third party's Mamba-1 at two,
    two layers each, then the one that it opened, three seeds. quick: one of each block on little
    data. matched: none."""
    if profile == "quick":
        # few keys, because every key is looked at in every place
        task = CompositeTask(key_max=31, train_per_pair=300, test_per_pair=30)
        training = TrainingConfig(epochs=8, warmup_epochs=1, batch_size=150, lr_peak=6e-3)
        theirs = dataclasses.replace(third_party(), key_max=31, train_total=4_500, test_per_pair=30)
        other = third_party_model(LAYERS, 1.0)
        block: Any = other.pattern[0]  # a Mamba-1 block
        other = dataclasses.replace(other, pattern=(dataclasses.replace(block, d_state=16),))
        model = mamba2_model(LAYERS, 1.0, d_state=16, tied=True)
        return [
            CompositeCell(task, model, training, 1),
            CompositeCell(theirs, other, training, 1),
        ]
    if profile != "paper":
        return []
    ours = [
        CompositeCell(
            CompositeTask(), mamba2_model(LAYERS, gamma, tied=True), TrainingConfig(), seed
        )
        for gamma in GAMMAS
        for seed in SEEDS
    ]
    theirs_ = [
        CompositeCell(third_party(), third_party_model(n, gamma), THIRD_PARTY_TRAINING, seed)
        for n, gamma in (*((LAYERS, gamma) for gamma in THIRD_PARTY_GAMMAS), OPENED)
        for seed in THIRD_PARTY_SEEDS
    ]
    return [*ours, *theirs_]


def run(cells: Sequence[CompositeCell], context: Context) -> Iterator[Outcome]:
    """Train the cells and look into each."""
    study = dataclasses.replace(composite_study(), inspect=inspect)
    return train_cells(cells, context, study)


@dataclass(frozen=True)
class Opened:
    """A model to look into.

    Attributes:
        model: on the processor, in eval mode.
        title: which it is.
        task: what it was trained on.
        each: sequences with pair 43, one for each place of the key, each with another key.
    """

    model: LanguageModel
    title: str
    task: CompositeTask
    each: Split

    @property
    def name(self) -> str:
        """Which it is among models that differ in depth and gamma: "4 layers, γ 1", of another
        block than the paper's "Mamba-1, 2 layers, γ 1"."""
        config = self.model.config
        block, gamma = config.pattern[0].kind, config.initialisation.gamma
        start = "official start" if gamma is None else f"γ {gamma:g}"
        other = "" if block == "mamba2" else f"{NAMES.get(block, block)}, "
        return f"{other}{depth(config)} layers, {start}"

    @property
    def one(self) -> Split:
        """The sequence with the key in third place."""
        return self.with_pair(43)

    def with_pair(self, pair: int, place: int = 2) -> Split:
        """The sequence whose key stands at `place`, counted from 0, with a pair, written as 43."""
        from lib.tasks.interventions import twin

        return twin(self.task, self.each.take(slice(place, place + 1)), pair)


def open_model(records: Sequence[Record], seed: int, wanted: str = "") -> Opened:
    """The first of `records` that kept its weights and whose readable name holds `wanted`; if there
    is none, an untrained model of the paper's kind, and its title says so. Which sequences it is
    shown on hangs on the task and `seed` alone."""
    import torch

    from lib.models.language_model import build_language_model
    from lib.tasks.interventions import intervention_split

    found = [r for r in records if r.weights and wanted in r.readable]
    if found:
        model, cell = load_model(found[0])
        title = f"trained {in_words(cell)}"
    else:
        cell = CompositeCell(
            CompositeTask(), mamba2_model(LAYERS, 1.0, tied=True), TrainingConfig(), seed
        )
        model = build_language_model(cell.model, seed=seed).eval()
        title = "untrained model"
    split = intervention_split(cell.task, seed, pair_may_end=False)
    each, places = [], int(split.index.max()) + 1
    for place in range(places):  # keys from small to large, the middle one in the middle place
        rows = (split.where(43) & (split.index == place)).nonzero().flatten().tolist()
        each.append(rows[len(rows) * (2 * place + 1) // (2 * places)])
    return Opened(model, title, cell.task, split.take(torch.tensor(each)))


def reevaluate(record: Record) -> dict[str, float]:
    """Accuracies, agreements and cosines measured again from the record's weights."""
    model, cell = load_model(record)
    return {**reevaluate_composite(record), **inspect(model, cell)}


def by_pair(frame: pd.DataFrame, kind: str, end: str) -> list[dict[int, float]]:
    """For each run, pair (43) to agreement; under substitution without 43, its own twin.

    Args:
        kind: "blocking" or "substitution". end: a key of ENDS.
    """
    found = {c: m for c in frame.columns if (m := re.fullmatch(rf"{kind}_{end}_(\d\d)", c))}
    if kind == "substitution":
        found = {c: m for c, m in found.items() if m[1] != "43"}
    return [{int(m[1]): float(row[c]) for c, m in found.items()} for _, row in frame.iterrows()]


def by_model(frame: pd.DataFrame, kind: str, end: str) -> dict[str, list[dict[int, float]]]:
    """:func:`by_pair` of the runs of each model that differ in the seed alone, the paper's block
    first, shallow ones before deep ones; names are for readers."""
    models = frame.groupby(["block", "n_layers", "gamma"]) if len(frame) else ()
    found = {
        (list(NAMES).index(block), n_layers, gamma): (
            f"{NAMES[block]}, {n_layers:g} layers, γ = {gamma:g}",
            by_pair(rows, kind, end),
        )
        for (block, n_layers, gamma), rows in models
    }
    return dict(found[key] for key in sorted(found))


def usual(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs of models of two layers."""
    return frame[frame["n_layers"] == LAYERS] if len(frame) else frame


def choices(frame: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Mean agreement of every run under each choice that the paper leaves open, in long form:
    model, seed, choice ("pair may end; after pair") and agreement."""
    pattern = rf"{kind}_({'|'.join(ENDS)})_mean(?:_(\w+))?"
    return _long(
        frame, pattern, "agreement",
        lambda end, choice: f"{ENDS_TEXT[end]}; {CHOICES_TEXT.get(choice, choice)}",
    )  # fmt: skip


def cosines(frame: pd.DataFrame) -> pd.DataFrame:
    """Largest absolute cosine between two taps, in long form: model, seed, choice ("layer 2, at the
    end") and cosine."""
    times = {"start": "at the start", "final": "at the end"}
    table = _long(
        frame, r"cosine_(start|final)_layer(\d+)", "cosine",
        lambda when, layer: f"layer {int(layer) + 1}, {times[when]}",
    )  # fmt: skip
    if not len(table):
        return table
    # columns of deeper layers come after all those of shallower models: ends first, each by layer
    return table.sort_values("choice", key=lambda c: c.str.endswith("start"), kind="stable")


def _long(
    frame: pd.DataFrame, pattern: str, value: str, choice: Callable[..., str]
) -> pd.DataFrame:
    """Columns that match `pattern` in long form: model, seed, choice (made of the pattern's two
    groups) and `value`."""
    found = {c: m for c in frame.columns if (m := re.fullmatch(pattern, c))}
    rows = [
        {
            "model": f"{model_name(row['block'], row['n_layers'])}, γ {row['gamma']:g}",
            "seed": row["seed"],
            "choice": choice(m[1], m[2]),
            value: row[column],
        }
        for _, row in frame.iterrows()
        for column, m in found.items()
        if pd.notna(row[column])  # a model of fewer layers has none
    ]
    return pd.DataFrame(rows)


EXPERIMENTS = (
    Experiment(
        name=NAME,
        title="Which tokens carry the answer: blocking, substitution, kernels",
        protocol=1,
        notebook="notebooks/achilles/blocking.ipynb",
        cells=cells,
        readable=composite_readable,
        run=run,
        frame=composite_frame,
        reevaluate=reevaluate,
    ),
)
