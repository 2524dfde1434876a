"""Unrelated text in the place of answers: the chunks that decoders are asked for, and no model."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lib import page, runner
from lib.analysis.memory_controls import partners, unrelated_text
from lib.config import from_dict, to_dict
from lib.experiments import Context, cells_of, find, memory, registry
from lib.experiments import memory_unrelated as unrelated
from lib.experiments._language import open_data
from lib.experiments._memory import train_decoders
from lib.store import Record, Store
from lib.tasks.memory_text import ask
from lib.tasks.reconstruction import LENGTHS
from lib.tasks.tokenizers import BPEConfig
from tests.fakes import PROVENANCE

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


def test_a_model_that_a_record_kept_reads_the_chunks(runs: Path) -> None:
    """One that has read the same text; its tokens need not be those of the chunks."""
    cell = cells_of(find(unrelated.NAME), "quick")[0]
    assert unrelated.kept_model(cell.text) is None
    decoder = cells_of(find(memory.NAME), "quick")[0]
    steps = {"epochs": 1, "warmup_epochs": 0}
    few = dataclasses.replace(decoder.language.training, **steps)
    small = dataclasses.replace(
        decoder, language=dataclasses.replace(decoder.language, training=few),
        training=dataclasses.replace(decoder.training, **steps),
    )  # fmt: skip
    (outcome,) = train_decoders([small], Context())
    found = {k: v for k, v in outcome.metrics.items() if v is not None}
    record = Record(  # as the record of the quick profile, which takes longer
        memory.NAME, find(memory.NAME).protocol, to_dict(decoder), "x", "done", found,
        PROVENANCE | outcome.facts,
    )  # fmt: skip
    record = Store(runs, runs / "none").save(record, outcome.curves, outcome.weights)
    reader = unrelated.kept_model(cell.text)
    assert reader is not None and reader.facts["record"] == record.name
    other = dataclasses.replace(cell.text.corpus, validation=0.2)
    assert unrelated.kept_model(dataclasses.replace(cell.text, corpus=other)) is None
    # the chunks in other tokens, fewer a text: as likely a text, and as like another
    coarse = dataclasses.replace(cell.text, tokenizer=BPEConfig(400, 100_000))
    cells = [cell, dataclasses.replace(cell, text=coarse)]
    for each, done in zip(cells, unrelated.run(cells, Context()), strict=True):
        data = open_data(each.text)
        chunks = ask(data, each.task, each.asked).chunks.tokens.tolist()
        texts = [data.tokenizer.decode(row) for row in chunks]
        assert done.facts["reader"] == reader.facts
        expected = []
        for text in texts:
            tokens = torch.tensor([[reader.bos, *reader.encode(text)]])
            with torch.no_grad():
                logits = reader.model(tokens)[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum")
            expected.append(math.exp(float(loss) / each.task.length))
        assert done.metrics["perplexity"] == pytest.approx(np.mean(expected), rel=1e-4)
        assert -1 < done.metrics["rho_perplexity"] < 1  # type: ignore[operator]
        assert -1 < done.metrics["rho_perplexity_within"] < 1  # type: ignore[operator]
        assert 0 < done.metrics["similarity"] < 0.9  # type: ignore[operator]
        assert done.curves is not None and "perplexity" in set(done.curves["table"])
    assert reader.similarity(texts[:3], texts[:3]) == pytest.approx([1, 1, 1], abs=1e-5)


def test_a_spent_budget_stops_it_and_bad_cells_are_named() -> None:
    cell = cells_of(find(unrelated.NAME), "quick")[0]
    (outcome,) = unrelated.run([cell], Context(deadline=0.0))
    assert outcome.status == "stopped"
    with pytest.raises(ValueError, match="asked is 0, allowed: 1 or more"):
        dataclasses.replace(cell, asked=0)
