from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lib.analysis.reference import ReferenceDataError, load_counts, load_reference


def test_the_papers_maps_are_whole() -> None:
    found = load_reference("achilles_phase")
    assert set(found.maps) == {"best_composite", "best_symmetric"}
    assert all(found.cells(metric) == 72 for metric in found.maps)
    composite, symmetric = found.maps["best_composite"], found.maps["best_symmetric"]
    assert composite.loc[7, 1.0] == 0.98 and symmetric.loc[7, 1.0] == 0.06
    # more than one answer to a sequence: best over epochs, and each label by itself
    assert composite.loc[2, 1.5] + symmetric.loc[2, 1.5] == pytest.approx(1.29)
    assert found.seeds == 3 and found.source == "achilles2025" and found.failed == ()


def test_the_third_partys_cells_are_those_that_it_finished() -> None:
    found = load_reference("achilles_mamba1")
    assert {found.cells(metric) for metric in found.maps} == {33}
    assert found.maps["best_composite_by_tens"].loc[3, 1.0] == 0.9533
    assert found.maps["final_composite"].loc[2, 0.5] == 0.2939
    assert found.failed == ((4, 0.8), (4, 0.9))
    assert found.maps["final_symmetric"].loc[6].isna().all()


GRID: dict[str, Any] = {
    "source": "key", "where": "Fig. 1", "taken": "printed", "meaning": "accuracy",
    "missing": "spread", "seeds": 3, "kind": "best", "n_layers": [3, 2], "gamma": [0.5, 1],
    "composite": {3: [0.1, 0.2], 2: [0.3, 1]}, "symmetric": {3: [0, 0], 2: [0, 0]},
}  # fmt: skip
LIST: dict[str, Any] = {
    **{k: v for k, v in GRID.items() if k not in ("composite", "symmetric", "kind")},
    "columns": ["n_layers", "gamma", "best_composite"], "cells": [[3, 0.5, 0.25]],
    "failed": [[2, 1]],
}  # fmt: skip


def write(root: Path, data: Any) -> Path:
    folder = root / "book" / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "one.yml").write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return root


def test_both_forms_become_maps(tmp_path: Path) -> None:
    grid = load_reference("one", write(tmp_path, GRID))
    assert grid.maps["best_composite"].to_numpy().tolist() == [[0.1, 0.2], [0.3, 1.0]]
    listed = load_reference("one", write(tmp_path, LIST))
    assert listed.cells("best_composite") == 1 and listed.failed == ((2, 1.0),)
    assert listed.maps["best_composite"].loc[3, 0.5] == 0.25


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a: [1", "one.yml cannot be read"),
        ("[1]", "must hold an object"),
        ({k: v for k, v in GRID.items() if k != "taken"}, "lacks the field 'taken'"),
        ({**GRID, "kind": "mean"}, "kind is 'mean', allowed: best, final"),
        ({**GRID, "composite": {3: [0.1, 0.2]}}, r"composite must have a row for \[3, 2\]"),
        ({**GRID, "composite": {3: [0.1], 2: [0, 0]}}, "3 layers has 1 numbers, allowed: 2"),
        ({**GRID, "symmetric": {3: [9.8, 0], 2: [0, 0]}}, "best_symmetric has a number outside"),
        ({**LIST, "columns": ["gamma", "n_layers", "best_composite"]}, "columns must begin with"),
        ({**LIST, "columns": ["n_layers", "gamma", "composite"]}, "columns must begin with"),
        ({**LIST, "cells": [[3, 0.5]]}, "has 2 items, allowed: 3"),
        ({**LIST, "cells": [[4, 0.5, 0.1]]}, "lies outside n_layers and gamma"),
        ({**LIST, "cells": [[3, 0.5, 0.1], [3, 0.5, 0.2]]}, "3 layers, gamma 0.5 stands twice"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(ReferenceDataError, match=message):
        load_reference("one", write(tmp_path, data))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReferenceDataError, match=r"none\.yml cannot be read"):
        load_reference("none", tmp_path)


def test_the_papers_interventions_are_whole() -> None:
    found = load_counts("achilles_interventions")
    every = {10 * a + b for a in range(1, 5) for b in range(1, 5)}
    assert set(found.shares["blocking"]) == every
    assert set(found.shares["substitution"]) == every - {43}
    assert found.shares["blocking"][43] == 477 / 480 and found.sequences == 480
    blocking, substitution = found.shares.values()
    # the paper's prose: "nearly identical", "nearly all"
    assert sum(blocking.values()) / 16 == pytest.approx(0.9996, abs=1e-4)
    assert sum(substitution.values()) / 15 == pytest.approx(0.994, abs=1e-3)


def test_counts_are_checked(tmp_path: Path) -> None:
    texts = {key: "x" for key in ("source", "where", "taken", "meaning", "missing")}
    data = {**texts, "sequences": 4, "counts": {"blocking": {11: 4, 12: 5}}}
    with pytest.raises(ReferenceDataError, match=r"blocking of pair 12 is 5, allowed: 0..4"):
        load_counts("one", write(tmp_path, data))
    del data["sequences"]
    with pytest.raises(ReferenceDataError, match=r"one.yml lacks the field 'sequences'"):
        load_counts("one", write(tmp_path, data))
