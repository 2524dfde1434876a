from __future__ import annotations

import gzip
import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.tasks import tags
from lib.tasks.alignment import PlacedWord, align, words_in_chunk
from lib.tasks.encoding import encode_bytes, encoding_of
from lib.tasks.tags import (
    MissingTagger,
    Word,
    entity_types,
    load_tagger,
    parse_conllu,
    read_conllu,
    tag_text,
)
from tests.tasks.test_reconstruction import trained_tokenizer

# -- CoNLL-U --------------------------------------------------------------------------------


def row(number: str, form: str, upos: str = "NOUN", xpos: str = "NN", misc: str = "_") -> str:
    return "\t".join([number, form, "_", upos, xpos, "_", "_", "_", "_", misc])


SAMPLE = [
    "# newdoc id = first",
    "# text = I don't run.",
    row("1", "I", "PRON", "PRP"),
    row("2-3", "don't", "_", "_"),
    row("2", "do", "AUX", "VBP"),
    row("3", "n't", "PART", "RB"),
    row("4", "run", "VERB", "VB", "SpaceAfter=No"),
    row("4.1", "away", "ADV", "RB"),
    row("5", ".", "PUNCT", "."),
    "",
    "# text = Yes\u00a0",
    row("1", "Yes", "INTJ", "UH", "SpaceAfter=No"),
    "",
    "# newpar",
    "# text = du pain",
    row("1-2", "du", "_", "_"),
    row("1", "de", "ADP", "IN"),
    row("2", "le", "DET", "DT"),
    row("3", "pain"),
    "",
    "# newdoc id = second",
    row("1", "7", "NUM", "CD"),
]


def test_documents_words_and_where_they_stand() -> None:
    first, second = parse_conllu(SAMPLE)
    assert (first.name, second.name) == ("first", "second")
    assert first.text == "I don't run. Yes\n\ndu pain" and second.text == "7"
    assert [w.text for w in first.words] == ["I", "do", "n't", "run", ".", "Yes", "du", "pain"]
    for word in first.words:
        assert first.text[word.start : word.end] == word.text
    assert [w.pos_class for w in first.words] == [
        "PRON", "VERB", "ADV", "VERB", "PUNCT", "INTJ", "ADP", "NOUN",
    ]  # fmt: skip
    assert second.words == (Word("7", 0, 1, "NUM", "CD"),)


def test_a_gzipped_file_reads_the_same(tmp_path: Path) -> None:
    body = ("\n".join(SAMPLE) + "\n\n").encode()
    (tmp_path / "a.conllu").write_bytes(body)
    (tmp_path / "a.conllu.gz").write_bytes(gzip.compress(body))
    plain = read_conllu(tmp_path / "a.conllu")
    assert plain == list(parse_conllu(SAMPLE)) == read_conllu(tmp_path / "a.conllu.gz")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["# text = a", "1\ta\tb"], "text, line 2: allowed are 10 columns"),
        ([row("one", "a")], "line 1: allowed are 10 columns"),
        (["# text = a b", row("1", "a"), row("2", "c"), ""], "line 4: the words make 'a c'"),
        (["# text = ab", row("1", "a"), row("2", "b"), ""], "line 4: the words make 'a b'"),
        ([row("1-2", "ab")], "1-2 covers words that are not there"),
    ],
)
def test_bad_lines_are_named(lines: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(parse_conllu(lines))


def entity_rows(*layers: str) -> list[list[str]]:
    """Rows of words; one that begins with + is a proper noun."""
    rows = []
    for number, layer in enumerate(layers, 1):
        upos = "PROPN" if layer.startswith("+") else "NOUN"
        layer = layer.lstrip("+")
        misc = f"Entity={layer}|SpaceAfter=No" if layer else "_"
        rows.append(row(str(number), "w", upos, misc=misc).split("\t"))
    return rows


def test_names_nest_and_the_longer_counts() -> None:
    """The Trinity College of Saint-Denis."""
    rows = entity_rows(
        "(1-organization-new-sssss-cf1-2,3,4,5-coref-Trinity_College",
        "+", "+", "", "+(2-place-new-sssss-cf2-1-sgl-Saint-Denis)1)", "",
    )  # fmt: skip
    assert entity_types(rows) == ["", *["organization"] * 4, ""]
    alone = entity_rows("", "", "+", "+", "+(2-place-new-sssss-cf2-1-sgl-Saint-Denis)", "")
    assert entity_types(alone) == ["", "", "", "", "place", ""]


def test_of_a_mention_the_name_alone_counts() -> None:
    """The linguist Otto Jespersen who saw Randers; he; a linguist; Ada without a title."""
    rows = entity_rows(
        "(1-person-new-sssss-cf1-2,3,4-coref-Otto_Jespersen",
        "", "+", "+", "", "", "+1)",
        "(1-person-giv:act-sssss-cf1-1-ana-Otto_Jespersen)",
        "(1-person-giv:act-sssss-cf1-2-pred-Otto_Jespersen", "1)",
        "+(2-person-new-sssss-cf1-1-sgl)",
    )  # fmt: skip
    assert entity_types(rows) == ["", "", "person", "person", *[""] * 7]


def test_mentions_may_cross_and_close_on_the_word_that_opens_another() -> None:
    rows = entity_rows(
        "+(1-person-new-s-cf1-1-coref-Ada(2-event-new-s-cf1-1-sgl-Fair", "+1)", "+2)"
    )
    # equal cores: the mention that closes last writes last
    assert entity_types(rows) == ["event", "", ""]
    wider = entity_rows(
        "+(1-person-new-s-cf1-1,2-coref-Ada(2-event-new-s-cf1-1-sgl-Fair", "+1)", "+2)"
    )
    assert entity_types(wider) == ["person", "person", ""]


def test_a_document_knows_whether_its_source_marks_entities() -> None:
    plain = ["# newdoc id = one", "1\tAda\tAda\tPROPN\tNNP\t_\t0\troot\t_\t_", ""]
    mark = "Entity=(1-person-new-cf1-1-sgl-Ada_Lovelace)"
    marked = ["# newdoc id = two", f"1\tAda\tAda\tPROPN\tNNP\t_\t0\troot\t_\t{mark}", ""]
    one, two = parse_conllu([*plain, *marked])
    assert (one.entities, two.entities) == (False, True)


def test_entity_classes() -> None:
    assert Word("x", 0, 1, "PROPN", "NNP", "organization").entity_class == "Organization"
    assert Word("x", 0, 1, "NOUN", entity="time").entity_class == "Not NE"
    assert Word("x", 0, 1, "NOUN", entity="GPE").entity_class == "Location"


@pytest.mark.parametrize(
    ("upos", "xpos", "expected"),
    [
        ("SCONJ", "IN", "ADP"), ("PART", "TO", "ADP"), ("PART", "POS", "PRT"), ("ADP", "RP", "PRT"),
        ("CCONJ", "CC", "CONJ"), ("AUX", "MD", "VERB"), ("X", "LS", "NUM"), ("SYM", "$", "SYM"),
        ("PROPN", "", "NOUN"), ("SCONJ", "", "ADP"), ("_", "", "X"), ("PUNCT", "-LRB-", "PUNCT"),
        ("PRON", "EX", "DET"),
    ],
)  # fmt: skip
def test_classes_follow_the_paper(upos: str, xpos: str, expected: str) -> None:
    assert Word("x", 0, 1, upos, xpos).pos_class == expected


# -- spaCy ----------------------------------------------------------------------------------


def test_untagged_text_is_tagged() -> None:
    text = "Anna paid  3 dollars\nto Google in Paris ."
    tagged = tag_text(text, "note")
    assert [w.text for w in tagged.words] == text.split() and tagged.name == "note"
    for word in tagged.words:
        assert text[word.start : word.end] == word.text
    classes = {w.text: (w.pos_class, w.entity_class) for w in tagged.words}
    assert classes["3"] == ("NUM", "Not NE") and classes["."][0] == "PUNCT"
    assert classes["Paris"] == ("NOUN", "Location") and classes["paid"][0] == "VERB"
    assert classes["to"][0] == "ADP" and classes["Google"] == ("NOUN", "Organization")


def test_a_missing_tagger_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingTagger, match="the package en_core_web_none, and it cannot"):
        load_tagger("en_core_web_none")
    monkeypatch.setitem(sys.modules, "spacy", None)
    load_tagger.cache_clear()
    with pytest.raises(MissingTagger, match=rf"needs spaCy and the package {tags.TAGGER}"):
        tag_text("no spaCy here")


# -- alignment ------------------------------------------------------------------------------


@st.composite
def texts_and_tokens(draw: Any) -> tuple[str, list[tuple[int, int]], list[tuple[int, int]]]:
    """A text, its words, and tokens cut anywhere: with blanks, without them, split into bytes."""
    text = draw(st.text(alphabet="ab é,\n", max_size=25))
    cuts = draw(st.lists(st.integers(0, len(text)), max_size=8))
    edges = sorted({0, len(text), *cuts})
    tokens: list[tuple[int, int]] = []
    for start, end in itertools.pairwise(edges):
        stripped = start + len(text[start:end]) - len(text[start:end].lstrip())
        kept = (stripped, end) if draw(st.booleans()) and stripped < end else (start, end)
        tokens += [kept] * draw(st.integers(1, 2))
        if draw(st.booleans()):
            tokens.append((0, 0))
    marks = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    words = [(a, b) for a, b in itertools.pairwise(marks) if draw(st.booleans())]
    return text, words, tokens


@settings(max_examples=300)
@given(texts_and_tokens())
def test_alignment_equals_comparing_every_pair(
    drawn: tuple[str, list[tuple[int, int]], list[tuple[int, int]]],
) -> None:
    _, words, tokens = drawn
    found = align(words, tokens)
    for (start, end), own in zip(words, found, strict=True):
        touching = [i for i, (a, b) in enumerate(tokens) if max(a, start) < min(b, end)]
        # nothing between the first and the last is another word's
        assert [i for i in own if tokens[i] != (0, 0)] == touching


@settings(max_examples=300)
@given(texts_and_tokens(), st.integers(0, 10), st.integers(1, 10))
def test_a_chunk_has_the_words_it_covers_whole(
    drawn: tuple[str, list[tuple[int, int]], list[tuple[int, int]]], start: int, length: int
) -> None:
    _, words, tokens = drawn
    inside = {p.word: p for p in words_in_chunk(align(words, tokens), start, length)}
    for index, (a, b) in enumerate(words):
        own = [i for i, (c, d) in enumerate(tokens) if max(a, c) < min(b, d)]
        whole = bool(own) and min(own) >= start and max(own) < start + length
        assert (index in inside) == whole
        if whole:
            assert inside[index] == PlacedWord(index, min(own) - start, max(own) - start)


def test_words_at_the_edges_of_chunks() -> None:
    """Four words, the third of two tokens; a chunk of tokens 1 to 3 holds the second and third."""
    tokens = [(0, 1), (1, 3), (3, 5), (5, 6), (6, 8)]
    alignment = align([(0, 1), (2, 3), (4, 6), (7, 8)], tokens)
    assert alignment == [range(0, 1), range(1, 2), range(2, 4), range(4, 5)]
    assert words_in_chunk(alignment, 1, 3) == [PlacedWord(1, 0, 0), PlacedWord(2, 1, 2)]
    assert words_in_chunk(alignment, 1, 2) == [PlacedWord(1, 0, 0)]
    assert words_in_chunk(alignment, 3, 2) == [PlacedWord(3, 1, 1)]


WORDS = st.text(alphabet="abeiou éß漢😀'.,", min_size=1, max_size=30)


@given(text=WORDS, learnt=st.booleans())
def test_tokens_of_a_word_spell_it(text: str, learnt: bool) -> None:
    """With real tokenizers, bytes and a byte-level BPE: a word's tokens cover all its characters,
    and each token that is no blank belongs to a word."""
    encoded = (BPE if learnt else encode_bytes)(text)
    words = tuple(
        Word(part, start, start + len(part), "X")
        for part, start in _parts(text)
    )  # fmt: skip
    found = align([(w.start, w.end) for w in words], encoded.offsets)
    for word, own in zip(words, found, strict=True):
        covered = {c for i in own for c in range(*encoded.offsets[i])}
        assert set(range(word.start, word.end)) <= covered
    owned = {i for own in found for i in own}
    for index, (start, end) in enumerate(encoded.offsets):
        assert (index in owned) == bool(text[start:end].strip())


BPE = encoding_of(trained_tokenizer())


def _parts(text: str) -> list[tuple[str, int]]:
    parts, start = [], 0
    for part in text.split(" "):
        if part.strip():
            parts.append((part, start))
        start += len(part) + 1
    return parts


def test_alignment_refuses_disorder() -> None:
    with pytest.raises(ValueError, match=r"words \(0, 3\) and \(2, 4\) overlap"):
        align([(0, 3), (2, 4)], [])
    with pytest.raises(ValueError, match=r"word \(2, 2\) is empty"):
        align([(2, 2)], [])
    with pytest.raises(ValueError, match="tokens are out of order"):
        align([(0, 1)], [(3, 4), (0, 1)])
