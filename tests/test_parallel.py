from __future__ import annotations

import math
import operator
import os

import pytest

from lib import parallel
from lib.parallel import ordered_map, processors


@pytest.mark.parametrize("chunk", [1, 7, 200])
def test_results_come_in_order(chunk: int) -> None:
    items = list(range(-50, 50))
    assert list(ordered_map(operator.neg, items, chunk, workers=2)) == [-i for i in items]


def test_few_items_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*args: object, **options: object) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr(parallel, "ProcessPoolExecutor", started)
    monkeypatch.setattr(parallel, "processors", lambda: 8)
    assert list(ordered_map(operator.neg, range(5))) == [0, -1, -2, -3, -4]
    assert (
        list(ordered_map(operator.neg, range(parallel.WORTH), workers=1))[-1] == 1 - parallel.WORTH
    )
    with pytest.raises(BaseException, match="a process was started"):
        list(ordered_map(operator.neg, range(parallel.WORTH)))


def test_an_error_of_the_function_is_seen() -> None:
    with pytest.raises(ValueError, match=r"math domain error|expected a nonnegative"):
        list(ordered_map(math.sqrt, [1.0, 4.0, -1.0], 1, workers=2))


def test_processors_are_those_of_this_process() -> None:
    assert 1 <= processors() <= (os.cpu_count() or 1)
