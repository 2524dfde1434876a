"""A linear map of many rows, made for ensembles: see :func:`linear`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.ops import backends

OP = "linear"
# see _reference(); measured at 12 runs of 16,384 rows with weights of 2,048 to 16,384 numbers. Of
# 98,432 numbers (769 x 128) the gradient of six runs is 84 tiles, fewer than an H200 has
# processors, and took it 1.6 ms
SLICES, LEAST_ROWS, SMALL = 32, 4096, 2**17


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str = "auto"
) -> Tensor:
    """``F.linear`` of x (..., m) with weight (n, m) and bias (n,), made for torch.vmap over runs.

    F.linear there, if x is not contiguous (a convolution's output, transposed), copies the weight
    for every sequence and multiplies each alone: half the time of a Mamba-1 training step. So x
    becomes a matrix first.

    Args:
        backend: "auto", "reference" or "tensor_cores" (float32 outside of autocast, a GPU).

    Returns:
        (..., n).

    Raises:
        ValueError: no backend of that name.
        BackendError: a named backend that is missing or cannot serve the call.
    """
    rows = x.reshape(-1, x.shape[-1])
    facts = linear_facts(rows, weight)
    if backend == "auto":
        fits = backends.suits(OP, "tensor_cores", device=x.device, **facts)
        backend = "tensor_cores" if fits else "reference"
    # what the library does by itself is no choice, and no record lists it
    if backend != "reference":
        backend = backends.resolve(OP, backend, device=x.device, **facts)
    out: Tensor = backends.call(OP, backend)(rows, weight, bias)
    return out.reshape(*x.shape[:-1], weight.shape[0])


def linear_facts(rows: Tensor, weight: Tensor) -> dict[str, Any]:
    """Facts of a call by which a backend says whether it can serve it."""
    return {
        "dtype": rows.dtype, "weight_dtype": weight.dtype,
        # of tensors without numbers nobody knows
        "autocast": not rows.is_meta and torch.is_autocast_enabled(rows.device.type),
    }  # fmt: skip


def _reference(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear``, but that on a GPU the gradient of a weight of at most SMALL numbers, a sum over
    LEAST_ROWS rows or more, is made of SLICES sums: cuBLAS makes it by a few of the processors."""
    many = rows.shape[0] >= LEAST_ROWS and rows.shape[0] % SLICES == 0
    if rows.is_cuda and many and weight.numel() <= SMALL:
        return in_slices(rows, weight, bias)
    return F.linear(rows, weight, bias)


def in_slices(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear`` of rows (SLICES k, m) as a batch of products, (SLICES, k, n): the gradient of
    `weight` is a sum of as many products."""
    parts = rows.unflatten(0, (SLICES, -1)) @ weight.t().expand(SLICES, -1, -1)
    return parts if bias is None else parts + bias.to(parts.dtype)


backends.register(OP, "reference", _reference, prefers=lambda facts: True)
