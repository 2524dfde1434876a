"""Batches gathered on the device from tensors that lie there whole; no per-item Python."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class TensorBatches:
    """Shuffled batches of rows of `tensors`, in an order fixed by (`seed`, epoch).

    The order of an epoch is drawn on the CPU from its own stream, so it is the same on every
    device and can be made again after a restart without storing any generator state.

    Args:
        tensors: tensors of equal first size, on the device of training.
        batch_size: rows in a batch, at most the number of rows.
        seed: with the epoch it decides the order.
        drop_last: leave out the last, smaller batch. If it is kept, `gather` returns fewer rows
            for it, and the step cannot be captured as a CUDA graph.
    """

    def __init__(
        self, tensors: Sequence[Tensor], batch_size: int, seed: int, drop_last: bool = True
    ) -> None:
        self.tensors = tuple(tensors)
        rows = len(self.tensors[0])
        if any(len(tensor) != rows for tensor in self.tensors):
            raise ValueError(f"tensors have {[len(t) for t in self.tensors]} rows, must be equal")
        if not 1 <= batch_size <= rows:
            raise ValueError(f"batch_size is {batch_size}, allowed: 1..{rows} (rows of the data)")
        self.rows, self.batch_size, self.seed, self.drop_last = rows, batch_size, seed, drop_last
        self.order = torch.zeros(rows, dtype=torch.int64, device=self.tensors[0].device)

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(self.rows, self.batch_size)
        return whole + bool(rest and not self.drop_last)

    @property
    def even(self) -> bool:
        """Whether all batches have the same size."""
        return self.drop_last or self.rows % self.batch_size == 0

    def begin_epoch(self, epoch: int) -> None:
        """Lay out the order of `epoch` (in place: a captured graph keeps reading this buffer)."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        self.order.copy_(torch.randperm(self.rows, generator=generator))

    def gather(self, position: Tensor | int) -> tuple[Tensor, ...]:
        """The batch number `position` of the epoch; a 0-dim tensor position never leaves the
        device, an int gives the smaller last batch its own size."""
        if isinstance(position, int):
            start = position * self.batch_size
            rows = self.order[start : start + self.batch_size]
        else:
            offsets = torch.arange(self.batch_size, device=self.order.device)
            rows = self.order.index_select(0, position * self.batch_size + offsets)
        return tuple(tensor.index_select(0, rows) for tensor in self.tensors)
