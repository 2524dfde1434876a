"""What ``--fresh`` has run anew, kept between slices and shared by processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib import provenance
from lib.fresh import BEGINNING, Anew


def test_two_processes_keep_one_list(tmp_path: Path) -> None:
    folder = tmp_path / "demo.one"
    one = Anew(folder, ["b", "a", "c"])
    assert one.begins
    one.begin()
    other = Anew(folder, ["a", "b", "c"])
    assert not other.begins
    one.note("a")
    other.note("b")
    one.note("c")
    assert sorted(Anew(folder, "abc").done) == ["a", "b", "c"]
    assert Anew(folder, "ab").begins  # another choice of cells
    assert [path.name.startswith(BEGINNING) for path in folder.iterdir()] == [True]
    other.over()
    one.over()
    assert Anew(folder, "abc").begins


def test_a_change_of_the_code_begins_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Anew(tmp_path / "demo.one", "ab").note("a")
    monkeypatch.setattr(provenance, "code", lambda: {"lib_hash": "other"})
    changed = Anew(tmp_path / "demo.one", "ab")
    assert changed.begins and changed.done == []
    changed.note("b")
    assert Anew(tmp_path / "demo.one", "ab").done == ["b"]
