"""Text to train language models on: four sources, one interface.

A source is a config: a data set of the hub at a pinned revision, text files on this machine, the
built-in stories, or the built-in text of five kinds. `Corpus` opens it and splits its documents in
two::

    corpus = Corpus(CorpusConfig(StoryText(), validation=0.02))
    corpus.train[0]          # a document, as a string
    corpus.train.fingerprint # what text this is, for records and caches

Which side a document falls on is decided by the hash of its text alone. So no document stands on
both sides, not even one that the source holds twice, and a document stays on its side whatever the
seed, the order and the rest of the source are. Near-duplicates are not looked for. A source whose
documents are pieces of larger ones had better say itself what is held out: `CorpusConfig.held_out`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, cast, overload

import numpy as np

from lib.config import added_later, digest, require, to_dict
from lib.parallel import ordered_map
from lib.store import write_atomic
from lib.tasks import kinds, stories
from lib.tasks.kinds import KindsConfig
from lib.tasks.stories import StoryConfig
from lib.tasks.text_files import LocalText, read_documents, text_files


class TextUnavailable(RuntimeError):
    """Something of the hub that is not here; says what to fetch and where to put it."""


@dataclass(frozen=True)
class HubText:
    """A data set of the Hugging Face hub.

    Attributes:
        dataset: its id, or a local folder that `datasets` can read.
        revision: commit of the data set, 40 hex digits: a branch would change under a record.
        split, column: what of it to read; the column must hold strings.
    """

    kind: ClassVar[str] = "hub"
    dataset: str
    revision: str
    split: str = "train"
    column: str = "text"

    def __post_init__(self) -> None:
        require(self, "dataset", bool(self.dataset), "the id of a data set")
        pinned = len(self.revision) == 40 and set(self.revision) <= set("0123456789abcdef")
        require(self, "revision", pinned, "a commit, 40 hex digits")


@dataclass(frozen=True)
class StoryText:
    """The first `documents` stories of the built-in generator."""

    kind: ClassVar[str] = "stories"
    stories: StoryConfig = field(default_factory=stories.rich)
    documents: int = 100_000

    def __post_init__(self) -> None:
        require(self, "documents", self.documents >= 1, "at least 1")


@dataclass(frozen=True)
class KindsText:
    """The first `documents` documents of the built-in generator of five kinds of text."""

    kind: ClassVar[str] = "kinds"
    kinds: KindsConfig = field(default_factory=KindsConfig)
    documents: int = 25_000

    def __post_init__(self) -> None:
        require(self, "documents", self.documents >= 1, "at least 1")


Source = HubText | LocalText | StoryText | KindsText
TINY_STORIES = HubText("roneneldan/TinyStories", "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64")
PILE_10K = HubText("NeelNanda/pile-10k", "127bfedcd5047750df5ccf3a12979a47bfa0bafa")


@dataclass(frozen=True)
class CorpusConfig:
    """A source, put in order and split.

    Attributes:
        seed: decides the order of documents, and which ones a `limit` keeps.
        validation: share of documents that are held out, on average.
        limit: use only so many documents, both sides together.
        held_out: files of their own beside those of `source`, whose documents are held out, less
            those that `source` has too; `validation` is then 0, and there is no limit.
    """

    source: HubText | LocalText | StoryText | KindsText
    seed: int = 0
    validation: float = 0.02
    limit: int | None = None
    held_out: LocalText | None = added_later(None)  # noqa: RUF009

    def __post_init__(self) -> None:
        require(self, "seed", self.seed >= 0, "at least 0")
        require(self, "validation", 0 <= self.validation < 1, "0 up to, but without, 1")
        require(self, "limit", self.limit is None or self.limit >= 1, "at least 1, or None")
        if self.held_out is not None:
            local = isinstance(self.source, LocalText)
            require(self, "source", local, "LocalText beside held_out")
            require(self, "validation", self.validation == 0, "0 beside held_out")
            require(self, "limit", self.limit is None, "None beside held_out")


class Texts(ABC):
    """All documents of a source, in the order of the source; `fingerprint` is 64 hex digits."""

    fingerprint: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> str: ...

    def __iter__(self) -> Iterator[str]:
        return self.at(range(len(self)))

    def at(self, rows: Sequence[int]) -> Iterator[str]:
        """Documents by number, in the order of `rows`."""
        return (self[int(row)] for row in rows)


class _Stories(Texts):
    def __init__(self, source: StoryText) -> None:
        self.source = source
        self.fingerprint = digest({**to_dict(source), "version": stories.VERSION})

    def __len__(self) -> int:
        return self.source.documents

    def __getitem__(self, index: int) -> str:
        return stories.story(self.source.stories, index)

    def at(self, rows: Sequence[int]) -> Iterator[str]:
        return ordered_map(partial(stories.story, self.source.stories), list(map(int, rows)))


class _Kinds(Texts):
    def __init__(self, source: KindsText) -> None:
        self.source = source
        self.fingerprint = digest({**to_dict(source), "version": kinds.VERSION})

    def __len__(self) -> int:
        return self.source.documents

    def __getitem__(self, index: int) -> str:
        return kinds.text(self.source.kinds, index)

    def at(self, rows: Sequence[int]) -> Iterator[str]:
        return ordered_map(partial(kinds.text, self.source.kinds), list(map(int, rows)))


class _Hub(Texts):
    def __init__(self, source: HubText) -> None:
        import datasets

        self.fingerprint = digest(to_dict(source))
        options = {"path": source.dataset, "split": source.split, "revision": source.revision}
        try:
            data = datasets.load_dataset(**options)
        except OSError as error:
            raise TextUnavailable(
                f"cannot get the data set {source.dataset} at revision {source.revision}: {error}. "
                "On a machine with a connection run\n"
                f'  python -c "import datasets; datasets.load_dataset(**{options})"\n'
                "and copy its cache (HF_HOME, usually ~/.cache/huggingface) to the same place; "
                "or put the text as .txt or .jsonl files into a folder and use LocalText(folder)"
            ) from error
        if source.column not in data.column_names:
            columns = f"{data.column_names}, those of {source.dataset}"
            raise ValueError(f"HubText.column is {source.column!r}, allowed: {columns}")
        self.data, self.column = data.select_columns([source.column]), source.column

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> str:
        return cast(str, self.data[index][self.column])

    def __iter__(self) -> Iterator[str]:
        for batch in self.data.iter(batch_size=1000):  # far faster than one row at a time
            yield from batch[self.column]


class _Local(Texts):
    """Files read into one buffer of UTF-8, since compressed ones cannot be entered midway."""

    def __init__(self, source: LocalText) -> None:
        total = hashlib.sha256()
        self.buffer, self.ends = bytearray(), array("q", [0])
        for path in text_files(source):
            before = len(self.ends)
            for text in read_documents(path, source):
                # the length in front: else two documents and both in one would hash alike
                total.update(len(text).to_bytes(8, "big") + text)
                self.buffer += text
                self.ends.append(len(self.buffer))
            if len(self.ends) == before:
                raise ValueError(f"{path} is empty: no document with any text in it")
        self.fingerprint = total.hexdigest()
        if source.fingerprint not in (None, self.fingerprint):
            found = f"the text in {source.path} has the fingerprint {self.fingerprint}"
            raise ValueError(f"{found}, expected: {source.fingerprint}, that of the config")

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        return self.buffer[self.ends[index] : self.ends[index + 1]].decode()


def open_source(source: Source) -> Texts:
    """The documents of a source.

    Raises:
        TextUnavailable: a data set that is neither in reach nor in the cache.
        ValueError: files that are absent, empty, binary or not what the config expects.
    """
    if isinstance(source, HubText):
        return _Hub(source)
    if isinstance(source, KindsText):
        return _Kinds(source)
    return _Local(source) if isinstance(source, LocalText) else _Stories(source)


def place(text: str) -> float:
    """Where a document stands in 0..1, fixed by its text; space around it does not count.

    Documents below the share of validation are held out: a larger share keeps a smaller one's.
    """
    value = hashlib.blake2b(text.strip().encode(), digest_size=8).digest()
    # 53 bits, the most that a float holds exactly: 1.0 itself cannot come out
    return (int.from_bytes(value, "big") >> 11) / 2**53


class Part(Sequence[str]):
    """One side of a corpus: documents in the order of the seed.

    Attributes:
        rows: (documents,) int64, number of each document in the source.
        fingerprint: 64 hex digits; equal for equal documents in equal order.
    """

    def __init__(self, texts: Texts, rows: np.ndarray, fingerprint: str) -> None:
        self.texts, self.rows, self.fingerprint = texts, rows, fingerprint

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Part: ...
    def __getitem__(self, index: int | slice) -> str | Part:
        if isinstance(index, slice):
            rows = self.rows[index]
            return Part(self.texts, rows, digest([self.fingerprint, *index.indices(len(self))]))
        return self.texts[int(self.rows[index])]

    def __iter__(self) -> Iterator[str]:
        return self.texts.at(cast(Sequence[int], self.rows))


PLACES = 1  # version of what decides where a document stands, for what is kept of it


def places_of(texts: Texts, cache: Path | str | None = None) -> np.ndarray:
    """Where each document stands, (documents,) float64; -1 for blank ones, which belong nowhere.

    Args:
        cache: folder that keeps it, by the fingerprint of `texts`: it takes a look at every
            document, and those of a generator have to be made for that.
    """
    path = None
    if cache is not None:
        path = Path(cache) / f"places-{digest([texts.fingerprint, PLACES])[:16]}.bin"
        if path.is_file():
            kept = np.fromfile(path, "<f8")
            if len(kept) == len(texts):  # else it is damaged, and made again
                return kept
    places = np.array([place(text) if text.strip() else -1.0 for text in texts], "<f8")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, places.tobytes())
    return places


class Corpus:
    """Documents of a source, split into `train` and `validation`.

    Blank documents are left out.

    Args:
        cache: see :func:`places_of`.

    Attributes:
        source_fingerprint: SHA-256 of the text of local files; for other sources of what decides
            their text.

    Raises:
        TextUnavailable, ValueError: as :func:`open_source`; or a side that ends up without any
            document.
    """

    def __init__(self, config: CorpusConfig, cache: Path | str | None = None) -> None:
        self.config, self.cache = config, cache
        self.texts = open_source(config.source)
        self.source_fingerprint = self.texts.fingerprint
        self.places, order = self._places(self.texts)
        self.order = order[: config.limit]
        missing = "to train on" if not len(self.train) else ""
        asked = config.validation or config.held_out is not None
        if asked and not len(self.validation):
            missing = "to hold out"
        if missing and config.held_out is not None:
            raise ValueError(
                f"no document is left {missing}: CorpusConfig.held_out, allowed: files with "
                "documents that source has not"
            )
        if missing:
            raise ValueError(
                f"no document of {len(self.order)} is left {missing}: CorpusConfig.validation is "
                f"{config.validation}, allowed: another share, or a larger corpus"
            )

    def _places(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """Where documents stand, and the numbers of those that are not blank, in the order of the
        seed."""
        places = places_of(texts, self.cache)
        rng = np.random.Generator(np.random.PCG64([self.config.seed, 0xD0C]))
        order = rng.permutation(len(places))
        return places, order[places[order] >= 0]

    def _part(self, name: str, rows: np.ndarray) -> Part:
        config = self.config
        identity = [self.source_fingerprint, config.seed, config.validation, config.limit, name]
        return Part(self.texts, rows, digest(identity))

    @cached_property
    def train(self) -> Part:
        """Documents to train on."""
        return self._part("train", self.order[self.places[self.order] >= self.config.validation])

    @cached_property
    def validation(self) -> Part:
        """Documents held out; none if the config's `validation` is 0 and it has no `held_out`."""
        if self.config.held_out is not None:
            texts = open_source(self.config.held_out)
            places, order = self._places(texts)
            own = order[~np.isin(places[order], self.places)]
            identity = [self.source_fingerprint, texts.fingerprint, self.config.seed, "held out"]
            return Part(texts, own, digest(identity))
        return self._part("valid", self.order[self.places[self.order] < self.config.validation])

    def describe(self) -> dict[str, Any]:
        """What a record says of the text: source, fingerprint and numbers of documents."""
        return {
            **to_dict(self.config),
            "fingerprint": self.source_fingerprint,
            "train_documents": len(self.train),
            "validation_documents": len(self.validation),
        }
