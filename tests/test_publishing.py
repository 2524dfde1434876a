from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lib import publishing
from lib.store import StoreError


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
    assert len(measured) == len(folders)
    with pytest.raises(ValueError, match="models is -1, allowed: 0 or more"):
        publishing.verify(root, models=-1)


def test_an_altered_number_is_found(copy: Path) -> None:
    path = next((copy / "book/results/achilles.composite").glob("mamba2-L7-g1.0-s1-*.json"))
    path.write_text(path.read_text().replace('"best_composite": 0.', '"best_composite": 0.9'))
    (check,) = [c for c in publishing.verify(copy) if c.what == path.name]
    assert not check.ok and "was altered" in check.detail


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
