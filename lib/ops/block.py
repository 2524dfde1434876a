"""A whole Mamba-2 block as one op: norm, projection, convolution, SSD, gated norm, projection.

Dao and Gu 2024 (arXiv 2405.21060), figure 6, with the pre-norm and the residual around it::

    z, xBC, dt = in_weight rms_norm(x);  X, B, C = silu(conv(xBC));  y = ssd(X, dt, A, B, C) + D X
    out = x + out_weight rms_norm(y silu(z))

One head whose channels are all of d_inner, one group. ``reference`` composes the ops of this
package; ``fused`` (:mod:`lib.ops.fused_block`) is one pass of Triton kernels for short sequences.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.ops import backends
from lib.ops.checks import compute_dtype, expect, expect_real
from lib.ops.conv import causal_conv1d
from lib.ops.linear import linear
from lib.ops.ssd import ssd

OP = "mamba2_block"


def mamba2_block(
    x: Tensor,
    norm_weight: Tensor | None,
    in_weight: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    gate_weight: Tensor,
    out_weight: Tensor,
    *,
    eps: float = 1e-5,
    last_only: bool = False,
    backend: str = "auto",
) -> Tensor:
    """x + block(rms_norm(x)).

    Args:
        x: (b, l, m).
        norm_weight: (m,), of the pre-norm; None for no pre-norm.
        in_weight: (2 d + 2 n + 1, m), rows in the order z, X, B, C, dt.
        conv_weight: (d + 2 n, k); conv_bias: (d + 2 n,) or None.
        dt_bias, A_log, D: (1,).
        gate_weight: (d,), of the gated norm; out_weight: (m, d).
        eps: of both norms.
        last_only: only the last position is wanted: out has length 1.
        backend: "auto", "reference" or "fused".

    Returns:
        (b, l, m), or (b, 1, m) with `last_only`, in x's dtype.

    Raises:
        ValueError: a shape, type or name that does not fit.
        BackendError: a named backend that is missing or cannot serve the call.
    """
    arguments = (
        x, norm_weight, in_weight, conv_weight, conv_bias, dt_bias, A_log, D, gate_weight,
        out_weight,
    )  # fmt: skip
    _check(*arguments)
    facts = block_facts(x, gate_weight.shape[0], in_weight.shape[0], conv_weight.shape[1])
    name = backends.resolve(OP, backend, device=x.device, **facts)
    return backends.call(OP, name)(*arguments, eps, last_only)


def block_facts(x: Tensor, d_inner: int, rows: int, taps: int) -> dict[str, object]:
    """Facts of a call by which a backend says whether it can serve it."""
    return {
        "length": x.shape[1],
        "d_model": x.shape[2],
        "d_inner": d_inner,
        "d_state": (rows - 1 - 2 * d_inner) // 2,
        "taps": taps,
        "dtype": x.dtype,
    }


def _reference(
    x: Tensor, norm_weight: Tensor | None, in_weight: Tensor, conv_weight: Tensor,
    conv_bias: Tensor | None, dt_bias: Tensor, A_log: Tensor, D: Tensor, gate_weight: Tensor,
    out_weight: Tensor, eps: float, last_only: bool,
) -> Tensor:  # fmt: skip
    """The definition, composed of the other ops, in float32 or wider."""
    kind = compute_dtype(x)
    d = gate_weight.shape[0]
    n = (in_weight.shape[0] - 1 - 2 * d) // 2
    u = x.to(kind)
    if norm_weight is not None:
        u = F.rms_norm(u, u.shape[-1:], norm_weight.to(kind), eps)
    z, xBC, dt = linear(u, in_weight.to(kind)).split([d, d + 2 * n, 1], dim=-1)
    bias = None if conv_bias is None else conv_bias.to(kind)
    xBC = causal_conv1d(xBC.transpose(1, 2), conv_weight.to(kind), bias, "silu").transpose(1, 2)
    X, B, C = (t[:, :, None] for t in xBC.split([d, n, n], dim=-1))
    y = ssd(
        X, dt, -torch.exp(A_log.to(kind)), B, C, D.to(kind), dt_bias=dt_bias, dt_softplus=True,
        backend="quadratic",
    )[:, :, 0]  # fmt: skip
    y = F.rms_norm(y * F.silu(z), (d,), gate_weight.to(kind), eps)
    out = x.to(kind) + linear(y, out_weight.to(kind))
    return (out[:, -1:] if last_only else out).to(x.dtype)


def _check(
    x: Tensor, norm_weight: Tensor | None, in_weight: Tensor, conv_weight: Tensor,
    conv_bias: Tensor | None, dt_bias: Tensor, A_log: Tensor, D: Tensor, gate_weight: Tensor,
    out_weight: Tensor,
) -> None:  # fmt: skip
    expect("x", x, "b l m")
    expect_real("x", x)
    if x.shape[1] == 0:
        raise ValueError("x has length 0, allowed: at least 1")
    m = x.shape[2]
    expect("norm_weight", norm_weight, "m", m=m)
    expect("gate_weight", gate_weight, "d")
    d = gate_weight.shape[0]
    expect("out_weight", out_weight, "m d", m=m, d=d)
    expect("in_weight", in_weight, "rows m", m=m)
    n, odd = divmod(in_weight.shape[0] - 1 - 2 * d, 2)
    if n < 1 or odd:
        raise ValueError(
            f"in_weight has {in_weight.shape[0]} rows, allowed: 2 d + 2 n + 1 with d = {d} and "
            "n at least 1"
        )
    expect("conv_weight", conv_weight, "channels k", channels=d + 2 * n)
    expect("conv_bias", conv_bias, "channels", channels=d + 2 * n)
    for name, one in (("dt_bias", dt_bias), ("A_log", A_log), ("D", D)):
        expect(name, one, "one", one=1)


backends.register(OP, "reference", _reference, prefers=lambda facts: True)
