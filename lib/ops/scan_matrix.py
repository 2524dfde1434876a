"""Mamba-1's selective scan as a matrix over time, one for each channel.

For channel d, with gap_ij = sum_{k=j+1..i} delta_k of that channel::

    S_ij = sum_n C_i[n] exp(A[d, n] gap_ij) B_j[n]   for i >= j, else 0
    y_i  = sum_j S_ij delta_j u_j + D u_i

This is :func:`lib.ops.scan.selective_scan` written out (arXiv 2405.21060, section 3: every
state-space model is such a matrix). It costs l^2 n a channel: for looking and cutting, not for
training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.ops.checks import compute_dtype, expect, expect_real


def scan_matrix(
    delta: Tensor, A: Tensor, B: Tensor, C: Tensor, keep: Tensor | None = None
) -> Tensor:
    """S (b, d, l, l): how much of delta_j u_j (column) reaches y_i (row).

    Args:
        delta: (b, d, l), after bias and softplus.
        A: (d, n), negative.
        B, C: (b, n, l), or (b, g, n, l) with g dividing d.
        keep: (l, l), or (1 or b, l, l), which steps an output's decays count: gap_ij becomes
            sum_{k=j+1..i} keep_ik delta_k. All of them if None.

    Returns:
        In float64 if delta or B is, else in float32.

    Raises:
        ValueError: a shape or type that does not fit.
    """
    expect("delta", delta, "b d l")
    b, d, length = delta.shape
    expect("A", A, "d n", d=d)
    n = A.shape[1]
    B, C = (_grouped(name, M, b, d, n, length) for name, M in (("B", B), ("C", C)))
    for name, tensor in (("delta", delta), ("A", A), ("B", B), ("C", C)):
        expect_real(name, tensor)
    square = (length, length)
    if keep is not None and tuple(keep.shape) not in (square, (1, *square), (b, *square)):
        shape = tuple(keep.shape)
        raise ValueError(f"keep has shape {shape}, allowed: (l={length}, l) or (1 or b={b}, l, l)")
    kind = compute_dtype(B) if compute_dtype(B) == torch.float64 else compute_dtype(delta)
    gap = _gaps(delta.to(kind), keep)
    A, B, C = A.to(kind), B.to(kind), C.to(kind)
    S = gap.new_zeros(b, d, length, length)
    for j in range(length):  # all columns at once would take l times the memory
        decay = torch.exp(gap[:, :, j:, j, None] * A[:, None, :])  # (b, d, i, n)
        scores = (C[..., j:] * B[..., j : j + 1]).transpose(-1, -2)  # (b, d or 1, i, n)
        S[:, :, j:, j] = (decay * scores).sum(-1)
    return S


def apply_scan_matrix(S: Tensor, u: Tensor, delta: Tensor, D: Tensor | None = None) -> Tensor:
    """y (b, d, l) = S (delta u) + D u, in S's dtype, for S (b, d, l, l), u and delta (b, d, l) and
    D (d,).

    Raises:
        ValueError: a shape that does not fit.
    """
    expect("u", u, "b d l")
    b, d, length = u.shape
    expect("delta", delta, "b d l", b=b, d=d, l=length)
    expect("S", S, "b d i j", b=b, d=d, i=length, j=length)
    expect("D", D, "d", d=d)
    u = u.to(S.dtype)
    y = torch.einsum("bdij,bdj->bdi", S, delta.to(S.dtype) * u)
    return y if D is None else y + D.to(S.dtype)[:, None] * u


def _gaps(delta: Tensor, keep: Tensor | None) -> Tensor:
    """gap (b, d, i, j) from delta (b, d, l); 0 above the diagonal."""
    length = delta.shape[2]
    counted = torch.ones(length, length, dtype=torch.bool, device=delta.device).tril()
    if keep is not None:
        counted = counted & keep.to(device=delta.device, dtype=torch.bool)
    steps = delta[:, :, None, :] * counted.view(-1, 1, length, length)  # (b, d, i, k)
    # sums from the right, so that no gap is a difference of two long sums
    after = steps.flip(-1).cumsum(-1).flip(-1)
    return F.pad(after[..., 1:], (0, 1))  # those of k > j


def _grouped(name: str, M: Tensor, b: int, d: int, n: int, length: int) -> Tensor:
    """B or C as (b, d, n, l), or (b, 1, n, l) where all channels share it."""
    if M.dim() == 3:
        expect(name, M, "b n l", b=b, n=n, l=length)
        return M[:, None]
    expect(name, M, "b g n l", b=b, n=n, l=length)
    if M.shape[1] == 0 or d % M.shape[1]:
        raise ValueError(f"{name} has {M.shape[1]} groups, allowed: a divisor of the {d} channels")
    return M if M.shape[1] == 1 else M.repeat_interleave(d // M.shape[1], dim=1)
