from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lib.tasks.encoding import Encoded, encode_bytes, encoding_of
from lib.tasks.reconstruction import (
    CATEGORIES,
    Document,
    ReconstructionConfig,
    build,
)

PROSE = "It was the best of times, it was the worst of times. " * 4


def documents(count: int = 6, tokens: int = 40) -> list[Document]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [
        Document((letters[i:] + letters * 20)[:tokens], CATEGORIES[i % 3], f"d{i}")
        for i in range(count)
    ]


def decode_bytes(ids: list[int]) -> str:
    return bytes(token - 1 for token in ids).decode("utf-8", "surrogatepass")


def trained_tokenizer() -> Tokenizer:
    """A byte-level BPE such as GPT-NeoX's, small."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator([PROSE], trainer)
    return tokenizer


# -- chunks ---------------------------------------------------------------------------------


@given(tokens=st.integers(4, 90), length=st.integers(4, 30))
def test_a_document_is_cut_from_its_start_and_the_rest_left_over(tokens: int, length: int) -> None:
    (document,) = documents(1, tokens)
    config = ReconstructionConfig(length, short="skip")
    if tokens < length:
        with pytest.raises(ValueError, match=f"no document has a chunk of {length} tokens"):
            build(config, [document], encode_bytes)
        return
    chunks, (encoded,) = build(config, [document], encode_bytes)
    assert chunks.tokens.shape == (tokens // length, length)
    assert chunks.tokens.flatten().tolist() == encoded.ids[: tokens // length * length]
    assert "".join(chunks.texts) == document.text[: tokens // length * length]
    assert chunks.starts.tolist() == [k * length for k in range(tokens // length)]


def test_chunks_know_their_document_and_category() -> None:
    own = documents()
    chunks, encoded = build(ReconstructionConfig(8), own, encode_bytes)
    assert len(chunks) == 30 and set(chunks.categories) == {"prose", "code", "mathematics"}
    for row in range(30):
        document, start = own[chunks.documents[row]], chunks.starts[row]
        assert chunks.categories[row] == document.category
        assert chunks.texts[row] == document.text[start : start + 8]
        assert decode_bytes(chunks.tokens[row].tolist()) == chunks.texts[row]
        ids = encoded[chunks.documents[row]].ids
        assert chunks.tokens[row].tolist() == ids[start : start + 8]
    code = chunks.of("code")
    assert len(code) == 10 and set(code.documents) == {1, 4}
    assert torch.equal(code.tokens, chunks.tokens[torch.from_numpy(chunks.categories == "code")])
    assert len(chunks.take(slice(3))) == 3 and len(chunks.take(np.array([4, 2]))) == 2


def test_draws_are_balanced_different_and_fixed_by_the_seed() -> None:
    config = ReconstructionConfig(4, per_document=6, per_category=9)
    chunks, _ = build(config, documents(), encode_bytes)
    assert {c: len(chunks.of(c)) for c in set(chunks.categories)} == {
        "prose": 9, "code": 9, "mathematics": 9
    }  # fmt: skip
    places = list(zip(chunks.documents.tolist(), chunks.starts.tolist(), strict=True))
    assert len(set(places)) == 27 and places == sorted(places)
    assert max(np.bincount(chunks.documents)) <= 6
    again, _ = build(config, documents(), encode_bytes)
    other, _ = build(
        ReconstructionConfig(4, per_document=6, per_category=9, seed=1), documents(), encode_bytes
    )
    assert torch.equal(again.tokens, chunks.tokens)
    assert other.starts.tolist() != chunks.starts.tolist()


def test_chunks_with_the_end_token_are_left_out() -> None:
    (document,) = documents(1, 20)
    end = encode_bytes(document.text).ids[9]
    chunks, _ = build(ReconstructionConfig(4, end=end), [document], encode_bytes)
    assert chunks.starts.tolist() == [0, 4, 12, 16]
    chunks, _ = build(ReconstructionConfig(4, end=None), [document], encode_bytes)
    assert chunks.starts.tolist() == [0, 4, 8, 12, 16]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReconstructionConfig(3), "ReconstructionConfig.length is 3, allowed: 4..256"),
        (lambda: ReconstructionConfig(257), "length is 257, allowed: 4..256"),
        (lambda: ReconstructionConfig(8.0), "length is 8.0"),  # type: ignore[arg-type]
        (lambda: ReconstructionConfig(8, per_document=0), "per_document is 0"),
        (lambda: ReconstructionConfig(8, short="pad"), "short is 'pad', allowed: error, skip"),  # type: ignore[arg-type]
        (
            lambda: build(ReconstructionConfig(64), documents(), encode_bytes),
            "document 0 'd0' has 40 tokens, allowed: at least 64",
        ),
        (lambda: build(ReconstructionConfig(64), [], encode_bytes), "documents is empty"),
        (
            lambda: build(ReconstructionConfig(8, per_category=11), documents(), encode_bytes),
            "code has 10 chunks, allowed: at least 11",
        ),
    ],
)
def test_misuse_is_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# -- tokenizers -----------------------------------------------------------------------------


@given(st.text(max_size=40))
def test_bytes_and_back(text: str) -> None:
    encoded = encode_bytes(text)
    assert decode_bytes(encoded.ids) == text
    assert all(1 <= i <= 256 for i in encoded.ids)
    assert len(encoded.ids) == len(encoded.offsets) == len(text.encode())
    assert all(b - a == 1 for a, b in encoded.offsets)


def test_tokenizers_of_both_kinds_encode_alike() -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = trained_tokenizer()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    text = "It was the first caf\u00e9."
    found = encoding_of(tokenizer)(text)
    assert isinstance(found, Encoded) and encoding_of(fast)(text) == found
    assert tokenizer.decode(found.ids) == text
    # e acute is two bytes, which no merge joins: two tokens of one character
    assert found.offsets.count((20, 21)) == 2
    chunks, _ = build(ReconstructionConfig(4), [Document(PROSE, "prose")], encoding_of(tokenizer))
    for row in range(len(chunks)):
        assert tokenizer.decode(chunks.tokens[row].tolist()).strip() == chunks.texts[row].strip()


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

        def encode(self, text: str) -> list[int]:
            return [len(text)]

    with pytest.raises(TypeError, match="tokenizer is a Slow, allowed: one that gives offsets"):
        encoding_of(Slow())
