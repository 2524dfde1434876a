from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.tasks.frequencies import category_at, require_fit
from lib.tasks.stories import StoryConfig

NAMES, RATE, GRID = ("a", "b", "c"), 0.1, 4000
frequencies = st.fixed_dictionaries({name: st.floats(0, 8 / 3) for name in NAMES})


@dataclass(frozen=True)
class Three:
    a: float = 1.0
    b: float = 1.0
    c: float = 1.0

    def __post_init__(self) -> None:
        require_fit(self, NAMES, RATE)


def drawn(wanted: dict[str, float]) -> list[str | None]:
    return [category_at((k + 0.5) / GRID, wanted, RATE) for k in range(GRID)]


@given(frequencies)
def test_shares_are_what_was_asked_for(wanted: dict[str, float]) -> None:
    found = drawn(wanted)
    for name in NAMES:
        assert found.count(name) / GRID == pytest.approx(RATE * wanted[name], abs=2 / GRID)


@given(frequencies, st.sampled_from(NAMES), st.floats(0, 1))
def test_a_rarer_category_leaves_its_places_plain_and_moves_no_other(
    wanted: dict[str, float], name: str, less: float
) -> None:
    before = drawn({**wanted, name: 1.0})
    after = drawn({**wanted, name: less})
    moved = {(old, new) for old, new in zip(before, after, strict=True) if old != new}
    assert moved <= {(name, None)}


@pytest.mark.parametrize("values", [(8, 1, 1), (8, 0, 0), (10 / 3, 10 / 3, 10 / 3)])
def test_what_fits_is_delivered(values: tuple[float, float, float]) -> None:
    wanted = vars(Three(*values))
    found = drawn(wanted)
    for name in NAMES:
        assert found.count(name) / GRID == pytest.approx(RATE * wanted[name], abs=2 / GRID)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        # others that are left out still keep their stretches
        ((10, 0, 0), r"Three.a is 10, allowed: 0..8 \(with at least 1 for each of the others"),
        ((1, -0.5, 1), "Three.b is -0.5"),
        ((4, 4, 4), "Three.a is 4, allowed: 0..2"),
    ],
)
def test_what_does_not_fit_is_refused(values: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Three(*values)


def test_stories_refuse_what_they_could_not_tell() -> None:
    with pytest.raises(ValueError, match=r"StoryConfig.numbers is 16, allowed: 0\.\.11\.67"):
        StoryConfig(0, numbers=16, names=0, dialogue=0, objects=0, places=0, feelings=0)
