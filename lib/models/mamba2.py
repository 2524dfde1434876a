"""The Mamba-2 block (Dao and Gu 2024, arXiv 2405.21060, section 7 and figure 6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.models.config import Mamba2Config
from lib.models.layers import (
    Activation,
    CausalConv,
    GatedRMSNorm,
    LayerNorm,
    Linear,
    RMSNorm,
    watched,
)
from lib.models.mamba1 import MixerState
from lib.ops import backends
from lib.ops.block import OP, block_facts, mamba2_block
from lib.ops.checks import compute_dtype
from lib.ops.ssd import apply_ssd_matrix, finish, ssd, ssd_last, ssd_matrix, ssd_step


class Mamba2Mixer(nn.Module):
    """x (b, l, m) to y (b, l, m): one projection makes z, x, B, C and dt; x, B and C are convolved;
    the state-space dual mixes time; gate, norm, project.

    The activations named act_* pass through in forward(), not in step(); S does where the quadratic
    form runs and no state comes in or goes out.
    """

    act_pre_conv: Activation
    act_post_conv: Activation
    act_dt: Activation
    act_x: Activation
    act_B: Activation
    act_C: Activation
    act_S: Activation
    act_y: Activation
    act_z: Activation

    def __init__(self, config: Mamba2Config, backend: str = "auto", norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.config, self.backend = config, backend
        d, h = config.d_inner, config.n_heads
        self.in_proj = Linear(config.d_model, d + config.conv_dim + h, bias=config.bias)
        self.conv = CausalConv(
            config.conv_dim, config.d_conv, config.conv_kind, config.conv_bias, "auto",
            config.conv_frozen, config.conv_bypass,
        )  # fmt: skip
        self.dt_bias = nn.Parameter(torch.zeros(h))
        self.A_log = nn.Parameter(torch.zeros(h))
        self.D = nn.Parameter(torch.ones(h))
        self.norm = GatedRMSNorm(d, config.n_groups, norm_eps)
        self.out_proj = Linear(d, config.d_model, bias=config.bias)
        for parameter in (self.A_log, self.D, self.dt_bias):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]
        for name in ("pre_conv", "post_conv", "dt", "x", "B", "C", "S", "y", "z"):
            setattr(self, f"act_{name}", Activation())

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z (..., d), xBC (..., d + 2 g n) and dt (..., h) of x (..., m), each position by itself,
        before the convolution and the bias of dt. Of a block with one head, such as those that
        train by the dozen, they are products of their own: one product's columns are odd in number,
        and to join the gradients of its parts are passes over all of them."""
        c = self.config
        if c.n_heads > 1:
            z, xBC, dt = self.in_proj(x).split([c.d_inner, c.conv_dim, c.n_heads], dim=-1)
            return z, xBC, dt
        end = c.d_inner + c.conv_dim
        part = self.in_proj.part
        return part(x, slice(c.d_inner)), part(x, slice(c.d_inner, end)), self._steps(x)

    def _steps(self, x: Tensor) -> Tensor:
        """dt (b, l, h) of x before its bias."""
        c = self.config
        last = slice(c.d_inner + c.conv_dim, None)
        if c.n_heads > 1 or c.bias or torch.is_autocast_enabled(x.device.type):
            return self.in_proj.part(x, last)
        return (x * self.in_proj.weight[last].squeeze(0)).sum(-1, keepdim=True)

    def _split(self, xBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., d + 2 g n) to x (..., h, p), B and C (..., g, n)."""
        c = self.config
        size = c.n_groups * c.d_state
        x, B, C = xBC.split([c.d_inner, size, size], dim=-1)
        return (
            x.unflatten(-1, (c.n_heads, c.headdim)),
            B.unflatten(-1, (c.n_groups, c.d_state)),
            C.unflatten(-1, (c.n_groups, c.d_state)),
        )

    def fuses(
        self, x: Tensor, state: MixerState | None, return_state: bool, norm: nn.Module | None
    ) -> bool:
        """Whether this call goes through one fused op, `norm` before it and residual included.

        Raises:
            BackendError: "fused" was asked for by name and cannot serve the call.
        """
        if self.backend not in ("auto", "fused"):
            return False
        c = self.config
        reason = None
        if state is not None or return_state:
            reason = "it neither takes nor returns a state; use auto"
        elif watched(self, *self.children(), *([] if norm is None else [norm])):
            reason = "activations are watched, and it has none; use auto"
        elif c.n_heads != 1 or c.n_groups != 1 or c.bias or c.conv_kind == "none":
            reason = "it has one head, no bias of projections and a convolution; use auto"
        elif isinstance(norm, LayerNorm):
            reason = "it makes an RMS norm itself, and the layer has another; use auto"
        elif c.conv_bypass != "none":
            reason = f"nothing passes its convolution by, conv_bypass is {c.conv_bypass}; use auto"
        if reason is not None:
            if self.backend == "fused":
                raise backends.BackendError(f"backend 'fused' of {OP} cannot serve this: {reason}")
            return False
        facts = block_facts(x, c.d_inner, self.in_proj.weight.shape[0], c.d_conv)
        if self.backend == "auto" and not backends.suits(OP, "fused", device=x.device, **facts):
            return False
        return backends.resolve(OP, "fused", device=x.device, **facts) == "fused"

    def fused(self, x: Tensor, norm: nn.Module | None, last_only: bool) -> Tensor:
        """x + block(norm(x)) as one op; `norm` is an RMSNorm, or anything else for none."""
        return mamba2_block(
            x, norm.weight if isinstance(norm, RMSNorm) else None, self.in_proj.weight,
            self.conv.kernel(), self.conv.bias, self.dt_bias, self.A_log, self.D, self.norm.weight,
            self.out_proj.weight, eps=self.norm.eps, last_only=last_only, backend="fused",
        )  # fmt: skip

    def forward(
        self, x: Tensor, state: MixerState | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, MixerState]:
        """The block over a sequence; with `return_state` also what the next tokens need."""
        return self.mix(*self.project(x), state, return_state)

    def mix(
        self, z: Tensor, xBC: Tensor, dt: Tensor, state: MixerState | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, MixerState]:  # fmt: skip
        """The block of what :meth:`project` made, each (b, l, its size)."""
        c = self.config
        z = self.act_z(z)
        xBC, conv = self.conv(self.act_pre_conv(xBC), state.conv if state else None, return_state)
        u, B, C = self._split(self.act_post_conv(xBC))
        u, B, C = self.act_x(u), self.act_B(B), self.act_C(C)
        wide = compute_dtype(dt)
        dt = self.act_dt(nn.functional.softplus(dt.to(wide) + self.dt_bias.to(wide)))
        A = -torch.exp(self.A_log.to(wide))
        name = backends.resolve(
            "ssd", self.backend, device=u.device, length=u.shape[1], chunk_size=c.chunk_size,
            dtype=u.dtype,
        )  # fmt: skip
        if name == "quadratic" and not return_state and state is None:
            # the same as ssd() below, with S in the open, for whoever wants to see or edit it
            S = self.act_S(ssd_matrix(dt, A, B, C))
            y = ssm = apply_ssd_matrix(S, u.to(wide), dt, self.D).to(u.dtype)
        else:
            scanned = ssd(
                u, dt, A, B, C, self.D, chunk_size=c.chunk_size, backend=name,
                return_last_state=return_state, initial_state=state.ssm if state else None,
            )  # fmt: skip
            y, ssm = scanned if return_state else (scanned, scanned)
        out = self.out_proj(self.norm(self.act_y(y).flatten(-2), z))
        # under autocast the op's last state may be in half precision, in which none can go on
        return (out, MixerState(conv, ssm.to(wide))) if return_state else out

    def last(self, x: Tensor) -> Tensor:
        """The block at the last position alone: (b, l, m) to (b, 1, m). Nothing but x, B and dt is
        made of the others, and of C what the last convolution reads, if a backend is not asked for
        by name."""
        if self.backend != "auto":
            return self(x)[:, -1:]
        c = self.config
        d, part = c.d_inner, self.in_proj.part
        ends = d + c.n_groups * c.d_state  # of x and B among what is convolved
        z = part(x[:, -1:], slice(d))
        xB = self.conv.part(part(x, slice(d, d + ends)), slice(ends))
        recent = part(x[:, -self.conv.taps :], slice(d + ends, d + c.conv_dim))
        C = self.conv.part(recent, slice(ends, None))[:, -1]
        u = xB[..., :d].unflatten(-1, (c.n_heads, c.headdim))
        B, C = (m.unflatten(-1, (c.n_groups, c.d_state)) for m in (xB[..., d:], C))
        dt = self._steps(x)
        wide = compute_dtype(dt)
        dt = nn.functional.softplus(dt.to(wide) + self.dt_bias.to(wide))
        y = ssd_last(u, dt, -torch.exp(self.A_log.to(wide)), B, C)[:, None]
        y = finish(y, u[:, -1:].to(wide), self.D, None).to(u.dtype)
        return self.out_proj(self.norm(y.flatten(-2), z))

    def step(self, x: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """One token: x (b, m) to y (b, m) and the next state."""
        z, xBC, dt = self.project(x)
        xBC, conv = self.conv.step(xBC, state.conv)
        u, B, C = self._split(xBC)
        y, ssm = ssd_step(
            state.ssm, u, dt, -torch.exp(self.A_log.to(state.ssm.dtype)), B, C, self.D,
            dt_bias=self.dt_bias, dt_softplus=True,
        )  # fmt: skip
        return self.out_proj(self.norm(y.flatten(-2), z)), MixerState(conv, ssm)

    def initial_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> MixerState:
        """The state before the first token: zeros."""
        c = self.config
        size = (batch, c.n_heads, c.headdim, c.d_state)
        return MixerState(
            torch.zeros(batch, c.conv_dim, self.conv.taps - 1, device=device, dtype=dtype),
            torch.zeros(size, device=device, dtype=compute_dtype(self.A_log)),
        )
