"""A language model of Mamba blocks once more, a token and a reader at a time, in float64.

It shares parameters with the model and no code: an oracle for interventions. Every reader i has a
recurrence of its own over the steps up to i, so that leaving out what i must not hear is obvious.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

Overrides = Mapping[int, Mapping[int, Tensor]]  # layer: position: what its convolution gave (c,)


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def softplus(x: Tensor) -> Tensor:
    return torch.log1p(torch.exp(x))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean() + eps) * weight


def convolution(conv: Any, rows: list[Tensor], cut: Tensor | None) -> list[Tensor]:
    """SiLU of the weighted sums, without the taps (i, j) that are cut."""
    out = []
    for i in range(len(rows)):
        if conv.kind == "none":
            out.append(silu(rows[i]))
            continue
        total = torch.zeros_like(rows[i]) if conv.bias is None else conv.bias.clone()
        for tap in range(conv.taps):
            j = i - (conv.taps - 1) + tap
            if j >= 0 and (cut is None or not bool(cut[i, j])):
                total = total + conv.weight[:, tap] * rows[j]
        out.append(silu(total))
    return out


def block(
    mixer: Any, x: list[Tensor], cut: Tensor, paths: Collection[str], given: Mapping[int, Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs (m,) at each position, and what the convolution gave there."""
    c, length = mixer.config, len(x)
    state_cut, conv_cut, decay_cut = (
        cut if p in paths else None for p in ("state", "conv", "decay")
    )
    rows = [mixer.in_proj.weight @ v for v in x]
    mamba2 = c.kind == "mamba2"
    if mamba2:
        z, before, dt = (
            [r.split([c.d_inner, c.conv_dim, c.n_heads])[k] for r in rows] for k in range(3)
        )
        dt = [softplus(r + mixer.dt_bias) for r in dt]
    else:
        before, z = ([r.chunk(2)[k] for r in rows] for k in range(2))
    after = convolution(mixer.conv, before, conv_cut)
    after = [given.get(i, own) for i, own in enumerate(after)]
    A = -torch.exp(mixer.A_log)
    if mamba2:
        size, each = c.n_groups * c.d_state, c.n_heads // c.n_groups
        u = [v[: c.d_inner].view(c.n_heads, c.headdim) for v in after]
        # of each head, (h, n)
        B = [
            v[c.d_inner : c.d_inner + size].view(c.n_groups, -1).repeat_interleave(each, 0)
            for v in after
        ]
        C = [v[c.d_inner + size :].view(c.n_groups, -1).repeat_interleave(each, 0) for v in after]
    else:
        u = after
        low = [mixer.x_proj.weight @ v for v in after]
        dt = [softplus(mixer.dt_proj.weight @ v[: c.rank] + mixer.dt_proj.bias) for v in low]
        B = [v[c.rank : c.rank + c.d_state] for v in low]
        C = [v[c.rank + c.d_state :] for v in low]
    out = []
    for i in range(length):
        state: Any = 0.0
        for j in range(i + 1):
            if decay_cut is None or not bool(decay_cut[i, j]):
                rate = (
                    torch.exp(A * dt[j])[:, None, None] if mamba2 else torch.exp(A * dt[j][:, None])
                )
                state = state * rate
            if state_cut is None or not bool(state_cut[i, j]):
                if mamba2:
                    state = state + (dt[j][:, None] * u[j])[:, :, None] * B[j][:, None, :]
                else:
                    state = state + (dt[j] * u[j])[:, None] * B[j][None, :]
        if mamba2:
            y = (state * C[i][:, None, :]).sum(-1) + mixer.D[:, None] * u[i]
            gated = (y.flatten() * silu(z[i])).view(c.n_groups, -1)
            normed = torch.stack([rms_norm(g, torch.ones_like(g), mixer.norm.eps) for g in gated])
            y = normed.flatten() * mixer.norm.weight
        else:
            y = ((state * C[i]).sum(-1) + mixer.D * u[i]) * silu(z[i])
        out.append(mixer.out_proj.weight @ y)
    return out, after


@torch.no_grad()
def logits(
    model: Any,
    tokens: Tensor,
    cut: Tensor | None = None,
    layers: Collection[int] | None = None,
    paths: Collection[str] = ("state",),
    given: Overrides | None = None,
) -> tuple[Tensor, list[list[Tensor]]]:
    """Logits (l, v) for tokens (l,), and each layer's convolution outputs at each position."""
    length = len(tokens)
    none = torch.zeros(length, length, dtype=torch.bool)
    x = [model.embedding.weight[t] for t in tokens]
    kept = []
    for number, layer in enumerate(model.layers):
        cuts = cut is not None and (layers is None or number in layers)
        normed = [rms_norm(v, layer.norm.weight, layer.norm.eps) for v in x]
        here = (given or {}).get(number, {})
        y, after = block(layer.mixer, normed, cut if cuts else none, paths if cuts else (), here)
        x = [v + w for v, w in zip(x, y, strict=True)]
        kept.append(after)
    final = model.final_norm
    rows = [model.head.weight @ rms_norm(v, final.weight, final.eps) for v in x]
    return torch.stack(rows), kept
