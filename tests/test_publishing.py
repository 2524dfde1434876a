from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lib import publishing
from lib.experiments import Context, Outcome, find
from lib.origins import Origin
from lib.store import Record, Store, StoreError, read_record


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """Published records, to be damaged; without weights, which take long to measure again."""
    target = tmp_path / "book" / "results"
    shutil.copytree(root / "book" / "results", target)
    for weights in target.rglob("*.safetensors"):
        for path in weights.parent.glob(weights.name.rsplit(".", 2)[0] + "*"):
            path.unlink()
    return tmp_path


def test_everything_published_verifies(root: Path) -> None:
    """Seals, files, published weights measured again on freshly built data, pinned runs."""
    # every seal and file, but of each experiment's models the smallest: all take minutes
    checks = publishing.verify(root, models=1)
    bad = [f"{check.what}: {check.detail}" for check in checks if not check.ok]
    assert not bad
    assert any("measured again" in check.detail for check in checks)
    assert any(check.what.startswith("pinned run") for check in checks)
    measured = [check for check in checks if "measured again" in check.detail]
    folders = {path.parent for path in (root / "book" / "results").rglob("*.safetensors")}
    # and two that have models of others alone
    assert len(measured) == len(folders) + 2
    *_, code = checks
    published = len(list((root / "book" / "results").glob("*/*.json")))
    assert code.what == f"code of {published} records" and code.ok
    assert re.match(r"\d+ of \d+ sessions ran the code|not looked for: ", code.detail)
    with pytest.raises(ValueError, match="models is -1, allowed: 0 or more"):
        publishing.verify(root, models=-1)


def test_without_git_the_code_is_not_looked_for(copy: Path) -> None:
    *_, code = publishing.verify(copy, "foundations.bench_scan", 0)
    assert code.ok and "not looked for: fatal: not a git repository" in code.detail


def test_publishing_says_whose_code_is_not_the_commit_s(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "foundations.bench_scan"
    monkeypatch.setenv("MAMBA_BOOK_RUNS", str(copy / ".runs"))
    folder = copy / "book/results" / name
    one = read_record(min(folder.glob("*.json")))
    (copy / ".runs").mkdir()
    shutil.move(folder, copy / ".runs" / name)
    code = "f" * 16
    found = [
        Origin(one.name, "27efd8f5e66e", "a" * 40, code), Origin(one.name, None, None, code),
        Origin(one.name, None, None, code), Origin(one.name, "b" * 40, "b" * 40, code),
        Origin(one.name, "27efd8f5e66e", None, code), Origin(one.name, "27efd8f5e66e", None, None),
    ]  # fmt: skip

    def origins(records: Sequence[Record], root: Path) -> list[Origin]:
        assert one.name in {record.name for record in records}
        return found

    monkeypatch.setattr("lib.origins.origins", origins)
    notes = [line for line in publishing.publish(copy, name, "paper") if line.startswith("note")]
    assert notes == [
        f"note: {one.name} names commit 27efd8f5e66e; the code that ran is that of {'a' * 40}",
        f"note: {one.name} names no commit; the code that ran is of no commit here",
        f"note: {one.name} names commit 27efd8f5e66e; the code that ran is of no commit here",
        f"note: {one.name} names commit 27efd8f5e66e; it does not say which code ran",
    ]


def test_an_altered_number_is_found(copy: Path) -> None:
    path = next((copy / "book/results/achilles.composite").glob("mamba2-L7-g1.0-s1-*.json"))
    path.write_text(path.read_text().replace('"best_composite": 0.', '"best_composite": 0.9'))
    (check,) = [c for c in publishing.verify(copy) if c.what == path.name]
    assert not check.ok and "was altered" in check.detail


@pytest.mark.parametrize(
    ("again", "said"),
    [
        ({"final_symmetric": None, "final_composite": math.nan}, "nan (final_composite)"),
        ({"final_composite": math.nan, "final_symmetric": None}, "nan (final_composite)"),
        ({"renamed": 1.0}, "measured again: renamed, of which the record holds nothing"),
        ({}, "measured again: nothing, of which the record holds nothing"),
        ({"final_symmetric": None}, "1 accuracies measured again, largest difference 0.0000"),
    ],
)  # fmt: skip
def test_what_is_no_number_or_has_no_fellow_fails(
    root: Path, monkeypatch: pytest.MonkeyPatch, again: dict[str, float | None], said: str
) -> None:
    def reevaluate(record: Record) -> dict[str, float]:
        return {k: record.metrics[k] if v is None else v for k, v in again.items()}

    experiment = dataclasses.replace(find("achilles.composite"), reevaluate=reevaluate, pinned=list)
    monkeypatch.setattr(publishing, "find", lambda name: experiment)
    checks = publishing.verify(root, "achilles.composite", 1)
    (check,) = [c for c in checks if c.what.endswith(".safetensors")]
    assert said in check.detail and check.ok == (list(again) == ["final_symmetric"])


def test_a_pinned_run_that_fails_is_no_success(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(cells: Any, context: Context) -> Iterator[Outcome]:
        yield Outcome(cells[0], "failed", "the loss was not finite at step 1 of 30")

    experiment = dataclasses.replace(find("achilles.composite"), run=fails)
    monkeypatch.setattr(publishing, "find", lambda name: experiment)
    checks = publishing.verify(copy, "achilles.composite", 0)
    (check,) = [c for c in checks if c.what.startswith("pinned")]
    assert not check.ok and check.detail == "the loss was not finite at step 1 of 30"


def test_a_missing_pinned_record_is_no_success(copy: Path) -> None:
    for path in (copy / "book/results/achilles.composite").glob("mamba2-L2-*"):
        path.unlink()
    (check,) = [c for c in publishing.verify(copy) if c.what.startswith("pinned")]
    assert not check.ok and "no published record" in check.detail
    both = "achilles.composite --profile pinned"
    assert f"lib run {both} && python -m lib publish {both}" in check.detail


def test_a_local_record_is_no_published_one(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a pinned run would be held against itself."""
    monkeypatch.setenv("MAMBA_BOOK_RUNS", str(copy / ".runs"))
    for path in (copy / "book/results/achilles.composite").glob("mamba2-L2-*"):
        (copy / ".runs/achilles.composite").mkdir(parents=True, exist_ok=True)
        path.rename(copy / ".runs/achilles.composite" / path.name)
    (check,) = [c for c in publishing.verify(copy) if c.what.startswith("pinned")]
    assert not check.ok and "no published record" in check.detail


def test_a_file_that_no_record_names_is_found(copy: Path) -> None:
    folder = copy / "book/results/achilles.composite"
    stray = folder / f"mamba2-L7-old-0123456789abcdef.{12 * 'a'}.parquet"
    stray.write_bytes(b"rows")
    (check,) = [c for c in publishing.verify(copy, "achilles.composite", 0) if not c.ok]
    assert check.what == stray.name and "no record names this file" in check.detail
    stray.unlink()
    # files of a damaged record are its own
    path = next(path for path in folder.glob("*.json"))
    path.write_text("{")
    (check,) = [c for c in publishing.verify(copy, "achilles.composite", 0) if not c.ok]
    assert check.what == path.name and "is unreadable" in check.detail


def test_weights_of_a_damaged_record_are_not_lost(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAMBA_BOOK_RUNS", raising=False)
    name, select = "achilles.composite", ["tie_embeddings=true", "seed=1"]
    shutil.copytree(root / "book" / "results" / name, tmp_path / ".runs" / name)
    list(publishing.publish(tmp_path, name, "paper", select, select))
    folder = tmp_path / "book" / "results" / name
    (kept,) = folder.glob("*.safetensors")
    (path,) = folder.glob("*.json")
    before, stray = path.read_text(), folder / f"{path.stem}.{12 * 'b'}.parquet"
    stray.write_bytes(b"curves of an earlier run")
    path.write_text(before[:-40])
    said = list(publishing.publish(tmp_path, name, "paper", select))
    assert said[0].startswith("note: record ") and path.name in said[0]
    assert said[1].startswith("published: ") and path.read_text() == before
    assert kept.is_file() and not stray.exists()  # nothing is left that no record names
    path.write_text(before[:-40])
    local = json.loads((tmp_path / ".runs" / name / path.name).read_text())
    plain = dataclasses.replace(
        read_record(tmp_path / ".runs" / name / path.name), weights=None, folder=None
    )
    (tmp_path / ".runs" / name / local["weights"]).unlink()
    Store.at(tmp_path).save(plain, None)
    with pytest.raises(StoreError, match=r"those published, .* would be lost"):
        list(publishing.publish(tmp_path, name, "paper", select))
    assert kept.is_file()


def test_weights_that_are_too_large_are_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAMBA_BOOK_RUNS", raising=False)
    shutil.copytree(root / "book" / "results", tmp_path / ".runs")
    monkeypatch.setattr(publishing, "WEIGHTS_LIMIT", 1000)
    with pytest.raises(StoreError, match=r"safetensors has \d+ bytes, allowed: 1000"):
        list(
            publishing.publish(
                tmp_path, "achilles.composite", "paper", weights=["tie_embeddings=true", "seed=1"]
            )
        )
    assert not (tmp_path / "book").exists()
    published = list(publishing.publish(tmp_path, "achilles.composite", "paper"))
    assert "cells of achilles.composite paper are published" in published[-1]
    assert not list((tmp_path / "book").rglob("*.safetensors"))


def test_what_cannot_be_published_or_verified_is_said(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAMBA_BOOK_RUNS", raising=False)
    with pytest.raises(ValueError, match=r"profile is 'matched', allowed for "):
        list(publishing.publish(tmp_path, "achilles.transformer", "matched"))
    name = "foundations.bench_scan"
    shutil.copytree(root / "book" / "results" / name, tmp_path / ".runs" / name)
    said = list(publishing.publish(tmp_path, name, "paper", weights=["seed=0"]))
    assert "note: no record of the cells that meet seed=0 has weights to keep" in said
    with pytest.raises(StoreError, match=r"nothing is published of achilles[.]transformer"):
        publishing.verify(tmp_path, "achilles.transformer")
