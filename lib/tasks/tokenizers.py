"""Text to token numbers and back: byte-level BPE trained here, plain bytes, or a published one.

All of them count bytes, since a loss in nats per token cannot be compared between tokenizers: one
with larger tokens has fewer, harder ones to predict. Bits per byte can be compared, and need the
number of UTF-8 bytes that the predicted tokens stand for, which `token_bytes` tells token by token.
The end of text stands for no byte; its loss is counted all the same.

Text never becomes a special token: a document that spells out ``<|endoftext|>`` gets ordinary
tokens, so only the packing puts an end of text.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lib.config import added_later, digest, require, to_dict
from lib.store import write_atomic
from lib.tasks.corpus import Corpus, CorpusConfig, Part, TextUnavailable

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

VERSION = 1  # of how BPE is trained: to be raised with any change that gives other merges
BYTES = 256


@dataclass(frozen=True)
class BytesConfig:
    """UTF-8 bytes as they are: tokens 0..255, and 256 for the end of text."""

    kind: ClassVar[str] = "bytes"


@dataclass(frozen=True)
class BPEConfig:
    """Byte-level BPE, trained on a corpus.

    Attributes:
        vocab_size: tokens, with all 256 bytes and the end of text, which is the last one.
        training_bytes: train on documents until they have so many bytes.
        corpus: train on this one; None for the corpus that is encoded. With one of its own,
            several corpora have the same tokens.
    """

    kind: ClassVar[str] = "bpe"
    vocab_size: int = 4096
    training_bytes: int = 50_000_000
    corpus: CorpusConfig | None = added_later(None)  # noqa: RUF009

    def __post_init__(self) -> None:
        require(self, "vocab_size", self.vocab_size > BYTES, f"at least {BYTES + 1}")
        require(self, "training_bytes", self.training_bytes >= 1, "at least 1")


@dataclass(frozen=True)
class PretrainedConfig:
    """A published tokenizer with a ``tokenizer.json``; the default is that of Mamba and Pythia.

    Attributes:
        name: an id of the hub, or a local folder or file.
        revision: commit on the hub, 40 hex digits; not used for local files.
        eos: its end of text.
    """

    kind: ClassVar[str] = "pretrained"
    name: str = "EleutherAI/gpt-neox-20b"
    revision: str = "c292233c833e336628618a88a648727eb3dff0a7"
    eos: str = "<|endoftext|>"

    def __post_init__(self) -> None:
        require(self, "name", bool(self.name), "an id of the hub or a path")
        pinned = len(self.revision) == 40 and set(self.revision) <= set("0123456789abcdef")
        require(self, "revision", pinned, "a commit, 40 hex digits")


TokenizerConfig = BytesConfig | BPEConfig | PretrainedConfig


class Tokenizer(ABC):
    """What packing, training and generation need of a tokenizer.

    Attributes:
        vocab_size: one more than the largest token.
        eos: the end of text.
        fingerprint: 64 hex digits; equal only for equal tokens of any text.
        exact: whether `decode` gives back every text to the letter. A published tokenizer may
            bring text into a normal form first, or put a space in front; then it gives that, and
            that is what its bytes are counted of.
    """

    vocab_size: int
    eos: int
    fingerprint: str
    exact: bool = True

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; no end of text."""
        return self.encode_batch([text])[0].tolist()

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Tokens of many texts, each (tokens,) int64."""

    @abstractmethod
    def decode(self, tokens: Iterable[int]) -> str:
        """Text of tokens; ends of text are left out, broken characters become U+FFFD."""

    @property
    @abstractmethod
    def token_bytes(self) -> np.ndarray:
        """(vocab_size,) int64: UTF-8 bytes that each token stands for, 0 for the end of text."""

    def count_bytes(self, tokens: np.ndarray) -> int:
        """UTF-8 bytes that `tokens`, of any shape, stand for together."""
        return int(self.token_bytes[tokens].sum())


class ByteTokenizer(Tokenizer):
    """One token a byte."""

    vocab_size = BYTES + 1
    eos = BYTES

    def __init__(self) -> None:
        self.fingerprint = digest(to_dict(BytesConfig()))
        self._bytes = np.append(np.ones(BYTES, np.int64), 0)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Bytes of each text."""
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int64) for text in texts]

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of bytes."""
        return bytes(token for token in tokens if token != self.eos).decode(errors="replace")

    @property
    def token_bytes(self) -> np.ndarray:
        """1 for each byte."""
        return self._bytes


def _letters() -> dict[str, int]:
    """The letter that stands for each byte in the tokens of byte-level BPE.

    GPT-2's table (github.com/openai/gpt-2, src/encoder.py): printable Latin-1 stands for itself,
    the other bytes in turn for the letters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(BYTES) if byte not in printable]
    return {
        **{chr(byte): byte for byte in printable},
        **{chr(0x100 + rank): byte for rank, byte in enumerate(others)},
    }


class BPETokenizer(Tokenizer):
    """Byte-level BPE of the `tokenizers` package.

    Args:
        backend: the tokenizer.
        eos: its end of text; None gives it the number after the last token, which no text has.

    Raises:
        ValueError: no such end of text, or tokens that do not stand for bytes.
    """

    def __init__(self, backend: Backend, eos: str | None = None) -> None:
        body = json.loads(backend.to_str())
        steps = [body["pre_tokenizer"], body["decoder"]]
        if "ByteLevel" not in json.dumps(steps[0]) or "ByteLevel" not in json.dumps(steps[1]):
            raise ValueError("the tokenizer is not byte-level: its tokens do not stand for bytes")
        backend.encode_special_tokens = True  # else a text could spell out an end of text
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.tokens = backend.get_vocab(with_added_tokens=True)
        top = max(self.tokens.values())
        if eos is not None and eos not in self.tokens:
            raise ValueError(f"eos is {eos!r}, which the tokenizer lacks; its tokens: 0..{top}")
        self.eos = top + 1 if eos is None else self.tokens[eos]
        self.vocab_size = max(top, self.eos) + 1
        spaced = '"add_prefix_space": true' in json.dumps(steps[0])
        self.exact = body["normalizer"] is None and not spaced
        self.fingerprint = digest([body, self.eos])
        self.added = {token["id"]: token["content"] for token in body["added_tokens"]}

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Tokens of each text; `tokenizers` works on them in parallel."""
        found = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, np.int64) for one in found]

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of tokens."""
        kept = [int(token) for token in tokens if token != self.eos]
        return self.backend.decode(kept, skip_special_tokens=False)

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """Bytes from the letters of each token."""
        sizes = np.zeros(self.vocab_size, np.int64)
        letters = _letters()
        for text, token in self.tokens.items():
            if token in self.added:  # stands for itself, not for the bytes of its letters
                sizes[token] = len(text.encode())
            else:
                sizes[token] = sum(letter in letters for letter in text)
        sizes[self.eos] = 0
        return sizes


def train_bpe(config: BPEConfig, documents: Iterable[str]) -> BPETokenizer:
    """Byte-level BPE from the documents, up to the config's `training_bytes`; deterministic.

    Raises:
        ValueError: too little text for so many tokens.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size - 1,  # the end of text is not a token of the model
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_first(documents, config.training_bytes), trainer)
    trained = BPETokenizer(backend)
    if trained.vocab_size != config.vocab_size:
        raise ValueError(
            f"BPEConfig.vocab_size is {config.vocab_size}, allowed: up to {trained.vocab_size}, "
            "since the text that it is trained on gives no more tokens"
        )
    return trained


def for_transformers(tokenizer: BPETokenizer) -> Any:
    """The same tokenizer as transformers', to lie beside a model's weights; its end of text, which
    has the same number, also begins a text."""
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    copy = Backend.from_str(tokenizer.backend.to_str())
    end = "<|endoftext|>"
    theirs = PreTrainedTokenizerFast(tokenizer_object=copy, eos_token=end, bos_token=end)
    assert theirs.eos_token_id == tokenizer.eos
    return theirs


def _first(documents: Iterable[str], limit: int) -> Iterator[str]:
    count = 0
    for text in documents:
        if count >= limit:
            return
        count += len(text.encode())
        yield text


def write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody, another process included, ever reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())


def _load(config: PretrainedConfig) -> BPETokenizer:
    from tokenizers import Tokenizer as Backend

    path = Path(config.name).expanduser()
    if path.is_dir():
        path = path / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"name is {config.name!r}: the folder has no tokenizer.json")
    elif not path.is_file():
        path = _download(config)
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the package raises no narrower type
        raise ValueError(f"{path} is no tokenizer: {error}") from error
    return BPETokenizer(backend, config.eos)


def _download(config: PretrainedConfig) -> Path:
    import huggingface_hub

    try:
        found = huggingface_hub.hf_hub_download(
            config.name, "tokenizer.json", revision=config.revision
        )
    except (OSError, ValueError) as error:
        raise TextUnavailable(
            f"cannot get the tokenizer {config.name} at revision {config.revision}: {error}. On a "
            "machine with a connection run\n"
            f"  hf download {config.name} tokenizer.json --revision {config.revision}\n"
            "and copy its cache (HF_HOME, usually ~/.cache/huggingface) to the same place; or "
            "name the folder of tokenizer.json instead of the id"
        ) from error
    return Path(found)


def open_tokenizer(
    config: TokenizerConfig, part: Part | None = None, cache: Path | str | None = None
) -> Tokenizer:
    """The tokenizer of a config.

    Args:
        part: documents that BPE is trained on unless its config names others; no other tokenizer
            needs them.
        cache: folder that keeps trained BPE, by the fingerprint of its documents, and where
            those stand.

    Raises:
        TextUnavailable: a tokenizer that is neither in reach nor in the cache of the hub.
        ValueError: BPE without documents, or with too few; a file that is no fit tokenizer.
    """
    if isinstance(config, BytesConfig):
        return ByteTokenizer()
    if isinstance(config, PretrainedConfig):
        return _load(config)
    if config.corpus is not None:
        part = Corpus(config.corpus, cache).train
    if part is None:
        raise ValueError("part is None, allowed: the documents that BPE is trained on")
    identity: list[Any] = [to_dict(config), part.fingerprint, VERSION]
    path = Path(cache) / f"bpe-{digest(identity)[:16]}.json" if cache is not None else None
    if path is not None and path.is_file():
        from tokenizers import Tokenizer as Backend

        return BPETokenizer(Backend.from_file(str(path)))
    trained = train_bpe(config, part)
    if path is not None:
        write_whole(path, trained.backend.to_str())
    return trained
