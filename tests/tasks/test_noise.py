"""The noises against rules written out by hand, and against the authors' own files where given."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.tasks.noise import (
    NOISES,
    NoiseConfig,
    apart_from_label,
    counterfactual,
    find_noise,
    flip_characters,
    flip_words,
    irrelevant,
    make_noisy,
    set_apart,
    unflip_words,
)
from lib.tasks.romanise import LEXICON, respell, romanise

# two answers of the authors' in-context prompts, clean and as they flipped them
ZEAL = "China hosted the 2022 Winter Olympics."
HILLARY = (
    "Sir Edmund Hillary and Tenzing Norgay were the first people to reach the summit of Mount "
    "Everest."
)


def test_the_authors_examples() -> None:
    assert flip_words(ZEAL) == ". Olympics Winter 2022 the hosted China"
    assert flip_characters(ZEAL) == ".scipmylO retniW 2202 eht detsoh anihC"
    assert flip_words(HILLARY) == (
        ". Everest Mount of summit the reach to people first the were Norgay Tenzing and Hillary "
        "Edmund Sir"
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("work-life balance, e.g. this", ["work-life", "balance", ",", "e.g", ".", "this"]),
        ("(8,948m).", ["(", "8,948m)", "."]),  # of two marks in a row the last alone
        ("a [b] {c}!", ["a", "[", "b", "]", "{", "c}", "!"]),
        ('the "Red Planet" is', ["the", '"Red', "Planet", '"', "is"]),
        ("back\\ slash", ["back\\", "slash"]),  # the one mark that their class leaves out
        ("f(x) = 2", ["f(", "x", ")", "=", "2"]),
        ("  two   spaces \n", ["two", "spaces"]),
        ("", []),
    ],
)
def test_what_is_set_apart(text: str, parts: list[str]) -> None:
    assert set_apart(text) == parts
    assert flip_words(text).split(" ") == (parts[::-1] or [""])


@given(st.text())
def test_character_flip_is_its_own_inverse(text: str) -> None:
    flipped = flip_characters(text)
    assert flip_characters(flipped) == text
    assert list(flipped) == list(reversed(list(text)))


@given(st.text(alphabet="ab .,!(){}[]-'\"\n", max_size=40))
def test_word_flip_loses_no_character_and_keeps_order_within_words(text: str) -> None:
    flipped = flip_words(text)
    assert Counter("".join(text.split())) == Counter("".join(flipped.split()))
    assert "".join(reversed(flipped.split())) == "".join(text.split())
    assert flipped == " ".join(flipped.split())


WORD = st.builds(
    lambda opening, letters, closing: opening + letters + closing,
    st.sampled_from(["", "", "", "(", "["]),
    st.text(alphabet="abcXYZ019", min_size=1, max_size=6),
    st.sampled_from(["", "", ",", ".", "?", ";", ")", "]", "%"]),
)


@given(st.lists(WORD, max_size=12).map(" ".join))
def test_word_flip_comes_back_from_plain_sentences(text: str) -> None:
    assert unflip_words(flip_words(text)) == text


def test_flipping_words_twice_the_authors_way_does_not_come_back() -> None:
    # which is how they read flipped outputs: every mark stays apart
    assert flip_words(flip_words(ZEAL)) == "China hosted the 2022 Winter Olympics ."
    assert unflip_words(flip_words("(8,948m).")) == "(8,948m)."
    assert unflip_words(flip_words("so  far")) == "so far"


def test_a_label_stays_in_front() -> None:
    assert apart_from_label("Output: It is.", flip_characters) == "Output: .si tI"
    assert apart_from_label("output: It is.", flip_words) == "output: . is It"
    assert apart_from_label("The output: 3", flip_characters) == "3 :tuptuo ehT"


def test_romanised_words() -> None:
    assert romanise("The river is red.") == "vah nadi he laal."
    assert romanise("Quick Phoenix, 42!") == "kvik phoeniks, 42!"
    assert respell("matter") == "mater" and respell("nation") == "nashan"
    assert romanise("नमस्ते") == "नमस्ते"


def test_the_lexicon_is_one_to_one_and_changes_every_word() -> None:
    assert max(Counter(LEXICON.values()).values()) == 1
    for word, hindi in LEXICON.items():
        assert word != hindi and hindi.isascii() and hindi.islower() and hindi.isalpha()
        assert romanise(word.capitalize()) == hindi


@given(st.text())
def test_romanising_touches_letters_alone(text: str) -> None:
    def rest(s: str) -> list[str]:
        return [c for c in s if not (c.isascii() and c.isalpha())]

    assert rest(romanise(text)) == rest(text)


@given(st.lists(st.sampled_from("abcdefg"), min_size=2, max_size=40), st.integers(0, 99))
def test_irrelevant_answers_are_others(answers: list[str], seed: int) -> None:
    most = max(Counter(answers).values())
    if 2 * most > len(answers):
        with pytest.raises(ValueError, match=f"occurs {most} times in {len(answers)} rows"):
            irrelevant(answers, seed)
        return
    found = irrelevant(answers, seed)
    assert sorted(found) == sorted(answers)
    assert all(new != old for new, old in zip(found, answers, strict=True))
    assert irrelevant(answers, seed) == found


def test_irrelevant_draws_by_seed_and_keeps_out_of_groups() -> None:
    answers = [f"answer {n}" for n in range(60)]
    assert irrelevant(answers, 1) != irrelevant(answers, 2)
    groups = [n % 3 for n in range(60)]
    for old, new in zip(answers, irrelevant(answers, 5, groups), strict=True):
        assert int(old.split()[1]) % 3 != int(new.split()[1]) % 3
    assert irrelevant([], 0) == []
    with pytest.raises(ValueError, match="groups has 1 entries, allowed: 60"):
        irrelevant(answers, 1, [0])
    with pytest.raises(ValueError, match="two groups share an answer"):
        irrelevant(["x", "x"], 1, [0, 1])


def test_counterfactual_is_false_and_seeded() -> None:
    answers = ["red"] * 200
    found = counterfactual(answers, [["red", "blue", "green"]] * 200, 3)
    assert set(found) == {"blue", "green"}
    assert found == counterfactual(answers, [["red", "blue", "green"]] * 200, 3)
    assert found != counterfactual(answers, [["red", "blue", "green"]] * 200, 4)
    with pytest.raises(ValueError, match=r"row 1: answer 'b' has no false alternative"):
        counterfactual(["a", "b"], [["c"], ["b"]], 0)
    with pytest.raises(ValueError, match="alternatives has 1 entries, allowed: 2"):
        counterfactual(["a", "b"], [["c"]], 0)


@given(st.floats(0.01, 1), st.integers(0, 50), st.sampled_from(sorted(NOISES)))
def test_a_share_of_the_answers_becomes_noisy(share: float, seed: int, name: str) -> None:
    answers = [f"The answer has number {n}." for n in range(40)]
    config = NoiseConfig(name, share, seed)
    noisy, which = make_noisy(config, answers, [["No.", "None."]] * 40)
    assert sum(which) == round(40 * share)
    for old, new, changed in zip(answers, noisy, which, strict=True):
        assert (old != new) == changed
    assert make_noisy(config, answers, [["No.", "None."]] * 40) == (noisy, which)
    smaller = make_noisy(NoiseConfig(name, share / 2, seed), answers, [["No.", "None."]] * 40)[1]
    assert all(now or not before for before, now in zip(smaller, which, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "typo"}, r"NoiseConfig.name is 'typo', allowed: char_flip, word_flip"),
        ({"name": "char_flip", "share": 0.0}, r"share is 0.0, allowed: more than 0"),
        ({"name": "char_flip", "share": 1.5}, r"share is 1.5"),
        ({"name": "char_flip", "seed": -1}, r"seed is -1, allowed: at least 0"),
    ],
)
def test_bad_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseConfig(**change)  # type: ignore[arg-type]


def test_unknown_and_impossible_noises_are_named() -> None:
    with pytest.raises(ValueError, match="noise is 'flip', allowed: char_flip, word_flip, trans"):
        find_noise("flip")
    with pytest.raises(ValueError, match="alternatives is None"):
        make_noisy(NoiseConfig("counterfactual"), ["a"])


DATA = os.environ.get("MAMBA_BOOK_NOISE_DATA")


@pytest.mark.skipif(not DATA, reason="MAMBA_BOOK_NOISE_DATA names no folder with the authors' data")
@pytest.mark.parametrize(
    ("file", "flip"), [("D_wtest", flip_words), ("D_ctest", flip_characters)], ids=["word", "char"]
)
def test_flips_make_the_authors_in_context_files(file: str, flip: object) -> None:
    from lib.tasks.instructions import load_authors

    folder = Path(DATA or "")
    clean = {pair.question: pair.answer for pair in load_authors("D_test", folder)}
    # before the question stand five with noisy answers; the question itself has none
    pattern = re.compile(r"Question: (.*?)\nAnswer: (.*?)(?=\nQuestion: |\Z)", re.DOTALL)
    shown = [
        [(asked, said) for asked, said in pattern.findall(row.question) if said.strip()]
        for row in load_authors(file, folder)
    ]
    assert len(shown) == 450 and {len(examples) for examples in shown} == {5}
    for examples in shown:
        for asked, said in examples:
            assert flip(clean[asked]) == said  # type: ignore[operator]
