"""Texts as tokens that know where they come from: one face for every tokenizer with offsets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Encoded(NamedTuple):
    """A text's tokens.

    Attributes:
        ids: one number a token.
        offsets: for each token the first character of the text that it covers, and the one after
            its last. Tokens of single bytes of one character all cover that character; whether a
            token's blank counts is the tokenizer's affair.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]


Encode = Callable[[str], Encoded]


def encoding_of(tokenizer: Any) -> Encode:
    """How `tokenizer` encodes, without tokens that stand for no text.

    Args:
        tokenizer: a ``tokenizers.Tokenizer`` or a fast tokenizer of transformers.

    Raises:
        TypeError: anything else, such as a tokenizer in Python, which knows no offsets.
    """
    if getattr(tokenizer, "is_fast", False):

        def fast(text: str) -> Encoded:
            out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            return Encoded(list(out["input_ids"]), [(a, b) for a, b in out["offset_mapping"]])

        return fast
    if hasattr(tokenizer, "encode") and hasattr(tokenizer, "token_to_id"):

        def plain(text: str) -> Encoded:
            out = tokenizer.encode(text, add_special_tokens=False)
            return Encoded(list(out.ids), list(out.offsets))

        return plain
    raise TypeError(
        f"tokenizer is a {type(tokenizer).__name__}, allowed: one that gives offsets, a "
        "tokenizers.Tokenizer or a fast tokenizer of transformers"
    )


def encode_bytes(text: str) -> Encoded:
    """One token a byte of UTF-8, numbered from 1; 0 is free to mark the end of a text.

    Needs no vocabulary, so that small runs depend on no file.
    """
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    for place, character in enumerate(text):
        for byte in character.encode("utf-8", "surrogatepass"):
            ids.append(byte + 1)
            offsets.append((place, place + 1))
    return Encoded(ids, offsets)
