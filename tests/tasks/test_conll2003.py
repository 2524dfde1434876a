from __future__ import annotations

import pytest

from lib.tasks.conll2003 import parse_conll2003

LINES = """-DOCSTART- -X- O O

EU NNP I-NP B-ORG
rejects VBZ I-VP O
German JJ I-NP B-MISC
call NN I-NP O
. . O O

Peter NNP I-NP B-PER
Blackburn NNP I-NP I-PER

-DOCSTART- -X- O O

BRUSSELS NNP I-NP I-LOC
1996-08-22 CD I-NP O
"""


def test_documents_words_and_classes() -> None:
    first, second = parse_conll2003(LINES.splitlines(), "f")
    assert first.text == "EU rejects German call . Peter Blackburn"
    assert second.text == "BRUSSELS 1996-08-22" and (first.name, second.name) == ("f 0", "f 1")
    for document in (first, second):
        for word in document.words:
            assert document.text[word.start : word.end] == word.text
    assert [word.pos_class for word in first.words] == [
        "NOUN", "VERB", "ADJ", "NOUN", "PUNCT", "NOUN", "NOUN",
    ]  # fmt: skip
    assert [word.entity_class for word in first.words] == [
        "Organization", "Not NE", "Misc", "Not NE", "Not NE", "Person", "Person",
    ]  # fmt: skip
    assert [(w.pos_class, w.entity_class) for w in second.words] == [
        ("NOUN", "Location"), ("NUM", "Not NE"),
    ]  # fmt: skip


def test_another_number_of_columns_is_named() -> None:
    with pytest.raises(ValueError, match="f, line 2: allowed are 4 columns, got 'a b c'"):
        list(parse_conll2003(["-DOCSTART- -X- O O", "a b c"], "f"))
