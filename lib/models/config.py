"""Configs of blocks and of the stack: frozen, checked, derived sizes in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from lib.config import require

CONV_KINDS = ("standard", "all_one", "none")
POSITIONAL_KINDS = ("none", "learned", "sinusoidal")
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
    _check_dt(config)


def _check_dt(config: BlockConfig) -> None:
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
        conv_kind: "standard", "all_one" (kernel of ones, not trained) or "none".
        conv_bias: whether the convolution has a bias.
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
    conv_kind: Literal["standard", "all_one", "none"] = "standard"
    conv_bias: bool = True
    bias: bool = False

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
    conv_kind: Literal["standard", "all_one", "none"] = "standard"
    conv_bias: bool = True
    bias: bool = False
    chunk_size: int = 64

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
class Mamba3Config:
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
            require(self, name, _counts(getattr(self, name)), "at least 1, whole")
        fits = _counts(self.headdim) and self.d_inner % self.headdim == 0
        require(self, "headdim", fits, f"a divisor of d_inner {self.d_inner}")
        fits = _counts(self.n_groups) and self.n_heads % self.n_groups == 0
        require(self, "n_groups", fits, f"a divisor of n_heads {self.n_heads}")
        require(self, "rope_fraction", self.rope_fraction in (0.5, 1.0), "0.5, 1.0")
        fits = self.n_angles >= 1
        require(
            self, "d_state", fits, f"at least {2 / self.rope_fraction:g}, for a pair that turns"
        )
        _check_dt(self)
        require(self, "A_floor", _positive(self.A_floor), "more than 0, finite")

    @property
    def d_inner(self) -> int:
        """Channels of the scan (d = h p)."""
        return self.expand * self.d_model

    @property
    def n_heads(self) -> int:
        """Heads (h)."""
        return self.d_inner // self.headdim

    @property
    def n_angles(self) -> int:
        """Pairs of state entries that turn (a)."""
        return int(self.d_state * self.rope_fraction) // 2

    @property
    def in_proj_sizes(self) -> tuple[int, ...]:
        """What the projection in makes: z, x, B, C, dt, A, trap, angle."""
        d, h, size = self.d_inner, self.n_heads, self.n_groups * self.d_state
        return (d, d, size, size, h, h, h, self.n_angles)


BlockConfig = Mamba1Config | Mamba2Config | Mamba3Config


@dataclass(frozen=True)
class InitialisationConfig:
    """How weights start.

    Attributes:
        gamma: None for the official initialisation. Else every tensor in `scope` is drawn from
            N(0, (width ** -gamma) ** 2), arXiv 2509.17514, section 3.
        scope: which tensors gamma covers, of "embedding", "positional", "linear" (in_proj,
            out_proj, x_proj), "dt_proj", "conv", "head". The paper does not say. A_log, D, the dt
            bias and norms are never covered.
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
        n_layers: blocks in the stack.
        pattern: block configs, repeated over the layers (one for a plain stack, more for hybrids);
            all of one d_model.
        pre_norm: RMS norm before each block.
        final_norm: RMS norm before the head.
        tie_embeddings: the head shares the embedding's weight.
        positional_encoding: "none", "learned" or "sinusoidal", added to the embeddings.
        max_length: positions that the encoding covers; needed unless it is "none".
        norm_eps: of all norms.
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

    @property
    def d_model(self) -> int:
        """Width of the residual stream (m)."""
        return self.pattern[0].d_model

    @property
    def blocks(self) -> tuple[BlockConfig, ...]:
        """One config a layer."""
        return tuple(self.pattern[i % len(self.pattern)] for i in range(self.n_layers))
