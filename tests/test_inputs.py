from __future__ import annotations

from typing import Any

import pytest

from lib.inputs import check_whole


@pytest.mark.parametrize("value", [3, 64])
def test_both_ends_of_a_range_are_in_it(value: int) -> None:
    check_whole("length", value, 3, 64)


@pytest.mark.parametrize("value", [2, 65, -3, 4.0, True, "5", None])
def test_anything_else_is_named_with_the_range(value: Any) -> None:
    with pytest.raises(ValueError) as raised:
        check_whole("length", value, 3, 64)
    assert str(raised.value) == f"length is {value!r}, allowed: a whole number, 3 to 64"


def test_a_range_may_be_open() -> None:
    check_whole("seed", 10**9, 0)
    with pytest.raises(ValueError, match="seed is -1, allowed: a whole number, 0 or more"):
        check_whole("seed", -1, 0)
