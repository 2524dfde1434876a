"""Language modelling: the next token of a text, as a task."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lib.config import require
from lib.tasks.corpus import Corpus, CorpusConfig
from lib.tasks.tokenizers import BPEConfig, BytesConfig, PretrainedConfig, Tokenizer, open_tokenizer

if TYPE_CHECKING:
    from lib.tasks.packing import Packed


@dataclass(frozen=True)
class LanguageTask:
    """Predict each next token.

    Attributes:
        corpus: text, and which documents of it are held out.
        tokenizer: made of the training documents, where it is made here.
        length: tokens that a model reads at a time, l.
        epoch_tokens: training tokens between two measurements; None for one pass over the text.
        valid_rows: rows of held-out text that are measured, at most.
    """

    corpus: CorpusConfig
    tokenizer: BPEConfig | BytesConfig | PretrainedConfig = field(default_factory=BPEConfig)
    length: int = 512
    epoch_tokens: int | None = None
    valid_rows: int = 256

    def __post_init__(self) -> None:
        require(self, "length", self.length >= 1, "1 or more")
        enough = self.epoch_tokens is None or self.epoch_tokens >= self.length
        require(self, "epoch_tokens", enough, f"None, or length {self.length} and more")
        require(self, "valid_rows", self.valid_rows >= 1, "1 or more")
        held_out = self.corpus.validation > 0 or self.corpus.held_out is not None
        require(self, "corpus", held_out, "a corpus that holds documents out")


@dataclass(frozen=True)
class OpenedText:
    """A task's documents and what makes tokens of them."""

    corpus: Corpus
    tokenizer: Tokenizer


@dataclass(frozen=True)
class LanguageData(OpenedText):
    """A task's text as tokens: `train` and `valid` in rows of length + 1, and what made them."""

    train: Packed
    valid: Packed


def build(task: LanguageTask, cache: Path | str | None = None) -> LanguageData:
    """Open the corpus, train or load the tokenizer, encode both sides.

    Args:
        cache: folder for tokenizer, token streams and documents' places, so that the next call is
            quick.

    Raises:
        TextUnavailable, ValueError: see :class:`Corpus`, `open_tokenizer` and `Packed`.
    """
    from lib.tasks.packing import Packed, build_stream

    corpus = Corpus(task.corpus, cache)
    tokenizer = open_tokenizer(task.tokenizer, corpus.train, cache)
    train, valid = (
        Packed(build_stream(part, tokenizer, cache), tokenizer, task.length)
        for part in (corpus.train, corpus.validation)
    )
    return LanguageData(corpus, tokenizer, train, valid)
