"""Answers of known worth in a closed world."""

from __future__ import annotations

import pytest

from lib.analysis.noise_metrics import FORMS
from lib.analysis.world_scores import form_of, read_exactly, reader_of, score_world
from lib.tasks.closed_world import ClosedWorld, build
from lib.tasks.noise import NOISES, NoiseConfig, flip_characters, flip_words
from lib.tasks.romanise import romanise

WORLD = build(ClosedWorld(8, 8, 8), 3)
ITEMS = WORLD.test
READER = reader_of(WORLD)
CLEAN = [item.answer for item in ITEMS]


@pytest.mark.parametrize("name", list(NOISES))
def test_noisy_answers_score_as_what_they_are(name: str) -> None:
    noisy, _ = WORLD.noisy_answers(NoiseConfig(name, seed=1), ITEMS)
    means = score_world(WORLD, ITEMS, noisy, noisy, READER).mean()
    assert means["noise"] == 1 and means["clean"] == 0
    assert means[f"form_{form_of(name)}"] == 1
    assert sum(means[f"form_{form}"] for form in FORMS) == 1
    assert means["content"] == float(NOISES[name].form)  # a form keeps what is said


def test_clean_answers_and_echoes() -> None:
    noisy, _ = WORLD.noisy_answers(NoiseConfig("char_flip"), ITEMS)
    clean = score_world(WORLD, ITEMS, CLEAN, noisy, READER).mean()
    assert clean["content"] == clean["clean"] == clean["form_plain"] == clean["their_accuracy"] == 1
    assert clean["noise"] == 0 == clean["form_char_flip"]
    echo = score_world(WORLD, ITEMS, [i.question for i in ITEMS], None, READER).mean()
    assert echo["content"] == 0 and echo["their_accuracy"] > 0.6


def test_a_slip_hides_the_form_but_not_the_content() -> None:
    item = ITEMS[0]
    slipped = item.answer.replace("The", "Te")
    for said in (slipped, flip_characters(slipped), flip_words(slipped)):
        row = score_world(WORLD, [item], [said], None, READER).iloc[0]
        assert row["content"] == 1 and not any(row[f"form_{form}"] for form in FORMS)


def test_reading_gives_the_parts_in_english() -> None:
    fact = WORLD.facts[0]
    for form, said in (
        ("plain", fact.answer()), ("char_flip", flip_characters(fact.answer())),
        ("word_flip", flip_words(fact.answer())), ("transliteration", romanise(fact.answer())),
    ):  # fmt: skip
        reading = read_exactly(f" {said} ")
        assert reading is not None
        assert reading == (form, fact.attribute, fact.name.lower(), fact.value)
    assert read_exactly("The pet of the pet.") is None and read_exactly("") is None


def test_no_text_is_read_twice() -> None:
    reader = reader_of(WORLD)
    assert reader.form("once upon a time") == reader.form("once upon a time")
    assert reader.known == {"once upon a time": reader.form("once upon a time")}  # type: ignore


def test_columns_must_fit() -> None:
    with pytest.raises(ValueError, match="equally many, at least one"):
        score_world(WORLD, ITEMS[:2], CLEAN[:1], None, READER)
    with pytest.raises(ValueError, match="equally many, at least one"):
        score_world(WORLD, [], [], None, READER)
