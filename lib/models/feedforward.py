"""The feed-forward block of a Transformer (arXiv 1706.03762, section 3.3; gated: 2002.05202)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.models.config import FeedForwardConfig
from lib.models.layers import Activation, Linear


class FeedForwardState(NamedTuple):
    """What the block keeps between tokens: nothing, since it looks at each token alone."""


class FeedForwardMixer(nn.Module):
    """x (b, l, m) to y (b, l, m): widen, bend, narrow; nothing passes from token to token.

    The activation act_hidden passes through in forward(), not in step(). `backend` is of scans and
    `norm_eps` of norms inside a block; this one has neither.
    """

    act_hidden: Activation

    def __init__(
        self, config: FeedForwardConfig, backend: str = "auto", norm_eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.config, self.backend = config, backend
        wide = config.d_hidden * (2 if config.activation == "swiglu" else 1)
        self.in_proj = Linear(config.d_model, wide, bias=config.bias)
        self.out_proj = Linear(config.d_hidden, config.d_model, bias=config.bias)
        self.act_hidden = Activation()

    def _hidden(self, x: Tensor) -> Tensor:
        """x (..., m) to the hidden layer after its nonlinearity (..., d_hidden)."""
        return bend(self.in_proj(x), self.config.activation)

    def forward(
        self, x: Tensor, state: FeedForwardState | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, FeedForwardState]:
        """The block over a sequence; with `return_state` also an empty state."""
        out = self.out_proj(self.act_hidden(self._hidden(x)))
        return (out, FeedForwardState()) if return_state else out

    def last(self, x: Tensor) -> Tensor:
        """The block at the last position alone: (b, l, m) to (b, 1, m)."""
        return self.out_proj(self._hidden(x[:, -1:]))

    def step(self, x: Tensor, state: FeedForwardState) -> tuple[Tensor, FeedForwardState]:
        """One token: x (b, m) to y (b, m) and the state as it was."""
        return self.out_proj(self._hidden(x)), state

    def initial_state(
        self, batch: int, device: torch.device, dtype: torch.dtype
    ) -> FeedForwardState:
        """The state before the first token: as empty as any other."""
        return FeedForwardState()


def bend(hidden: Tensor, activation: str) -> Tensor:
    """The nonlinearity of a feed-forward block; "swiglu" halves the last axis."""
    if activation == "swiglu":
        gate, up = hidden.chunk(2, dim=-1)
        return F.silu(gate) * up
    return F.silu(hidden) if activation == "silu" else F.gelu(hidden)
