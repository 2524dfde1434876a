"""Sparse mixture of experts (Shazeer et al. 2017, arXiv 1701.06538; Fedus et al. 2021, 2101.03961).

A router scores experts, each token goes through its `top_k` best, and their outputs are mixed by
the softmax of those scores. No expert has a capacity: no token is ever dropped, and what one token
gets does not hang on the others, so the block is as causal as a feed-forward one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.models.config import MoEConfig
from lib.models.feedforward import FeedForwardState, bend
from lib.models.layers import Activation, Linear
from lib.ops.checks import compute_dtype


class MoEMixer(nn.Module):
    """x (b, l, m) to y (b, l, m): for each token the mixed outputs of its best experts.

    The activations act_router (b l, experts), the scores before the softmax, and act_hidden
    (b l top_k, d_hidden), sorted by expert, pass through in forward(), not in step(). `backend` is
    of scans and `norm_eps` of norms inside a block; this one has neither.

    Attributes:
        in_weight: (experts, wide, m), wide twice d_hidden for "swiglu". out_weight: (experts, m,
            d_hidden).
        balance: how unevenly the last call of forward() used the experts, see :func:`balance`;
            None before the first.
    """

    act_router: Activation
    act_hidden: Activation

    def __init__(self, config: MoEConfig, backend: str = "auto", norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.config, self.backend = config, backend
        m, h, n = config.d_model, config.d_hidden, config.n_experts
        wide = h * (2 if config.activation == "swiglu" else 1)
        self.router = Linear(m, n, bias=False)
        self.in_weight = nn.Parameter(torch.zeros(n, wide, m))
        self.out_weight = nn.Parameter(torch.zeros(n, m, h))
        self.balance: Tensor | None = None
        self.act_router, self.act_hidden = Activation(), Activation()

    def forward(
        self, x: Tensor, state: FeedForwardState | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, FeedForwardState]:
        """The block over a sequence; with `return_state` also an empty state."""
        rows = x.reshape(-1, x.shape[-1])
        scores = self.act_router(self._scores(rows))
        chosen, gates = self._choose(scores)
        self.balance = balance(scores, chosen)
        out = self._mixed(rows, chosen, gates, self.act_hidden).view(x.shape)
        return (out, FeedForwardState()) if return_state else out

    def step(self, x: Tensor, state: FeedForwardState) -> tuple[Tensor, FeedForwardState]:
        """One token: x (b, m) to y (b, m) and the state as it was."""
        chosen, gates = self._choose(self._scores(x))
        return self._mixed(x, chosen, gates, lambda hidden: hidden), state

    def initial_state(
        self, batch: int, device: torch.device, dtype: torch.dtype
    ) -> FeedForwardState:
        """The state before the first token: as empty as any other."""
        return FeedForwardState()

    def _scores(self, rows: Tensor) -> Tensor:
        """(t, m) to (t, experts), in float32 or wider: bfloat16 would make ties of close scores."""
        wide = compute_dtype(rows)
        with torch.autocast(rows.device.type, enabled=False):
            return F.linear(rows.to(wide), self.router.weight.to(wide))

    def _choose(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The best experts of each token and their gates, (t, top_k) each; gates sum to 1."""
        best = scores.topk(self.config.top_k, dim=-1)
        return best.indices, best.values.softmax(-1)

    def _mixed(self, rows: Tensor, chosen: Tensor, gates: Tensor, seen) -> Tensor:  # type: ignore[no-untyped-def]
        """Sort by expert, multiply group by group, sort back, mix.

        Only permutations move rows: gathers that read a row twice would add its gradients in any
        order.
        """
        count, k = chosen.shape
        experts = chosen.flatten()
        order = experts.argsort(stable=True)
        here = torch.arange(self.config.n_experts, device=rows.device)
        ends = (experts[:, None] == here).sum(0).cumsum(0)
        copies = rows[:, None].expand(-1, k, -1).reshape(count * k, -1)[order]
        hidden = seen(bend(grouped(copies, self.in_weight, ends), self.config.activation))
        out = grouped(hidden, self.out_weight, ends)
        back = torch.empty_like(order).scatter_(
            0, order, torch.arange(len(order), device=rows.device)
        )
        return (out[back].view(count, k, -1) * gates[..., None].to(out.dtype)).sum(1).to(rows.dtype)


def grouped(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Rows of each group times the group's weight.

    Args:
        rows: (t, m), group after group. weight: (groups, n, m). ends: (groups,), where each ends.

    Returns:
        (t, n); products in bfloat16 under its autocast.
    """
    kind = rows.device.type
    if torch.is_autocast_enabled(kind):
        narrow = torch.get_autocast_dtype(kind)
        rows, weight = rows.to(narrow), weight.to(narrow)
    weight = weight.to(rows.dtype)
    # one kernel for all groups where the library has one, for rows of 16 bytes or a multiple: a
    # loop would wait for the group sizes
    served = rows.dtype == torch.bfloat16 or (kind == "cpu" and rows.dtype == torch.float32)
    if served and all(n * rows.element_size() % 16 == 0 for n in weight.shape[1:]):
        return F.grouped_mm(rows, weight.transpose(1, 2), offs=ends.to(torch.int32))
    cuts = ends.diff(prepend=ends.new_zeros(1)).tolist()
    parts = zip(rows.split(cuts), weight.unbind(0), strict=True)
    return torch.cat([part @ w.t() for part, w in parts])


def balance(scores: Tensor, chosen: Tensor) -> Tensor:
    """How unevenly experts are used (arXiv 2101.03961, eq. 4): experts times the sum over experts
    of the share of choices that fell on one and its mean probability. 1 if all are alike, at most
    the number of experts.

    Args:
        scores: (t, experts) before the softmax. chosen: (t, top_k).
    """
    n = scores.shape[-1]
    here = torch.arange(n, device=scores.device)
    share = (chosen.flatten()[:, None] == here).to(scores.dtype).mean(0)
    return n * (share * scores.softmax(-1).mean(0)).sum()


def balance_loss(model: nn.Module) -> Tensor | None:
    """What the last forward pass of a model with experts adds to its training loss: the sum over
    blocks of ``config.balance`` times :func:`balance`; None for a model without experts."""
    terms = [
        module.config.balance * module.balance
        for module in model.modules()
        if isinstance(module, MoEMixer) and module.balance is not None
    ]
    return torch.stack(terms).sum() if terms else None
