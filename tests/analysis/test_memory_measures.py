from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from lib.analysis import memory_measures as measures
from lib.analysis import memory_trends as trends
from lib.analysis.forgetting import found_again, word_table
from lib.analysis.memory_writing import SWAPPED, WRITERS, Observed
from lib.tasks.encoding import Encoded
from lib.tasks.memory_text import Asked
from lib.tasks.reconstruction import Document, ReconstructionConfig, build
from lib.tasks.tags import TaggedText, Word

VOCAB, LENGTH = 40, 6


def text() -> Asked:
    """Two documents of letters, one word each two letters, tagged."""
    documents = [
        Document("abcdefghijklmnopqrst", "prose"),
        Document("uvwxyzabcdefghijklmn", "code"),
    ]
    classes = ("NOUN", "NUM", "VERB", "X")
    tagged = [
        TaggedText(
            "", d.text,
            tuple(Word(d.text[i : i + 2], i, i + 2, classes[i // 2 % 4], "", "ORG" * (i % 8 == 0))
                  for i in range(0, 20, 2)),
        )
        for d in documents
    ]  # fmt: skip

    def encode(text: str) -> Encoded:
        return Encoded([ord(c) - 97 for c in text], [(i, i + 1) for i in range(len(text))])

    asked, encoded = build(ReconstructionConfig(LENGTH, end=None), documents, encode)
    return Asked(asked, encoded, tagged)


def decode(row: list[int]) -> str:
    return "".join(chr(97 + token) for token in row if token < 26)


def test_all_that_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "LEAST", 1)
    asked = text()
    references = asked.chunks.tokens.tolist()
    lossy = [row[2:] for row in references]  # the first two tokens are forgotten
    nothing: list[list[int]] = [[] for _ in references]
    rows = {name: lossy if name == "" else nothing for name in WRITERS}
    observed = Observed(
        rows, {name: [0.5] * len(references) for name in rows},
        [float(n) for n in range(len(references))], None, {"state_floats": 3.0},
    )  # fmt: skip
    frequency = np.arange(VOCAB)
    metrics, tables = measures.tabulate(observed, asked, decode, frequency)
    assert metrics["omission"] == pytest.approx(2 / 6) and metrics["zero_omission"] == 1
    assert metrics["rouge1"] == 0 and metrics["exact"] == 0  # each chunk is one word to ROUGE
    assert metrics["similarity"] == metrics["alone_similarity"] == 0.5
    assert metrics["omission_first_quarter"] == 1 and metrics["omission_last_quarter"] == 0
    assert metrics["omission_first_bin"] == 1 and metrics["omission_last_bin"] == 0
    assert metrics["state_floats"] == 3 and metrics["chunks"] == len(references) == 6
    # words at 0, 2, 4 of each chunk: the first of three is lost
    words = word_table(asked.chunks, lossy, asked.tagged or [], asked.encoded)
    lost = 1 - words.groupby("pos")["found"].mean()
    for name, value in lost.items():
        assert metrics[f"omission_pos_{name}"] == pytest.approx(value)
    rest = {key: value for key, value in lost.items() if key not in ("NUM", "X")}
    assert metrics["omission_pos_most"] == pytest.approx(max(rest.values()))
    # a table for each page
    assert set(tables["table"]) >= {
        "category", "position", "frequency", "perplexity", "pos", "entity", "category_pairs",
        "pos_pairs", "example",
    }  # fmt: skip
    place = tables[(tables["table"] == "position") & (tables["writer"] == "")]
    assert place["omission"].tolist() == [1, 1, 0, 0, 0, 0] and place["x"].tolist() == list(
        range(6)
    )
    tested = tables[tables["table"] == "pos_pairs"]
    assert not {"X", "INTJ"} & {*tested["group"], *tested["other"]}
    example = tables[tables["table"] == "example"].iloc[0]
    first = asked.chunks.of("code").tokens[0].tolist()
    assert example["text"].split("\x1f") == list(decode(first))
    assert example["marks"] == "001111"


def test_what_no_model_wrote_is_measured_without_one() -> None:
    asked = text()
    rows = asked.chunks.tokens.tolist()[::-1]
    plain = Observed({"": rows}, {}, None, None, {})
    metrics, tables = measures.tabulate(plain, asked, decode, np.arange(VOCAB))
    assert not {"similarity", "perplexity", "alone_omission"} & set(metrics)
    assert metrics["rho_perplexity"] is None and "perplexity" not in set(tables["table"])
    lost = [
        sum((Counter(a) - Counter(b)).values()) / LENGTH
        for a, b in zip(asked.chunks.tokens.tolist(), rows, strict=True)
    ]
    assert metrics["omission"] == pytest.approx(sum(lost) / len(lost))


def test_answers_are_swapped_within_a_kind_and_between_documents() -> None:
    """Of three documents of prose and one of code: the latter has no partner and is left out."""
    # no letter is in two documents; each answer is right but for its last token
    documents = [Document(letters * 4, "prose") for letters in ("abcdef", "ghijkl", "mnopqr")]
    documents.append(Document("uvwxyz" * 4, "code"))

    def encode(text: str) -> Encoded:
        return Encoded([ord(c) - 97 for c in text], [(i, i + 1) for i in range(len(text))])

    chunks, encoded = build(ReconstructionConfig(LENGTH, end=None), documents, encode)
    asked = Asked(chunks, encoded, None)
    rows = [row[:-1] for row in chunks.tokens.tolist()]
    found = measures.swapped(asked, rows, decode)
    assert found["swapped_chunks"] == 12 and found["swapped_omission"] == 1
    assert found["swapped_omission_prose"] == 1 and "swapped_omission_code" not in found
    assert found["swapped_token_accuracy"] == found["swapped_rouge1"] == 0
    assert not {"swapped_similarity", "swapped_exact", "swapped_scorable"} & set(found)
    # a writer of one habit loses as little of another text as of its own
    habit = [list(range(20)) for _ in rows]
    again = measures.swapped(asked, habit, decode)
    assert again["swapped_omission"] == 0 and again["swapped_token_accuracy"] == pytest.approx(
        1 / 3
    )
    alone = Asked(chunks.of("code"), encoded, None)
    assert measures.swapped(alone, rows[-4:], decode) == {}
    # of who has no partner there is a number that says nothing
    near = [0.25] * 12 + [1.0] * 4
    assert measures.swapped(asked, rows, decode, near)["swapped_similarity"] == 0.25


def test_swapped_answers_lose_labelled_tokens_as_other_writers_do() -> None:
    """Of two stories each answer is right, and the partner's answer has the frame alone in common:
    what of a text anybody would have written."""
    documents = [Document("abcxyz" * 3, "story"), Document("abcuvw" * 3, "story")]

    def encode(text: str) -> Encoded:
        return Encoded([ord(c) - 97 for c in text], [(i, i + 1) for i in range(len(text))])

    chunks, encoded = build(ReconstructionConfig(LENGTH, end=None), documents, encode)
    labels = np.array([["frame"] * 3 + ["number_words", "names", "names"]] * 6, dtype=object)
    asked = Asked(chunks, encoded, None, labels)
    rows = {"": chunks.tokens.tolist(), "alone_": [[] for _ in range(6)]}
    near = {"": [1.0] * 6, SWAPPED: [0.5] * 6}
    metrics, _ = measures.tabulate(
        Observed(rows, near, None, None, {}), asked, decode, np.arange(VOCAB)
    )
    assert metrics["swapped_omission_label_frame"] == 0
    assert metrics["swapped_omission_label_number_words"] == 1
    assert metrics["swapped_omission_label_names"] == metrics["swapped_omission_story"] * 2 == 1
    assert metrics["swapped_similarity"] == 0.5 and metrics["omission_label_names"] == 0

    def labelled(writer: str) -> set[str]:
        start = f"{writer}omission_label_"
        return {name.removeprefix(start) for name in metrics if name.startswith(start)}

    assert labelled("swapped_") == labelled("alone_") == labelled("") == set(labels[0])


def test_what_came_back_of_a_repeated_token_can_be_shared_among_its_places() -> None:
    """The paper's rule takes the first as found: half of the b's came back, none of the c's."""
    items = pd.DataFrame({
        "chunk": 0, "position": range(8), "token": list("babcbbab"),
        "found": [True, True, True, False, False, False, True, False],
    })  # fmt: skip
    found = trends.positions(items)
    assert found["omission_first_quarter"] == 0 and found["omission_last_quarter"] == 0.5
    # five b's of which two came back, both a's
    assert found["omission_first_quarter_even"] == pytest.approx((3 / 5 + 0) / 2)
    assert found["omission_last_quarter_even"] == pytest.approx((0 + 3 / 5) / 2)


def test_words_of_a_text_without_marks_are_of_no_entity_class() -> None:
    """They are not known to be no names; parts of speech are counted all the same."""
    asked = text()
    assert asked.tagged is not None
    unmarked = [dataclasses.replace(asked.tagged[0], entities=False), asked.tagged[1]]
    rows = asked.chunks.tokens.tolist()
    words = word_table(asked.chunks, rows, unmarked, asked.encoded)
    first = words["chunk"].map(dict(enumerate(asked.chunks.documents))) == 0
    assert words.loc[first, "entity"].isna().all() and words.loc[~first, "entity"].notna().all()
    assert words["pos"].notna().all() and first.any() and (~first).any()
    whole = word_table(asked.chunks, rows, asked.tagged, asked.encoded)
    assert whole["entity"].notna().all()
    pd.testing.assert_frame_equal(words.drop(columns="entity"), whole.drop(columns="entity"))


def test_word_tables_of_other_writers_are_the_same_by_either_way() -> None:
    asked = text()
    rows = asked.chunks.tokens.tolist()
    every = word_table(asked.chunks, rows, asked.tagged or [], asked.encoded)
    other = [row[3:] + row[:2] for row in rows]
    expected = word_table(asked.chunks, other, asked.tagged or [], asked.encoded)
    pd.testing.assert_frame_equal(found_again(every, asked.chunks, other), expected)
    assert not every.equals(expected)
    with pytest.raises(ValueError, match="written has 1 entries, allowed: 6"):
        found_again(every, asked.chunks, other[:1])


def test_prevalence_is_a_rank_correlation() -> None:
    rng = np.random.default_rng(0)
    token = np.repeat(np.arange(10), 50)
    items = pd.DataFrame(
        {
            "chunk": np.tile(np.arange(50), 10), "token": token, "frequency": 10 ** (token % 5),
            "category": "prose", "found": rng.random(500) < token % 5 / 5 + 0.1,
        }
    )  # fmt: skip
    found = trends.prevalence(items, list(np.linspace(1, 9, 50)))
    assert found["rho_frequency"] is not None and found["rho_frequency"] < -0.8
    assert found["rho_frequency_within"] == found["rho_frequency"]
    assert trends.prevalence(items.assign(found=True), [1.0] * 50) == {
        "rho_frequency": None, "rho_perplexity": None, "rho_frequency_within": None,
        "rho_perplexity_within": None, "rho_frequency_types": 10,
        "rho_frequency_within_types": None,
    }  # fmt: skip


def test_how_many_different_tokens_a_correlation_goes_over() -> None:
    """Those that stand often enough, in all categories together and in one."""
    counts = {"code": {1: 30, 2: 25, 3: 40, 4: 19}, "prose": {1: 20, 4: 19, 5: 60, 6: 20, 7: 33}}
    rng = np.random.default_rng(1)
    rows = [
        (chunk, token, 10**token, kind, rng.random() < token / 8)
        for chunk, (kind, own) in enumerate(counts.items())
        for token, count in own.items()
        for _ in range(count)
    ]
    names = ["chunk", "token", "frequency", "category", "found"]
    found = trends.prevalence(pd.DataFrame(rows, columns=names), None)
    assert found["rho_frequency_types"] == 7  # 4 stands 38 times in both, 19 times in each
    assert found["rho_frequency_within_types"] == (3 + 4) / 2


def test_kinds_alone_can_make_a_correlation_with_perplexity() -> None:
    """Prose is harder and loses more; within either kind the harder chunk loses less."""
    lost = {"code": [3, 2, 1, 0], "prose": [9, 8, 7, 6]}
    rows = [
        (chunk, place, kind, place >= own)
        for chunk, (kind, own) in enumerate((k, n) for k, v in lost.items() for n in v)
        for place in range(10)
    ]
    items = pd.DataFrame(rows, columns=["chunk", "token", "category", "found"])
    perplexity = [1.0, 2, 3, 4, 11, 12, 13, 14]
    found = trends.prevalence(items.assign(frequency=1), perplexity)
    assert found["rho_perplexity"] == pytest.approx(1 - 6 * 40 / (8 * 63))
    assert found["rho_perplexity_within"] == pytest.approx(-1)
    alone = trends.prevalence(items.assign(frequency=1), None)
    assert alone["rho_perplexity"] is alone["rho_perplexity_within"] is None
