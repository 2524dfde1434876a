"""The third party's metrics and ours on answers whose worth is known beforehand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.analysis import noise_third_party as theirs
from lib.analysis.noise_metrics import (
    FORMS,
    CharacterModel,
    FormReader,
    as_plain,
    controls,
    novel_word_match,
    novel_words,
    repeats_itself,
    rouge_l,
    score_answers,
)
from lib.tasks.closed_world import ClosedWorld, build
from lib.tasks.noise import flip_characters, flip_words
from lib.tasks.romanise import romanise

QUESTION = "What is the capital of France?"
GOLD = "Paris is the capital of France."


# -- the third party's ------------------------------------------------------------------------


def test_fuzzy_match_takes_the_question_for_its_answer() -> None:
    assert theirs.fuzzy_match(QUESTION, GOLD)  # 5 of 6 words
    assert theirs.fuzzy_match("It is Lyon, the capital of France", GOLD)
    assert theirs.fuzzy_match(flip_words(GOLD), GOLD)  # blind to order
    assert not theirs.fuzzy_match(flip_characters(GOLD), GOLD)
    assert not theirs.fuzzy_match("Paris", GOLD)


@pytest.mark.parametrize(
    ("response", "gold", "right"),
    [
        ("I SAY: PARIS!", "Paris.", True),
        ("Parisian", "Paris", True),  # containment of characters, not of words
        ("a b x", "a b c d", True),  # exactly half
        ("a x", "a b c", False),
        ("", "a", False),
        ("x", "...", True),  # nothing is contained in everything
    ],
)
def test_fuzzy_match_by_hand(response: str, gold: str, right: bool) -> None:
    assert theirs.fuzzy_match(response, gold) is right


@pytest.mark.parametrize(
    ("response", "loosely", "strictly"),
    [
        (".ecnarF fo latipac eht si siraP", True, True),
        ("latipac eht si siraP", True, True),
        ("He saw a dog", True, False),  # clean, but "saw" and "a" are in their list
        ("There is no way a man would", True, False),
        ("Paris is the capital", False, False),
        ("! wrong", True, True),
        ("eht x x x x x x x x x x si", False, False),  # only the first ten words count
        ("  ", False, False),
    ],
)
def test_flip_pattern_by_hand(response: str, loosely: bool, strictly: bool) -> None:
    assert theirs.looks_flipped(response) is loosely
    assert theirs.looks_flipped_strictly(response) is strictly


def test_english_ratio_by_hand() -> None:
    assert theirs.english_ratio("The cat is 7!") == (1 + 0.5 + 1 + 0) / 4
    assert theirs.english_ratio("xqz vvk") == 0.5  # gibberish of letters
    assert theirs.english_ratio("supercalifragilistic") == 0.0  # more than 15 letters
    assert theirs.english_ratio(" \n") == 0.0
    assert len(theirs.COMMON_ENGLISH) == 42


def test_share() -> None:
    assert theirs.share(theirs.fuzzy_match, ["a", "b"], ["a", "a"]) == 0.5
    with pytest.raises(ValueError, match="columns are empty"):
        theirs.share(theirs.looks_flipped, [])


# -- form ---------------------------------------------------------------------------------------


def test_character_model_by_hand() -> None:
    # order 1: "aab" and its end; four characters, of which a is half; three kinds and the unseen
    model = CharacterModel(["aab"], order=1, weight=1.0)
    a, end, unseen = ((n + 0.25) / 5 for n in (2, 1, 0))
    assert model.score("a") == pytest.approx((math.log(a) + math.log(end)) / 2)
    assert model.score("z") == pytest.approx((math.log(unseen) + math.log(end)) / 2)


@given(st.text(alphabet="abc .", max_size=12))
def test_chances_of_different_texts_never_exceed_one(text: str) -> None:
    model = CharacterModel(["abc a.", "cab. b"], order=3)
    text = " ".join(text.split())
    known = [" ", *"abc."]
    # a text's chance is the product over its characters and its end; these texts exclude each other
    prefix = [math.exp(model.score(text + c) * (len(text + c) + 1)) for c in known if c != " "]
    assert all(0 < chance < 1 for chance in prefix)
    ends = math.exp(model.score(text) * (len(text) + 1))
    assert ends + sum(prefix) < 1 + 1e-9


def test_likelier_text_scores_higher() -> None:
    model = CharacterModel([GOLD, "Rome is the capital of Italy."])
    assert model.score("Rome is the capital of France.") > model.score("ecnarF fo latipac eht")
    assert model.score(GOLD) > model.score(flip_words(GOLD)) > model.score("zzzz")
    with pytest.raises(ValueError, match="texts are empty"):
        CharacterModel(["", ""])
    with pytest.raises(ValueError, match="order is 0 and weight 4"):
        CharacterModel(["a"], order=0)
    with pytest.raises(ValueError, match="order is 5 and weight 0"):
        CharacterModel(["a"], weight=0)


WORLD = build(ClosedWorld(30, 30, 30), 1)
CLEAN = [item.answer for item in WORLD.train[:600]]
READER = FormReader(CharacterModel(CLEAN), CharacterModel([romanise(text) for text in CLEAN]))


@pytest.mark.parametrize(
    ("form", "noise"),
    [("plain", str), ("char_flip", flip_characters), ("word_flip", flip_words),
     ("transliteration", romanise)],
)  # fmt: skip
def test_forms_of_answers_that_were_not_fitted_are_told(form: str, noise: object) -> None:
    unseen = build(ClosedWorld(30, 30, 30), 2)
    texts = [item.answer for item in unseen.test[:200]]
    found = [READER.form(noise(text)) for text in texts]  # type: ignore[operator]
    assert found.count(form) >= 199
    if form in ("plain", "char_flip", "word_flip"):
        same = [READER.read(noise(t)) == t for t in texts]  # type: ignore[operator]
        assert sum(same) >= 199


def test_what_reads_the_same_both_ways_is_plain() -> None:
    assert READER.form("") == "plain"
    assert FormReader(READER.english).form("level") == "plain"
    assert FormReader(READER.english).form(romanise(GOLD)) in FORMS[:3]


def test_taking_a_form_back() -> None:
    assert as_plain(flip_characters(GOLD), "char_flip") == GOLD
    assert as_plain(flip_words(GOLD), "word_flip") == GOLD
    assert as_plain(GOLD, "plain") == as_plain(GOLD, "irrelevant") == GOLD
    with pytest.raises(ValueError, match="noise is 'upside_down', allowed: char_flip"):
        as_plain(GOLD, "upside_down")


# -- content ------------------------------------------------------------------------------------


def test_novel_words_are_what_the_question_does_not_say() -> None:
    assert novel_words(QUESTION, GOLD) == {"paris"}
    assert novel_word_match("Paris", QUESTION, GOLD)
    assert not novel_word_match("Lyon is the capital of France", QUESTION, GOLD)
    assert not novel_word_match(QUESTION, QUESTION, GOLD)
    assert not novel_word_match("yes", "Is it so?", "It is so.")  # nothing novel to say
    assert novel_word_match("one two", "?", "one two three four")
    assert not novel_word_match("one", "?", "one two three four")


@given(st.text(max_size=30), st.text(max_size=30))
def test_an_echo_never_has_novel_words(question: str, gold: str) -> None:
    assert not novel_word_match(question, question, gold)


def test_repetition_and_rouge_by_hand() -> None:
    assert repeats_itself("a b c a b c a b c") and not repeats_itself("a b c a b c")
    assert not repeats_itself("a b")
    # longest common subsequence "the cat": precision 2/2, recall 2/3
    assert rouge_l("the cat", "the black cat") == pytest.approx(0.8)
    assert rouge_l("cat the", "the cat") == pytest.approx(0.5)  # order counts


def test_scores_of_controls_are_what_they_must_be() -> None:
    items = WORLD.test[:120]
    questions, golds = [i.question for i in items], [i.answer for i in items]
    found = {
        name: score_answers(answers, questions, golds, READER)
        for name, answers in controls(questions, golds, seed=3).items()
    }

    def mean(name: str, measure: str) -> float:
        return sum(row[measure] for row in found[name]) / len(items)

    assert mean("echo", "novel") == mean("echo", "content") == 0
    for name in ("gold", "gold_char_flip", "gold_word_flip"):
        assert mean(name, "content") >= 0.99, name
    assert mean("gold_char_flip", "novel") == 0 and mean("gold_char_flip", "form_char_flip") == 1
    assert mean("gold", "form_char_flip") == 0 and mean("gold", "rouge_l") == 1
    assert mean("gold_word_flip", "rouge_l") < 0.5 < mean("gold_word_flip", "rouge_l_content")
    assert mean("gold_char_flip", "content_char_flip") == 1
    # the closed world's shuffled answers share "is" with the right ones, which is half of what is
    # novel where the question has no "is"; that is what the control is for
    assert 0 < mean("shuffled", "novel") < 1
    for rows in found.values():
        for row in rows:
            assert sum(row[f"form_{form}"] for form in FORMS) == 1


def test_controls_are_seeded_and_shuffled_answers_are_others() -> None:
    golds = [f"answer {n}" for n in range(30)]
    first, again, other = (controls(golds, golds, seed)["shuffled"] for seed in (1, 1, 2))
    assert first == again != other
    assert all(a != b for a, b in zip(first, golds, strict=True))


def test_rows_must_fit() -> None:
    with pytest.raises(ValueError, match="1 responses, 2 questions, 1 gold answers"):
        score_answers(["a"], ["b", "c"], ["d"], READER)
    with pytest.raises(ValueError, match="0 responses"):
        score_answers([], [], [], READER)
