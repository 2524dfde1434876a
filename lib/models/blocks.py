"""Configs of the blocks: frozen, checked, derived sizes in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lib.config import added_later, require

CONV_KINDS = ("standard", "all_one", "palindromic", "none")
BYPASSES = ("none", "residual", "gated")
FEED_FORWARD_ACTIVATIONS = ("silu", "gelu", "swiglu")


def counts(value: Any) -> bool:
    """A whole number from 1 on; True is not one, nor is 8.0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def positive(value: float) -> bool:
    """More than zero and finite."""
    return 0 < value < math.inf


def _check_common(config: Mamba1Config | Mamba2Config) -> None:
    for name in ("d_model", "d_state", "d_conv", "expand"):
        require(config, name, counts(getattr(config, name)), "at least 1, whole")
    require(config, "conv_kind", config.conv_kind in CONV_KINDS, ", ".join(CONV_KINDS))
    fits = config.conv_frozen is None or config.conv_kind in ("standard", "all_one")
    wanted = f"None with {config.conv_kind}; True or False with standard, all_one"
    require(config, "conv_frozen", fits, wanted)
    require(config, "conv_bypass", config.conv_bypass in BYPASSES, ", ".join(BYPASSES))
    fits = config.conv_bypass == "none" or config.conv_kind != "none"
    require(config, "conv_bypass", fits, "none where conv_kind is none")
    _check_dt(config)


def _check_dt(config: Mamba1Config | Mamba2Config | Mamba3Config) -> None:
    require(config, "dt_min", positive(config.dt_min), "more than 0, finite")
    fits = config.dt_min <= config.dt_max < math.inf
    require(config, "dt_max", fits, f"at least dt_min {config.dt_min}, finite")
    require(config, "dt_init_floor", positive(config.dt_init_floor), "more than 0, finite")


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
        fits = self.dt_rank is None or counts(self.dt_rank)
        require(self, "dt_rank", fits, "None or at least 1, whole")
        require(self, "dt_scale", positive(self.dt_scale), "more than 0, finite")

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


class _Heads:
    """What configs share whose channels are cut into heads, and heads into groups."""

    d_model: int
    expand: int
    headdim: int
    n_groups: int

    @property
    def d_inner(self) -> int:
        """Channels of the scan (d = h p)."""
        return self.expand * self.d_model

    @property
    def n_heads(self) -> int:
        """Heads (h)."""
        return self.d_inner // self.headdim

    def _check_heads(self) -> None:
        fits = counts(self.headdim) and self.d_inner % self.headdim == 0
        require(self, "headdim", fits, f"a divisor of d_inner {self.d_inner}")
        fits = counts(self.n_groups) and self.n_heads % self.n_groups == 0
        require(self, "n_groups", fits, f"a divisor of n_heads {self.n_heads}")


@dataclass(frozen=True)
class Mamba2Config(_Heads):
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
        self._check_heads()
        require(self, "A_min", positive(self.A_min), "more than 0, finite")
        fits = self.A_min <= self.A_max < math.inf
        require(self, "A_max", fits, f"at least A_min {self.A_min}, finite")
        require(self, "chunk_size", counts(self.chunk_size), "at least 1, whole")

    @property
    def conv_dim(self) -> int:
        """Channels that the convolution covers: x, B and C."""
        return self.d_inner + 2 * self.n_groups * self.d_state


@dataclass(frozen=True)
class Mamba3Config(_Heads):
    """A Mamba-3 block with one input and output a head (arXiv 2603.15569); defaults as in
    mamba_ssm's Mamba3. It has no convolution.

    Attributes:
        d_model: width of the residual stream (m).
        d_state: state entries of a channel (n).
        expand: d_inner / d_model.
        headdim: channels of a head (p); divides d_inner.
        n_groups: groups of heads that share B and C (g); divides n_heads.
        rope_fraction: part of the state's entries that turn, 0.5 or 1.
        dt_min, dt_max, dt_init_floor: range of dt at initialisation, log-uniform, and its floor.
        A_floor: smallest -A; A is made from the input.
        outproj_norm: RMS norm of each head of y, before the gate (mamba_ssm's is_outproj_norm).
        chunk_size: length up to which one matrix is used, and the chunk of the other form.
    """

    kind: ClassVar[str] = "mamba3"
    d_model: int
    d_state: int = 128
    expand: int = 2
    headdim: int = 64
    n_groups: int = 1
    rope_fraction: float = 0.5
    dt_min: float = 1e-3
    dt_max: float = 0.1
    dt_init_floor: float = 1e-4
    A_floor: float = 1e-4
    outproj_norm: bool = False
    chunk_size: int = 64

    def __post_init__(self) -> None:
        for name in ("d_model", "d_state", "expand", "chunk_size"):
            require(self, name, counts(getattr(self, name)), "at least 1, whole")
        self._check_heads()
        require(self, "rope_fraction", self.rope_fraction in (0.5, 1.0), "0.5, 1.0")
        fits = self.n_angles >= 1
        require(
            self, "d_state", fits, f"at least {2 / self.rope_fraction:g}, for a pair that turns"
        )
        _check_dt(self)
        require(self, "A_floor", positive(self.A_floor), "more than 0, finite")

    @property
    def n_angles(self) -> int:
        """Pairs of state entries that turn (a)."""
        return int(self.d_state * self.rope_fraction) // 2

    @property
    def in_proj_sizes(self) -> tuple[int, ...]:
        """What the projection in makes: z, x, B, C, dt, A, trap, angle."""
        d, h, size = self.d_inner, self.n_heads, self.n_groups * self.d_state
        return (d, d, size, size, h, h, h, self.n_angles)


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
        causal: whether a token sees itself and earlier ones only. Without, the block is no part of
            a language model; published baselines lack it by mistake.
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
    causal: bool = added_later(True)

    def __post_init__(self) -> None:
        for name in ("d_model", "n_heads", "d_conv"):
            require(self, name, counts(getattr(self, name)), "at least 1, whole")
        for name in ("d_qk", "d_v"):
            own = getattr(self, name)
            width = self.d_model if own is None else own
            fits = counts(width) and width % self.n_heads == 0
            wanted = f"None (d_model {self.d_model}) or whole, in multiples of n_heads"
            require(self, name, fits, f"{wanted} {self.n_heads}")
        require(self, "conv_kind", self.conv_kind in CONV_KINDS, ", ".join(CONV_KINDS))
        if self.rope_theta is not None:
            wanted = f"None, or more than 0 and finite with an even headdim_qk, {self.headdim_qk}"
            fits = positive(self.rope_theta) and self.headdim_qk % 2 == 0
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
            require(self, name, counts(getattr(self, name)), "at least 1, whole")
        fits = self.activation in FEED_FORWARD_ACTIVATIONS
        require(self, "activation", fits, ", ".join(FEED_FORWARD_ACTIVATIONS))


@dataclass(frozen=True)
class MoEConfig:
    """Feed-forward experts of which each token uses a few; no norm, no residual.

    Attributes:
        d_model: width of the residual stream (m).
        d_hidden: width between an expert's maps.
        n_experts: how many there are; top_k: how many a token uses.
        activation: as of :class:`FeedForwardConfig`.
        balance: weight in the training loss of how unevenly experts are used; 0.01 as in arXiv
            2101.03961.
    """

    kind: ClassVar[str] = "moe"
    d_model: int
    d_hidden: int
    n_experts: int = 8
    top_k: int = 2
    activation: Literal["silu", "gelu", "swiglu"] = "swiglu"
    balance: float = 0.01

    def __post_init__(self) -> None:
        for name in ("d_model", "d_hidden", "n_experts"):
            require(self, name, counts(getattr(self, name)), "at least 1, whole")
        fits = counts(self.top_k) and self.top_k <= self.n_experts
        require(self, "top_k", fits, f"1..{self.n_experts} (n_experts), whole")
        fits = self.activation in FEED_FORWARD_ACTIVATIONS
        require(self, "activation", fits, ", ".join(FEED_FORWARD_ACTIVATIONS))
        require(self, "balance", self.balance >= 0, "0 or more")


@dataclass(frozen=True)
class GRUConfig:
    """A gated recurrent unit and a projection out; no norm, no residual.

    Attributes:
        d_model: width of the residual stream (m).
        d_hidden: width of the hidden state, all that it keeps of the past.
    """

    kind: ClassVar[str] = "gru"
    d_model: int
    d_hidden: int

    def __post_init__(self) -> None:
        for name in ("d_model", "d_hidden"):
            require(self, name, counts(getattr(self, name)), "at least 1, whole")


BlockConfig = (
    Mamba1Config | Mamba2Config | Mamba3Config | AttentionConfig | FeedForwardConfig | MoEConfig
    | GRUConfig
)  # fmt: skip
