from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.tasks.chunk_batches import ChunkBatches, chunk_starts
from lib.tasks.encoding import Encoded
from lib.tasks.reconstruction import Document, ReconstructionConfig, build

END = 9
DOCUMENTS = st.lists(st.lists(st.integers(0, 8), max_size=14), min_size=1, max_size=6)


def stream(documents: list[list[int]]) -> np.ndarray:
    pieces = [[END], *[[*document, END] for document in documents]]
    return np.array(list(itertools.chain.from_iterable(pieces)), dtype="<u2")


@given(documents=DOCUMENTS, length=st.integers(1, 6))
def test_starts_are_those_of_the_chunks_of_each_document(
    documents: list[list[int]], length: int
) -> None:
    tokens = stream(documents)
    if all(len(document) < length for document in documents):
        with pytest.raises(ValueError, match=f"length is {length}, allowed: up to"):
            chunk_starts(tokens, END, length)
        return
    found = [tokens[s : s + length].tolist() for s in chunk_starts(tokens, END, length)]
    expected = [
        document[at : at + length]
        for document in documents
        for at in range(0, len(document) - length + 1, length)
    ]
    assert found == expected


def test_they_are_the_chunks_that_texts_are_cut_into() -> None:
    """The same as the reference, which starts from texts."""
    texts = ["abcdefghij", "klm", "nopqrstuvw"]

    def encode(text: str) -> Encoded:
        return Encoded([ord(c) for c in text], [(i, i + 1) for i in range(len(text))])

    documents = [Document(text, "prose") for text in texts]
    chunks, _ = build(ReconstructionConfig(4, short="skip", end=None), documents, encode)
    tokens = np.concatenate([[0], *[[*map(ord, text), 0] for text in texts]]).astype("<u2")
    starts = chunk_starts(tokens, 0, 4)
    assert [tokens[s : s + 4].tolist() for s in starts] == chunks.tokens.tolist()


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_batches_hold_whole_chunks_and_every_one_once(dtype: str) -> None:
    top = 65_535 if dtype == "<u2" else 70_000
    tokens = np.arange(top - 40, top + 1).astype(dtype)
    starts = np.arange(0, 40, 4)
    batches = ChunkBatches(tokens, starts, 4, 2, seed=1, epoch_rows=4)
    assert batches.steps == 2
    seen: list[int] = []
    for epoch in range(5):  # of 4 of 10 chunks: two passes
        batches.begin_epoch(epoch)
        for position in (0, torch.tensor(1)):
            (rows,) = batches.gather(position)
            assert rows.shape == (2, 4) and rows.dtype == torch.int64
            assert (rows - rows[:, :1]).tolist() == [[0, 1, 2, 3]] * 2
            seen += (rows[:, 0] - (top - 40)).tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == starts.tolist() and seen[:10] != seen[10:]
    again = ChunkBatches(tokens, starts, 4, 2, seed=1, epoch_rows=4)
    again.begin_epoch(3)
    assert (again.gather(0)[0][:, 0] - (top - 40)).tolist() == seen[12:14]


def test_a_last_smaller_batch_can_be_kept() -> None:
    tokens, starts = np.arange(30).astype("<u2"), np.arange(0, 20, 4)
    batches = ChunkBatches(tokens, starts, 4, 2, seed=0, drop_last=False)
    batches.begin_epoch(0)
    assert batches.steps == 3 and len(batches.gather(2)[0]) == 1 and not batches.even


def test_bad_sizes_are_named() -> None:
    tokens, starts = np.arange(30).astype("<u2"), np.arange(0, 20, 4)
    with pytest.raises(ValueError, match=r"batch_size is 6, allowed: 1\.\.5 \(chunks"):
        ChunkBatches(tokens, starts, 4, 6, seed=0)
    with pytest.raises(ValueError, match="length is 0, allowed: at least 1"):
        chunk_starts(tokens, END, 0)
