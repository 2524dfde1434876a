from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.config import (
    SHOWN,
    NoField,
    added_later,
    canonical_json,
    differing_first,
    digest,
    flatten,
    from_dict,
    lookup,
    short_names,
    to_dict,
)


@dataclass(frozen=True)
class Round:
    kind: ClassVar[str] = "round"
    radius: float


@dataclass(frozen=True)
class Square:
    kind: ClassVar[str] = "square"
    side: float
    name: str = "s"


@dataclass(frozen=True)
class Whole:
    count: int
    rate: float
    shapes: tuple[Round | Square, ...]
    scale: float | None = None
    on: bool = False
    mode: Literal["a", "b"] = "a"
    pair: tuple[int, str] = (1, "x")
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


shapes = st.one_of(
    st.builds(Round, st.floats(-10, 10)), st.builds(Square, st.floats(-10, 10), st.text(max_size=3))
)
wholes = st.builds(
    Whole,
    count=st.integers(-5, 5),
    rate=st.floats(-1e6, 1e6),
    shapes=st.lists(shapes, max_size=3).map(tuple),
    scale=st.none() | st.floats(-1, 1),
    on=st.booleans(),
    mode=st.sampled_from(["a", "b"]),
)


@given(wholes)
def test_round_trip_through_json(whole: Whole) -> None:
    text = canonical_json(to_dict(whole))
    again = from_dict(Whole, json.loads(text))
    assert again == whole
    assert canonical_json(to_dict(again)) == text


def test_ints_and_floats_of_equal_value_have_one_identity() -> None:
    one = to_dict(Whole(1, 1, (Round(2),)))
    other = to_dict(Whole(1, 1.0, (Round(2.0),)))
    assert digest(one) == digest(other)
    assert one["shapes"][0] == {"kind": "round", "radius": 2.0}


def test_every_field_changes_the_identity() -> None:
    base = Whole(1, 0.5, (Round(1.0),))
    changes = {
        "count": 2, "rate": 0.25, "shapes": (Square(1.0),), "scale": 1.0, "on": True, "mode": "b",
        "pair": (2, "x"), "extra": {"a": 1},
    }  # fmt: skip
    digests = {digest(to_dict(base))}
    for name, value in changes.items():
        digests.add(digest(to_dict(dataclasses.replace(base, **{name: value}))))
    assert len(digests) == len(changes) + 1


@dataclass(frozen=True)
class Newer:
    old: int = 1
    new: str = added_later("off")


def test_a_field_added_later_keeps_old_identities() -> None:
    assert to_dict(Newer()) == {"old": 1}
    assert from_dict(Newer, {"old": 1}) == Newer()
    assert to_dict(Newer(new="on")) == {"old": 1, "new": "on"}


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ({"count": 1, "rate": 1.0, "shapes": [], "rat": 2}, "'rat'"),
        ({"rate": 1.0, "shapes": []}, "'count'"),
        ({"count": True, "rate": 1.0, "shapes": []}, "Whole.count must be int, got True"),
        ({"count": 1.5, "rate": 1.0, "shapes": []}, "Whole.count"),
        ({"count": 1, "rate": "fast", "shapes": []}, "Whole.rate"),
        ({"count": 1, "rate": 1.0, "shapes": [{"kind": "star"}]}, "shapes.*kind is 'star'"),
        ({"count": 1, "rate": 1.0, "shapes": [], "mode": "c"}, "Whole.mode is 'c'"),
        ({"count": 1, "rate": 1.0, "shapes": [], "pair": [1]}, "Whole.pair must have 2"),
        ({"count": 1, "rate": 1.0, "shapes": 3}, "Whole.shapes must be a list"),
        ({"count": 1, "rate": 1.0, "shapes": [], "extra": []}, "Whole.extra must be an object"),
    ],
)
def test_wrong_data_is_named(data: dict[str, Any], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        from_dict(Whole, data)


def test_what_a_record_cannot_carry_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Whole\.rate must be finite"):
        to_dict(Whole(1, float("nan"), ()))
    with pytest.raises(TypeError, match="must be a dataclass instance"):
        to_dict({"a": 1})  # type: ignore[arg-type]


def test_flatten_and_lookup() -> None:
    flat = flatten(to_dict(Whole(1, 2.0, (Round(3.0), Square(4.0)))))
    assert flat["shapes.0.radius"] == 3.0
    assert flat["shapes.1.kind"] == "square"
    assert lookup(flat, "side") == "shapes.1.side"
    with pytest.raises(ValueError, match=r"'kind' is ambiguous: shapes\.0\.kind, shapes\.1\.kind"):
        lookup(flat, "kind")
    with pytest.raises(
        NoField, match=r"no field 'colour'; fields: count, rate, shapes\.0\.kind, radius"
    ):
        lookup(flat, "colour")


def test_an_unknown_name_gets_near_ones_first_and_of_the_others_some() -> None:
    others = [f"task.x{number}" for number in range(30)]
    flat = dict.fromkeys([*others, "model.n_layers", "seed"])
    with pytest.raises(NoField) as raised:
        lookup(flat, "n_layer")
    said = str(raised.value)
    assert said.startswith("no field 'n_layer'; fields like it: n_layers; others: x0, x1, ")
    assert said.endswith(f"x{SHOWN - 1} and {31 - SHOWN} more")
    with pytest.raises(NoField, match="fields like it: n_layers;"):
        lookup(flat, "model.n_layer")  # whatever stands before it
    with pytest.raises(NoField, match=r"no field 'sead'; fields like it: seed$"):
        lookup({"seed": 1}, "sead")


def test_short_names_are_those_that_lookup_takes() -> None:
    paths = ["seed", "model.seed", "model.a.width", "model.b.width", "blocks.0.kind", "task.kind"]
    flat = dict.fromkeys(paths)
    short = short_names(paths)
    assert short == {
        "seed": "seed", "model.seed": "model.seed", "model.a.width": "a.width",
        "model.b.width": "b.width", "blocks.0.kind": "blocks.0.kind", "task.kind": "task.kind",
    }  # fmt: skip
    assert [lookup(flat, name) for name in short.values()] == paths


def test_fields_in_which_configs_differ_come_first() -> None:
    flats = [{"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 1.0, "c": 1, "d": None}]
    assert differing_first(flats) == ["b", "d", "a", "c"]
