from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lib import provenance
from lib.config import to_dict
from lib.experiments import Context, cells_of, find
from lib.experiments.stories import (
    MEASUREMENTS,
    NAME,
    RATES_NAME,
    SEEDS,
    TEXTS,
    TOKENS,
    TRAINING,
    architecture,
    by_rate,
    curves,
    readable,
    run,
    samples,
    summary,
)
from lib.figures import COLOURS
from lib.figures import stories as figures
from lib.models.presets import ARCHITECTURES, SIZES, non_embedding
from lib.store import Record, Store, identity
from lib.tasks.corpus import open_source


def test_all_architectures_have_the_same_text_tokens_and_schedule() -> None:
    cells = cells_of(find(NAME), "matched")
    wanted = len(TEXTS) * len(ARCHITECTURES) * sum(len(seeds) for seeds in SEEDS.values())
    assert len(cells) == wanted == len({identity(NAME, 1, to_dict(cell)) for cell in cells})
    groups: dict[tuple[object, ...], list[str]] = {}
    for cell in cells:
        key = cell.task, cell.training, cell.seed, cell.model.vocab_size
        groups.setdefault(key, []).append(architecture(cell))
    assert all(tuple(kinds) == ARCHITECTURES for kinds in groups.values())
    for cell in cells:
        size = readable(cell).split("-")[1]
        assert non_embedding(cell.model) == pytest.approx(SIZES[size].parameters, rel=0.03)
        # every measurement stands after a whole number of batches, and they add up to the budget
        rows = cell.task.epoch_tokens // cell.task.length
        assert rows % cell.training.batch_size == 0
        assert cell.task.epoch_tokens * MEASUREMENTS == TOKENS[size]
    assert cells_of(find(NAME), "paper") == []


def test_models_of_a_size_are_as_far_apart_as_the_page_says() -> None:
    sizes: dict[str, list[int]] = {}
    for cell in [*cells_of(find(NAME), "quick"), *cells_of(find(NAME), "matched")]:
        sizes.setdefault(readable(cell).split("-")[1], []).append(non_embedding(cell.model))
    apart = {size: max(found) / min(found) - 1 for size, found in sizes.items()}
    found = {size: round(100 * part, 1) for size, part in apart.items()}
    assert found == {"1M": 4.4, "5M": 3.4, "16M": 0.8}


def test_the_quick_cells_train_and_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAMBA_BOOK_RUNS", str(tmp_path))
    quick = cells_of(find(NAME), "quick")
    assert [architecture(cell) for cell in quick] == list(ARCHITECTURES)
    assert [readable(cell) for cell in quick] == [f"{k}-1M-stories-s1" for k in ARCHITECTURES]
    cells = [
        dataclasses.replace(cell, training=dataclasses.replace(cell.training, epochs=2))
        for cell in quick
    ]
    store = Store(tmp_path, tmp_path / "published")
    records = []
    for outcome in run(cells, Context()):
        assert outcome.status == "done", outcome.reason
        metrics = {k: v for k, v in outcome.metrics.items() if v is not None}
        made = Record(
            NAME, 1, to_dict(outcome.cell), readable(outcome.cell), "done", metrics, outcome.facts
        )
        records.append(store.save(made, outcome.curves))
    frame = find(NAME).frame(records)
    assert frame["architecture"].tolist() == list(ARCHITECTURES)
    assert (frame["tokens_per_second"] > 0).all() and set(frame["text"]) == {"stories"}
    assert frame["final_valid_bits_per_byte"].between(0.5, 8).all()
    table = curves(records)
    assert len(table) == 2 * len(ARCHITECTURES)
    first, last = table.iloc[0], table.iloc[1]
    assert (first["tokens"], last["tokens"]) == (64 * 8 * 3, 64 * 8 * 6)
    assert last["petaflops"] == 2 * first["petaflops"] > 0
    assert last["seconds"] == pytest.approx(2 * first["seconds"])
    written = samples(records)  # the same beginnings for all
    assert list(written) == ["beginning", "Mamba-1", "Mamba-2", "Transformer", "mixture of experts"]
    assert len(written) == 2 and written["beginning"].str.startswith("Once upon a time").all()
    assert written.map(len).gt(20).all(axis=None)
    assert samples([]).empty
    figure = figures.against_cost(table, "title")
    assert {figure.layout[f"xaxis{k}"].title.text for k in ("", 2, 3)} == {
        "training tokens", "compute, 10⁹ operations", "time, s",
    }  # fmt: skip
    assert figure.layout.yaxis.title.text == "bits per byte"
    shown = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert len(shown) == len(ARCHITECTURES)
    mamba = next(trace for trace in figure.data if trace.name == "Mamba-1 (1 seed)")
    assert list(mamba.x) == [64 * 8 * 3, 64 * 8 * 6]
    unknown = figures.against_cost(table.assign(seconds=float("nan")), "title")
    assert {trace.xaxis for trace in unknown.data} == {"x", "x2"}  # tokens, petaflops
    assert list(mamba.y) == pytest.approx(table["valid_bits_per_byte"].tolist()[:2])


def test_the_first_cells_are_one_seed_of_all_at_the_small_size_on_the_text_that_all_have() -> None:
    names = [readable(cell) for cell in cells_of(find(NAME), "matched")]
    assert names[:4] == [f"{kind}-5M-stories-s1" for kind in ARCHITECTURES]
    assert names[4:12] == [
        f"{kind}-5M-stories-s{seed}" for seed in (2, 3) for kind in ARCHITECTURES
    ]
    assert all("16M" in name for name in names[24:])


def test_other_rates_are_beside_the_same_cells_on_real_text() -> None:
    plain = cells_of(find(NAME), "matched")
    cells = cells_of(find(RATES_NAME), "matched")
    assert [readable(cell) for cell in cells] == [
        f"{kind}-5M-local-lr{rate}-s1" for rate in ("0.003", "0.0003") for kind in ARCHITECTURES
    ]
    for cell in cells:
        assert cell.training.lr_end == pytest.approx(cell.training.lr_peak / 10)
        rates = {"lr_peak": TRAINING.lr_peak, "lr_end": TRAINING.lr_end}
        twin = dataclasses.replace(cell, training=dataclasses.replace(cell.training, **rates))
        assert twin in plain
    assert [readable(c) for c in cells_of(find(RATES_NAME), "quick")] == [
        "mamba1-1M-stories-lr0.003-s1"
    ]


def test_the_summary_has_a_row_a_model_and_small_models_first() -> None:
    def row(model: str, text: str, parameters: int, seed: int, bits: float) -> dict[str, Any]:
        return {
            "model": model, "text": text, "parameters": parameters, "seed": seed,
            "final_valid_bits_per_byte": bits, "final_valid_loss": 2 * bits,
            "tokens_per_second": 1000.0 * seed, "peak_gb": 1.04,
        }  # fmt: skip

    large, small = 16_100_000, 4_900_000
    rows = [
        row("Mamba-1", "stories", large, 1, 0.1), row("Mamba-2", "stories", small, 1, 0.2),
        row("Mamba-2", "stories", small, 2, 0.4), row("Mamba-1", "local", small, 1, 1.5),
    ]  # fmt: skip
    found = summary(pd.DataFrame(rows))
    assert found["size"].tolist() == ["5M", "5M", "16M"]
    assert found["text"].tolist() == ["real text", "made-up stories", "made-up stories"]
    assert found["bits per byte"].tolist() == pytest.approx([1.5, 0.3, 0.1])
    assert found[["least", "largest"]].to_numpy()[1].tolist() == [0.2, 0.4]
    assert found["tokens a second"].isna().tolist() == [True, False, True]  # of single runs
    assert found["tokens a second"][1] == 2000
    assert found["seeds"].tolist() == [1, 2, 1]
    assert summary(pd.DataFrame()).empty


def test_colours_stay_with_models_and_beginnings_are_cut_off() -> None:
    table = pd.DataFrame(
        [
            {
                "model": "Transformer",
                "seed": 1,
                "step": k,
                "tokens": k,
                "valid_bits_per_byte": 8 / k,
            }
            for k in range(1, 11)
        ]
    )
    cost = {"tokens": "tokens"}
    alone = figures.against_cost(table, "", costs=cost)
    among = figures.against_cost(table, "", costs=cost, models=["Mamba-1", "Transformer"])
    assert alone.data[-1].line.color == COLOURS[0] and among.data[-1].line.color == COLOURS[1]
    low, high = among.layout.yaxis.range
    assert 10**high == pytest.approx(8 / 3) and 10**low == pytest.approx(0.98 * 8 / 10)
    assert figures.against_cost(table[:5], "", costs=cost).layout.yaxis.range is None


def test_a_table_of_rates_has_the_models_that_met_several() -> None:
    same = {"parameters": 5, "text": "local", "seed": 1, "status": "done"}
    rows = [
        {"model": "Mamba-1", "rate": 1e-3, "final_valid_bits_per_byte": 1.5, **same},
        {"model": "Mamba-1", "rate": 3e-3, "final_valid_bits_per_byte": 1.4, **same},
        {"model": "Mamba-1", "rate": 1e-3, "final_valid_bits_per_byte": 9.0, **same, "seed": 2},
        {"model": "Transformer", "rate": 1e-3, "final_valid_bits_per_byte": 1.3, **same},
    ]
    (row,) = by_rate(pd.DataFrame(rows)).to_dict("records")
    assert row == {"model": "Mamba-1", "rate 0.001": 1.5, "rate 0.003": 1.4}
    assert by_rate(pd.DataFrame()).empty


def test_other_models_have_names_too() -> None:
    cell = cells_of(find(NAME), "quick")[0]
    other = dataclasses.replace(cell, model=dataclasses.replace(cell.model, n_layers=2))
    assert readable(other) == "mamba1-L2-official-tied-m96-stories-s1"


def test_text_that_is_not_here_is_asked_for_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="path is 'data/text': there is no such file or folder"):
        open_source(TEXTS["debian"][0].source)
    folder = tmp_path / "data" / "text"
    folder.mkdir(parents=True)
    (folder / "train-000.jsonl").write_text('{"text": "something else"}\n')
    with pytest.raises(ValueError, match=r"no file 'train-\*.jsonl.gz'"):
        open_source(TEXTS["debian"][0].source)
