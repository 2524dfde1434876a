"""Chunks of text to be written down from memory (Hossain et al. 2025, arXiv 2512.15653).

A chunk is exactly L tokens of one document, never padded; a document is cut into chunks one after
the other and its rest is left over. The released code joins all documents first, so that chunks run
across their borders; here each has one document and so one category, which is what is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lib.config import require
from lib.models.blocks import counts
from lib.tasks.encoding import Encode, Encoded

if TYPE_CHECKING:
    import torch

CATEGORIES = ("prose", "code", "mathematics", "reference", "dialogue")
# other names of the same
RENAMED = {"math": "mathematics"}
MIN_LENGTH, MAX_LENGTH = 4, 256
LENGTHS = (4, 8, 16, 32, 64, 128, 256)  # the paper's


@dataclass(frozen=True)
class Document:
    """A text, what kind it is and what it is called."""

    text: str
    category: str
    name: str = ""


@dataclass(frozen=True)
class ReconstructionConfig:
    """Which chunks are made of documents.

    Attributes:
        length: tokens of a chunk (L).
        per_document: chunks of one document at most, drawn at random; None for all.
        per_category: chunks of each category, drawn at random; None for all.
        short: whether a document with fewer tokens is an "error", or something to "skip".
        end: token that marks the end of a text; chunks that hold it are left out, because a decoder
            would stop there. None for no such token.
        seed: of all draws.
    """

    length: int
    per_document: int | None = None
    per_category: int | None = None
    short: Literal["error", "skip"] = "error"
    end: int | None = 0
    seed: int = 0

    def __post_init__(self) -> None:
        fits = counts(self.length) and MIN_LENGTH <= self.length <= MAX_LENGTH
        require(self, "length", fits, f"{MIN_LENGTH}..{MAX_LENGTH}, whole")
        for name in ("per_document", "per_category"):
            value = getattr(self, name)
            require(self, name, value is None or counts(value), "None or at least 1, whole")
        require(self, "short", self.short in ("error", "skip"), "error, skip")


@dataclass(frozen=True)
class Chunks:
    """Chunks of equal length.

    Attributes:
        tokens: (count, L) int64.
        documents: (count,) int64, number of the document, in the order in which they came.
        starts: (count,) int64, the chunk's first token in its document.
        categories: (count,) category of each.
        texts: (count,) the part of the document that the tokens cover.
    """

    tokens: torch.Tensor
    documents: np.ndarray
    starts: np.ndarray
    categories: np.ndarray
    texts: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, rows: Any) -> Chunks:
        """The chunks at `rows`: a slice, or indices or a mask as an array."""
        import torch

        picked = rows if isinstance(rows, slice) else torch.as_tensor(rows)
        arrays = (self.documents, self.starts, self.categories, self.texts)
        return Chunks(self.tokens[picked], *(array[rows] for array in arrays))

    def of(self, category: str) -> Chunks:
        """The chunks of one category."""
        return self.take(self.categories == category)


def build(
    config: ReconstructionConfig, documents: Sequence[Document], encode: Encode
) -> tuple[Chunks, list[Encoded]]:
    """Chunks in the order of their documents, and each document's tokens (for tags).

    Raises:
        ValueError: no documents; one that is too short (unless these are skipped); no chunk, or too
            few of a category.
    """
    import torch

    if not documents:
        raise ValueError("documents is empty, allowed: at least one")
    rng = np.random.default_rng(np.random.SeedSequence([config.seed, 0x3E]))
    encoded = [encode(document.text) for document in documents]
    places: list[tuple[int, int]] = []
    for index, (document, own) in enumerate(zip(documents, encoded, strict=True)):
        if len(own.ids) < config.length and config.short == "error":
            raise ValueError(
                f"document {index} {document.name!r} has {len(own.ids)} tokens, allowed: at least "
                f"{config.length}, the length of a chunk"
            )
        starts = _starts(own.ids, config)
        kept = _draw(len(starts), config.per_document, rng)
        places += [(index, starts[k]) for k in kept]
    if config.per_category is not None:
        places = _balance(places, documents, config.per_category, rng)
    if not places:
        raise ValueError(f"no document has a chunk of {config.length} tokens without its end token")
    length = config.length
    rows = [encoded[index].ids[start : start + length] for index, start in places]
    texts = [_text(documents[index].text, encoded[index], s, length) for index, s in places]
    return Chunks(
        tokens=torch.tensor(rows, dtype=torch.int64),
        documents=np.array([index for index, _ in places]),
        starts=np.array([start for _, start in places]),
        categories=np.array([documents[index].category for index, _ in places]),
        texts=np.array(texts, dtype=object),
    ), encoded


def _starts(ids: list[int], config: ReconstructionConfig) -> list[int]:
    """First tokens of a document's chunks."""
    whole = range(0, len(ids) - config.length + 1, config.length)
    return [s for s in whole if config.end not in ids[s : s + config.length]]


def _draw(count: int, wanted: int | None, rng: np.random.Generator) -> list[int]:
    """Up to `wanted` of 0 .. count - 1, in order."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return sorted(rng.choice(count, wanted, replace=False).tolist())


def _balance(
    places: list[tuple[int, int]], documents: Sequence[Document], wanted: int,
    rng: np.random.Generator,
) -> list[tuple[int, int]]:  # fmt: skip
    kept: list[tuple[int, int]] = []
    for category in sorted({document.category for document in documents}):
        own = [place for place in places if documents[place[0]].category == category]
        if len(own) < wanted:
            raise ValueError(f"{category} has {len(own)} chunks, allowed: at least {wanted}")
        kept += [own[k] for k in _draw(len(own), wanted, rng)]
    return sorted(kept)


def _text(text: str, encoded: Encoded, start: int, length: int) -> str:
    spans = encoded.offsets[start : start + length]
    return text[spans[0][0] : spans[-1][1]]
