"""The cell of the chapter on memory: one decoder, and the language model that it belongs to."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from lib.config import added_later, require
from lib.experiments._language import LanguageCell
from lib.experiments._pretraining import Published
from lib.experiments._training import check_seed
from lib.models.config import LanguageModelConfig
from lib.tasks.corpus import CorpusConfig, StoryText
from lib.tasks.memory_text import TAGS
from lib.tasks.reconstruction import ReconstructionConfig
from lib.tasks.stories import CATEGORIES, StoryConfig
from lib.training.config import TrainingConfig


@dataclass(frozen=True)
class MemoryCell:
    """One decoder.

    Attributes:
        language: the model whose state is read, and its text: trained here, or published.
        task: how texts are cut into chunks.
        training: of the decoder. An "epoch" is `epoch_chunks` chunks.
        epoch_chunks: chunks between two measurements; None for one pass over the text.
        asked: test chunks of each category, at most; of text with tags as many as of all.
        tags: which text word classes are measured on, see :mod:`lib.tasks.memory_text`: "built-in"
            takes those of the built-in text, None measures none.
        slots: of a model with attention, see :mod:`lib.models.autoencoder`.
        text: what the decoder learns and is asked for, where that is other text than the language
            model's: its corpus (the tokenizer stays the model's).
        keep_weights: whether encoder and decoder, in half precision, go with the record.
        start: what the decoder starts from: a "copy" of `language`, as in the paper, or of the same
            model after stories at "base rates", see :attr:`beginning`.
        seed: of the decoder's order of training, and of slots. Test chunks are drawn with that of
            `task`, so that all seeds are asked for the same.
    """

    language: LanguageCell | Published
    task: ReconstructionConfig
    training: TrainingConfig
    epoch_chunks: int | None
    asked: int
    tags: str | None
    seed: int
    slots: int = 0
    text: CorpusConfig | None = None
    keep_weights: bool = False
    start: Literal["copy", "base rates"] = added_later("copy")

    def __post_init__(self) -> None:
        check_seed(self.seed)
        require(self, "asked", self.asked >= 1, "1 or more")
        require(self, "tags", self.tags in (None, *TAGS), f"None, {', '.join(TAGS)}")
        rows = self.epoch_chunks
        fits = rows is None or rows >= self.training.batch_size
        require(self, "epoch_chunks", fits, "None, or a batch and more")
        others = _stories_of(self.language) != _base_rates(self.language)
        starts = ("copy", "base rates") if others else ("copy",)
        wanted = "copy, or base rates where the model has read stories at others"
        require(self, "start", self.start in starts, wanted)
        limit = self.language.model.max_length
        if limit is not None and self.task.length >= limit:
            raise ValueError(
                f"task.length is {self.task.length}, allowed: less than max_length {limit}, the "
                "positions of the model"
            )

    @property
    def model(self) -> LanguageModelConfig:
        """Encoder and decoder."""
        return self.language.model

    @property
    def beginning(self) -> LanguageCell | Published:
        """The language model whose weights the decoder starts from."""
        if self.start == "copy":
            return self.language
        assert isinstance(self.language, LanguageCell)
        task, stories = self.language.task, _base_rates(self.language)
        source = dataclasses.replace(task.corpus.source, stories=stories)  # type: ignore[arg-type]
        corpus = dataclasses.replace(task.corpus, source=source)
        return dataclasses.replace(self.language, task=dataclasses.replace(task, corpus=corpus))


def _stories_of(language: LanguageCell | Published) -> StoryConfig | None:
    source = language.task.corpus.source
    return source.stories if isinstance(source, StoryText) else None


def _base_rates(language: LanguageCell | Published) -> StoryConfig | None:
    """The stories of a language model with every category as frequent as by default."""
    own, plain = _stories_of(language), StoryConfig()
    rates = {name: getattr(plain, name) for name in CATEGORIES}
    return None if own is None else dataclasses.replace(own, **rates)


def readable(cell: MemoryCell) -> str:
    """For example ``mamba-130m-hf-L64-s1`` or ``mamba1-20x192-kinds-L64-s1``."""
    return f"{language_name(cell)}-L{cell.task.length}-s{cell.seed}"


def language_name(cell: MemoryCell) -> str:
    """Short name of a cell's language model, with its text; without its seed."""
    language = cell.language
    if isinstance(language, Published):
        return language.short
    model = language.model
    blocks = "_".join(dict.fromkeys(block.kind for block in model.pattern))
    return f"{blocks}-{model.n_layers}x{model.d_model}-{language.task.corpus.source.kind}"
