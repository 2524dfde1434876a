"""Documents in rows of their own, filled up with ends of text: what public code does, kept to show
what it does to a loss. This book trains on rows without padding, see :mod:`lib.tasks.packing`.

A row is an end of text, then the document, then ends of text::

    inputs    EOS a   a   a   EOS EOS EOS
    targets   a   a   a   EOS -   -   -

The first end of text behind a document is a target like any other: a model has to know when a story
is over. Those after it, marked "-", are padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lib.tasks.tokenizers import Tokenizer

IGNORED = -100  # the target that PyTorch's cross-entropy leaves out of its mean


def padded_rows(
    documents: Sequence[str], tokenizer: Tokenizer, length: int
) -> tuple[Tensor, Tensor]:
    """A row a document; what is longer than a row is cut.

    Returns:
        Inputs (documents, length) int64, and targets of the same shape, IGNORED where they are
        padding.

    Raises:
        ValueError: no documents, or a length below 1.
    """
    if not len(documents) or length < 1:
        raise ValueError(
            f"documents and length are {len(documents)} and {length}, allowed: at least 1 each"
        )
    rows = np.full((len(documents), length + 1), tokenizer.eos, np.int64)
    text = np.zeros(len(documents), np.int64)
    for row, (tokens, kept) in enumerate(
        zip(tokenizer.encode_batch(list(documents)), rows, strict=True)
    ):
        part = tokens[:length]
        kept[1 : len(part) + 1] = part
        text[row] = min(len(part) + 1, length)  # targets: the document, and that it ends
    found = torch.from_numpy(rows)
    padding = torch.arange(length) >= torch.from_numpy(text)[:, None]
    return found[:, :-1].contiguous(), found[:, 1:].masked_fill(padding, IGNORED)


def with_padding(targets: Tensor, eos: int) -> Tensor:
    """The mistake: targets whose padding counts."""
    return targets.masked_fill(targets == IGNORED, eos)
