"""The most memory that some work took, on a processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lib import peak_memory
from lib.peak_memory import PeakMemory

CPU = torch.device("cpu")


def test_the_peak_is_counted_from_where_it_begins() -> None:
    before = PeakMemory(CPU).bytes()
    assert before is not None and before > 10_000_000
    memory = PeakMemory(CPU)
    held = np.ones(40_000_000)  # 320 MB
    del held
    high = memory.bytes()
    assert high is not None and high - before > 250_000_000  # gone, and yet it counts
    again = PeakMemory(CPU).bytes()
    assert again is not None and high - again > 250_000_000


def test_where_it_cannot_be_counted_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peak_memory, "PROCESS", tmp_path / "none")
    assert PeakMemory(CPU).bytes() is None
    monkeypatch.setattr(peak_memory, "PROCESS", tmp_path)
    (tmp_path / "status").write_text("Name: other\n")
    assert PeakMemory(CPU).bytes() is None
