"""Which tokens spell which word, from where both stand in the text."""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

Span = tuple[int, int]


class PlacedWord(NamedTuple):
    """A word of a chunk: its number in the document, and its tokens first .. last in the chunk."""

    word: int
    first: int
    last: int


def align(words: Sequence[Span], tokens: Sequence[Span]) -> list[range]:
    """For each word the tokens that share a character with it; an empty range for none.

    Args:
        words: (start, end) in the text, in order, none overlapping the next.
        tokens: the same of tokens, in order. They may cover blanks or leave them out, share
            characters (bytes of one) or cover nothing; a token may belong to several words.

    Raises:
        ValueError: words that overlap or are empty, or tokens out of order.
    """
    for before, after in itertools.pairwise(words):
        if after[0] < before[1]:
            raise ValueError(f"words {before} and {after} overlap, allowed: in order, apart")
    for begin, stop in words:
        if stop <= begin:
            raise ValueError(f"word {(begin, stop)} is empty, allowed: at least one character")
    # what covers nothing spells nothing, and would break the order
    solid = [index for index, (start, end) in enumerate(tokens) if end > start]
    starts, ends = [tokens[i][0] for i in solid], [tokens[i][1] for i in solid]
    for edges in (starts, ends):
        if any(later < edge for edge, later in itertools.pairwise(edges)):
            raise ValueError("tokens are out of order, allowed: starts and ends that never fall")
    found = []
    for word in words:
        low, high = bisect_right(ends, word[0]), bisect_left(starts, word[1])
        found.append(range(solid[low], solid[high - 1] + 1) if low < high else range(0))
    return found


def words_in_chunk(alignment: Sequence[range], start: int, length: int) -> list[PlacedWord]:
    """Words all of whose tokens lie in the chunk of `length` tokens from token `start` on.

    A word that the chunk's edge cuts through is left out: nobody could ask for all of it.
    """
    stop = start + length
    return [
        PlacedWord(index, tokens[0] - start, tokens[-1] - start)
        for index, tokens in enumerate(alignment)
        if tokens and tokens[0] >= start and tokens[-1] < stop
    ]
