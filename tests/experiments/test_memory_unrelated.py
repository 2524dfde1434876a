"""Unrelated text in the place of answers: the chunks that decoders are asked for, and no model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib import page, runner
from lib.analysis.memory_controls import partners, unrelated_text
from lib.config import from_dict, to_dict
from lib.experiments import Context, cells_of, find, memory, registry
from lib.experiments import memory_unrelated as unrelated
from lib.experiments._language import open_data
from lib.store import Store
from lib.tasks.memory_text import ask
from lib.tasks.reconstruction import LENGTHS

pytestmark = pytest.mark.usefixtures("runs")


def test_it_is_asked_for_what_the_decoders_are() -> None:
    decoders = {
        cell.task.length: cell
        for cell in memory.cells("matched")
        if cell.tags == "built-in" and cell.model.vocab_size == 2048
    }
    cells = cells_of(find(unrelated.NAME), "matched")
    places = [(cell.task.length, cell.seed) for cell in cells]
    assert places == [(length, seed) for length in LENGTHS for seed in unrelated.SEEDS]
    for cell in cells:
        decoder = decoders[cell.task.length]
        assert (cell.text, cell.task, cell.asked) == (
            decoder.language.task, decoder.task, decoder.asked
        )  # fmt: skip
        assert from_dict(unrelated.UnrelatedCell, to_dict(cell)) == cell
    assert len({unrelated.readable(cell) for cell in cells}) == len(cells)
    assert cells_of(find(unrelated.NAME), "paper") == [] and unrelated.NAME in registry()


def test_another_text_is_of_the_same_kind_and_another_document() -> None:
    cell = cells_of(find(unrelated.NAME), "quick")[0]
    chunks = ask(open_data(cell.text), cell.task, cell.asked).chunks
    tokens = [tuple(row) for row in chunks.tokens.tolist()]
    rows = [tuple(row) for row in unrelated_text(chunks, 1)]
    kinds: dict[tuple[int, ...], set[tuple[str, int]]] = {}
    for row, kind, document in zip(tokens, chunks.categories, chunks.documents, strict=True):
        kinds.setdefault(row, set()).add((kind, int(document)))
    for row, kind, document in zip(rows, chunks.categories, chunks.documents, strict=True):
        assert any(k == kind and d != document for k, d in kinds[row])
    assert rows == [tuple(row) for row in unrelated_text(chunks, 1)]
    assert rows != [tuple(row) for row in unrelated_text(chunks, 2)]
    assert rows == [tokens[other] for other in partners(chunks, 1) if other is not None]
    first = np.flatnonzero(chunks.documents == chunks.documents[0])
    assert partners(chunks.take(first), 1) == [None] * len(first)
    with pytest.raises(ValueError, match="has chunks of one document, allowed: of two or more"):
        unrelated_text(chunks.take(first), 1)


def test_quick_cells_from_end_to_end(tmp_path: Path) -> None:
    store = Store(tmp_path, tmp_path / "published")
    runner.run(unrelated.NAME, "quick", store=store, say=lambda text: None)
    experiment = find(unrelated.NAME)
    records = [
        record
        for record in store.records(unrelated.NAME, experiment.protocol, experiment.cells("quick"))
        if record is not None
    ]
    frame = unrelated.frame(records)
    assert frame["length"].tolist() == [4, 8] and set(frame["corpus"]) == {"kinds"}
    assert frame["omission"].between(0.5, 1).all() and frame["token_accuracy"].between(0, 0.2).all()
    assert {"omission_pos_NUM", "rho_frequency", "omission_first_quarter_even"} <= set(frame)
    assert {"position", "category", "frequency", "pos"} <= set(records[0].read_curves()["table"])
    assert "unrelated-kinds-L4-s1" in page.provenance_groups(records).data
    decoders = frame.assign(omission=0.25)
    table = unrelated.beside(decoders, frame)
    assert table[["tokens", ""]].to_numpy().tolist() == [
        [4, "decoder"], [4, "unrelated text"], [8, "decoder"], [8, "unrelated text"]
    ]  # fmt: skip
    assert table["omission"].tolist()[::2] == [0.25, 0.25]
    assert table["omission"].tolist()[1::2] == pytest.approx(frame["omission"].tolist())
    alone = unrelated.beside(pd.DataFrame(), frame)  # no decoder has run
    assert set(alone[""]) == {"unrelated text"}


def test_a_spent_budget_stops_it_and_bad_cells_are_named() -> None:
    cell = cells_of(find(unrelated.NAME), "quick")[0]
    (outcome,) = unrelated.run([cell], Context(deadline=0.0))
    assert outcome.status == "stopped"
    with pytest.raises(ValueError, match="asked is 0, allowed: 1 or more"):
        dataclasses.replace(cell, asked=0)
