"""The quick cells of every experiment on the device, before hours are spent on the large ones: in
CUDA graphs, stacked where they stack, and in the precision that the large ones have. Without a GPU
these tests are skipped (see QUARANTINE.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.config import digest, to_dict
from lib.experiments import Context, Experiment, cells_of, registry
from lib.training.config import TrainingConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
# benchmarks have tests of their own, and the audit scores published answers without a device
ALL = [e for e in registry().values() if ".bench_" not in e.name and e.name != "noise.audit"]


def trainings(value: Any) -> Iterator[TrainingConfig]:
    """Those of a cell, however deep."""
    if isinstance(value, TrainingConfig):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from trainings(getattr(value, field.name))


def in_bfloat16(value: Any) -> Any:
    """A cell whose trainings have products in bfloat16."""
    if isinstance(value, TrainingConfig):
        return dataclasses.replace(value, precision="bfloat16")
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    changed = {name: in_bfloat16(part) for name, part in parts.items()}
    new = {name: part for name, part in changed.items() if part is not parts[name]}
    return dataclasses.replace(value, **new) if new else value


def quick_cells(experiment: Experiment) -> list[Any]:
    """For the device: as the large cells are, in all but size."""
    large = [*cells_of(experiment, "matched"), *cells_of(experiment, "paper")]
    narrow = any(t.precision == "bfloat16" for cell in large for t in trainings(cell))
    cells = cells_of(experiment, "quick")
    if narrow:
        cells = [in_bfloat16(cell) for cell in cells]
    if hasattr(cells[0], "device"):  # of those, some name the device and the type of weights
        cells = [dataclasses.replace(cell, device="cuda", dtype="bfloat16") for cell in cells]
    return cells


@pytest.mark.parametrize("experiment", ALL, ids=lambda experiment: experiment.name)
def test_quick_cells_come_to_an_end_on_the_device(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAMBA_BOOK_RUNS", str(tmp_path))
    cells = quick_cells(experiment)
    context = Context(
        "cuda", compile=False, checkpoints=tmp_path / experiment.name / "checkpoints",
        identify=lambda cell: digest(to_dict(cell))[:16],
    )  # fmt: skip
    outcomes = list(experiment.run(cells, context))
    ends = {experiment.readable(outcome.cell): outcome.reason for outcome in outcomes
            if outcome.status != "done"}  # fmt: skip
    assert not ends and len(outcomes) == len(cells)
    assert all(outcome.metrics for outcome in outcomes)
