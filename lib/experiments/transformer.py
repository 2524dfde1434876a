"""The phase diagram of a Transformer with Mamba's convolution, and of one without (arXiv
2509.17514, section 4.3 and Fig. 8).

If the convolution is what makes Mamba compose, a Transformer that is given the same convolution on
queries, keys and values should compose too. The paper names no widths and no positions; ours are
those of its other Transformer (inverse task) scaled to 32 channels.

With a convolution come SiLU, biases and kernels that gamma does not scale. A convolution of one tap
has all of these and reads no other token: what the two share, reading others does not explain.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lib.experiments import Experiment
from lib.experiments.achilles import (
    CompositeCell,
    composite_frame,
    composite_readable,
    depth,
    reevaluate_composite,
)
from lib.experiments.phase_diagram import GAMMAS, LAYERS, QUICK_TASK, QUICK_TRAINING, run_diagram
from lib.models.config import (
    AttentionConfig,
    FeedForwardConfig,
    InitialisationConfig,
    LanguageModelConfig,
)
from lib.tasks.composite import CompositeTask
from lib.training.config import TrainingConfig

CONVOLVED = "achilles.transformer_with_convolution"
PLAIN = "achilles.transformer"
POINTWISE = "achilles.transformer_pointwise"
SEEDS = (1, 2, 3)


def transformer(
    n_layers: int, gamma: float, *, d_model: int = 32, convolution: bool = False, taps: int = 4,
    vocab_size: int = 201, max_length: int = 8, positions: str = "learned",
) -> LanguageModelConfig:  # fmt: skip
    """The group's Transformer: one head, values twice as wide as the stream, a feed-forward map as
    wide as it, SiLU (arXiv 2509.17514, App. D); a layer norm after each sum, as in its Fig. 1;
    positions learned and an output layer of its own, as in the group's code for a sister paper.

    Args:
        n_layers: attention and feed-forward together are one.
        convolution: SiLU of a short convolution on queries, keys and values.
        taps: of that convolution; with one it reads no other token.
    """
    mixer = AttentionConfig(
        d_model=d_model, n_heads=1, d_qk=d_model, d_v=2 * d_model,
        conv_kind="standard" if convolution else "none", d_conv=taps,
    )  # fmt: skip
    return LanguageModelConfig(
        vocab_size=vocab_size,
        n_layers=2 * n_layers,
        pattern=(mixer, FeedForwardConfig(d_model=d_model, d_hidden=d_model, activation="silu")),
        norm_place="after",
        norm_kind="layer",
        final_norm=False,
        positional_encoding=positions,  # type: ignore[arg-type]
        max_length=None if positions == "none" else max_length,
        initialisation=InitialisationConfig(gamma=gamma),
    )


def cells(profile: str, convolution: bool, taps: int = 4) -> list[CompositeCell]:
    """Cells over the axes of the paper's map, by layers, then gamma, then seed: those of one depth
    train together. quick: two depths, two gammas, two seeds on little data. matched: none."""
    model = partial(transformer, convolution=convolution, taps=taps)
    if profile == "quick":
        return [
            CompositeCell(QUICK_TASK, model(n, gamma), QUICK_TRAINING, seed)
            for n in (2, 3)
            for gamma in (0.3, 1.0)
            for seed in (1, 2)
        ]
    if profile != "paper":
        return []
    return [
        CompositeCell(CompositeTask(), model(n, gamma), TrainingConfig(), seed)
        for n in LAYERS
        for gamma in GAMMAS
        for seed in SEEDS
    ]


def pointwise_cells(profile: str) -> list[CompositeCell]:
    """The cells of two layers, the depth of which all three kinds have run, with one tap."""
    found = cells(profile, convolution=True, taps=1)
    return [cell for cell in found if depth(cell.model) == 2]


def _experiment(name: str, title: str, grid: Callable[[str], list[CompositeCell]]) -> Experiment:
    return Experiment(
        name=name,
        title=title,
        protocol=1,
        notebook="notebooks/achilles/transformer_with_convolution.ipynb",
        cells=grid,
        readable=composite_readable,
        run=run_diagram,
        frame=composite_frame,
        reevaluate=reevaluate_composite,
        judged=name == CONVOLVED,  # the paper has no diagram of the others
    )


EXPERIMENTS = (
    _experiment(
        CONVOLVED,
        "The phase diagram of a Transformer with a nonlinear convolution",
        lambda profile: cells(profile, convolution=True),
    ),
    _experiment(
        PLAIN,
        "The phase diagram of a plain Transformer",
        lambda profile: cells(profile, convolution=False),
    ),
    _experiment(
        POINTWISE,
        "A Transformer with what comes with the convolution, reading no other token",
        pointwise_cells,
    ),
)
