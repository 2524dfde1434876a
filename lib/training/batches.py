"""Batches gathered on the device from tensors that lie there whole; no per-item Python."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

# drawing the order of 250,000 rows takes milliseconds: one thread does it while a device trains
_DRAWS = ThreadPoolExecutor(max_workers=1, thread_name_prefix="order")
_SMALL = (torch.uint8, torch.int16, torch.int32)


def draw_order(seed: int, epoch: int, rows: int) -> Tensor:
    """The order of `rows` rows in an epoch, (rows,) on the CPU, fixed by (`seed`, `epoch`)."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(rows, generator=generator)


def narrow(tensor: Tensor) -> Tensor:
    """An int64 tensor in the smallest type that holds its values; any other tensor as it is."""
    if tensor.dtype != torch.int64 or not tensor.numel():
        return tensor
    low, high = int(tensor.min()), int(tensor.max())
    for kind in _SMALL:
        if torch.iinfo(kind).min <= low and high <= torch.iinfo(kind).max:
            return tensor.to(kind)
    return tensor


class _Orders:
    """The orders of one or more data sets, epoch by epoch; the next epoch's is drawn ahead."""

    def __init__(self, seeds: Sequence[int], rows: int) -> None:
        self.seeds, self.rows = tuple(seeds), rows
        self.ahead: tuple[int, Future[Tensor]] | None = None

    def _draw(self, epoch: int) -> Tensor:
        # data set number k lies at rows k * rows of the flat data
        orders = [draw_order(s, epoch, self.rows) + k * self.rows for k, s in enumerate(self.seeds)]
        return torch.stack(orders)

    def take(self, epoch: int) -> Tensor:
        """(data sets, rows) of `epoch`; starts to draw the epoch after it."""
        known, self.ahead = self.ahead, None
        order = known[1].result() if known and known[0] == epoch else self._draw(epoch)
        self.ahead = epoch + 1, _DRAWS.submit(self._draw, epoch + 1)
        return order


class TensorBatches:
    """Shuffled batches of rows of `tensors`, in an order fixed by (`seed`, epoch).

    The order of an epoch is drawn on the CPU from its own stream, so it is the same on every
    device and can be made again after a restart without storing any generator state.

    Args:
        tensors: tensors of equal first size, on the device of training.
        batch_size: rows in a batch, at most the number of rows.
        seed: with the epoch it decides the order.
        drop_last: leave out the last, smaller batch. If it is kept, `gather` returns fewer rows
            for it, which a CUDA graph of the other steps cannot take.
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
        self._orders = _Orders([seed], rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Axes of runs that a batch has in front: none."""
        return ()

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
        self.order.copy_(self._orders.take(epoch).view(self.order.shape))

    def _rows(self, position: Tensor | int) -> Tensor:
        """Rows of batch number `position`: the last axis of `order`, cut."""
        if isinstance(position, int):
            start = position * self.batch_size
            return self.order[..., start : start + self.batch_size]
        offsets = torch.arange(self.batch_size, device=self.order.device)
        # index_select, since indexing with a tensor asks the host for its values
        return self.order.index_select(-1, position * self.batch_size + offsets)

    def gather(self, position: Tensor | int) -> tuple[Tensor, ...]:
        """The batch number `position` of the epoch; a 0-dim tensor position never leaves the
        device, an int gives the smaller last batch its own size."""
        rows = self._rows(position)
        return tuple(tensor.index_select(0, rows) for tensor in self.tensors)


class StackedBatches(TensorBatches):
    """Batches of many runs along a leading axis: run r reads data set `which[r]` in its order.

    Each data set is stored once, integers in the smallest type that holds them; batches come with
    the type that the tensors had.

    Args:
        sets: the data of different (task, seed), equal in shape, batch size and `drop_last`.
        which: for each run the number of its data set.

    Raises:
        ValueError: sets that differ, or a number that is none of a set.
    """

    def __init__(self, sets: Sequence[TensorBatches], which: Sequence[int]) -> None:
        first = sets[0]
        for name in ("rows", "batch_size", "drop_last"):
            values = [getattr(one, name) for one in sets]
            if len(set(values)) > 1:
                raise ValueError(f"{name} is {values} in the runs' data, must be equal")
        if not which or not 0 <= min(which) <= max(which) < len(sets):
            raise ValueError(f"which is {list(which)}, allowed: numbers 0..{len(sets) - 1}")
        self.sets, self.runs = len(sets), len(which)
        self.dtypes = [tensor.dtype for tensor in first.tensors]
        self.tensors = tuple(
            narrow(torch.cat(parts)) for parts in zip(*(one.tensors for one in sets), strict=True)
        )
        self.rows, self.batch_size, self.drop_last = first.rows, first.batch_size, first.drop_last
        device = first.order.device
        self.which = torch.tensor(list(which), device=device)
        self.order = torch.zeros(self.sets, self.rows, dtype=torch.int64, device=device)
        self._orders = _Orders([one.seed for one in sets], self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Axes of runs that a batch has in front: (runs,)."""
        return (self.runs,)

    def gather(self, position: Tensor | int) -> tuple[Tensor, ...]:
        """Batch number `position` of every run: tensors (runs, rows, ...)."""
        rows = self._rows(position).index_select(0, self.which)
        return tuple(
            tensor.index_select(0, rows.flatten()).unflatten(0, rows.shape).to(dtype)
            for tensor, dtype in zip(self.tensors, self.dtypes, strict=True)
        )
