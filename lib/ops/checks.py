"""Shape and type checks of ops, with errors that name the parameter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def expect(name: str, tensor: Tensor | None, letters: str, **sizes: int) -> None:
    """Check that `tensor` has the shape written as letters, ``"b d l"``, with known `sizes`.

    Raises:
        ValueError: naming the parameter, its shape and the expected one.
    """
    if tensor is None:
        return
    wanted = letters.split()
    fits = tensor.dim() == len(wanted) and all(
        letter not in sizes or size == sizes[letter]
        for letter, size in zip(wanted, tensor.shape, strict=True)
    )
    if not fits:
        shape = ", ".join(f"{w}={sizes[w]}" if w in sizes else w for w in wanted)
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, allowed: ({shape})")


def expect_real(name: str, tensor: Tensor) -> None:
    """Raise a ValueError for a complex tensor."""
    if tensor.is_complex():
        raise ValueError(f"{name} is {tensor.dtype}, allowed: real floating point")


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Scans compute in float32, or in float64 where the input is float64."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def among(size: Any, allowed: range | tuple[Any, ...]) -> bool:
    """Whether a size is one of `allowed`, by comparisons alone: a compiler that leaves a size open
    can compare it, and cannot look it up."""
    if isinstance(allowed, range):
        return bool(allowed.start <= size < allowed.stop)
    return any(size == one for one in allowed)
