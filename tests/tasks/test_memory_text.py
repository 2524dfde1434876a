from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lib import provenance
from lib.analysis.forgetting import word_table
from lib.tasks import kinds, memory_text, stories, story_words
from lib.tasks import tags as tagging
from lib.tasks.corpus import Corpus, CorpusConfig, KindsText, LocalText, StoryText
from lib.tasks.kinds import KindsConfig
from lib.tasks.language import LanguageData, LanguageTask, build
from lib.tasks.memory_text import (
    TagsUnavailable,
    ask,
    ask_tagged,
    check_tags,
    encode_with,
    held_out_documents,
    held_out_text,
    tags_facts,
)
from lib.tasks.reconstruction import ReconstructionConfig
from lib.tasks.tokenizers import BPEConfig, BytesConfig, ByteTokenizer

CONLLU = """# newdoc id = one
# text = Ada saw 3 cats .
1\tAda\tAda\tPROPN\tNNP\t_\t0\troot\t_\t_
2\tsaw\tsee\tVERB\tVBD\t_\t1\tdep\t_\t_
3\t3\t3\tNUM\tCD\t_\t4\tnummod\t_\t_
4\tcats\tcat\tNOUN\tNNS\t_\t2\tobj\t_\t_
5\t.\t.\tPUNCT\t.\t_\t2\tpunct\t_\t_

"""


@pytest.fixture(scope="module")
def five() -> LanguageData:
    source = KindsText(KindsConfig(characters=150), documents=80)
    return build(LanguageTask(CorpusConfig(source, validation=0.3), BPEConfig(300, 20_000), 16))


def test_held_out_documents_know_their_kind(five: LanguageData) -> None:
    documents = held_out_documents(five.corpus)
    assert [d.text for d in documents] == list(five.corpus.validation)
    config = five.corpus.config.source.kinds  # type: ignore[union-attr]
    for document in documents:
        made = kinds.document(config, int(document.name))
        assert (document.category, document.text) == (made.kind, made.tagged.text)


def test_categories_of_lines_of_json(tmp_path: Path) -> None:
    rows = [
        {"text": f"document {n}", **label}
        for n, label in enumerate(
            [{"category": "math"}, {"meta": {"pile_set_name": "Pile-CC"}}, {"meta": 3}, {}] * 5
        )
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    corpus = Corpus(CorpusConfig(LocalText(str(path)), validation=0.6))
    wanted = {row["text"]: n % 4 for n, row in enumerate(rows)}
    names = ("mathematics", "Pile-CC", "text", "text")
    found = held_out_documents(corpus)
    assert found and {d.text: d.category for d in found} == {
        d.text: names[wanted[d.text]] for d in found
    }
    # those of files of their own
    (tmp_path / "b.jsonl").write_text('{"text": "other", "category": "code"}\n')
    held_out = LocalText(str(tmp_path / "b.jsonl"))
    corpus = Corpus(CorpusConfig(LocalText(str(path)), validation=0.0, held_out=held_out))
    assert [(d.text, d.category) for d in held_out_documents(corpus)] == [("other", "code")]


def test_chunks_are_drawn_from_each_kind_and_keep_their_tags(five: LanguageData) -> None:
    asked = ask(five, ReconstructionConfig(8, short="skip", end=None), 5)
    names, counts = np.unique(asked.chunks.categories, return_counts=True)
    assert set(names) == {"prose", *kinds.KINDS} and counts.max() <= 5
    assert asked.tagged is not None and len(asked.tagged) == len(asked.encoded)
    for row, document, start in zip(
        asked.chunks.tokens.tolist(), asked.chunks.documents, asked.chunks.starts, strict=True
    ):
        whole = five.tokenizer.encode(asked.tagged[document].text)
        assert row == whole[start : start + 8]  # the model's own tokens
    again = ask(five, ReconstructionConfig(8, short="skip", end=None), 5)
    assert again.chunks.tokens.tolist() == asked.chunks.tokens.tolist()
    other = ask(five, ReconstructionConfig(8, short="skip", end=None, seed=1), 5)
    assert other.chunks.tokens.tolist() != asked.chunks.tokens.tolist()
    assert held_out_text(five) is held_out_text(five)  # lengths share what they need


def test_tokens_of_stories_know_their_beat() -> None:
    source = StoryText(stories.rich(), documents=40)
    data = build(LanguageTask(CorpusConfig(source, validation=0.3), BytesConfig(), 16))
    asked = ask(data, ReconstructionConfig(30, short="skip", end=None), 40)
    assert asked.labels is not None and asked.labels.shape == (len(asked.chunks), 30)
    digits = 0
    for text, labels in zip(asked.chunks.texts, asked.labels, strict=True):
        for place, letter in enumerate(text):
            if letter == '"':  # quotation marks stand in dialogue only
                assert labels[place] == "dialogue"
                digits += 1
    assert digits > 3 and set(asked.labels.flatten()) > {"numbers", "dialogue", "frame"}
    # number words and names have labels of their own, each letter by the word that it is in
    documents, seen = held_out_documents(data.corpus), set()
    for row, document, start in zip(
        asked.labels, asked.chunks.documents, asked.chunks.starts, strict=True
    ):
        text = documents[document].text
        for place, label in enumerate(row, int(start)):
            first = last = place
            while first and text[first - 1].isalpha() and text[place].isalpha():
                first -= 1
            while last < len(text) and text[last].isalpha():
                last += 1
            word = text[first:last]
            assert (label == "number_words") == (word.lower() in story_words.NUMBERS)
            assert (label == "name_words") == (word in story_words.GIRLS + story_words.BOYS)
            seen.add(label)
    assert {"number_words", "name_words"} <= seen


def test_spans_cover_a_story() -> None:
    for index in range(5):
        config = stories.rich()
        text, spans = stories.story(config, index), stories.spans(config, index)
        for (begin, category), part in zip(spans, stories.parts(config, index), strict=True):
            assert text[begin : begin + len(part.text)] == part.text and category == part.category


def test_bytes_have_the_tokenizer_s_own_numbers() -> None:
    tokenizer = ByteTokenizer()
    found = encode_with(tokenizer)("aé")
    assert found.ids == tokenizer.encode("aé") and found.offsets == [(0, 1), (1, 2), (1, 2)]


def test_text_shorter_than_a_chunk_is_named(five: LanguageData) -> None:
    with pytest.raises(ValueError, match="no document has a chunk of 256 tokens"):
        ask(five, ReconstructionConfig(256, short="skip", end=None), 5)


def test_gold_tags_come_from_files(
    five: LanguageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    task = ReconstructionConfig(4, short="skip", end=None)
    for tags in ("ud", "conll2003"):
        with pytest.raises(TagsUnavailable, match=r"data/memory/.* is not there.*UD_English-EWT"):
            check_tags(tags)
        with pytest.raises(TagsUnavailable):
            ask_tagged(five, task, tags, 5)
    folder = tmp_path / memory_text.UD_FOLDER
    folder.mkdir(parents=True)
    for name in memory_text.UD_FILES:
        (folder / name).write_text(CONLLU)
    check_tags("ud")
    asked = ask_tagged(five, task, "ud", 3)
    assert asked.tagged is not None and asked.tagged[0].text == "Ada saw 3 cats ."
    assert [w.pos_class for w in asked.tagged[0].words] == ["NOUN", "VERB", "NUM", "NOUN", "PUNCT"]
    assert 1 <= len(asked.chunks) <= 3
    digest = hashlib.sha256(CONLLU.encode()).hexdigest()
    assert tags_facts("ud") == {"tags": "ud", "files": dict.fromkeys(memory_text.UD_FILES, digest)}
    check_tags(None)
    check_tags("built-in")
    with pytest.raises(ValueError, match="tags is 'gold', allowed: built-in, ud"):
        ask_tagged(five, task, "gold", 3)


CONLL = """-DOCSTART- -X- -X- O

Ada NNP B-NP B-PER
Byron NNP I-NP I-PER
left VBD B-VP O
Acme NNP B-NP B-ORG
in IN B-PP O
1852 CD B-NP O
. . O O

She PRP B-NP O
never RB B-ADVP O
came VBD B-VP O
back RB B-ADVP O
. . O O

-DOCSTART- -X- -X- O

Two CD B-NP O
men NNS I-NP O
saw VBD B-VP O
Rome NNP B-NP B-LOC
. . O O
"""


def test_the_paper_s_tags_come_from_its_file(
    five: LanguageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    path = tmp_path / memory_text.CONLL_FILE
    path.parent.mkdir(parents=True)
    path.write_text(CONLL)
    check_tags("conll2003")
    task = ReconstructionConfig(12, short="skip", end=None)
    asked = ask_tagged(five, task, "conll2003", 1000)
    assert asked.tagged is not None
    assert [text.text for text in asked.tagged] == [
        "Ada Byron left Acme in 1852 . She never came back .", "Two men saw Rome .",
    ]  # fmt: skip
    assert set(asked.chunks.categories) == {"conll2003"}
    # chunks are of these documents, in the model's tokens
    for row, document, start in zip(
        asked.chunks.tokens.tolist(), asked.chunks.documents, asked.chunks.starts, strict=True
    ):
        assert row == five.tokenizer.encode(asked.tagged[document].text)[start : start + 12]
    words = word_table(asked.chunks, asked.chunks.tokens.tolist(), asked.tagged, asked.encoded)
    assert words["found"].all()
    classes = dict(zip(words["word"], zip(words["pos"], words["entity"], strict=True), strict=True))
    known = {
        "Ada": ("NOUN", "Person"), "Byron": ("NOUN", "Person"), "left": ("VERB", "Not NE"),
        "Acme": ("NOUN", "Organization"), "in": ("ADP", "Not NE"), "1852": ("NUM", "Not NE"),
        ".": ("PUNCT", "Not NE"), "She": ("PRON", "Not NE"), "never": ("ADV", "Not NE"),
        "came": ("VERB", "Not NE"), "back": ("ADV", "Not NE"), "Two": ("NUM", "Not NE"),
        "men": ("NOUN", "Not NE"), "saw": ("VERB", "Not NE"), "Rome": ("NOUN", "Location"),
    }  # fmt: skip
    assert len(classes) > 6 and classes.items() <= known.items()
    assert len(asked.chunks) > 2 == len(ask_tagged(five, task, "conll2003", 2).chunks)
    digest = hashlib.sha256(CONLL.encode()).hexdigest()
    assert tags_facts("conll2003") == {"tags": "conll2003", "files": {path.name: digest}}


def test_held_out_documents_are_tagged_by_spacy(
    five: LanguageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever stands in its place here: words between blanks, digits are numbers."""

    def tagger(text: str) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(
                text=word[0], idx=word.start(), is_space=word[0].isspace(),
                pos_="NUM" if word[0].isdigit() else "NOUN", tag_="",
                ent_type_="ORG" if word[0].istitle() else "",
            )
            for word in re.finditer(r"\s+|\d+|[^\s\d]+", text)
        ]  # fmt: skip

    asked_for = []
    monkeypatch.setattr(tagging, "load_tagger", lambda: asked_for.append(1) or tagger)
    check_tags("spacy")
    assert asked_for == [1]
    asked = ask_tagged(five, ReconstructionConfig(8, short="skip", end=None), "spacy", 30)
    documents = held_out_documents(five.corpus)
    assert asked.tagged is not None and len(asked_for) == 1 + len(documents)
    assert [text.text for text in asked.tagged] == [document.text for document in documents]
    assert [text.name for text in asked.tagged] == [document.name for document in documents]
    assert len(asked.chunks) == 30 and set(asked.chunks.categories) == {"spacy"}
    words = word_table(asked.chunks, asked.chunks.tokens.tolist(), asked.tagged, asked.encoded)
    assert set(words["pos"]) == {"NUM", "NOUN"} and words["found"].all()
    assert not words["word"].str.isspace().any()
    numbers = words["word"].str.fullmatch(r"\d+")
    assert numbers.any() and ((words["pos"] == "NUM") == numbers).all()
    named = words["entity"] == "Organization"
    assert named.any() and (named == words["word"].map(str.istitle)).all()
    facts = tags_facts("spacy")
    assert facts["tags"] == "spacy" and set(facts["versions"]) <= {"spacy", tagging.TAGGER}


def test_tags_that_the_text_knows_itself_are_told_by_the_text() -> None:
    assert tags_facts(None) == tags_facts("built-in") == {}
