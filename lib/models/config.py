"""Configs of blocks and of the stack: frozen, checked, derived sizes in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from lib.config import added_later, require

CONV_KINDS = ("standard", "all_one", "palindromic", "none")
BYPASSES = ("none", "residual", "gated")
POSITIONAL_KINDS = ("none", "learned", "sinusoidal")
FEED_FORWARD_ACTIVATIONS = ("silu", "gelu", "swiglu")
SCOPES = ("embedding", "positional", "linear", "dt_proj", "conv", "head")


def _counts(value: Any) -> bool:
    """A whole number from 1 on; True is not one, nor is 8.0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _positive(value: float) -> bool:
    return 0 < value < math.inf


def _check_common(config: Mamba1Config | Mamba2Config) -> None:
    for name in ("d_model", "d_state", "d_conv", "expand"):
        require(config, name, _counts(getattr(config, name)), "at least 1, whole")
    require(config, "conv_kind", config.conv_kind in CONV_KINDS, ", ".join(CONV_KINDS))
    fits = config.conv_frozen is None or config.conv_kind in ("standard", "all_one")
    wanted = f"None with {config.conv_kind}; True or False with standard, all_one"
    require(config, "conv_frozen", fits, wanted)
    require(config, "conv_bypass", config.conv_bypass in BYPASSES, ", ".join(BYPASSES))
    fits = config.conv_bypass == "none" or config.conv_kind != "none"
    require(config, "conv_bypass", fits, "none where conv_kind is none")
    require(config, "dt_min", _positive(config.dt_min), "more than 0, finite")
    fits = config.dt_min <= config.dt_max < math.inf
    require(config, "dt_max", fits, f"at least dt_min {config.dt_min}, finite")
    require(config, "dt_init_floor", _positive(config.dt_init_floor), "more than 0, finite")


@dataclass(frozen=True)
class Mamba1Config:
    """A Mamba-1 block (arXiv 2312.00752, section 3.4); defaults as in mamba_ssm.

    Attributes:
        d_model: width of the residual stream (m).
        d_state: state entries of a channel (n).
        d_conv: taps of the causal convolution (k).
        expand: d_inner / d_model.
        dt_rank: rank of the map that makes dt; None means ceil(d_model / 16).
        dt_min, dt_max, dt_init_floor: range of dt at initialisation, log-uniform, and its floor.
        dt_scale: scale of the initial dt map.
        conv_kind: "standard", "all_one" (kernel of ones, not trained), "palindromic" (trained, the
            same read from both ends) or "none".
        conv_bias: whether the convolution has a bias.
        conv_frozen: whether the kernel keeps the values that it starts with; None: only ones do.
        conv_bypass: "residual" or "gated": what the convolution covers is added to its output, or
            multiplied by it (arXiv 2509.17514, section 5.3); "none".
        bias: whether the projections in and out have one.
    """

    kind: ClassVar[str] = "mamba1"
    d_model: int
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    dt_rank: int | None = None
    dt_min: float = 1e-3
    dt_max: float = 0.1
    dt_init_floor: float = 1e-4
    dt_scale: float = 1.0
    conv_kind: Literal["standard", "all_one", "palindromic", "none"] = "standard"
    conv_bias: bool = True
    bias: bool = False
    conv_frozen: bool | None = added_later(None)
    conv_bypass: Literal["none", "residual", "gated"] = added_later("none")

    def __post_init__(self) -> None:
        _check_common(self)
        fits = self.dt_rank is None or _counts(self.dt_rank)
        require(self, "dt_rank", fits, "None or at least 1, whole")
        require(self, "dt_scale", _positive(self.dt_scale), "more than 0, finite")

    @property
    def d_inner(self) -> int:
        """Channels of the scan (d)."""
        return self.expand * self.d_model

    @property
    def rank(self) -> int:
        """`dt_rank` with its default filled in (r)."""
        return -(-self.d_model // 16) if self.dt_rank is None else self.dt_rank

    @property
    def conv_dim(self) -> int:
        """Channels that the convolution covers: x."""
        return self.d_inner


@dataclass(frozen=True)
class Mamba2Config:
    """A Mamba-2 block (arXiv 2405.21060, section 7); defaults as in mamba_ssm.

    Attributes beside those of :class:`Mamba1Config`:
        headdim: channels of a head (p); divides d_inner.
        n_groups: groups of heads that share B and C (g); divides n_heads.
        A_min, A_max: range of -A at initialisation, uniform.
        chunk_size: length up to which the quadratic form is used, and the chunk of the other.
    """

    kind: ClassVar[str] = "mamba2"
    d_model: int
    d_state: int = 128
    d_conv: int = 4
    expand: int = 2
    headdim: int = 64
    n_groups: int = 1
    A_min: float = 1.0
    A_max: float = 16.0
    dt_min: float = 1e-3
    dt_max: float = 0.1
    dt_init_floor: float = 1e-4
    conv_kind: Literal["standard", "all_one", "palindromic", "none"] = "standard"
    conv_bias: bool = True
    bias: bool = False
    chunk_size: int = 64
    conv_frozen: bool | None = added_later(None)
    conv_bypass: Literal["none", "residual", "gated"] = added_later("none")

    def __post_init__(self) -> None:
        _check_common(self)
        fits = _counts(self.headdim) and self.d_inner % self.headdim == 0
        require(self, "headdim", fits, f"a divisor of d_inner {self.d_inner}")
        fits = _counts(self.n_groups) and self.n_heads % self.n_groups == 0
        require(self, "n_groups", fits, f"a divisor of n_heads {self.n_heads}")
        require(self, "A_min", _positive(self.A_min), "more than 0, finite")
        fits = self.A_min <= self.A_max < math.inf
        require(self, "A_max", fits, f"at least A_min {self.A_min}, finite")
        require(self, "chunk_size", _counts(self.chunk_size), "at least 1, whole")

    @property
    def d_inner(self) -> int:
        """Channels of the scan (d = h p)."""
        return self.expand * self.d_model

    @property
    def n_heads(self) -> int:
        """Heads (h)."""
        return self.d_inner // self.headdim

    @property
    def conv_dim(self) -> int:
        """Channels that the convolution covers: x, B and C."""
        return self.d_inner + 2 * self.n_groups * self.d_state


@dataclass(frozen=True)
class AttentionConfig:
    """Causal softmax attention (arXiv 1706.03762, section 3.2); no norm, no residual.

    Attributes:
        d_model: width of the residual stream (m).
        n_heads: heads (h).
        d_qk: width of queries, and of keys, all heads together; None means d_model.
        d_v: width of values, all heads together; None means d_model.
        bias: whether the projections in and out have one.
        rope_theta: base of rotary positions (arXiv 2104.09864); None for none.
        conv_kind: "none", or a convolution with SiLU on queries, keys and values: the nonlinear
            convolution that arXiv 2509.17514, section 4.3, adds to a Transformer. "standard",
            "all_one" (kernel of ones, not trained) or "palindromic" (reads the same both ways).
        d_conv: taps of that convolution (k).
        conv_bias: whether it has a bias.
    """

    kind: ClassVar[str] = "attention"
    d_model: int
    n_heads: int = 1
    d_qk: int | None = None
    d_v: int | None = None
    bias: bool = False
    rope_theta: float | None = None
    conv_kind: Literal["standard", "all_one", "palindromic", "none"] = "none"
    d_conv: int = 4
    conv_bias: bool = True

    def __post_init__(self) -> None:
        for name in ("d_model", "n_heads", "d_conv"):
            require(self, name, _counts(getattr(self, name)), "at least 1, whole")
        for name in ("d_qk", "d_v"):
            own = getattr(self, name)
            width = self.d_model if own is None else own
            fits = _counts(width) and width % self.n_heads == 0
            wanted = f"None (d_model {self.d_model}) or whole, in multiples of n_heads"
            require(self, name, fits, f"{wanted} {self.n_heads}")
        require(self, "conv_kind", self.conv_kind in CONV_KINDS, ", ".join(CONV_KINDS))
        if self.rope_theta is not None:
            wanted = f"None, or more than 0 and finite with an even headdim_qk, {self.headdim_qk}"
            fits = _positive(self.rope_theta) and self.headdim_qk % 2 == 0
            require(self, "rope_theta", fits, wanted)

    @property
    def headdim_qk(self) -> int:
        """Width of one head's query and key."""
        return (self.d_model if self.d_qk is None else self.d_qk) // self.n_heads

    @property
    def headdim_v(self) -> int:
        """Width of one head's value (p)."""
        return (self.d_model if self.d_v is None else self.d_v) // self.n_heads

    @property
    def conv_dim(self) -> int:
        """Channels that the convolution covers: queries, keys and values."""
        return self.n_heads * (2 * self.headdim_qk + self.headdim_v)


@dataclass(frozen=True)
class FeedForwardConfig:
    """Two maps with a nonlinearity between them, at each token alone; no norm, no residual.

    Attributes:
        d_model: width of the residual stream (m).
        d_hidden: width between the maps.
        activation: "silu", "gelu" (the exact one), or "swiglu": silu(gate) * up of two maps in
            (arXiv 2002.05202).
        bias: whether the maps have one.
    """

    kind: ClassVar[str] = "feedforward"
    d_model: int
    d_hidden: int
    activation: Literal["silu", "gelu", "swiglu"] = "silu"
    bias: bool = False

    def __post_init__(self) -> None:
        for name in ("d_model", "d_hidden"):
            require(self, name, _counts(getattr(self, name)), "at least 1, whole")
        fits = self.activation in FEED_FORWARD_ACTIVATIONS
        require(self, "activation", fits, ", ".join(FEED_FORWARD_ACTIVATIONS))


BlockConfig = Mamba1Config | Mamba2Config | AttentionConfig | FeedForwardConfig


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
    """

    gamma: float | None = None
    scope: tuple[str, ...] = ("embedding", "positional", "linear", "head")
    fan: Literal["fan_in", "output"] = "fan_in"
    zero_biases: bool = False

    def __post_init__(self) -> None:
        fits = self.gamma is None or 0 <= self.gamma < math.inf
        require(self, "gamma", fits, "None, or 0 or more and finite")
        # a list, or a name twice, would make another cell of the same initialisation
        fits = isinstance(self.scope, tuple) and set(self.scope) <= set(SCOPES)
        fits = fits and len(set(self.scope)) == len(self.scope)
        require(self, "scope", fits, f"a tuple of different names of {', '.join(SCOPES)}")
        require(self, "fan", self.fan in ("fan_in", "output"), "fan_in, output")


@dataclass(frozen=True)
class LanguageModelConfig:
    """A stack of blocks between an embedding and a head.

    Attributes:
        vocab_size: tokens (v).
        n_layers: blocks in the stack; of a Transformer, attention and feed-forward each count.
        pattern: block configs, repeated over the layers (one for a plain stack, more for hybrids,
            attention and feed-forward for a Transformer); all of one d_model.
        pre_norm: each block has an RMS norm, where `norm_place` says; False for no norm at all.
        final_norm: RMS norm before the head.
        tie_embeddings: the head shares the embedding's weight.
        positional_encoding: "none", "learned" or "sinusoidal", added to the embeddings.
        max_length: positions that the encoding covers; needed unless it is "none".
        norm_eps: of all norms.
        norm_place: a block's norm stands "before" it, x + block(norm(x)), or "after" the sum,
            norm(x + block(x)), as arXiv 2509.17514, Fig. 1, draws its Transformer.
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

    def __post_init__(self) -> None:
        require(self, "vocab_size", _counts(self.vocab_size), "at least 1, whole")
        require(self, "n_layers", _counts(self.n_layers), "at least 1, whole")
        fits = isinstance(self.pattern, tuple) and all(
            isinstance(block, BlockConfig) for block in self.pattern
        )
        fits = fits and len({block.d_model for block in self.pattern}) == 1
        wanted = "a tuple of at least one block config, all of the same d_model"
        require(self, "pattern", fits, wanted)
        kinds = ", ".join(POSITIONAL_KINDS)
        require(self, "positional_encoding", self.positional_encoding in POSITIONAL_KINDS, kinds)
        spared = self.positional_encoding == "none" and self.max_length is None
        fits = spared or _counts(self.max_length)
        wanted = f"at least 1, whole, with {self.positional_encoding} positions"
        require(self, "max_length", fits, wanted)
        require(self, "norm_eps", _positive(self.norm_eps), "more than 0, finite")
        # without norms their place means nothing, and two names would be one model
        places = ("before", "after") if self.pre_norm else ("before",)
        wanted = f"{', '.join(places)}, with pre_norm {self.pre_norm}"
        require(self, "norm_place", self.norm_place in places, wanted)

    @property
    def d_model(self) -> int:
        """Width of the residual stream (m)."""
        return self.pattern[0].d_model

    @property
    def blocks(self) -> tuple[BlockConfig, ...]:
        """One config a layer."""
        return tuple(self.pattern[i % len(self.pattern)] for i in range(self.n_layers))
