"""CoNLL-2003's text with its Penn tags and entities, as Hossain et al. 2025 measure it.

Four columns a line (word, part of speech, chunk, entity), an empty line between sentences, a line
``-DOCSTART-`` in front of each document. The spaces between words are not known: one stands between
any two, as in the released code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from lib.tasks.tags import PENN_CLASSES, TaggedText, Word

START = "-DOCSTART-"


def read_conll2003(path: Path | str) -> list[TaggedText]:
    """Documents of a file; see :func:`parse_conll2003`."""
    path = Path(path)
    with path.open(encoding="utf-8") as lines:
        return list(parse_conll2003(lines, path.name))


def parse_conll2003(lines: Iterable[str], name: str = "text") -> Iterator[TaggedText]:
    """Documents of lines in four columns.

    Raises:
        ValueError: a line with another number of columns; its number is named.
    """
    words: list[Word] = []
    text: list[str] = []
    size = number = 0
    for at, line in enumerate(lines, 1):
        fields = line.split()
        if fields and fields[0] == START:
            if words:
                yield TaggedText(f"{name} {number}", " ".join(text), tuple(words))
                words, text, size, number = [], [], 0, number + 1
        elif fields:
            if len(fields) != 4:
                raise ValueError(f"{name}, line {at}: allowed are 4 columns, got {line[:60]!r}")
            word, tag, _, entity = fields
            kind = "" if entity == "O" else entity.split("-", 1)[-1]
            upos = PENN_CLASSES.get(tag, "X")
            words.append(Word(word, size, size + len(word), upos, tag, kind))
            text.append(word)
            size += len(word) + 1
    if words:
        yield TaggedText(f"{name} {number}", " ".join(text), tuple(words))
