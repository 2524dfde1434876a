"""The closed world: every question has one answer, and whatever is said can be told."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.tasks.closed_world import ATTRIBUTES, PHRASINGS, VALUES, ClosedWorld, World, build
from lib.tasks.noise import NOISES, NoiseConfig, flip_characters, unflip_words
from lib.tasks.romanise import LEXICON, romanise

SMALL = ClosedWorld(people=6, places=5, things=4, attributes=2)


@pytest.fixture(scope="module")
def world() -> World:
    return build(ClosedWorld(), seed=1)


def test_counts_and_small_vocabulary(world: World) -> None:
    assert len(world.facts) == 300 * 4
    assert len(world.train) == 1200 * 6 and len(world.test) == 1200 * 2
    # 300 names, 120 values, 12 attributes and the words of the phrasings
    assert 430 <= len(world.vocabulary) <= 470
    assert len({word.lower() for word in world.vocabulary}) >= 430


def test_every_question_has_one_answer(world: World) -> None:
    items = (*world.train, *world.test)
    assert len({item.question for item in items}) == len(items)
    for item in items[::37]:
        fact = world.facts[item.fact]
        assert fact.name in item.question and fact.attribute in item.question
        assert item.answer == f"The {fact.attribute} of {fact.name} is {fact.value}."
        assert not re.search(rf"\b{fact.value}\b", item.question)
    names = {(fact.name, fact.attribute) for fact in world.facts}
    assert len(names) == len(world.facts)


def test_values_are_disjoint_and_drawn_evenly(world: World) -> None:
    every = [value for values in VALUES.values() for value in values]
    assert len(every) == len(set(every)) == 120
    assert not set(every) & set(VALUES)
    assert {*every, *VALUES} <= set(LEXICON)  # so no name is one of these words
    for values in VALUES.values():
        assert len({romanise(value) for value in values}) == 10
        assert all(romanise(value) != value for value in values)
    counts = Counter(fact.value for fact in world.facts)
    assert set(counts) == set(every) and max(counts.values()) < 30


def test_phrasings_are_split_by_attribute_and_all_are_trained(world: World) -> None:
    sides = {side: {} for side in ("train", "test")}  # type: dict[str, dict[str, set[int]]]
    for side in sides:
        for item in getattr(world, side):
            attribute = world.facts[item.fact].attribute
            sides[side].setdefault(attribute, set()).add(item.phrasing)
    for attribute in VALUES:
        assert len(sides["train"][attribute]) == 6 and len(sides["test"][attribute]) == 2
        assert not sides["train"][attribute] & sides["test"][attribute]
    for side in sides.values():
        assert set.union(*side.values()) == set(range(len(PHRASINGS)))
    words = {w for item in world.train for w in re.findall(r"\w+", item.question)}
    assert {w for item in world.test for w in re.findall(r"\w+", item.question)} <= words


def test_names_survive_every_noise(world: World) -> None:
    names = {fact.name for fact in world.facts}
    assert len(names) == 300
    for name in names:
        assert romanise(name) == name.lower()
        assert name[::-1].capitalize() not in names and name.lower() not in VALUES


def test_seed_decides_everything() -> None:
    assert build(SMALL, 3) == build(SMALL, 3)
    other = build(SMALL, 4)
    assert {f.name for f in build(SMALL, 3).facts} != {f.name for f in other.facts}


def test_flips_of_answers_come_back(world: World) -> None:
    for config, back in (("char_flip", flip_characters), ("word_flip", unflip_words)):
        noisy, which = world.noisy_answers(NoiseConfig(config), world.test)
        assert all(which)
        for item, text in zip(world.test, noisy, strict=True):
            assert text != item.answer and back(text) == item.answer
            assert world.is_right(item, back(text))
        if config == "char_flip":
            assert not any(map(world.is_right, world.test, noisy))


def test_transliterated_answers_are_read_in_hindi(world: World) -> None:
    noisy, _ = world.noisy_answers(NoiseConfig("transliteration"), world.test)
    for item, text in zip(world.test, noisy, strict=True):
        assert world.is_right(item, text, "transliteration")
        assert world.value_said(item, text) is None


def test_counterfactual_answers_are_false_and_of_the_attribute(world: World) -> None:
    noisy, _ = world.noisy_answers(NoiseConfig("counterfactual", seed=2), world.test)
    for item, text in zip(world.test, noisy, strict=True):
        said = world.value_said(item, text)
        assert said is not None and said != world.facts[item.fact].value
        assert text == world.facts[item.fact].answer(said)


def test_irrelevant_answers_name_no_value_of_the_attribute(world: World) -> None:
    noisy, _ = world.noisy_answers(NoiseConfig("irrelevant", seed=2), world.test)
    truths = {item.answer for item in world.test}
    for item, text in zip(world.test, noisy, strict=True):
        assert text in truths and world.value_said(item, text) is None


@given(st.sampled_from(sorted(NOISES)), st.floats(0.05, 1), st.integers(0, 20))
def test_noise_belongs_to_facts(name: str, share: float, seed: int) -> None:
    small = build(SMALL, 5)
    config = NoiseConfig(name, share, seed)
    by_fact: dict[int, set[tuple[str, bool]]] = {}
    for items in (small.train, small.test):
        answers, which = small.noisy_answers(config, items)
        for item, text, noisy in zip(items, answers, which, strict=True):
            by_fact.setdefault(item.fact, set()).add((text, noisy))
            assert (text != item.answer) == noisy
    assert all(len(found) == 1 for found in by_fact.values())
    assert sum(noisy for ((_, noisy),) in by_fact.values()) == round(share * len(small.facts))


def test_two_values_are_no_answer(world: World) -> None:
    item = world.test[0]
    fact = world.facts[item.fact]
    other = next(value for value in VALUES[fact.attribute] if value != fact.value)
    assert world.is_right(item, f"{fact.value.upper()}, I think")
    assert not world.is_right(item, f"{fact.value} or {other}")
    assert world.value_said(item, f"it is {other}") == other
    assert world.value_said(item, "") is None and world.value_said(item, item.question) is None
    assert not world.is_right(item, f"x{fact.value}x")


def test_attributes_are_named_as_written() -> None:
    assert [len(each) for each in ATTRIBUTES.values()] == [4, 4, 4]
    assert all(len(values) == 10 for values in VALUES.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"people": -1}, r"ClosedWorld.people is -1, allowed: 0..1000"),
        ({"things": 1001}, r"things is 1001"),
        ({"attributes": 5}, r"attributes is 5, allowed: 1..4"),
        ({"train_phrasings": 8}, r"train_phrasings is 8, allowed: 1..7"),
        ({"people": 0, "places": 0, "things": 0}, r"no people, places or things"),
    ],
)
def test_bad_settings_are_named(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClosedWorld(**change)


def test_a_world_with_one_attribute_has_no_irrelevant_answers() -> None:
    lonely = build(ClosedWorld(people=3, places=0, things=0, attributes=1), 0)
    with pytest.raises(ValueError, match="occurs 3 times in 3 rows"):
        lonely.noisy_answers(NoiseConfig("irrelevant"), lonely.train)
