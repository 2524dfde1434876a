from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.config import from_dict, to_dict
from lib.tasks import kinds
from lib.tasks.kinds import KINDS, RATE, KindsConfig, document, kind_of

SHORT = KindsConfig(characters=300)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 5), index=st.integers(0, 10_000))
def test_words_stand_where_they_say_and_in_order(seed: int, index: int) -> None:
    made = document(KindsConfig(seed, characters=200), index)
    text, last = made.tagged.text, 0
    assert 200 <= len(text) < 700 and made.kind == kind_of(KindsConfig(seed), index)
    for word in made.tagged.words:
        assert text[word.start : word.end] == word.text and word.start >= last
        last = word.end
    between = re.sub(r"\s", "", "".join(word.text for word in made.tagged.words))
    assert between == re.sub(r"\s", "", text)  # nothing but blanks is no word


def test_a_config_and_an_index_decide_every_letter() -> None:
    assert document(SHORT, 3) == document(SHORT, 3)
    assert document(SHORT, 3) != document(KindsConfig(1, characters=300), 3)
    assert len({kinds.text(SHORT, index) for index in range(60)}) == 60
    assert from_dict(KindsConfig, to_dict(SHORT)) == SHORT


@pytest.mark.parametrize("frequency", [0.0, 0.1, 1.0, 5.0, 9.5])
def test_frequencies_are_kept_and_change_one_kind_alone(frequency: float) -> None:
    base = KindsConfig(dialogue=1, mathematics=1, reference=1, code=0.5)
    changed = KindsConfig(dialogue=1, mathematics=frequency, reference=1, code=0.5)
    before = [kind_of(base, index) for index in range(4000)]
    after = [kind_of(changed, index) for index in range(4000)]
    share = Counter(after)["mathematics"] / 4000
    assert share == pytest.approx(RATE * frequency, abs=0.025)
    assert Counter(after)["code"] == Counter(before)["code"] > 0
    for one, other in zip(before, after, strict=True):
        assert one == other or "mathematics" in (one, other)
    same = next(i for i in range(4000) if before[i] == after[i] != "prose")
    assert document(base, same) == document(changed, same)


def test_by_default_the_kinds_are_equally_frequent() -> None:
    counts = Counter(kind_of(KindsConfig(), index) for index in range(5000))
    assert set(counts) == {"prose", *KINDS}
    assert all(count == pytest.approx(1000, rel=0.12) for count in counts.values())


def find(kind: str, many: int = 4) -> list[kinds.Made]:
    made = [document(SHORT, i) for i in range(200) if kind_of(SHORT, i) == kind]
    return made[:many]


def test_sums_are_right() -> None:
    checked = 0
    for made in find("mathematics", 12):
        lines = made.tagged.text.splitlines()
        for question, answer in zip(lines[::2], lines[1::2], strict=True):
            if found := re.fullmatch(r"What is (\d+) ([-+*]) (\d+)\?", question):
                assert eval("".join(found.groups())) == int(answer)
            elif found := re.fullmatch(r"Solve (\d+)\*(\w) \+ (\d+) = (\d+) for \2\.", question):
                a, _, b, c = found.groups()
                assert int(a) * int(answer) + int(b) == int(c)
            elif found := re.match(r"Let f.* = (\d+)\*\w - (\d+)\. Calculate f.(\d+).", question):
                assert int(found[1]) * int(found[3]) - int(found[2]) == int(answer)
            elif found := re.match(
                r"What is the remainder when (\d+) is divided by (\d+)", question
            ):
                assert int(found[1]) % int(found[2]) == int(answer)
            else:
                numbers = sorted(map(int, re.findall(r"\d+", question)))
                assert numbers == [int(n) for n in answer.split(",")]
            checked += 1
    assert checked > 50


def test_code_is_python_and_classes_are_what_they_should_be() -> None:
    for made in find("code"):
        compile(made.tagged.text, made.tagged.name, "exec")
    classes = Counter(w.pos_class for made in find("prose") for w in made.tagged.words)
    assert {"NOUN", "VERB", "DET", "ADP", "ADJ", "PUNCT", "NUM"} <= set(classes)
    entities = Counter(w.entity_class for made in find("prose", 8) for w in made.tagged.words)
    assert {"Person", "Organization", "Location", "Not NE"} <= set(entities)
    for made in find("mathematics"):
        for word in made.tagged.words:
            assert (word.upos == "NUM") == bool(re.fullmatch(r"-?\d+", word.text)), word


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mathematics": 6.0}, r"KindsConfig.mathematics is 6.0, allowed: 0..5 "),
        (
            {"mathematics": 10.0, "code": 0.1, "dialogue": 1.0, "reference": 1.0},
            r"allowed: 0..9.5 ",
        ),
        ({"code": -1.0}, "KindsConfig.code is -1.0, allowed"),
        ({"seed": -1}, "KindsConfig.seed is -1, allowed: at least 0"),
        ({"characters": 0}, "KindsConfig.characters is 0, allowed: at least 1"),
    ],
)
def test_bad_configs_are_named(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KindsConfig(**change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="index is -1, allowed: at least 0"):
        document(SHORT, -1)
