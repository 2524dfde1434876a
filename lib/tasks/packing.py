"""Documents as one stream of tokens, cut into rows without any padding.

The end of text stands in front, between and behind the documents::

    stream   EOS a a a EOS b EOS c c c c EOS
    row 0    EOS a a a EOS                      inputs EOS a a a, targets a a a EOS
    row 1              EOS b EOS c c            length 4: rows overlap in one token

A row holds `length` + 1 tokens and starts at the last token of the row before it. So every token
but the very first is a target exactly once, every target is text or an end of text, and a mean over
a loss needs no mask. What is left at the end, fewer than `length` tokens, is dropped. Documents
that meet in a row see each other, as usual in language model training.

A stream is built once and kept in a file that is named by the fingerprints of text and tokenizer,
2 bytes a token, or 4 where tokens exceed 65,535. It is read through a memory map, so neither
building nor training needs a corpus to fit into memory.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.config import digest
from lib.tasks.corpus import Part
from lib.tasks.tokenizers import Tokenizer, write_whole
from lib.training.batches import TensorBatches, draw_order

VERSION = 1  # of the layout of a stream: to be raised with any change to it
_AT_ONCE = 1000  # documents that are encoded together


@dataclass(frozen=True)
class Facts:
    """What a record says of a stream.

    Attributes:
        tokens: all of them, with one end of text more than there are documents.
        text_bytes: UTF-8 bytes that they stand for.
        documents: how many.
        dtype: type that a token is stored in: ``<u2`` or ``<u4``.
        text, tokenizer: fingerprints.
    """

    tokens: int
    text_bytes: int
    documents: int
    dtype: str
    text: str
    tokenizer: str


@dataclass(frozen=True)
class Stream:
    """Tokens of a corpus: `tokens` (count,) uint16 or uint32, in memory or mapped from a file."""

    tokens: np.ndarray
    facts: Facts


def _encoded(documents: Sequence[str], tokenizer: Tokenizer, dtype: str) -> Iterator[np.ndarray]:
    """Pieces of the stream, each of many documents; the first begins with an end of text."""
    end = np.array([tokenizer.eos])
    pieces = [end]
    texts = iter(documents)
    while batch := list(itertools.islice(texts, _AT_ONCE)):
        for tokens in tokenizer.encode_batch(batch):
            pieces += [tokens, end]
        yield np.concatenate(pieces).astype(dtype)
        pieces = []


def build_stream(part: Part, tokenizer: Tokenizer, cache: Path | str | None = None) -> Stream:
    """The stream of all documents in their order.

    Args:
        cache: folder that keeps streams; None builds it in memory.

    Raises:
        ValueError: no documents, or a file in the cache that is not as long as it should be.
    """
    if not len(part):
        raise ValueError("part has no documents, allowed: at least 1")
    dtype = "<u2" if tokenizer.vocab_size <= 2**16 else "<u4"
    if cache is None:
        tokens = np.concatenate(list(_encoded(part, tokenizer, dtype)))
        size = tokenizer.count_bytes(tokens)
        return Stream(tokens, _facts(part, tokenizer, dtype, len(tokens), size))
    name = f"tokens-{digest([part.fingerprint, tokenizer.fingerprint, VERSION])[:16]}"
    path = Path(cache) / f"{name}.bin"
    # the facts are written last, so where they are, the tokens are complete
    facts_path = path.with_suffix(".json")
    if facts_path.is_file() and path.is_file():
        facts = Facts(**json.loads(facts_path.read_text()))
    else:
        facts = _write(path, part, tokenizer, dtype)
        write_whole(facts_path, json.dumps(asdict(facts), indent=1) + "\n")
    size = path.stat().st_size
    if size != facts.tokens * np.dtype(facts.dtype).itemsize:
        raise ValueError(
            f"{path} has {size} bytes, which {facts.tokens} tokens of type {facts.dtype} have not; "
            "delete it to have it built again"
        )
    # copy on write: torch wants memory that it could write to, the file stays as it is
    return Stream(np.memmap(path, dtype=facts.dtype, mode="c"), facts)


def _facts(part: Part, tokenizer: Tokenizer, dtype: str, tokens: int, size: int) -> Facts:
    return Facts(tokens, size, len(part), dtype, part.fingerprint, tokenizer.fingerprint)


def _write(path: Path, part: Part, tokenizer: Tokenizer, dtype: str) -> Facts:
    """Encode into a file that takes its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    count = size = 0
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in _encoded(part, tokenizer, dtype):
                file.write(piece.tobytes())
                count, size = count + len(piece), size + tokenizer.count_bytes(piece)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return _facts(part, tokenizer, dtype, count, size)


class Packed:
    """Rows of a stream, (rows, length + 1).

    Args:
        length: tokens that a model reads at a time; a row has one more, the last target.

    Raises:
        ValueError: a stream without a single whole row.
    """

    def __init__(self, stream: Stream, tokenizer: Tokenizer, length: int) -> None:
        most = len(stream.tokens) - 1
        if not 1 <= length <= most:
            raise ValueError(f"length is {length}, allowed: 1..{most} (targets in the text)")
        self.stream, self.tokenizer, self.length = stream, tokenizer, length
        self.rows, self.dropped = divmod(most, length)

    def __len__(self) -> int:
        return self.rows

    def take(self, rows: Tensor | Sequence[int]) -> Tensor:
        """Rows by number, (count, length + 1) int64."""
        return torch.from_numpy(self._take(np.asarray(rows, dtype=np.int64)).astype(np.int64))

    def _take(self, rows: np.ndarray) -> np.ndarray:
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.rows:
            raise IndexError(f"rows {rows.min()}..{rows.max()} of {self.rows}")
        return self.stream.tokens[rows[:, None] * self.length + np.arange(self.length + 1)]

    def tensor(self) -> Tensor:
        """All rows, (rows, length + 1) int64: 8 bytes a token, for corpora that are small."""
        return self.take(np.arange(self.rows))  # type: ignore[arg-type]

    def target_bytes(self, rows: Tensor | Sequence[int]) -> Tensor:
        """Bytes that the targets of each row stand for, (count,) int64, for bits per byte."""
        targets = self._take(np.asarray(rows, dtype=np.int64))[:, 1:]
        return torch.from_numpy(self.tokenizer.token_bytes[targets].sum(1))


class Stretches:
    """Row numbers of epochs that are stretches of one long order: pass after pass over the data,
    each pass in an order of its own."""

    def __init__(self, seed: int, rows: int, epoch_rows: int) -> None:
        self.seed, self.rows, self.epoch_rows = seed, rows, epoch_rows
        self.drawn: tuple[int, Tensor] | None = None

    def _pass(self, number: int) -> Tensor:
        if self.drawn is None or self.drawn[0] != number:
            self.drawn = number, draw_order(self.seed, number, self.rows)
        return self.drawn[1]

    def take(self, epoch: int) -> Tensor:
        """(1, epoch_rows) of `epoch`."""
        at, end = epoch * self.epoch_rows, (epoch + 1) * self.epoch_rows
        parts = []
        while at < end:
            number, start = divmod(at, self.rows)
            stop = min(self.rows, start + end - at)
            parts.append(self._pass(number)[start:stop])
            at += stop - start
        return torch.cat(parts)[None]


class PackedBatches(TensorBatches):
    """Shuffled batches of packed rows: inputs and targets of ``TensorBatches([packed.tensor()])``.

    The rows are never laid out: on the processor they are read from the file, on a GPU from a copy
    of the stream there (2 or 4 bytes a token), and a step can be captured as a CUDA graph. The
    order is fixed by seed and epoch, so a run goes on at any step without stored state.

    Args:
        epoch_rows: rows of what counts as an epoch, after which a model is measured; None for all.
            Fewer than all: epochs are stretches of one pass. More: an epoch has several passes. No
            row comes twice before every row came once.

    Raises:
        ValueError: a batch larger than an epoch.
    """

    def __init__(
        self,
        packed: Packed,
        batch_size: int,
        seed: int,
        drop_last: bool = True,
        device: torch.device | str = "cpu",
        epoch_rows: int | None = None,
    ) -> None:
        numbers = torch.arange(packed.rows, device=device)
        # a batch is cut from an epoch, which may be longer than the data
        super().__init__([numbers], min(batch_size, packed.rows), seed, drop_last=drop_last)
        self.rows = packed.rows if epoch_rows is None else epoch_rows
        if not 1 <= batch_size <= self.rows:
            raise ValueError(
                f"batch_size is {batch_size}, allowed: 1..{self.rows} (rows of an epoch)"
            )
        self.batch_size = batch_size
        self.order = torch.zeros(self.rows, dtype=torch.int64, device=device)
        self._orders = Stretches(seed, packed.rows, self.rows)  # type: ignore[assignment]
        self.length, self.epoch = packed.length, -1
        self.offsets = torch.arange(packed.length + 1, device=device)
        tokens = np.asarray(packed.stream.tokens)
        # few operations know unsigned types: the same bits as signed numbers, undone in `gather`
        self.mask = 0xFFFF if tokens.dtype.itemsize == 2 else 0xFFFF_FFFF
        signed = np.int16 if tokens.dtype.itemsize == 2 else np.int32
        self.stream = torch.from_numpy(tokens.view(signed)).to(device)

    def begin_epoch(self, epoch: int) -> None:
        """Lay out the order of `epoch`."""
        super().begin_epoch(epoch)
        self.epoch = epoch

    def gather(self, position: Tensor | int) -> tuple[Tensor, ...]:
        """Batch number `position` of the epoch: inputs and targets, (rows, length) int64 each."""
        (rows,) = super().gather(position)
        places = rows[:, None] * self.length + self.offsets
        found = self.stream.index_select(0, places.flatten()).view(places.shape)
        tokens = found.to(torch.int64) & self.mask
        return tokens[:, :-1], tokens[:, 1:]

    def at(self, step: int) -> tuple[Tensor, ...]:
        """The batch of training step `step`, counted from 0 over all epochs."""
        epoch, position = divmod(step, self.steps)
        if epoch != self.epoch:
            self.begin_epoch(epoch)
        return self.gather(position)
