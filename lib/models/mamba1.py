"""The Mamba-1 block (Gu and Dao 2023, arXiv 2312.00752, section 3.4 and figure 3)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lib.models.config import Mamba1Config
from lib.models.layers import Activation, CausalConv, Linear, watched
from lib.ops.checks import compute_dtype
from lib.ops.fused_scan import absorbs
from lib.ops.linear import linear
from lib.ops.scan import selective_scan, selective_state_step


def makes_apart(d_inner: int, d_state: int) -> bool:
    """Whether dt, B and C of a layer are products of their own, not slices of one. Where B and C
    are wider than what they are made from, to join their gradients would cost more."""
    return 2 * d_state > d_inner


class MixerState(NamedTuple):
    """What a block keeps between tokens.

    Attributes:
        conv: (b, channels, k - 1), the convolution's last inputs, in the activations' dtype.
        ssm: (b, d, n) for Mamba-1, (b, h, p, n) for Mamba-2, in the scan's dtype: float32, or
            float64 in a float64 model.
    """

    conv: Tensor
    ssm: Tensor


class Mamba1Mixer(nn.Module):
    """x (b, l, m) to y (b, l, m): project, convolve, scan with input-made dt, B and C, gate.

    The activations named act_* pass through in forward(), not in step(). `norm_eps` is of norms
    inside a block; this one has none.
    """

    act_pre_conv: Activation
    act_post_conv: Activation
    act_dt: Activation
    act_B: Activation
    act_C: Activation
    act_y: Activation
    act_z: Activation

    def __init__(self, config: Mamba1Config, backend: str = "auto", norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.config, self.backend = config, backend
        d, n, r = config.d_inner, config.d_state, config.rank
        self.in_proj = Linear(config.d_model, 2 * d, bias=config.bias)
        self.conv = CausalConv(
            d, config.d_conv, config.conv_kind, config.conv_bias, "auto", config.conv_frozen,
            config.conv_bypass,
        )  # fmt: skip
        self.x_proj = Linear(d, r + 2 * n, bias=False)
        self.dt_proj = Linear(r, d, bias=True)
        self.A_log = nn.Parameter(torch.zeros(d, n))
        self.D = nn.Parameter(torch.ones(d))
        self.out_proj = Linear(d, config.d_model, bias=config.bias)
        for parameter in (self.A_log, self.D, self.dt_proj.bias):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]
        for name in ("pre_conv", "post_conv", "dt", "B", "C", "y", "z"):
            setattr(self, f"act_{name}", Activation())

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (..., d) after the convolution to dt (before bias and softplus), B and C."""
        c = self.config
        sizes, weight = [c.rank, c.d_state, c.d_state], self.x_proj.weight
        if makes_apart(c.d_inner, c.d_state):
            dt, B, C = (linear(x, part) for part in weight.split(sizes))
        else:
            dt, B, C = linear(x, weight).split(sizes, dim=-1)
        # the bias comes later, in the scan's dtype: in bfloat16 it would move dt by a percent
        return linear(dt, self.dt_proj.weight), B, C

    def forward(
        self, x: Tensor, state: MixerState | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, MixerState]:
        """The block over a sequence; with `return_state` also what the next tokens need."""
        u, z = self.in_proj(x).chunk(2, dim=-1)
        u, z = self.act_pre_conv(u), self.act_z(z)
        u, conv = self.conv(u, state.conv if state else None, return_state)
        u = self.act_post_conv(u)
        dt, B, C = self._split(u)
        dt, bias = self._step_size(u, dt)
        y, ssm = self._scan(
            u, dt, bias, self.act_B(B), self.act_C(C), z if bias is not None else None,
            initial_state=state.ssm if state else None, return_last_state=return_state,
        )  # fmt: skip
        if bias is None:
            y = self.act_y(y) * nn.functional.silu(z)
        out = self.out_proj(y)
        return out if ssm is None else (out, MixerState(conv, ssm))

    def _step_size(self, u: Tensor, dt: Tensor) -> tuple[Tensor, Tensor | None]:
        """dt as the scan wants it and None; or dt as it is and the bias, if bias, softplus and gate
        are left to the scan."""
        bias, wide = self.dt_proj.bias, compute_dtype(dt)
        if not watched(self.act_dt, self.act_y) and absorbs(
            u.transpose(1, 2), self.config.d_state, self.backend
        ):
            return dt, bias
        return self.act_dt(nn.functional.softplus(dt.to(wide) + bias.to(wide))), None

    def _scan(
        self, u: Tensor, dt: Tensor, bias: Tensor | None, B: Tensor, C: Tensor, gate: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """y (b, l, d) of tensors with time in the middle, and the last state, if that is among the
        scan's `options`."""
        A = -torch.exp(self.A_log.to(compute_dtype(dt)))
        u, dt, B, C = (tensor.transpose(1, 2) for tensor in (u, dt, B, C))
        gate = None if gate is None else gate.transpose(1, 2)
        # the scan casts for itself; autocast would halve its products in forward, not in backward
        with torch.autocast(u.device.type, enabled=False):
            scanned = selective_scan(
                u, dt, A, B, C, self.D, gate, bias, bias is not None, backend=self.backend,
                **options,
            )  # fmt: skip
        y, last = scanned if options.get("return_last_state") else (scanned, None)
        return y.transpose(1, 2), last

    def last(self, x: Tensor) -> Tensor:
        """The block at the last position alone: (b, l, m) to (b, 1, m), if no backend is asked for
        by name. Nothing but u, dt and B is made of the other positions. The scan makes y of all,
        with C zero but at the end: its last state would do, but is as large as n positions' y."""
        if self.backend != "auto":
            return self(x)[:, -1:]
        c = self.config
        u = self.in_proj.part(x, slice(c.d_inner))
        z = self.in_proj.part(x[:, -1:], slice(c.d_inner, None))
        u, _ = self.conv(u, None, False)
        to_dt, to_B, to_C = self.x_proj.weight.split([c.rank, c.d_state, c.d_state])
        dt, B = linear(linear(u, to_dt), self.dt_proj.weight), linear(u, to_B)
        C = nn.functional.pad(linear(u[:, -1:], to_C), (0, 0, x.shape[1] - 1, 0))
        y, _ = self._scan(u, *self._step_size(u, dt), B, C, None)
        return self.out_proj(y[:, -1:] * nn.functional.silu(z))

    def step(self, x: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """One token: x (b, m) to y (b, m) and the next state."""
        u, z = self.in_proj(x).chunk(2, dim=-1)
        u, conv = self.conv.step(u, state.conv)
        dt, B, C = self._split(u)
        # (b, 1, n): one group, so that b = d cannot be mistaken for constant B and C
        y, ssm = selective_state_step(
            state.ssm, u, dt, -torch.exp(self.A_log.to(state.ssm.dtype)), B[:, None], C[:, None],
            self.D, delta_bias=self.dt_proj.bias, delta_softplus=True,
        )  # fmt: skip
        return self.out_proj(y * nn.functional.silu(z)), MixerState(conv, ssm)

    def initial_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> MixerState:
        """The state before the first token: zeros."""
        c = self.config
        size = (batch, c.d_inner, c.d_state)
        return MixerState(
            torch.zeros(batch, c.conv_dim, self.conv.taps - 1, device=device, dtype=dtype),
            torch.zeros(size, device=device, dtype=compute_dtype(self.A_log)),
        )
