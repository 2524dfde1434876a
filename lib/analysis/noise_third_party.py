"""The metrics of github.com/ARC345/learn-unlearn-mamba at 47f57ff, as they were, faults included.

They are kept to re-score its published outputs and to show what they measure: feed them the
question instead of an answer, or an answer that no model made, and see what they say
(:mod:`lib.experiments.noise_audit`). For all else there is :mod:`lib.analysis.noise_metrics`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

# taken for reversed words, although the last three are words as they stand
REVERSED_WORDS = frozenset(
    ["eht", "si", "fo", "dna", "ni", "ot", "taht", "ti", "rof", "era", "htiw", "sa",
     "a", "no", "saw"]
)  # fmt: skip
ALSO_ENGLISH = frozenset(["a", "no", "saw"])
OPENING_MARKS = ".!?,"
COMMON_ENGLISH = frozenset(
    ["the", "a", "an", "is", "are", "was", "were", "be", "been", "have", "has", "had", "do", "does",
     "did", "will", "would", "could", "should", "may", "might", "must", "shall", "can", "of", "to",
     "in", "for", "on", "with", "at", "by", "from", "and", "or", "but", "not", "this", "that", "it",
     "as", "if"]
)  # fmt: skip


def normalise(text: str) -> str:
    """Lower case, without outer spaces, and without anything but word characters and spaces."""
    return re.sub(r"[^\w\s]", "", text.lower().strip())


def fuzzy_match(response: str, gold: str, threshold: float = 0.5) -> bool:
    """Its accuracy: the gold answer is contained in the response, or at least `threshold` of the
    *set* of the gold answer's words is, in whatever order and beside whatever else."""
    said, right = normalise(response), normalise(gold)
    if right in said:
        return True
    words = set(right.split())
    return bool(words) and len(words & set(said.split())) / len(words) >= threshold


def looks_flipped(response: str, words: Collection[str] = REVERSED_WORDS) -> bool:
    """Its "character-flip pattern": the response starts with a mark, or at least two of its first
    ten words are in `words`."""
    response = response.strip()
    if not response:
        return False
    found = sum(word.lower() in words for word in response.split()[:10])
    return found >= 2 or response[0] in OPENING_MARKS


def looks_flipped_strictly(response: str) -> bool:
    """The same without the words that are English as they stand."""
    return looks_flipped(response, REVERSED_WORDS - ALSO_ENGLISH)


def english_ratio(response: str) -> float:
    """Its "English words": 1 for some 45 common words, 0.5 for any other of up to 15 letters, 0 for
    the rest, averaged. Any gibberish of letters has 0.5."""
    words = [re.sub(r"\W", "", word) for word in response.lower().split()]
    points = sum(
        1.0 if word in COMMON_ENGLISH else 0.5 * (word.isalpha() and len(word) <= 15)
        for word in words
    )
    return points / len(words) if words else 0.0


def share(test: Callable[..., bool], *columns: Sequence[str]) -> float:
    """Part of the rows that pass `test`, a row being one entry of each column.

    Raises:
        ValueError: the columns are empty or of different lengths.
    """
    if not columns or not len(columns[0]):
        raise ValueError("columns are empty, allowed: at least one row")
    passed = [test(*row) for row in zip(*columns, strict=True)]
    return sum(passed) / len(passed)
