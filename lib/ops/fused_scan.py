"""The backend "fused" of the selective scan: Triton kernels for short sequences, many runs at once,
and for long ones; see :mod:`lib.ops.scan_kernels`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lib.ops import backends, scan_kernels, segments
from lib.ops.checks import among
from lib.ops.scan import OP

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
STATES = range(1, 257)


def absorbs(u: Tensor, d_state: int, backend: str = "auto") -> bool:
    """Whether a model should leave softplus and gate to :func:`lib.ops.scan.selective_scan`,
    rather than pass over its tensors for them.

    True where kernels for long sequences serve: they do both in passing, once a step and channel.
    Those for short sequences do them once for every few state entries, and a compiler joins what
    stands outside to its neighbours.

    Args:
        u: (b, d, l), as in the call that is meant.
    """
    if backend not in ("auto", "fused") or not scan_kernels.is_long(u.shape[2], d_state):
        return False
    facts = {"length": u.shape[2], "dtype": u.dtype, "d_state": d_state}
    if backend == "auto":
        return backends.suits(OP, "fused", device=u.device, **facts)
    return backends.missing(OP, backend, u.device) is None


def _neighbours(m: Tensor) -> Tensor:
    """B or C (..., n, l) with state entries as neighbours in memory, as a model hands them over. In
    mamba_ssm's layout, steps as neighbours, a warp would read a line of the cache for each entry:
    a copy is cheaper."""
    return m if m.stride(-2) == 1 else m.mT.contiguous().mT


def _fused(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, initial_state: Tensor | None,
    want_last: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    B, C = (_neighbours(m if m.dim() == 4 else m[:, None]) for m in (B, C))
    groups = max(B.shape[1], C.shape[1])
    B, C = (m.expand(-1, groups, -1, -1) for m in (B, C))
    keep = torch.is_grad_enabled()  # what only a backward pass reads is not written for nothing
    if not keep and scan_kernels.is_long(u.shape[2], A.shape[1]):
        count = segments.how_many(u.shape[0] * groups, u.shape[1] // groups, A.shape[1], u.shape[2])
        if count > 1:
            return segments.in_segments(
                count, u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus
            )
    one_run = [
        None if t is None else t[None] for t in (u, delta, A, B, C, D, z, delta_bias, initial_state)
    ]
    y, last, _, _ = scan_kernels.forward_op(*one_run, delta_softplus, want_last, keep)
    # not [0], as in fused_conv
    return y.squeeze(0), last.squeeze(0) if want_last else last


def _refuses(facts: dict[str, Any]) -> str | None:
    if facts["dtype"] not in DTYPES:
        return f"dtype is {facts['dtype']}, allowed: float32, bfloat16, float16; use chunked"
    n = facts.get("d_state")
    if n is not None and not among(n, STATES):
        return f"d_state is {n}, allowed: 1..256; use chunked"
    groups = facts.get("groups", (1, 1))
    if 0 in groups:
        return "B or C is constant, allowed: (b, n, l) or (b, g, n, l); use chunked"
    if len({*groups} - {1}) > 1:
        return f"B and C have {groups[0]} and {groups[1]} groups, allowed: as many; use chunked"
    return None


backends.register(
    OP, "fused", _fused, refuses=_refuses,
    missing=lambda device: backends.triton_missing(device.type),
    prefers=lambda facts: facts["device"].type == "cuda" and "d_state" in facts, first=True,
)  # fmt: skip
