"""Cost by context length: the grid, what a run leaves, and tables of it."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pandas as pd
import pytest

from lib import claims
from lib.analysis.flops import prefill_flops
from lib.config import to_dict
from lib.experiments import Context, cells_of, find
from lib.experiments.scaling import (
    COMPARED,
    COSTS,
    NAME,
    ScalingCell,
    by_length,
    counted,
    exponents,
    readable,
    run,
    size_of,
    straight,
)
from lib.experiments.stories import NAMES, architecture
from lib.figures.scaling import against_length
from lib.models.presets import SIZES, non_embedding
from lib.store import Record, Store


def test_all_models_of_a_length_are_of_one_size_and_measured_alike() -> None:
    cells = cells_of(find(NAME), "matched")
    for device, longest in (("cuda", 131_072), ("cpu", 4096)):
        own = [cell for cell in cells if cell.device == device]
        assert max(cell.length for cell in own) == longest
        groups: dict[int, list[ScalingCell]] = {}
        for cell in own:
            groups.setdefault(cell.length, []).append(cell)
        for group in groups.values():
            assert [architecture(cell) for cell in group] == list(COMPARED)
            (size,) = {size_of(cell) for cell in group}
            for cell in group:
                assert non_embedding(cell.model) == pytest.approx(SIZES[size].parameters, rel=0.03)
            assert len({dataclasses.replace(c, model=group[0].model) for c in group}) == 1
    # every length but the shortest is the double of another: halves are measured twice
    lengths = {cell.length for cell in cells if cell.device == "cuda"}
    assert {n // 2 for n in lengths} - lengths == {min(lengths) // 2}
    assert readable(cells[0]) == "mamba1-130M-cuda-l65536-s1"


def test_claims_are_about_both_kinds_and_the_two_longest_doublings(root: Path) -> None:
    evidence = claims.Evidence()
    found = [c for c in claims.load_claims(root, evidence) if c.experiment == NAME]
    assert len(found) >= 6
    for claim in found:
        assert sorted(cell.length for cell in evidence.cells(claim)) == [65_536, 131_072]
        assert {cell.device for cell in evidence.cells(claim)} == {"cuda"}
        assert len({architecture(cell) for cell in evidence.cells(claim)}) == 1


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder = tmp_path_factory.mktemp("scaling")
    store = Store(folder, folder / "published")
    cells = [
        dataclasses.replace(cell, length=cell.length // 4, repeats=2, steps=1)
        for cell in cells_of(find(NAME), "quick")
        if cell.length < 512
    ]
    kept = []
    for outcome in run(cells, Context()):
        assert outcome.status == "done", outcome.reason
        metrics = {k: v for k, v in outcome.metrics.items() if v is not None}
        made = Record(
            NAME, 1, to_dict(outcome.cell), readable(outcome.cell), "done", metrics, outcome.facts
        )
        kept.append(store.save(made, outcome.curves))
    assert len(kept) == len(cells)
    return kept


def test_a_run_leaves_medians_and_all_repeats(records: list[Record]) -> None:
    for record in records:
        repeats = record.read_curves()
        assert len(repeats) == 2
        assert record.metrics["prefill_ms"] == repeats["prefill_ms"].median()
    assert records[0].provenance["backends"]["selective_scan"]


def test_the_state_s_exponents_are_exact(records: list[Record]) -> None:
    table = find(NAME).frame(records)
    sizes = by_length(table, "state_bytes")
    assert sorted(set(sizes["length"])) == [16, 32, 64]  # halves of the shortest are there too
    fitted = exponents(table, ["state_bytes", "prefill_ms"]).set_index(["cost", "model"])
    for kind in COMPARED:
        law = fitted.loc[(COSTS["state_bytes"], NAMES[kind])]
        wanted = float(kind == "transformer")
        assert law["exponent"] == pytest.approx(wanted, abs=1e-9)
        assert (law["shortest"], law["longest"]) == (16, 64)
        assert fitted.loc[(COSTS["prefill_ms"], NAMES[kind]), "low"] is not None
    figure = against_length({"bytes": sizes, "none": by_length(table, "x")}, "title")
    lines = [trace for trace in figure.data if trace.xaxis == "x"]
    assert [trace.name for trace in lines] == [NAMES[kind] for kind in COMPARED]
    assert list(lines[2].x) == [16, 32, 64] and lines[2].y[2] == 4 * lines[2].y[0]
    assert [note.text for note in figure.layout.annotations] == ["bytes", "none<br>not measured"]
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"


def test_a_length_of_its_own_comes_before_another_s_half() -> None:
    table = pd.DataFrame(
        {"model": ["a", "a"], "length": [8, 4], "c": [80.0, 40.0], "half_c": [39.0, 20.0]}
    )
    found = by_length(table, "c")
    assert found["length"].tolist() == [2, 4, 8] and found["value"].tolist() == [20, 40, 80]


def test_a_straight_line_is_found_through_the_largest_lengths_alone() -> None:
    lengths = [500, 4000, 16000]
    table = pd.DataFrame(
        {
            "model": "m", "length": lengths, "c": [90.0, 2 + 0.5 * 4, 2 + 0.5 * 16],
            "half_c": [80.0, 2 + 0.5 * 2, 2 + 0.5 * 8],
        }
    )  # fmt: skip
    (found,) = straight(table, "c").to_dict("records")
    assert found["fixed"] == pytest.approx(2) and found["per_1000"] == pytest.approx(0.5)
    assert found["off"] < 1e-9 and found["points"] == 4
    (bent,) = straight(table, "c", largest=6).to_dict("records")
    assert bent["off"] > 0.5
    few = straight(table.head(1), "c")  # a length and its half fit any line
    assert few.empty and list(few) == ["model", "fixed", "per_1000", "off", "points"]


def test_operations_are_linear_for_mamba_and_nearly_square_for_attention() -> None:
    cells = [cell for cell in cells_of(find(NAME), "matched") if cell.device == "cuda"]
    found = counted(cells)
    assert found["Mamba-1"] == pytest.approx(1, abs=1e-3)
    assert found["Mamba-2"] == pytest.approx(1, abs=1e-3)
    assert 1.9 < found["Transformer"] < 1.92  # as the page says


def test_on_a_processor_attention_becomes_half_of_the_operations() -> None:
    cells = [cell for cell in cells_of(find(NAME), "matched") if cell.device == "cpu"]
    found = counted(cells)
    assert found["Mamba-1"] == pytest.approx(1, abs=0.02)
    assert found["Mamba-2"] == pytest.approx(1, abs=0.02)
    assert round(found["Transformer"], 2) == 1.43  # as the page says
    model = next(cell.model for cell in cells if architecture(cell) == "transformer")

    def part(length: int) -> float:
        """Of attention: all that does not grow in proportion, n (n + 1) / 2 pairs of tokens."""
        before, here, after = (prefill_flops(model, length + k) for k in (-1, 0, 1))
        return (after - 2 * here + before) * length * (length + 1) / 2 / here

    lengths = (256, 1024, 4096)
    assert [round(part(length), 2) for length in lengths] == [0.06, 0.21, 0.51]


def test_cells_of_another_device_are_refused_before_any_work() -> None:
    cells = cells_of(find(NAME), "matched")
    message = "device is 'cpu', allowed for mamba1-130M-cuda-l65536-s1: 'cuda'; .* device=cpu"
    with pytest.raises(ValueError, match=message):
        next(run(cells, Context()))


def test_a_spent_budget_stops_before_the_next_cell() -> None:
    (cell, *_) = cells_of(find(NAME), "quick")
    (outcome,) = run([cell, cell], Context(deadline=time.monotonic()))
    assert outcome.status == "stopped"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 3}, r"ScalingCell\.length is 3, allowed: even numbers from 4 on"),
        ({"device": "tpu"}, "device is 'tpu', allowed: cpu, cuda"),
        ({"dtype": "float16"}, "dtype is 'float16', allowed: float32, bfloat16"),
        ({"steps": 0}, "steps is 0, allowed: at least 1"),
        ({"repeats": 0}, "repeats is 0, allowed: at least 1"),
        ({"seed": -1}, "seed is -1, allowed: 0 or more"),
    ],
)
def test_bad_cells_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(cells_of(find(NAME), "quick")[0], **change)
