"""The Mamba-3 block with one input and output a head (Lahoti et al. 2026, arXiv 2603.15569)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.models.config import Mamba3Config
from lib.models.layers import Activation, Linear, RMSNorm
from lib.ops import backends
from lib.ops.checks import compute_dtype
from lib.ops.mamba3 import (
    OP,
    Mamba3State,
    mamba3_scan,
    mamba3_step,
)
from lib.ops.mamba3_matrix import apply_mamba3_matrix, mamba3_matrix
from lib.ops.ssd import finish


class HeadRMSNorm(RMSNorm):
    """RMS norm of each head of y, with a weight for each channel of all heads."""

    def forward(self, y: Tensor) -> Tensor:
        """(..., h, p) to the same shape and dtype; the weight is (h p)."""
        wide = y.to(compute_dtype(y))
        normed = F.rms_norm(wide, wide.shape[-1:], eps=self.eps)
        return (normed * self.weight.to(wide.dtype).view(wide.shape[-2:])).to(y.dtype)


class Mamba3Mixer(nn.Module):
    """x (b, l, m) to y (b, l, m): one projection makes all inputs of the scan, without a
    convolution; B and C are normed, get a bias and are turned; gate, project.

    Names and shapes of the parameters are those of mamba_ssm's Mamba3 (SISO), so that a state dict
    of one fits the other. The activations named act_* pass through in forward(), not in step(); B
    and C are taken after their norm, before bias and turning; S, in which step sizes are included,
    shows where the quadratic form runs and no state comes in or goes out.
    """

    act_dt: Activation
    act_x: Activation
    act_B: Activation
    act_C: Activation
    act_S: Activation
    act_y: Activation
    act_z: Activation

    def __init__(self, config: Mamba3Config, backend: str = "auto", norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.config, self.backend = config, backend
        d, h, n = config.d_inner, config.n_heads, config.d_state
        self.in_proj = Linear(config.d_model, sum(config.in_proj_sizes), bias=False)
        self.dt_bias = nn.Parameter(torch.zeros(h))
        # the axis of size 1 is the rank of the form with several inputs and outputs
        self.B_bias = nn.Parameter(torch.ones(h, 1, n))
        self.C_bias = nn.Parameter(torch.ones(h, 1, n))
        self.B_norm = RMSNorm(n, norm_eps)
        self.C_norm = RMSNorm(n, norm_eps)
        self.D = nn.Parameter(torch.ones(h))
        self.norm = HeadRMSNorm(d, norm_eps) if config.outproj_norm else None
        self.out_proj = Linear(d, config.d_model, bias=False)
        for parameter in (self.D, self.dt_bias):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]
        for name in ("dt", "x", "B", "C", "S", "y", "z"):
            setattr(self, f"act_{name}", Activation())

    def _inputs(self, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """x (..., m) to z (..., d), x (..., h, p) and the scan's other inputs by name."""
        c = self.config
        z, u, B, C, dt, A, trap, angle = self.in_proj(x).split(c.in_proj_sizes, dim=-1)
        u = u.unflatten(-1, (c.n_heads, c.headdim))
        B, C = (t.unflatten(-1, (c.n_groups, c.d_state)) for t in (B, C))
        wide = compute_dtype(dt)
        return z, u, {
            "dt": F.softplus(dt.to(wide) + self.dt_bias.to(wide)),
            "A": (-F.softplus(A.to(wide))).clamp(max=-c.A_floor),
            "trap": torch.sigmoid(trap.to(wide)),
            "B": self.B_norm(B),
            "C": self.C_norm(C),
            # at most half a turn in a unit of dt
            "angle": math.pi * torch.tanh(angle.to(wide)),
        }  # fmt: skip

    def _biases(self) -> dict[str, Tensor]:
        return {"B_bias": self.B_bias.squeeze(1), "C_bias": self.C_bias.squeeze(1)}

    def _output(self, y: Tensor, z: Tensor) -> Tensor:
        """Norm if there is one, gate, projection: y (..., h, p) and z (..., d) to (..., m)."""
        y = (y if self.norm is None else self.norm(y)).flatten(-2)
        wide = compute_dtype(y)
        return self.out_proj((y.to(wide) * F.silu(z.to(wide))).to(y.dtype))

    def forward(
        self, x: Tensor, state: Mamba3State | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, Mamba3State]:
        """The block over a sequence; with `return_state` also what the next tokens need."""
        c = self.config
        z, u, inputs = self._inputs(x)
        z, u = self.act_z(z), self.act_x(u)
        for name in ("dt", "B", "C"):
            inputs[name] = getattr(self, f"act_{name}")(inputs[name])
        name = backends.resolve(
            OP, self.backend, device=x.device, length=x.shape[1], chunk_size=c.chunk_size,
            dtype=x.dtype,
        )  # fmt: skip
        last = None
        # the scan casts for itself; autocast would halve its products, and the state
        with torch.autocast(x.device.type, enabled=False):
            if name == "quadratic" and not return_state and state is None:
                # the same as mamba3_scan() below, with S in the open to see or edit
                S = self.act_S(mamba3_matrix(**inputs, **self._biases()))
                u_wide = u.to(S.dtype)
                y = finish(apply_mamba3_matrix(S, u_wide), u_wide, self.D, None).to(u.dtype)
            else:
                scanned = mamba3_scan(
                    u, **inputs, **self._biases(), D=self.D, chunk_size=c.chunk_size, backend=name,
                    return_last_state=return_state, initial_state=state,
                )  # fmt: skip
                y, last = scanned if return_state else (scanned, None)
        out = self._output(self.act_y(y), z)
        return out if last is None else (out, last)

    def step(self, x: Tensor, state: Mamba3State) -> tuple[Tensor, Mamba3State]:
        """One token: x (b, m) to y (b, m) and the next state."""
        z, u, inputs = self._inputs(x)
        with torch.autocast(x.device.type, enabled=False):
            y, state = mamba3_step(state, u, **inputs, **self._biases(), D=self.D)
        return self._output(y, z), state

    def initial_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> Mamba3State:
        """The state before the first token: zeros, in the scan's dtype whatever `dtype` is."""
        c, kind = self.config, compute_dtype(self.D)
        sizes = ((c.n_angles,), (c.headdim, c.d_state), (c.d_state,), (c.headdim,))
        return Mamba3State(
            *(torch.zeros(batch, c.n_heads, *size, device=device, dtype=kind) for size in sizes)
        )
