"""What a state forgot: a text against what was written down from memory.

Sequence level: ROUGE F1 as Hossain et al. 2025 (arXiv 2512.15653) report it, and the accuracy of
tokens in place, because ROUGE looks at letters and digits alone and gives a perfect copy of "};" 0.
Item level: omission, one minus the share of occurrences that come back. The paper compares words as
(word, n-th occurrence), wherever they stand; so does everything here, for words and for tokens.

Item tables have one row an occurrence; :mod:`lib.analysis.omission` makes rates and tests of them.
Scores are 0 to 1, not percent.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd

from lib.tasks.alignment import align, words_in_chunk
from lib.tasks.encoding import Encoded
from lib.tasks.reconstruction import Chunks
from lib.tasks.tags import TaggedText

ROUGE = ("rouge1", "rouge2", "rougeL")


# -- sequences ------------------------------------------------------------------------------


def rouge(references: Sequence[str], written: Sequence[str]) -> pd.DataFrame:
    """ROUGE-1, -2 and -L F1 of each pair, as rouge_score without stemming gives them.

    Returns:
        Columns rouge1, rouge2, rougeL, and scorable: whether the reference has anything that ROUGE
        looks at; where it has not, the scores are 0 whatever was written.

    Raises:
        ValueError: not as many of one as of the other.
    """
    _expect_pairs("written", len(written), len(references))
    rows = []
    for reference, found in zip(references, written, strict=True):
        a, b = rouge_words(reference), rouge_words(found)
        pairs = [list(itertools.pairwise(words)) for words in (a, b)]
        rows.append(
            {
                "rouge1": _f1(_shared(a, b), len(a), len(b)),
                "rouge2": _f1(_shared(*pairs), *map(len, pairs)),
                "rougeL": _f1(common_subsequence(a, b), len(a), len(b)),
                "scorable": bool(a),
            }
        )
    return pd.DataFrame(rows, columns=[*ROUGE, "scorable"])


def rouge_words(text: str) -> list[str]:
    """What ROUGE sees of a text: runs of letters a to z and digits, in small letters."""
    return re.findall("[a-z0-9]+", text.lower())


def _shared(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    return (Counter(a) & Counter(b)).total()


def _f1(shared: int, wanted: int, found: int) -> float:
    return 2 * shared / (wanted + found) if shared else 0.0


def common_subsequence(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence, by one addition of long integers for each item of
    `b` (Hyyro 2004): no table of ``len(a) * len(b)`` entries."""
    places: dict[Hashable, int] = {}
    for index, item in enumerate(a):
        places[item] = places.get(item, 0) | 1 << index
    every = (1 << len(a)) - 1
    left = every
    for item in b:
        met = left & places.get(item, 0)
        left = ((left + met) | (left - met)) & every
    return len(a) - left.bit_count()


def token_accuracy(
    references: Sequence[Sequence[int]], written: Sequence[Sequence[int]]
) -> np.ndarray:
    """(count,) share of each reference's tokens that were written at the very same place.

    Raises:
        ValueError: not as many of one as of the other, or an empty reference.
    """
    _expect_pairs("written", len(written), len(references))
    shares = []
    for reference, found in zip(references, written, strict=True):
        if not len(reference):
            raise ValueError("a reference is empty, allowed: at least one token")
        right = sum(a == b for a, b in zip(reference, found, strict=False))
        shares.append(right / len(reference))
    return np.array(shares)


def exact_matches(
    references: Sequence[Sequence[int]], written: Sequence[Sequence[int]]
) -> np.ndarray:
    """(count,) whether a text came back token for token, and ended where it should."""
    _expect_pairs("written", len(written), len(references))
    return np.array([list(a) == list(b) for a, b in zip(references, written, strict=True)])


# -- occurrences ----------------------------------------------------------------------------


def found_by_occurrence(reference: Sequence[Hashable], written: Sequence[Hashable]) -> list[bool]:
    """Whether each item of the reference came back, as (item, n-th occurrence), order ignored."""
    available, seen = Counter(written), Counter[Hashable]()
    flags = []
    for item in reference:
        seen[item] += 1
        flags.append(seen[item] <= available[item])
    return flags


def found_phrases(
    reference: Sequence[int], written: Sequence[int], spans: Sequence[tuple[int, int]]
) -> list[bool]:
    """The same for runs of tokens, such as the tokens of a word.

    A run is the n-th of its kind in the reference, and found if it stands in what was written at
    least n times. Both sides are counted as tokens, so no way of splitting text into words can
    disagree with the tags' own (the released code splits one side with NLTK, which rewrites quotes
    and so makes punctuation look forgotten).

    Args:
        spans: (first, last) token of each run, both included.

    Raises:
        ValueError: a span outside the reference.
    """
    places: dict[int, tuple[Counter, Counter]] = {}
    for size in {last - first + 1 for first, last in spans}:
        places[size] = (Counter(), Counter(_runs(written, size)))
    ordinals: dict[tuple[int, int], int] = {}
    for size, (seen, _) in places.items():
        for first, run in enumerate(_runs(reference, size)):
            seen[run] += 1
            ordinals[first, size] = seen[run]
    flags = []
    for first, last in spans:
        size = last - first + 1
        if (first, size) not in ordinals:
            raise ValueError(f"span {(first, last)} is outside the {len(reference)} tokens")
        run = tuple(reference[first : last + 1])
        flags.append(ordinals[first, size] <= places[size][1][run])
    return flags


def _runs(tokens: Sequence[int], size: int) -> list[tuple[int, ...]]:
    if size < 1:
        return []
    return [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]


def paper_words(text: str) -> list[str]:
    """A text's words by NLTK, as the released code splits what was written (but not first into
    sentences, for which NLTK needs a downloaded model). Double quotes come out rewritten."""
    from nltk.tokenize import word_tokenize

    return word_tokenize(text, preserve_line=True)


# -- tables ---------------------------------------------------------------------------------


def token_table(
    chunks: Chunks,
    written: Sequence[Sequence[int]],
    *,
    labels: np.ndarray | None = None,
    perplexity: Sequence[float] | None = None,
    frequency: Mapping[int, int] | None = None,
) -> pd.DataFrame:
    """One row a token: chunk, position (from 0), token, category, found.

    Args:
        written: tokens of each chunk's reconstruction, without the end token.
        labels: (count, L), of each token the kind of passage it stands in; adds the column label.
        perplexity: of each chunk under a language model; adds the column perplexity.
        frequency: how often each token stands in a corpus; adds frequency, 0 for tokens not there.

    Raises:
        ValueError: not one reconstruction, or perplexity, a chunk.
    """
    _expect_pairs("written", len(written), len(chunks))
    count, length = chunks.tokens.shape
    references = chunks.tokens.tolist()
    table = pd.DataFrame(
        {
            "chunk": np.repeat(np.arange(count), length),
            "position": np.tile(np.arange(length), count),
            "token": chunks.tokens.flatten().tolist(),
            "category": np.repeat(chunks.categories, length),
        }
    )
    pairs = list(zip(references, written, strict=True))
    table["found"] = [flag for a, b in pairs for flag in found_by_occurrence(a, b)]
    if labels is not None:
        table["label"] = labels.flatten()
    if perplexity is not None:
        _expect_pairs("perplexity", len(perplexity), count)
        table["perplexity"] = np.repeat(np.asarray(perplexity, dtype=float), length)
    if frequency is not None:
        table["frequency"] = [frequency.get(token, 0) for token in table["token"].tolist()]
    return table


def word_table(
    chunks: Chunks,
    written: Sequence[Sequence[int]],
    tagged: Sequence[TaggedText],
    encoded: Sequence[Encoded],
) -> pd.DataFrame:
    """One row a tagged word that lies in a chunk whole: chunk, position (of its first token),
    tokens (how many), word, pos, entity (None where the text marks none), category, found. A word
    of many tokens is lost more easily than one of few: see
    :func:`lib.analysis.omission.standardised`.

    Args:
        tagged, encoded: the documents that the chunks were cut from, in their order.

    Raises:
        ValueError: not one reconstruction a chunk; not as many texts as encodings, or too few.
    """
    _expect_pairs("written", len(written), len(chunks))
    _expect_pairs("encoded", len(encoded), len(tagged))
    if int(chunks.documents.max(initial=0)) >= len(tagged):
        raise ValueError(
            f"chunks are of document {chunks.documents.max()}, of {len(tagged)} tagged"
        )
    length, rows = chunks.tokens.shape[1], []
    aligned = [
        align([(word.start, word.end) for word in text.words], own.offsets)
        for text, own in zip(tagged, encoded, strict=True)
    ]
    for chunk, reference in enumerate(chunks.tokens.tolist()):
        document = int(chunks.documents[chunk])
        placed = words_in_chunk(aligned[document], int(chunks.starts[chunk]), length)
        flags = found_phrases(reference, written[chunk], [(p.first, p.last) for p in placed])
        for place, flag in zip(placed, flags, strict=True):
            word = tagged[document].words[place.word]
            entity = word.entity_class if tagged[document].entities else None
            rows.append(
                (chunk, place.first, place.last - place.first + 1, word.text, word.pos_class,
                 entity, chunks.categories[chunk], flag)
            )  # fmt: skip
    names = ["chunk", "position", "tokens", "word", "pos", "entity", "category", "found"]
    return pd.DataFrame(rows, columns=names)


def found_again(
    table: pd.DataFrame, chunks: Chunks, written: Sequence[Sequence[int]]
) -> pd.DataFrame:  # fmt: skip
    """A :func:`word_table` for other reconstructions of the same chunks.

    Raises:
        ValueError: not one reconstruction a chunk.
    """
    _expect_pairs("written", len(written), len(chunks))
    references, flags = chunks.tokens.tolist(), []
    for chunk, own in table.groupby("chunk", sort=False):
        spans = zip(own["position"], own["position"] + own["tokens"] - 1, strict=True)
        flags += found_phrases(references[chunk], written[chunk], list(spans))
    return table.assign(found=flags)


def _expect_pairs(name: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise ValueError(f"{name} has {found} entries, allowed: {wanted}, one for each")
