"""The gated recurrent unit (Cho et al. 2014, arXiv 1406.1078) as a block, for comparison.

A stack of these is a recurrent language model whose whole memory is one vector a layer. The block
stands in the same frame as Mamba's (norm before, residual around), so that the two differ in what
mixes time and in nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib.models.config import GRUConfig
from lib.models.layers import Activation, Linear


class GRUState(NamedTuple):
    """What the block keeps between tokens.

    Attributes:
        hidden: (b, d_hidden), in the activations' dtype.
    """

    hidden: Tensor


class GRUMixer(nn.Module):
    """x (b, l, m) to y (b, l, m): run the recurrence over the tokens, project.

    The activation act_hidden (b, l, d_hidden) passes through in forward(), not in step(). `backend`
    is of scans and `norm_eps` of norms inside a block; this one has neither.
    """

    act_hidden: Activation

    def __init__(self, config: GRUConfig, backend: str = "auto", norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.config, self.backend = config, backend
        self.gru = nn.GRU(config.d_model, config.d_hidden, batch_first=True)
        self.out_proj = Linear(config.d_hidden, config.d_model, bias=False)
        self.act_hidden = Activation()

    def forward(
        self, x: Tensor, state: GRUState | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, GRUState]:
        """The block over a sequence; with `return_state` also what the next tokens need."""
        before = None if state is None else state.hidden[None].to(x.dtype)
        hidden, last = self.gru(x, before)
        out = self.out_proj(self.act_hidden(hidden))
        return (out, GRUState(last[0])) if return_state else out

    def step(self, x: Tensor, state: GRUState) -> tuple[Tensor, GRUState]:
        """One token: x (b, m) to y (b, m) and the next state."""
        hidden, last = self.gru(x[:, None], state.hidden[None].to(x.dtype))
        return self.out_proj(hidden[:, 0]), GRUState(last[0])

    def initial_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> GRUState:
        """The state before the first token: zeros."""
        return GRUState(torch.zeros(batch, self.config.d_hidden, device=device, dtype=dtype))
