"""Decoders one after the other: none that has been trained is lost by what comes after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from lib.experiments import Context, Outcome, _memory


@dataclasses.dataclass(frozen=True)
class Cell:
    name: str
    tags: None = None
    language: None = None


def run_cell(cell: Cell, opened: Any, context: Context) -> Iterator[Any]:
    yield None
    if cell.name == "bad":
        raise KeyboardInterrupt if opened.context.backend == "interrupt" else RuntimeError("no hub")
    outcome = Outcome(cell, "done")
    return outcome, lambda: outcome


@pytest.mark.parametrize("backend", ["error", "interrupt"])
def test_a_trained_decoder_comes_before_what_the_next_one_raises(
    monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setattr(_memory, "_run_cell", run_cell)
    cells: list[Any] = [Cell("a"), Cell("b"), Cell("bad"), Cell("c")]
    found: list[str] = []
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        for outcome in _memory.train_decoders(cells, Context(backend=backend)):
            found.append(outcome.cell.name)
    assert found == ["a", "b"]
    cells = [Cell("bad")]
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        list(_memory.train_decoders(cells, Context(backend=backend)))
    cells = [Cell("a"), Cell("b")]
    assert [o.cell.name for o in _memory.train_decoders(cells, Context())] == ["a", "b"]
