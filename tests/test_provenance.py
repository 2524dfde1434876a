"""Which code a record says that it comes from."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib import provenance
from tests.test_origins import git

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository with a library and a record, in the place of this one."""
    for name in ("lib/one.py", "book/record.json", "requirements.txt", "notebooks/page.ipynb"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.delenv("MAMBA_BOOK_COMMIT", raising=False)
    caches = (provenance.code, provenance.library_hash)
    for cached in caches:
        cached.cache_clear()
    yield tmp_path
    for cached in caches:
        cached.cache_clear()


def test_commit_and_whether_anything_changed(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    (repository / "book/record.json").write_text("2\n")  # changes nothing that is computed
    assert provenance.code()["commit"] == head and provenance.code()["dirty"] is False
    provenance.code.cache_clear()
    (repository / "lib/one.py").write_text("2\n")
    assert provenance.code()["commit"] == head and provenance.code()["dirty"] is True


def test_what_git_does_not_say_is_unknown(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = subprocess.run

    def slow(command: list[str], **options: Any) -> Any:
        if "status" in command:
            raise subprocess.TimeoutExpired(command, options["timeout"])
        return run(command, **options)

    monkeypatch.setattr(provenance.subprocess, "run", slow)
    assert provenance.code()["commit"] == git(repository, "rev-parse", "HEAD")
    assert provenance.code()["dirty"] is None


def test_asking_leaves_the_index_alone(repository: Path) -> None:
    """Else one that is killed as it asks leaves a lock, and no commit can be made."""
    file = repository / "lib/one.py"
    later = file.stat().st_mtime + 100
    os.utime(file, (later, later))  # git would write down that it has looked at it
    before = (repository / ".git/index").read_bytes()
    assert provenance.code()["dirty"] is False
    assert (repository / ".git/index").read_bytes() == before
    git(repository, "status", "--porcelain")
    assert (repository / ".git/index").read_bytes() != before
