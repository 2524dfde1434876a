from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.analysis.forgetting import (
    ROUGE,
    common_subsequence,
    exact_matches,
    found_by_occurrence,
    found_phrases,
    paper_words,
    rouge,
    token_accuracy,
    token_table,
    word_table,
)
from lib.tasks.encoding import encode_bytes
from lib.tasks.reconstruction import Chunks, Document, ReconstructionConfig, build
from lib.tasks.tags import TaggedText, Word

ITEMS = st.lists(st.integers(0, 4), max_size=9)


def chunks_of(rows: list[list[int]], categories: list[str] | None = None) -> Chunks:
    count = len(rows)
    return Chunks(
        torch.tensor(rows), np.arange(count), np.zeros(count, dtype=np.int64),
        np.array(categories or ["prose"] * count), np.array([""] * count, dtype=object),
    )  # fmt: skip


# -- sequences ------------------------------------------------------------------------------


def test_rouge_by_hand() -> None:
    """5 and 4 words, 3 in common, 1 of the pairs; longest common subsequence the cat sat."""
    table = rouge(["The cat sat down here", "};", "A b"], ["the cat, then sat", "};", "a b"])
    first = table.iloc[0]
    assert first["rouge1"] == pytest.approx(2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5))
    assert first["rouge2"] == pytest.approx(2 * (1 / 3) * (1 / 4) / (1 / 3 + 1 / 4))
    assert first["rougeL"] == pytest.approx(first["rouge1"])
    # a perfect copy of symbols scores 0, and is marked
    assert table.iloc[1].tolist() == [0.0, 0.0, 0.0, False]
    assert table.iloc[2].tolist() == [1.0, 1.0, 1.0, True]


TEXTS = st.text("ab cD1;-é\n", max_size=40)


@given(reference=TEXTS, written=TEXTS)
def test_rouge_is_that_of_the_usual_package(reference: str, written: str) -> None:
    from rouge_score import rouge_scorer, tokenizers

    words = tokenizers.DefaultTokenizer(use_stemmer=False)
    theirs = rouge_scorer.RougeScorer(ROUGE, tokenizer=words).score(reference, written)
    ours = rouge([reference], [written]).iloc[0]
    assert [ours[name] for name in ROUGE] == pytest.approx([theirs[n].fmeasure for n in ROUGE])
    assert ours["scorable"] == bool(words.tokenize(reference))


@given(a=st.lists(st.integers(0, 3), max_size=80), b=st.lists(st.integers(0, 3), max_size=80))
def test_common_subsequence_is_that_of_the_table(a: list[int], b: list[int]) -> None:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
            )
    assert common_subsequence(a, b) == table[-1][-1]


def test_rouge_does_not_stem() -> None:
    assert rouge(["runs"], ["run"])["rouge1"].tolist() == [0.0]


def test_token_accuracy_is_about_places() -> None:
    references = [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]]
    written = [[1, 2, 3, 4], [2, 3, 4, 1], [1, 2], [1, 2, 3, 4, 5], []]
    assert token_accuracy(references, written).tolist() == [1, 0, 0.5, 1, 0]
    # too long is no exact copy, whatever its tokens
    assert exact_matches(references, written).tolist() == [True, False, False, False, False]


# -- occurrences ----------------------------------------------------------------------------


def test_occurrences_count_with_multiplicity_and_without_order() -> None:
    reference = ["the", "cat", "and", "the", "dog", "and", "the", "end"]
    assert found_by_occurrence(reference, ["the", "end", "the", "dog", "the"]) == [
        True, False, False, True, True, False, True, True,
    ]  # fmt: skip
    assert found_by_occurrence(["a", "a", "a"], ["a", "a"]) == [True, True, False]


@given(ITEMS, ITEMS)
def test_as_many_come_back_as_both_sides_have(reference: list[int], written: list[int]) -> None:
    flags = found_by_occurrence(reference, written)
    for item in set(reference):
        own = [flag for flag, value in zip(flags, reference, strict=True) if value == item]
        # the first ones are found, the rest are lost
        count = min(len(own), written.count(item))
        assert own == [True] * count + [False] * (len(own) - count)


@given(ITEMS, ITEMS)
def test_runs_of_one_token_are_tokens(reference: list[int], written: list[int]) -> None:
    spans = [(i, i) for i in range(len(reference))]
    assert found_phrases(reference, written, spans) == found_by_occurrence(reference, written)


@given(ITEMS, st.integers(1, 3))
def test_a_copy_has_lost_no_run_and_nothing_has_lost_all(tokens: list[int], size: int) -> None:
    spans = [(i, i + size - 1) for i in range(len(tokens) - size + 1)]
    assert found_phrases(tokens, tokens, spans) == [True] * len(spans)
    # fewer tokens than the run has
    assert not any(found_phrases(tokens, tokens[: size - 1], spans))


def test_runs_are_found_as_runs() -> None:
    reference = [7, 8, 1, 7, 8, 2]
    spans = [(0, 1), (3, 4), (2, 2), (4, 5)]
    assert found_phrases(reference, [8, 7, 8, 1], spans) == [True, False, True, False]
    assert found_phrases(reference, [8, 7], spans[:2]) == [False, False]
    with pytest.raises(ValueError, match=r"span \(5, 6\) is outside the 6 tokens"):
        found_phrases(reference, reference, [(5, 6)])


def test_words_as_the_released_code_splits_them() -> None:
    assert paper_words('He said "don\'t" (twice).') == [
        "He", "said", "``", "do", "n't", "''", "(", "twice", ")", ".",
    ]  # fmt: skip


# -- tables ---------------------------------------------------------------------------------


def test_a_row_for_each_token() -> None:
    chunks = chunks_of([[5, 6, 5], [7, 7, 8]], ["prose", "code"])
    table = token_table(chunks, [[5, 5, 9], [8]], perplexity=[3.0, 12.0], frequency={5: 100, 7: 1})
    assert list(table) == [
        "chunk", "position", "token", "category", "found", "perplexity", "frequency",
    ]  # fmt: skip
    assert table.to_numpy().tolist() == [
        [0, 0, 5, "prose", True, 3.0, 100],
        [0, 1, 6, "prose", False, 3.0, 0],
        [0, 2, 5, "prose", True, 3.0, 100],
        [1, 0, 7, "code", False, 12.0, 1],
        [1, 1, 7, "code", False, 12.0, 1],
        [1, 2, 8, "code", True, 12.0, 0],
    ]


def test_a_row_for_each_whole_word() -> None:
    """Chunks of 8 bytes of "Anna met Bob in Rome": Anna met | _Bob in_ | Rome is left over."""
    text = "Anna met Bob in Rome"
    kinds = [("NOUN", "PERSON"), ("VERB", ""), ("NOUN", "PERSON"), ("ADP", ""), ("NOUN", "GPE")]
    words, start = [], 0
    for part, (upos, entity) in zip(text.split(), kinds, strict=True):
        words.append(Word(part, start, start + len(part), upos, "", entity))
        start += len(part) + 1
    config = ReconstructionConfig(8)
    chunks, encoded = build(config, [Document(text, "prose")], encode_bytes)
    written = [encode_bytes("met anna").ids, encode_bytes("Bo in x").ids]
    table = word_table(chunks, written, [TaggedText("a", text, tuple(words))], encoded)
    assert table.drop(columns="category").to_numpy().tolist() == [
        [0, 0, 4, "Anna", "NOUN", "Person", False],
        [0, 5, 3, "met", "VERB", "Not NE", True],
        [1, 1, 3, "Bob", "NOUN", "Person", False],
        [1, 5, 2, "in", "ADP", "Not NE", True],
    ]
    # a chunk that cuts Rome in two has none of it
    cut, _ = build(ReconstructionConfig(9), [Document(text, "prose")], encode_bytes)
    found = word_table(cut, cut.tokens.tolist(), [TaggedText("a", text, tuple(words))], encoded)
    assert found["word"].tolist() == ["Anna", "met", "Bob", "in"] and found["found"].all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rouge(["a"], []), "written has 0 entries, allowed: 1"),
        (lambda: token_accuracy([[]], [[]]), "a reference is empty"),
        (lambda: exact_matches([[1]], []), "written has 0 entries"),
        (lambda: token_table(chunks_of([[1, 2]]), []), "written has 0 entries"),
        (lambda: token_table(chunks_of([[1]]), [[1]], perplexity=[]), "perplexity has 0 entries"),
        (lambda: word_table(chunks_of([[1]]), [[1]], [], []), "document 0, of 0 tagged"),
    ],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
