"""Models of the composite task with one thing changed: what the ablations of the chapter
"Achilles' Heel of Mamba" (arXiv 2509.17514) are made of. See :mod:`lib.experiments.ablations`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lib.experiments.achilles import (
    THIRD_PARTY_TRAINING,
    CompositeCell,
    mamba2_model,
    mamba3_block,
    third_party_model,
)
from lib.models.config import FeedForwardConfig, LanguageModelConfig, Mamba1Config
from lib.tasks.composite import CompositeTask, third_party
from lib.training.config import TrainingConfig

QUICK_TASK = CompositeTask(train_per_pair=80, test_per_pair=30)
QUICK_TRAINING = TrainingConfig(epochs=3, warmup_epochs=1, batch_size=150, lr_peak=6e-3)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A base model with one thing changed.

    Attributes:
        task, model, training: of its cells.
    """

    task: CompositeTask
    model: LanguageModelConfig
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)

    def model_with(self, **changes: Any) -> Variant:
        """The stack changed."""
        return dataclasses.replace(self, model=dataclasses.replace(self.model, **changes))

    def block_with(self, **changes: Any) -> Variant:
        """Every mixer changed; feed-forward maps stay as they are."""
        blocks = tuple(
            block if isinstance(block, FeedForwardConfig) else dataclasses.replace(block, **changes)
            for block in self.model.pattern
        )
        return self.model_with(pattern=blocks)

    def start_with(self, **changes: Any) -> Variant:
        """The initialisation changed."""
        return self.model_with(
            initialisation=dataclasses.replace(self.model.initialisation, **changes)
        )

    def official_start_of(self, part: str) -> Variant:
        """A part of what gamma covers drawn as the official initialisation does."""
        scope = self.model.initialisation.scope
        return self.start_with(scope=tuple(kept for kept in scope if kept != part))

    def task_with(self, **changes: Any) -> Variant:
        """The data changed."""
        return dataclasses.replace(self, task=dataclasses.replace(self.task, **changes))

    def cell(self, seed: int) -> CompositeCell:
        """Its run with `seed`."""
        return CompositeCell(self.task, self.model, self.training, seed)


def base(n_layers: int, gamma: float) -> Variant:
    """The paper's protocol with output weights tied, as in the phase diagram."""
    return Variant(CompositeTask(), mamba2_model(n_layers, gamma, tied=True))


def third_party_base(n_layers: int, gamma: float) -> Variant:
    """The third party's protocol: its Mamba-1, its data, its schedule."""
    return Variant(third_party(), third_party_model(n_layers, gamma), THIRD_PARTY_TRAINING)


def all_one_variants(start: Variant) -> dict[str, Variant]:
    """The kernel of ones as the paper may have meant it: frozen or only a start, its bias trained
    or absent; beside the standard kernel."""
    return {
        "standard": start,
        "all-one": start.block_with(conv_kind="all_one"),
        "all-one, no bias": start.block_with(conv_kind="all_one", conv_bias=False),
        "all-one, trained": start.block_with(conv_kind="all_one", conv_frozen=False),
    }


def position_variants(start: Variant) -> dict[str, Variant]:
    """No encoding, a learned one, sines and cosines."""
    length = start.task.length
    return {
        "none": start,
        "learned": start.model_with(positional_encoding="learned", max_length=length),
        "sinusoidal": start.model_with(positional_encoding="sinusoidal", max_length=length),
    }


def beyond_variants(start: Variant) -> dict[str, Variant]:
    """Kernels that cannot tell order within a full window, no kernel, and a model without one."""
    width = start.model.d_model
    return {
        "standard": start,
        "palindromic": start.block_with(conv_kind="palindromic"),
        "no convolution": start.block_with(conv_kind="none"),
        "Mamba-3": start.model_with(pattern=(mamba3_block(width),)),
    }


def choices(start: Variant) -> dict[str, Variant]:
    """What the paper leaves open, one choice at a time; `start` itself is not among them."""
    block: Any = start.model.pattern[0]
    scope = start.model.initialisation.scope
    length_9 = start.task_with(length=9)
    if start.model.positional_encoding == "learned":
        length_9 = length_9.model_with(max_length=9)
    found = {
        "kernel starts with gamma too": start.start_with(scope=(*scope, "conv")),
        "embedding starts at 0.02": start.official_start_of("embedding"),
        "gamma by output width": start.start_with(fan="output"),
        "biases start at zero": start.start_with(zero_biases=True),
        "length 9": length_9,
        "pair never last": start.task_with(pair_may_end=False),
        "positions from 0": start.task_with(position_base=0),
    }
    if start.model.positional_encoding == "learned":
        found["sines and cosines"] = start.model_with(positional_encoding="sinusoidal")
    if block.kind == "attention":
        return found | _choices_of_transformers(start)
    if block.conv_kind == "all_one":
        found["no bias of the kernel"] = start.block_with(conv_bias=False)
        found["kernel trained from ones"] = start.block_with(conv_frozen=False)
        del found["kernel starts with gamma too"]  # ones stay ones
    mamba1 = Mamba1Config(d_model=block.d_model, d_state=block.d_state, conv_kind=block.conv_kind)
    return found | {
        "own output weights": start.model_with(tie_embeddings=False),
        "no norm before blocks": start.model_with(pre_norm=False),
        "no final norm": start.model_with(final_norm=False),
        "no decay of A, D, dt": dataclasses.replace(
            start, training=dataclasses.replace(start.training, spare_dynamics=True)
        ),
        "Mamba-1": start.model_with(pattern=(mamba1,)),
    }


def _choices_of_transformers(start: Variant) -> dict[str, Variant]:
    """Those that a Mamba does not have. The paper gives no widths, norms or positions for the
    Transformer of its Fig. 8."""
    mixer, forward = start.model.pattern
    width = start.model.d_model
    wider = dataclasses.replace(forward, d_hidden=4 * width)  # type: ignore[arg-type]
    return {
        "tied output weights": start.model_with(tie_embeddings=True),
        "norms before blocks": start.model_with(norm_place="before", final_norm=True),
        "RMS norms": start.model_with(norm_kind="rms"),
        "no positions": start.model_with(positional_encoding="none", max_length=None),
        "positions start at 0.02": start.official_start_of("positional"),
        "values as wide as keys": start.block_with(d_v=width),
        "feed-forward maps four times as wide": start.model_with(pattern=(mixer, wider)),
        "no causal mask": start.block_with(causal=False),
        "no bias of the kernel": start.block_with(conv_bias=False),
    }


def scaled(variants: Mapping[str, Variant]) -> dict[str, Variant]:
    """Variants at the size of the quick profile: small states, one or two layers, little data."""
    out = {}
    for name, variant in variants.items():
        task = dataclasses.replace(
            QUICK_TASK, length=variant.task.length, pair_may_end=variant.task.pair_may_end,
            position_base=variant.task.position_base, modulus=variant.task.modulus,
        )  # fmt: skip
        training = dataclasses.replace(
            QUICK_TRAINING, spare_dynamics=variant.training.spare_dynamics
        )
        small = dataclasses.replace(variant, task=task, training=training)
        if variant.model.pattern[0].kind != "attention":
            small = small.block_with(d_state=16)
        n_layers = 1 if variant.model.n_layers == 2 else 2  # two are one of a Transformer
        out[name] = small.model_with(n_layers=n_layers)
    return out
