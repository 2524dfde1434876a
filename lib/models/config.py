"""Configs of the stack and of how it starts; those of the blocks come along."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from lib.config import added_later, require
from lib.models.blocks import (
    AttentionConfig,
    BlockConfig,
    FeedForwardConfig,
    GRUConfig,
    Mamba1Config,
    Mamba2Config,
    Mamba3Config,
    MoEConfig,
    counts,
    positive,
)

__all__ = [
    "AttentionConfig",
    "BlockConfig",
    "FeedForwardConfig",
    "GRUConfig",
    "InitialisationConfig",
    "LanguageModelConfig",
    "Mamba1Config",
    "Mamba2Config",
    "Mamba3Config",
    "MoEConfig",
]

POSITIONAL_KINDS = ("none", "learned", "sinusoidal")
SCOPES = ("embedding", "positional", "linear", "dt_proj", "conv", "head")


@dataclass(frozen=True)
class InitialisationConfig:
    """How weights start.

    Attributes:
        gamma: None for the official initialisation. Else every tensor in `scope` is drawn from
            N(0, (width ** -gamma) ** 2), arXiv 2509.17514, section 3.
        scope: which tensors gamma covers, of "embedding", "positional", "linear" (in_proj,
            out_proj, x_proj; of attention and feed-forward blocks too), "dt_proj", "conv", "head".
            The paper does not say. A_log, D, the dt bias and norms are never covered.
        fan: width is the fan-in (in_features; d_model for embeddings; d_conv for the kernel),
            or, for "output", the first size of the tensor (the third party's reading).
        zero_biases: start every bias at zero, dt's included (third party); dt then leaves
            [dt_min, dt_max].
        expert_fan: width of an expert's maps is their fan-in ("expert") or, by mistake, rows times
            columns ("stack"), as a library's default for a tensor of three axes has it: they then
            start too small by the root of their other width. The number of experts does not enter.
    """

    gamma: float | None = None
    scope: tuple[str, ...] = ("embedding", "positional", "linear", "head")
    fan: Literal["fan_in", "output"] = "fan_in"
    zero_biases: bool = False
    expert_fan: Literal["expert", "stack"] = added_later("expert")

    def __post_init__(self) -> None:
        fits = self.gamma is None or 0 <= self.gamma < math.inf
        require(self, "gamma", fits, "None, or 0 or more and finite")
        # a list, or a name twice, would make another cell of the same initialisation
        fits = isinstance(self.scope, tuple) and set(self.scope) <= set(SCOPES)
        fits = fits and len(set(self.scope)) == len(self.scope)
        require(self, "scope", fits, f"a tuple of different names of {', '.join(SCOPES)}")
        require(self, "fan", self.fan in ("fan_in", "output"), "fan_in, output")
        require(self, "expert_fan", self.expert_fan in ("expert", "stack"), "expert, stack")


@dataclass(frozen=True)
class LanguageModelConfig:
    """A stack of blocks between an embedding and a head.

    Attributes:
        vocab_size: tokens (v).
        n_layers: blocks in the stack; of a Transformer, attention and feed-forward each count.
        pattern: block configs, repeated over the layers (one for a plain stack, more for hybrids,
            attention and feed-forward for a Transformer); all of one d_model.
        pre_norm: each block has a norm, where `norm_place` says; False for no norm at all.
        final_norm: a norm before the head.
        tie_embeddings: the head shares the embedding's weight.
        positional_encoding: "none", "learned" or "sinusoidal", added to the embeddings.
        max_length: positions that the encoding covers; needed unless it is "none".
        norm_eps: of all norms.
        norm_place: a block's norm stands "before" it, x + block(norm(x)), or "after" the sum,
            norm(x + block(x)), as arXiv 2509.17514, Fig. 1, draws its Transformer.
        norm_kind: of blocks' norms and the final one: "rms", or "layer", which takes the mean away
            first and has a bias, as that Transformer's. Norms inside a block stay its own.
    """

    vocab_size: int
    n_layers: int
    pattern: tuple[BlockConfig, ...]
    pre_norm: bool = True
    final_norm: bool = True
    tie_embeddings: bool = False
    positional_encoding: Literal["none", "learned", "sinusoidal"] = "none"
    max_length: int | None = None
    norm_eps: float = 1e-5
    initialisation: InitialisationConfig = field(default_factory=InitialisationConfig)
    norm_place: Literal["before", "after"] = added_later("before")
    norm_kind: Literal["rms", "layer"] = added_later("rms")

    def __post_init__(self) -> None:
        require(self, "vocab_size", counts(self.vocab_size), "at least 1, whole")
        require(self, "n_layers", counts(self.n_layers), "at least 1, whole")
        fits = isinstance(self.pattern, tuple) and all(
            isinstance(block, BlockConfig) for block in self.pattern
        )
        fits = fits and len({block.d_model for block in self.pattern}) == 1
        wanted = "a tuple of at least one block config, all of the same d_model"
        require(self, "pattern", fits, wanted)
        kinds = ", ".join(POSITIONAL_KINDS)
        require(self, "positional_encoding", self.positional_encoding in POSITIONAL_KINDS, kinds)
        spared = self.positional_encoding == "none" and self.max_length is None
        fits = spared or counts(self.max_length)
        wanted = f"at least 1, whole, with {self.positional_encoding} positions"
        require(self, "max_length", fits, wanted)
        require(self, "norm_eps", positive(self.norm_eps), "more than 0, finite")
        # without norms their place and kind mean nothing, and two names would be one model
        places = ("before", "after") if self.pre_norm else ("before",)
        wanted = f"{', '.join(places)}, with pre_norm {self.pre_norm}"
        require(self, "norm_place", self.norm_place in places, wanted)
        norms = ("rms", "layer") if self.pre_norm or self.final_norm else ("rms",)
        wanted = f"{', '.join(norms)}, with pre_norm {self.pre_norm}, final_norm {self.final_norm}"
        require(self, "norm_kind", self.norm_kind in norms, wanted)

    @property
    def d_model(self) -> int:
        """Width of the residual stream (m)."""
        return self.pattern[0].d_model

    @property
    def blocks(self) -> tuple[BlockConfig, ...]:
        """One config a layer."""
        return tuple(self.pattern[i % len(self.pattern)] for i in range(self.n_layers))
