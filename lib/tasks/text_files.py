"""Documents of text and JSONL files, plain or zipped, with errors that name file and line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, cast

from lib import provenance
from lib.config import require

SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
_CHUNK = 2**20


@dataclass(frozen=True)
class LocalText:
    """Text files of this machine.

    Attributes:
        path: a file, or a folder that is searched for .txt and .jsonl files, .gz or not; absolute,
            or from the repository's root.
        pattern: which files of a folder, by name or by the end of the path: ``train-*``.
        column: field of a JSONL line that holds the text; lines that are strings need none.
        separator: ends a document of a .txt file. A file without it is one document.
        fingerprint: what :attr:`lib.tasks.corpus.Corpus.source_fingerprint` must be; None takes any
            text.
    """

    kind: ClassVar[str] = "local"
    path: str
    pattern: str = "*"
    column: str = "text"
    separator: str = "<|endoftext|>"
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        require(self, "path", bool(self.path), "a file or folder")
        require(self, "pattern", bool(self.pattern), "a name, or * for all")
        require(self, "separator", bool(self.separator), "at least one character")


def text_files(source: LocalText) -> list[Path]:
    """Files of a source, by name."""
    root = provenance.ROOT / Path(source.path).expanduser()
    if root.is_file():
        return [root]
    if not root.exists():
        raise ValueError(f"path is {source.path!r}: there is no such file or folder")
    found = [p for p in root.rglob(source.pattern) if p.is_file() and p.name.endswith(SUFFIXES)]
    if not found:
        wanted = f"{source.pattern!r} that ends in one of {', '.join(SUFFIXES)}"
        raise ValueError(f"path is {source.path!r}: the folder has no file {wanted}")
    # by name, since the order in which a folder lists its files differs between machines
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def read_documents(path: Path, source: LocalText) -> Iterator[bytes]:
    """Documents of one file as UTF-8; blank ones are left out."""
    zipped = path.suffix == ".gz"
    lines = path.name.removesuffix(".gz").endswith(".jsonl")
    with gzip.open(path) if zipped else path.open("rb") as file:
        stream = cast(BinaryIO, file)
        found = _entries(stream, path, source.column) if lines else _pieces(stream, path, source)
        try:
            for text in found:
                if text.strip():
                    yield text
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is no whole gzip file: {error}") from error


def _pieces(file: BinaryIO, path: Path, source: LocalText) -> Iterator[bytes]:
    """What stands between separators, without the line ends next to them."""
    mark, rest, offset, cut = source.separator.encode(), bytearray(), 0, False
    while chunk := file.read(_CHUNK):
        if b"\0" in chunk:
            raise ValueError(f"{path} is binary: a zero byte at offset {offset + chunk.index(0)}")
        start = max(0, len(rest) - len(mark) + 1)
        # without the mark that some editors put in front of UTF-8
        rest += chunk if offset else chunk.removeprefix(b"\xef\xbb\xbf")
        offset += len(chunk)
        if rest.find(mark, start) >= 0:  # only the new end is searched: a document may be huge
            *whole, rest = rest.split(mark)
            cut = True
            for piece in whole:
                yield _checked(piece, path).strip(b"\r\n")
    # only what separators cut is trimmed: a file that is one document is kept to the letter
    yield _checked(rest, path).strip(b"\r\n") if cut else _checked(rest, path)


def _checked(text: bytearray, path: Path) -> bytes:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is binary, or not UTF-8: {error}") from error
    return bytes(text)


def _entries(file: BinaryIO, path: Path, column: str) -> Iterator[bytes]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        if b"\0" in line:
            raise ValueError(f"{where} is binary: it holds a zero byte")
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is no JSON: {error}") from error
        text = entry.get(column) if isinstance(entry, dict) else entry
        if not isinstance(text, str):
            names = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
            raise ValueError(f"{where} has no text under {column!r}; it has: {names}")
        try:
            yield text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{where} holds half of a surrogate pair: {error}") from error
