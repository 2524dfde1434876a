"""Causal softmax attention (Vaswani et al. 2017, arXiv 1706.03762, section 3.2) as a block.

With rotary positions (arXiv 2104.09864) where asked, and with the nonlinear convolution on queries,
keys and values that arXiv 2509.17514, section 4.3, adds to a Transformer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.models.config import AttentionConfig
from lib.models.layers import Activation, CausalConv, Linear, watched
from lib.ops import backends
from lib.ops.checks import compute_dtype
from lib.ops.packed_attention import OP as PACKED
from lib.ops.packed_attention import packed_attention, packed_facts
from lib.ops.short_attention import (
    OP,
    attention_facts,
    attention_matrix,
    short_attention,
    visible,
)

# the library's kernel gains nothing up to here (measured with gradients on a processor of two
# cores: 256 x 8 tokens 1.6 ms against 0.8 for S in the open, 64 x 29 3.3 against 2.0, 8 x 128
# equal), and torch.vmap would call it there run by run
OPEN_LENGTH = 128


class AttentionState(NamedTuple):
    """What the block keeps between tokens: all that it has read, one entry longer a token.

    Attributes:
        k: (b, h, c, headdim_qk), keys of the c tokens so far, rotated where positions are rotary.
        v: (b, h, c, headdim_v), their values.
        conv: (b, channels, k - 1), the convolution's last inputs; of size 0 without one.
    """

    k: Tensor
    v: Tensor
    conv: Tensor


class AttentionMixer(nn.Module):
    """x (b, l, m) to y (b, l, m): one projection makes queries, keys and values; each token gathers
    the values of itself and earlier ones, weighted by softmax(q k / sqrt(headdim_qk)); project.

    The activations named act_* pass through in forward(), not in step(): q, k (before rotation), v
    and y (b, l, h, headdim); pre_conv and post_conv (b, l, channels) where there is a convolution;
    and S (b, h, l, c + l), the weights after the softmax, in float32 or wider. What is zeroed there
    is lost: the other weights stay as they are. S is formed where a hook on act_S waits for it, and
    for short sequences that no kernel of ours serves; else the library's fused attention runs.

    `backend` is of scans and `norm_eps` of norms inside a block; this one has neither.
    """

    act_pre_conv: Activation
    act_post_conv: Activation
    act_q: Activation
    act_k: Activation
    act_v: Activation
    act_S: Activation
    act_y: Activation

    def __init__(
        self, config: AttentionConfig, backend: str = "auto", norm_eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.config, self.backend = config, backend
        self.in_proj = Linear(config.d_model, config.conv_dim, bias=config.bias)
        self.conv: CausalConv | None = None
        names = ["q", "k", "v", "S", "y"]
        if config.conv_kind != "none":  # CausalConv's "none" would still bend
            # a depthwise kernel over all three side by side is a kernel for each
            self.conv = CausalConv(
                config.conv_dim, config.d_conv, config.conv_kind, config.conv_bias, "auto"
            )
            names += ["pre_conv", "post_conv"]
        self.out_proj = Linear(config.n_heads * config.headdim_v, config.d_model, bias=config.bias)
        self.before_y = [f"act_{name}" for name in names if name != "y"]
        for name in names:
            setattr(self, f"act_{name}", Activation())

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., channels) to queries, keys and values (..., h, headdim)."""
        c = self.config
        size, h = c.n_heads * c.headdim_qk, c.n_heads
        q, k, v = qkv.split([size, size, c.n_heads * c.headdim_v], dim=-1)
        return q.unflatten(-1, (h, -1)), k.unflatten(-1, (h, -1)), v.unflatten(-1, (h, -1))

    def _extend(
        self, q: Tensor, k: Tensor, v: Tensor, state: AttentionState | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Heads before time, positions, then what was kept before what is new.

        q, k, v (b, l, h, headdim) to q (b, h, l, headdim), k and v (b, h, c + l, headdim). Of q
        there may be the last steps alone.
        """
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if self.config.rope_theta is not None:
            start = 0 if state is None else state.k.shape[2]
            q = rotate(q, start + k.shape[2] - q.shape[2], self.config.rope_theta)
            k = rotate(k, start, self.config.rope_theta)
        if state is not None:  # autocast may have kept it in another dtype
            k = torch.cat([state.k.to(k.dtype), k], dim=2)
            v = torch.cat([state.v.to(v.dtype), v], dim=2)
        return q, k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (b, h, l, headdim), k and v (b, h, c + l, headdim) to y (b, l, h, headdim_v)."""
        length, kept = q.shape[2], k.shape[2] - q.shape[2]
        facts = attention_facts(q, k, v)
        if not watched(self.act_S) and backends.suits(OP, "fused", device=q.device, **facts):
            return short_attention(q, k, v, self.config.causal, backend="fused")
        if watched(self.act_S) or k.shape[2] <= OPEN_LENGTH:
            return self._attend_openly(q, k, v)
        # the library's own causal mask lets the first query see the first key alone; a last one
        # sees them all
        mask = visible(length, kept, q.device) if kept and length > 1 else None
        causal = self.config.causal and not kept
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
        return y.transpose(1, 2)

    def _attend_openly(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same with S in the open, for whoever wants to see or edit it."""
        with torch.autocast(q.device.type, enabled=False):
            S = self.act_S(attention_matrix(q, k, self.config.causal))
            return (S @ v.to(S.dtype)).transpose(1, 2).to(v.dtype)

    def _packs(self, qkv: Tensor) -> bool:
        """Whether one kernel makes y of what the projection gave: nobody waits for what lies
        between, and positions turn nothing there."""
        c = self.config
        between = [getattr(self, name) for name in self.before_y]
        if c.rope_theta is not None or watched(*between, *filter(None, [self.conv])):
            return False
        taps = 0 if self.conv is None else self.conv.taps
        facts = packed_facts(qkv, taps, c.n_heads, c.headdim_qk)
        return backends.suits(PACKED, "fused", device=qkv.device, **facts)

    def _packed(self, qkv: Tensor, last: bool = False) -> Tensor:
        """qkv (b, l, channels) before the convolution to y (b, l, h headdim_v), or (b, 1, ...)."""
        c, conv = self.config, self.conv
        weight, bias = (None, None) if conv is None else (conv.kernel(), conv.bias)
        return packed_attention(
            qkv, weight, bias, c.n_heads, c.headdim_qk, causal=c.causal, last=last,
            backend="fused",
        )  # fmt: skip

    def forward(
        self, x: Tensor, state: AttentionState | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, AttentionState]:
        """The block over a sequence; with `return_state` also what the next tokens need.

        Raises:
            ValueError: a state, given or wanted, of attention that is not causal.
        """
        if state is not None or return_state:
            self._check_causal()
        qkv = self.in_proj(x)
        if state is None and not return_state and self._packs(qkv):
            y = self._packed(qkv).unflatten(-1, (self.config.n_heads, -1))
            return self.out_proj(self.act_y(y).flatten(-2))
        conv = qkv.new_zeros(x.shape[0], self.config.conv_dim, 0)
        if self.conv is not None:
            before = state.conv if state is not None else None
            qkv, conv = self.conv(self.act_pre_conv(qkv), before, return_state)
            # channels side by side again: the library's fast kernels refuse any other layout
            qkv = self.act_post_conv(qkv.contiguous())
        q, k, v = self._split(qkv)
        q, k, v = self._extend(self.act_q(q), self.act_k(k), self.act_v(v), state)
        out = self.out_proj(self.act_y(self._attend(q, k, v)).flatten(-2))
        return (out, AttentionState(k, v, conv)) if return_state else out

    def last(self, x: Tensor) -> Tensor:
        """The block at the last position alone: (b, l, m) to (b, 1, m). One query, and without a
        convolution one projection to it."""
        c = self.config
        if self.conv is None:
            size = c.n_heads * c.headdim_qk
            q = self.in_proj.part(x[:, -1:], slice(size))
            k, v = self.in_proj.part(x, slice(size, None)).split(
                [size, c.n_heads * c.headdim_v], dim=-1
            )
            q, k, v = (part.unflatten(-1, (c.n_heads, -1)) for part in (q, k, v))
        else:
            qkv = self.in_proj(x)
            if self._packs(qkv):
                return self.out_proj(self._packed(qkv, last=True))
            q, k, v = self._split(self.conv(qkv, None, False)[0].contiguous())
            q = q[:, -1:]
        return self.out_proj(self._attend(*self._extend(q, k, v, None)).flatten(-2))

    def step(self, x: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """One token: x (b, m) to y (b, m) and the next state.

        Raises:
            ValueError: attention that is not causal.
        """
        self._check_causal()
        qkv, conv = self.in_proj(x), state.conv
        if self.conv is not None:
            qkv, conv = self.conv.step(qkv, conv)
        q, k, v = self._extend(*self._split(qkv[:, None]), state)
        y = F.scaled_dot_product_attention(q, k, v)  # (b, h, 1, headdim_v)
        return self.out_proj(y.transpose(1, 2).flatten(1)), AttentionState(k, v, conv)

    def _check_causal(self) -> None:
        if not self.config.causal:
            raise ValueError(
                "causal is False, allowed: True to go on from a state; what was read would change "
                "with each token that follows"
            )

    def initial_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> AttentionState:
        """The state before the first token: no keys, no values, a convolution that read zeros."""
        c, taps = self.config, 1 if self.conv is None else self.conv.taps
        return AttentionState(
            torch.zeros(batch, c.n_heads, 0, c.headdim_qk, device=device, dtype=dtype),
            torch.zeros(batch, c.n_heads, 0, c.headdim_v, device=device, dtype=dtype),
            torch.zeros(batch, c.conv_dim, taps - 1, device=device, dtype=dtype),
        )


def rotate(x: Tensor, start: int, theta: float) -> Tensor:
    """Turn pairs of channels by angles that grow with position (arXiv 2104.09864, section 3.2.2).

    Channel i is paired with i + e / 2, as in Llama, and turned by position * theta ** (-2 i / e).

    Args:
        x: (b, h, l, e), e even, at positions start .. start + l - 1.

    Returns:
        The same shape and dtype; angles and products are formed in float32 or wider.
    """
    wide = compute_dtype(x)
    return _turn(x, torch.arange(start, start + x.shape[2], device=x.device, dtype=wide), theta)


def moved(x: Tensor, by: int, theta: float) -> Tensor:
    """What :func:`rotate` gives, as it would be `by` positions later (earlier, if below 0): turns
    add up. Shape and dtype stay."""
    return _turn(x, torch.full((1,), by, device=x.device, dtype=compute_dtype(x)), theta)


def _turn(x: Tensor, place: Tensor, theta: float) -> Tensor:
    """x (b, h, l, e) turned as at `place` (l,), or (1,) for all of them."""
    half = x.shape[-1] // 2
    rate = theta ** (-torch.arange(half, device=x.device, dtype=place.dtype) / half)
    angle = place[:, None] * rate
    cos, sin = angle.cos(), angle.sin()
    a, b = x.to(place.dtype).chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)
