from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from lib.analysis import memory_controls as controls
from lib.analysis import memory_measures as measures
from lib.analysis import memory_trends as trends
from lib.analysis.forgetting import found_again, word_table
from lib.models.autoencoder import AutoencoderConfig, Decoded, StateAutoencoder
from lib.models.config import (
    AttentionConfig,
    InitialisationConfig,
    LanguageModelConfig,
    Mamba1Config,
)
from lib.models.language_model import build_language_model
from lib.tasks.encoding import Encoded
from lib.tasks.memory_text import Asked
from lib.tasks.reconstruction import Document, ReconstructionConfig, build
from lib.tasks.tags import TaggedText, Word

VOCAB, LENGTH = 40, 6
START = InitialisationConfig(gamma=0.0, scope=("embedding",))


def autoencoder(slots: int = 0) -> StateAutoencoder:
    """A decoder that has begun to learn, so that what it writes hangs on the state."""
    attention = AttentionConfig(16, n_heads=2, rope_theta=100.0)
    block = attention if slots else Mamba1Config(16, d_state=4)
    config = LanguageModelConfig(VOCAB, 2, (block,), initialisation=START)
    model = StateAutoencoder(
        build_language_model(config, seed=0).double(), AutoencoderConfig(LENGTH, 39, 39, slots)
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        model.loss(chunks()).backward()
        optimizer.step()
    return model.eval()


def chunks(count: int = 7) -> torch.Tensor:
    return torch.randint(0, 38, (count, LENGTH), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("slots", [0, 2])
def test_writing_together_is_writing_one_by_one(slots: int) -> None:
    model, x = autoencoder(slots), chunks()
    found = measures.write_all(model, x, at_once=3)
    expected = {
        "": model.reconstruct, "untrained_": lambda part: controls.untrained_decoder(model, part),
        "zero_": lambda part: controls.zero_state(model, part),
        "alone_": lambda part: controls.language_model_alone(model, part),
    }  # fmt: skip
    for name, write in expected.items():
        assert found[name].rows() == write(x).rows(), name
    disorder = [controls.shuffled_input(model, part)[0].rows() for part in x.split(3)]
    assert found["shuffled_"].rows() == [row for part in disorder for row in part]
    assert found[""].rows() != found["zero_"].rows() != found["untrained_"].rows()
    assert measures.write(model, x, 2).rows() == found[""].rows()


def test_similarity_by_hand() -> None:
    # token 1 is like token 0, token 2 opposite; the mean of what is asked for is the origin
    embedding = torch.tensor([[1.0, 0.0], [1.0, 0.2], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    tokens = torch.tensor([[0, 0], [2, 2], [3, 4]])
    written = Decoded(
        torch.tensor([[0, 0, 4], [0, 1, 4], [3, 3, 3]]), torch.tensor([2, 1, 0])
    )  # fmt: skip
    found = measures.similarity(embedding, tokens, written)
    assert found == pytest.approx([1.0, -1.0, 0.0])
    like = Decoded(torch.tensor([[1, 1], [1, 1], [1, 1]]), torch.tensor([2, 2, 2]))
    assert 0.9 < measures.similarity(embedding, tokens, like)[0] < 1


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
    rows = {name: lossy if name == "" else nothing for name in measures.WRITERS}
    observed = measures.Observed(
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
    plain = measures.Observed({"": rows}, {}, None, None, {})
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
    # a writer of one habit loses as little of another text as of its own
    habit = [list(range(20)) for _ in rows]
    again = measures.swapped(asked, habit, decode)
    assert again["swapped_omission"] == 0 and again["swapped_token_accuracy"] == pytest.approx(
        1 / 3
    )
    alone = Asked(chunks.of("code"), encoded, None)
    assert measures.swapped(alone, rows[-4:], decode) == {}


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
        "rho_perplexity_within": None,
    }  # fmt: skip


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
