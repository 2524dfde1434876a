"""Chunks of exactly L tokens, cut from a stream of documents, as batches on the device.

The chunks are those of :mod:`lib.tasks.reconstruction`, of one document each and never padded, but
of a corpus that is tokens already. They are never laid out: a batch is gathered from the stream and
the chunks' first tokens, both on the device, so that a step can be captured as a CUDA graph.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lib.tasks.packing import Stretches
from lib.training.batches import TensorBatches


def chunk_starts(tokens: np.ndarray, end: int, length: int) -> np.ndarray:
    """First token of each chunk of a stream (count,), in the order of the stream: documents lie
    between tokens `end`, each is cut from its start, and its rest is left over.

    Raises:
        ValueError: a length below 1, or no document with so many tokens.
    """
    if length < 1:
        raise ValueError(f"length is {length}, allowed: at least 1")
    ends = np.flatnonzero(np.asarray(tokens) == end)
    edges = np.concatenate([[-1], ends, [len(tokens)]])
    firsts, sizes = edges[:-1] + 1, np.diff(edges) - 1
    counts = sizes // length
    if not counts.sum():
        raise ValueError(
            f"length is {length}, allowed: up to {sizes.max()}, the tokens of the longest document"
        )
    order = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(firsts, counts) + order * length


class ChunkBatches(TensorBatches):
    """Shuffled batches of chunks: one tensor (rows, L) int64.

    Args:
        tokens: the stream, (count,) unsigned.
        starts: see :func:`chunk_starts`.
        epoch_rows: chunks of what counts as an epoch, after which the model is measured; None for
            all. No chunk comes twice before every one came once.

    Raises:
        ValueError: a batch larger than an epoch.
    """

    def __init__(
        self, tokens: np.ndarray, starts: np.ndarray, length: int, batch_size: int, seed: int, *,
        drop_last: bool = True, device: torch.device | str = "cpu", epoch_rows: int | None = None,
    ) -> None:  # fmt: skip
        rows = len(starts) if epoch_rows is None else epoch_rows
        if not 1 <= batch_size <= rows:
            raise ValueError(f"batch_size is {batch_size}, allowed: 1..{rows} (chunks of an epoch)")
        first = torch.from_numpy(starts.astype(np.int64)).to(device)
        super().__init__([first], min(batch_size, len(starts)), seed, drop_last)
        self.rows, self.batch_size, self.length = rows, batch_size, length
        self.order = torch.zeros(rows, dtype=torch.int64, device=device)
        self._orders = Stretches(seed, len(starts), rows)  # type: ignore[assignment]
        self.offsets = torch.arange(length, device=device)
        # few operations know unsigned types: the same bits as signed numbers, undone in `gather`
        narrow = tokens.dtype.itemsize == 2
        self.mask = 0xFFFF if narrow else 0xFFFF_FFFF
        signed = np.asarray(tokens).view(np.int16 if narrow else np.int32)
        self.stream = torch.from_numpy(np.ascontiguousarray(signed)).to(device)

    def gather(self, position: Tensor | int) -> tuple[Tensor, ...]:
        """Batch number `position` of the epoch: chunks (rows, L) int64."""
        (first,) = super().gather(position)
        places = first[:, None] + self.offsets
        found = self.stream.index_select(0, places.flatten()).view(places.shape)
        return (found.to(torch.int64) & self.mask,)
