"""Decoders that kept their weights, put to use: read a text, write it down from memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from lib.config import from_dict
from lib.experiments._memory import load_decoder
from lib.experiments._memory_cell import MemoryCell
from lib.store import Record

if TYPE_CHECKING:
    from lib.models.autoencoder import Decoded, StateAutoencoder
    from lib.tasks.corpus import Corpus, CorpusConfig


class Recalled(NamedTuple):
    """A text and what came back of it.

    Attributes:
        pieces: the text's tokens, as text. marks: for each "1" if it came back, else "0".
        written: what was written down from memory.
    """

    pieces: list[str]
    marks: str
    written: str


class Reader:
    """One decoder: its length, and what it makes of a text."""

    def __init__(self, model: StateAutoencoder, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.length = model.config.length

    def recall(self, text: str) -> Recalled:
        """Read the first `length` tokens of a text, write them down from the state.

        Raises:
            ValueError: a text that is shorter.
        """
        import torch

        from lib.analysis.forgetting import found_by_occurrence

        tokens = self.tokenizer.encode(text)
        if len(tokens) < self.length:
            raise ValueError(
                f"text has {len(tokens)} tokens, allowed: at least {self.length}, the length that "
                "this decoder was trained for"
            )
        tokens = tokens[: self.length]
        (written,) = self.model.reconstruct(torch.tensor([tokens])).rows()
        flags = found_by_occurrence(tokens, written)
        decode = self.tokenizer.decode
        return Recalled(
            [decode([token]) for token in tokens], "".join("01"[f] for f in flags), decode(written)
        )


def readers(records: Sequence[Record]) -> dict[int, Reader]:
    """The decoders of those records that kept their weights, by length."""
    kept = [record for record in records if record.weights_path() is not None]
    lengths = [from_dict(MemoryCell, record.config).task.length for record in kept]
    pairs = sorted(zip(lengths, kept, strict=True), key=lambda pair: pair[0])
    return {length: Reader(*load_decoder(record)) for length, record in pairs}


class KeptModel:
    """The language model that a record kept with its decoder, asked about any text. Its tokens may
    be others than those that a text was cut into.

    Attributes:
        facts: which it is, for the provenance of whoever asks.
    """

    def __init__(self, record: Record) -> None:
        model, tokenizer = load_decoder(record)
        self.model, self.bos = model.encoder, model.config.bos
        self.encode = tokenizer.encode
        self.facts = {"record": record.name, "tokenizer": tokenizer.fingerprint}

    def perplexities(self, texts: Sequence[str], length: int) -> list[float]:
        """Perplexity of each text, per token of the `length` that it was cut into: the loss of the
        whole text is shared out among so many."""
        import torch

        from lib.analysis.memory_controls import surprise
        from lib.analysis.memory_writing import READ_TOKENS

        tokens = self._tokens(texts)
        few = max(1, READ_TOKENS // tokens.tokens.shape[1])
        parts = zip(tokens.tokens.split(few), tokens.lengths.split(few), strict=True)
        losses = [surprise(self.model, type(tokens)(*part), self.bos) for part in parts]
        return (torch.cat(losses) / length).exp().tolist()

    def similarity(self, texts: Sequence[str], others: Sequence[str]) -> list[float]:
        """See :func:`lib.analysis.memory_writing.similarity`."""
        from lib.analysis.memory_writing import similarity

        weight = self.model.embedding.weight
        return similarity(weight, self._tokens(texts), self._tokens(others))

    def _tokens(self, texts: Sequence[str]) -> Decoded:
        from lib.models.autoencoder import Decoded

        return Decoded.of([self.encode(text) for text in texts])


@lru_cache(maxsize=1)  # which documents are held out takes a look at all of them
def _corpus(config: CorpusConfig) -> Corpus:
    from lib.tasks.corpus import Corpus

    return Corpus(config)  # nothing kept: what is verified is made again


def reevaluate(record: Record) -> dict[str, float]:
    """What the decoder of a record writes of the record's own test chunks, measured again from its
    weights: ROUGE F1, tokens in their places, chunks without a fault. Weights are kept in half
    precision.

    Raises:
        ValueError: text whose tokens are not those that the weights were trained on.
    """
    from lib.analysis.memory_measures import scores
    from lib.analysis.memory_writing import write
    from lib.tasks.language import OpenedText
    from lib.tasks.memory_text import ask

    model, tokenizer = load_decoder(record)
    found, recorded = tokenizer.fingerprint, record.provenance["tokenizer"]
    if found != recorded:
        raise ValueError(f"the weights' tokenizer is {found}, the record's {recorded}")
    cell = from_dict(MemoryCell, record.config)
    # the whole text would be encoded for nothing: held-out documents are enough
    corpus = _corpus(cell.language.task.corpus if cell.text is None else cell.text)
    chunks = ask(OpenedText(corpus, tokenizer), cell.task, cell.asked).chunks
    rows = write(model, chunks.tokens).rows()
    table = scores(chunks.tokens.tolist(), rows, tokenizer.decode, [0.0] * len(rows))
    return table[["rouge1", "rouge2", "rougeL", "token_accuracy", "exact"]].mean().to_dict()


def longest(found: dict[int, Reader], text: str) -> Reader:
    """The decoder of the longest length that a text has, or of the shortest that there is.

    Raises:
        ValueError: there is no decoder.
    """
    if not found:
        raise ValueError("readers is empty, allowed: at least one decoder that kept its weights")
    shortest = min(found)
    count = len(found[shortest].tokenizer.encode(text))
    return found[max((length for length in found if length <= count), default=shortest)]
