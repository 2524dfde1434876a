"""Whose code made a record, held against a real history of git."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lib import provenance
from lib.origins import History, NoHistory, origins, summary
from lib.store import Record

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *who, *arguments], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def commit(root: Path, **files: str) -> str:
    for name, text in files.items():
        path = root / "lib" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "change", "--allow-empty")
    return git(root, "rev-parse", "HEAD")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q", ".")
    return tmp_path


def hash_of(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a run in this checkout would write into its record."""
    monkeypatch.setattr(provenance, "ROOT", root)
    provenance.library_hash.cache_clear()
    try:
        return provenance.library_hash()
    finally:
        provenance.library_hash.cache_clear()


def record(commit: str | None, code: str, **more: object) -> Record:
    facts = {"commit": commit, "lib_hash": code, **more}
    return Record("demo.one", 1, {"seed": 1}, "s1", "done", {}, facts)


def test_a_commit_s_hash_is_that_of_a_run_there(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a folder and a module of one name, which sort otherwise as texts
    last = commit(root, a="x = 1\n", a__b="y = 2\n", a_b="z = 3\n", empty="")
    (root / "lib" / "notes.txt").write_text("no code")
    assert History(root).library_hash(last) == hash_of(root, monkeypatch)
    assert History(root).library_hash("0" * 40) is None


def test_each_session_is_found_by_name_or_by_its_code(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = commit(root, a="x = 1\n")
    old = hash_of(root, monkeypatch)
    second = commit(root, a="x = 2\n")
    new = hash_of(root, monkeypatch)
    (root / "notebook").write_text("no code")
    third = commit(root)
    assert old != new
    # of the oldest records' sessions nothing is known but steps; the last one is the record's
    sessions = [{"commit": first, "lib_hash": old}, {"steps": 5, "commit": None}, {"steps": 9}]
    found = origins(
        [
            record(third, new),
            record(first[:12], old),
            record("27efd8f5e66e", old),
            record(third, new, sessions=sessions),
            record(second, "f" * 16),
        ],
        root,
    )
    assert [(one.named, one.commit) for one in found] == [
        (third, third), (first[:12], first[:12]), ("27efd8f5e66e", first),
        (first, first), (None, None), (third, third), (second, None),
    ]  # fmt: skip
    assert [one.as_named for one in found] == [True, True, False, True, False, True, False]
    told = summary(found)
    assert told.startswith("4 of 7 sessions ran the code of the commit that they name; 1 that of")
    lost = f"1 ran the code of no commit here: {found[-1].record}"
    assert told.endswith(f"{lost}; 1 say no code: {found[4].record}")
    again = origins([record(third, new, sessions=[sessions[0]] * 3)], root)
    assert summary(again) == "3 of 3 sessions ran the code of the commit that they name"


def test_what_has_no_whole_history_says_so(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(NoHistory, match="not a git repository"):
        origins([], tmp_path / "none")
    whole = tmp_path / "whole"
    whole.mkdir()
    git(whole, "init", "-q", ".")
    commit(whole, a="x = 1\n")
    commit(whole, a="x = 2\n")
    git(tmp_path, "clone", "-q", "--depth", "1", whole.as_uri(), "shallow")
    with pytest.raises(NoHistory, match="has not the whole history"):
        origins([], tmp_path / "shallow")
