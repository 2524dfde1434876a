"""The text of a memory study: what decoders learn to write down, and what they are asked for.

Both come from the corpus of the language model that is studied: training chunks from its training
documents, test chunks from the documents that neither it nor a decoder has seen. Test documents
know their category, and, where the text can say, what stands where in them: the built-in text of
five kinds has a part of speech for each word, the built-in stories a category for each beat.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lib import provenance
from lib.tasks import kinds, stories, story_words
from lib.tasks.corpus import Corpus, HubText, KindsText, LocalText, StoryText
from lib.tasks.encoding import Encode, Encoded, encode_bytes, encoding_of
from lib.tasks.language import OpenedText
from lib.tasks.reconstruction import (
    RENAMED,
    Chunks,
    Document,
    ReconstructionConfig,
    build,
)
from lib.tasks.tags import TAGGER, TaggedText, read_conllu, tag_text
from lib.tasks.text_files import text_files
from lib.tasks.tokenizers import BPETokenizer, Tokenizer

STORY = "story"
TAGS = ("built-in", "ud", "conll2003", "spacy")
UD_FOLDER = "data/memory"  # beside the repository's own files, not in git
UD_FILES = ("en_ewt-ud-test.conllu", "en_gum-ud-test.conllu")
CONLL_FILE = "data/memory/conll2003-test.txt"
# labels of the words that stand in beats of their category alone, where most tokens are of the
# sentence around them
OWN_WORDS = {
    **dict.fromkeys(story_words.NUMBERS, "number_words"),
    **dict.fromkeys((*story_words.GIRLS, *story_words.BOYS), "name_words"),
}


class TagsUnavailable(RuntimeError):
    """Text with tags that is not on this machine; says what to put where."""


@dataclass(frozen=True)
class Asked:
    """What a decoder is asked for.

    Attributes:
        chunks: to be written down. encoded: tokens of the documents that they were cut from.
        tagged: words of these documents with their tags, or None.
        labels: (count, L) of each token the kind of passage it stands in, or None: in the built-in
            stories a beat's category, or "number_words" and "name_words" of a token of such a word.
    """

    chunks: Chunks
    encoded: list[Encoded]
    tagged: list[TaggedText] | None = None
    labels: np.ndarray | None = None


def encode_with(tokenizer: Tokenizer) -> Encode:
    """How a tokenizer encodes, with offsets; the tokens are those of its `encode`."""
    if isinstance(tokenizer, BPETokenizer):
        return encoding_of(tokenizer.backend)

    def plain(text: str) -> Encoded:
        found = encode_bytes(text)
        return Encoded([i - 1 for i in found.ids], found.offsets)  # there 0 is left free

    return plain


# -- documents with categories --------------------------------------------------------------


def held_out_documents(corpus: Corpus) -> list[Document]:
    """Held-out documents in their order, each with its category.

    The built-in text knows it; a JSONL line has "category" or the Pile's "meta": {"pile_set_name"},
    as a row of a data set on the hub has. All others are of the category "text".
    """
    part = corpus.validation
    source = corpus.config.held_out or corpus.config.source
    rows = [int(row) for row in part.rows]
    if isinstance(source, KindsText):
        names = [kinds.kind_of(source.kinds, row) for row in rows]
    elif isinstance(source, StoryText):
        names = [STORY] * len(rows)
    elif isinstance(source, HubText):
        names = [_category(row) for row in _hub_rows(corpus, rows)]
    else:
        names = _local_categories(source, part)
    return [
        Document(text, name, str(row))
        for text, name, row in zip(part, names, rows, strict=True)
    ]  # fmt: skip


def _category(row: Any) -> str:
    if isinstance(row, dict):
        meta = row.get("meta")
        own = meta.get("pile_set_name") if isinstance(meta, dict) else None
        if name := row.get("category") or own:
            return RENAMED.get(str(name), str(name))
    return "text"


def _hub_rows(corpus: Corpus, rows: Sequence[int]) -> Iterator[Any]:
    import datasets

    source = corpus.config.source
    assert isinstance(source, HubText)
    data = datasets.load_dataset(
        path=source.dataset, split=source.split, revision=source.revision
    )  # fmt: skip
    return (data[row] for row in rows)


def _local_categories(source: LocalText, part: Iterable[str]) -> list[str]:
    import gzip

    known: dict[str, str] = {}
    for path in text_files(source):
        if not path.name.removesuffix(".gz").endswith(".jsonl"):
            continue
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line) if line.strip() else None
                if isinstance(row, dict) and isinstance(row.get(source.column), str):
                    known[row[source.column]] = _category(row)
    return [known.get(text, "text") for text in part]


# -- what is asked for ----------------------------------------------------------------------


@dataclass(frozen=True)
class HeldOutText:
    """Held-out documents with what all lengths need of them.

    Attributes:
        encode: each document once.
        tagged: words with tags, where the text knows them.
    """

    documents: list[Document]
    encode: Encode
    tagged: list[TaggedText] | None


@lru_cache(maxsize=2)  # all lengths of a study ask for the same documents
def held_out_text(data: OpenedText) -> HeldOutText:
    """The held-out documents of a text."""
    documents = held_out_documents(data.corpus)
    encode, known = encode_with(data.tokenizer), dict[str, Encoded]()

    def once(text: str) -> Encoded:
        if text not in known:
            known[text] = encode(text)
        return known[text]

    return HeldOutText(documents, once, _tagged(data.corpus, documents))


def ask(data: OpenedText, task: ReconstructionConfig, per_category: int) -> Asked:
    """Test chunks, up to `per_category` of each category, drawn with ``task.seed``.

    Raises:
        ValueError: no document is as long as a chunk.
    """
    text = held_out_text(data)
    chunks, encoded = build(task, text.documents, text.encode)
    rng = np.random.default_rng(np.random.SeedSequence([task.seed, 0xA5]))
    kept: list[int] = []
    for category in sorted(set(chunks.categories)):
        own = np.flatnonzero(chunks.categories == category)
        kept += rng.choice(own, min(per_category, len(own)), replace=False).tolist()
    chosen = chunks.take(np.array(sorted(kept)))
    return Asked(chosen, encoded, text.tagged, _labels(data, chosen, encoded))


def ask_tagged(data: OpenedText, task: ReconstructionConfig, tags: str, most: int) -> Asked:
    """Chunks of text with tags, up to `most`, drawn with ``task.seed``.

    Args:
        tags: "ud": gold tags of Universal Dependencies; "conll2003": those of the paper's data;
            "spacy": spaCy's, of the held-out documents.

    Raises:
        TagsUnavailable: files that are not there. MissingTagger: spaCy that is not.
        ValueError: another name, or no document as long as a chunk.
    """
    if tags == "ud":
        texts = [text for path in _ud_files() for text in read_conllu(path)]
    elif tags == "conll2003":
        from lib.tasks.conll2003 import read_conll2003

        texts = read_conll2003(require_file(CONLL_FILE))
    elif tags == "spacy":
        texts = [tag_text(one.text, one.name) for one in held_out_text(data).documents]
    else:
        raise ValueError(f"tags is {tags!r}, allowed: {', '.join(TAGS)}")
    own = [Document(text.text, tags, text.name) for text in texts]
    chunks, encoded = build(task, own, encode_with(data.tokenizer))
    rng = np.random.default_rng(np.random.SeedSequence([task.seed, 0xA6]))
    kept = rng.choice(len(chunks), min(most, len(chunks)), replace=False)
    return Asked(chunks.take(np.sort(kept)), encoded, texts)


def require_file(name: str) -> Path:
    """A file of data that git does not hold.

    Raises:
        TagsUnavailable: it is not there; the message says where it comes from.
    """
    path = provenance.ROOT / name
    if not path.is_file():
        raise TagsUnavailable(
            f"{name} is not there. Gold tags are those of Universal Dependencies, *-test.conllu of "
            "github.com/UniversalDependencies/UD_English-EWT and UD_English-GUM; the paper's tags "
            "are CoNLL-2003's test set in four columns (eng.testb, by licence from its publisher), "
            "saved under that name"
        )
    return path


def _ud_files() -> list[Path]:
    return [require_file(f"{UD_FOLDER}/{name}") for name in UD_FILES]


def tags_facts(tags: str | None) -> dict[str, Any]:
    """What a record says of its tags beside the text: of gold ones the files, each with the SHA-256
    of its bytes, of spaCy's the versions. Nothing of those that the text knows itself.

    Raises:
        TagsUnavailable: files that are not there.
    """
    if tags == "spacy":
        return {"tags": tags, "versions": provenance.versions((tags, TAGGER))}
    if tags not in ("ud", "conll2003"):
        return {}
    files = _ud_files() if tags == "ud" else [require_file(CONLL_FILE)]
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return {"tags": tags, "files": found}


def check_tags(tags: str | None) -> None:
    """Refuse tags that are not to be had here, before any work.

    Raises:
        TagsUnavailable, MissingTagger: see :func:`ask_tagged`.
    """
    from lib.tasks.tags import load_tagger

    if tags == "ud":
        _ud_files()
    elif tags == "conll2003":
        require_file(CONLL_FILE)
    elif tags == "spacy":
        load_tagger()


def _tagged(corpus: Corpus, documents: list[Document]) -> list[TaggedText] | None:
    source = corpus.config.source
    if not isinstance(source, KindsText):
        return None
    return [kinds.document(source.kinds, int(document.name)).tagged for document in documents]


def _labels(data: OpenedText, chunks: Chunks, encoded: list[Encoded]) -> np.ndarray | None:
    source = data.corpus.config.source
    if not isinstance(source, StoryText):
        return None
    rows, documents = data.corpus.validation.rows, held_out_text(data).documents
    out = []
    for document, start in zip(chunks.documents, chunks.starts, strict=True):
        spans = stories.spans(source.stories, int(rows[document]))
        firsts = [begin for begin, _ in spans]
        offsets = encoded[document].offsets[start : start + chunks.tokens.shape[1]]
        # a token that begins with the blank before a beat belongs to the beat
        places = np.searchsorted(firsts, [end - 1 for _, end in offsets], side="right") - 1
        labels = [spans[max(0, int(place))][1] for place in places]
        for word in re.finditer("[A-Za-z]+", documents[document].text):
            label = OWN_WORDS.get(word[0]) or OWN_WORDS.get(word[0].lower())
            if label is None:
                continue
            for index, (begin, end) in enumerate(offsets):
                if begin < word.end() and end > word.start():
                    labels[index] = label
        out.append(labels)
    return np.array(out, dtype=object)
