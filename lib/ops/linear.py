"""A linear map of many rows, made for ensembles: see :func:`linear`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

# see linear(); measured at 12 runs of 16,384 rows with weights of 2,048 to 16,384 numbers. Of
# 98,432 numbers (769 x 128) the gradient of six runs is 84 tiles, fewer than an H200 has
# processors, and took it 1.6 ms
SLICES, LEAST_ROWS, SMALL = 32, 4096, 2**17


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` of x (..., m) with weight (n, m), made for torch.vmap over runs.

    F.linear there, if x is not contiguous (a convolution's output, transposed), copies the weight
    for every sequence and multiplies each alone: half the time of a Mamba-1 training step. So x
    becomes a matrix first. And cuBLAS makes the gradient of a small weight, a sum over all rows,
    by a few of a GPU's processors alone: it is made of SLICES sums instead, of LEAST_ROWS or more
    in all, if the weight has at most SMALL numbers.
    """
    rows = x.reshape(-1, x.shape[-1])
    out_shape = (*x.shape[:-1], weight.shape[0])
    many = rows.shape[0] >= LEAST_ROWS and rows.shape[0] % SLICES == 0
    if x.is_cuda and many and weight.numel() <= SMALL:
        return in_slices(rows, weight, bias).reshape(out_shape)
    return F.linear(rows, weight, bias).reshape(out_shape)


def in_slices(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear`` of rows (SLICES k, m) as a batch of products, (SLICES, k, n): the gradient of
    `weight` is a sum of as many products."""
    parts = rows.unflatten(0, (SLICES, -1)) @ weight.t().expand(SLICES, -1, -1)
    return parts if bias is None else parts + bias.to(parts.dtype)
