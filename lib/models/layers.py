"""Parts that blocks share: norms, the causal convolution, positions, named activations."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.ops.conv import causal_conv1d, causal_conv1d_step
from lib.ops.linear import linear
from lib.ops.lookup import lookup


class Activation(nn.Identity):
    """A named activation: its module path is its name, and a plain PyTorch forward hook on it can
    read or replace what flows through. Costs nothing."""


def watched(*modules: nn.Module) -> bool:
    """Whether a hook waits for what flows through one of them; if not, it need not come to be."""
    return any(
        len(m._forward_hooks) + len(m._forward_pre_hooks)
        + len(m._backward_hooks) + len(m._backward_pre_hooks)
        for m in modules
    )  # fmt: skip


class Embedding(nn.Embedding):
    """nn.Embedding by :func:`lib.ops.lookup.lookup`."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(...) integers to (..., embedding_dim)."""
        return lookup(self.weight, tokens)


class Linear(nn.Linear):
    """nn.Linear by :func:`lib.ops.linear.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return linear(x, self.weight, self.bias)

    def part(self, x: Tensor, outputs: slice) -> Tensor:
        """Some of the outputs alone: (..., in_features) to (..., outputs)."""
        bias = None if self.bias is None else self.bias[outputs]
        return linear(x, self.weight[outputs], bias)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis, computed in float32 or wider."""

    def __init__(self, size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) to the same shape and dtype."""
        wide = x if x.dtype == torch.float64 else x.float()
        return F.rms_norm(wide, self.weight.shape, self.weight.to(wide.dtype), self.eps).to(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean(x)) / std(x) * weight + bias over the last axis, computed in float32 or wider
    (Ba et al. 2016, arXiv 1607.06450)."""

    def __init__(self, size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) to the same shape and dtype."""
        wide = x if x.dtype == torch.float64 else x.float()
        weight, bias = self.weight.to(wide.dtype), self.bias.to(wide.dtype)
        return F.layer_norm(wide, weight.shape, weight, bias, self.eps).to(x.dtype)


NORMS: dict[str, type[RMSNorm] | type[LayerNorm]] = {"rms": RMSNorm, "layer": LayerNorm}


class GatedRMSNorm(RMSNorm):
    """Mamba-2's norm: rms_norm(y * silu(z)), the gate before the norm (arXiv 2405.21060, fig. 6).

    The mean square is taken over each of `groups` equal parts of the channels, as in mamba_ssm.
    """

    def __init__(self, size: int, groups: int = 1, eps: float = 1e-5) -> None:
        super().__init__(size, eps)
        self.groups = groups

    def forward(self, y: Tensor, z: Tensor) -> Tensor:  # type: ignore[override]
        """y, z (..., size) to the same shape."""
        wide = y if y.dtype == torch.float64 else y.float()
        gated = (wide * F.silu(z.to(wide.dtype))).unflatten(-1, (self.groups, -1))
        normed = F.rms_norm(gated, gated.shape[-1:], eps=self.eps).flatten(-2)
        return (normed * self.weight.to(wide.dtype)).to(y.dtype)


class CausalConv(nn.Module):
    """The short convolution of a block, with SiLU.

    Args:
        channels: d. taps: k.
        kind: "standard"; "all_one": a kernel of ones; "palindromic": one that reads the same both
            ways; "none": SiLU alone.
        bias: whether there is one (never for "none").
        frozen: whether the kernel keeps the values that it starts with; None: only that of ones.
        bypass: what is done with the input beside SiLU(conv(x)): "none"; "residual" adds it,
            "gated" multiplies by it (arXiv 2509.17514, section 5.3, in words only).
    """

    def __init__(
        self, channels: int, taps: int, kind: str, bias: bool, backend: str,
        frozen: bool | None = None, bypass: str = "none",
    ) -> None:  # fmt: skip
        super().__init__()
        self.taps = taps if kind != "none" else 1
        self.kind, self.bypass = kind, bypass
        # "auto" or a backend of the convolution; a scan's backend name means nothing here
        self.backend = backend
        self.bias = nn.Parameter(torch.zeros(channels)) if bias and kind != "none" else None
        if kind in ("standard", "all_one"):
            start = torch.full((channels, taps), float(kind == "all_one"))
            fixed = kind == "all_one" if frozen is None else frozen
            if fixed:
                self.register_buffer("weight", start)
            else:
                self.weight = nn.Parameter(start)
        elif kind == "palindromic":
            # its first half, the middle tap with it: the other half is no parameter of its own
            self.first_half = nn.Parameter(torch.zeros(channels, -(-taps // 2)))

    def kernel(self) -> Tensor:
        """All taps (d, k); the first meets the oldest input, the last the token's own."""
        if self.kind == "palindromic":
            return torch.cat([self.first_half, self.first_half[:, : self.taps // 2].flip(1)], 1)
        return self.weight

    def activated(self, convolved: Tensor, x: Tensor) -> Tensor:
        """What leaves the layer, of SiLU(conv(x)) and x, both of one shape."""
        if self.bypass == "residual":
            return convolved + x
        return convolved * x if self.bypass == "gated" else convolved

    def forward(self, x: Tensor, state: Tensor | None, return_state: bool) -> tuple[Tensor, Tensor]:
        """x (b, l, d) to the output of the same shape, and the state (b, d, k - 1)."""
        if self.kind == "none":
            return F.silu(x), x.new_zeros(x.shape[0], x.shape[2], 0)
        out = causal_conv1d(
            x.transpose(1, 2), self.kernel(), self.bias, "silu", return_state,
            initial_state=state, backend=self.backend,
        )  # fmt: skip
        y, last = out if return_state else (out, x.new_zeros(0))
        return self.activated(y.transpose(1, 2), x), last

    def part(self, x: Tensor, channels: slice) -> Tensor:
        """The layer on some of its channels alone, without a state: x (b, l, some) to the same."""
        if self.kind == "none":
            return F.silu(x)
        bias = None if self.bias is None else self.bias[channels]
        y = causal_conv1d(
            x.transpose(1, 2), self.kernel()[channels], bias, "silu", backend=self.backend
        )
        return self.activated(y.transpose(1, 2), x)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x (b, d), state (b, d, k - 1) to the output (b, d) and the next state."""
        if self.kind == "none":
            return F.silu(x), state
        y, state = causal_conv1d_step(state, x, self.kernel(), self.bias, "silu")
        return self.activated(y, x), state


class PositionalEncoding(nn.Module):
    """Adds a vector for each position: learned, or sines and cosines (arXiv 1706.03762, 3.5)."""

    def __init__(self, kind: str, max_length: int, d_model: int) -> None:
        super().__init__()
        self.max_length = max_length
        if kind == "learned":
            self.weight = nn.Parameter(torch.zeros(max_length, d_model))
        else:
            self.register_buffer("weight", sinusoids(max_length, d_model), persistent=False)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """x (b, l, m) at positions start .. start + l - 1.

        Raises:
            ValueError: positions below 0 or beyond max_length.
        """
        if start < 0:  # a slice would count from the end
            raise ValueError(f"position is {start}, allowed: 0 or more")
        end = start + x.shape[1]
        if end > self.max_length:
            raise ValueError(f"length is {end}, allowed: up to max_length {self.max_length}")
        return x + self.weight[start:end].to(x.dtype)


def sinusoids(length: int, d_model: int) -> Tensor:
    """(length, d_model): sin in even, cos in odd columns, wavelengths 2 pi to 10,000 * 2 pi."""
    place = torch.arange(length, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10_000.0) / d_model))
    table = torch.zeros(length, d_model)
    table[:, 0::2] = torch.sin(place * rate)
    table[:, 1::2] = torch.cos(place * rate)[:, : d_model // 2]
    return table
