from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from lib import store as store_module
from lib.config import to_dict
from lib.store import Record, Store, StoreError, identity, read_record
from tests.fakes import PROVENANCE

CURVES = pd.DataFrame({"epoch": [1, 2], "train_loss": [0.5, 0.25]})


@dataclass(frozen=True)
class Cell:
    n_layers: int = 2
    seed: int = 1


def record_of(cell: Cell, status: str = "done", **metrics: float) -> Record:
    return Record(
        experiment="demo.one", protocol=1, config=to_dict(cell), readable=f"s{cell.seed}",
        status=status, metrics=metrics, provenance=PROVENANCE,
        reason=None if status == "done" else "NaN at step 3",
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "local", tmp_path / "published")


def test_round_trip_with_curves_and_weights(store: Store) -> None:
    saved = store.save(record_of(Cell(), best=0.75), CURVES, b"weights")
    again = store.load("demo.one", saved.identity)
    assert again == saved
    assert again is not None and again.metrics == {"best": 0.75}
    pd.testing.assert_frame_equal(again.read_curves(), CURVES)
    path = again.weights_path()
    assert path is not None and path.read_bytes() == b"weights"
    assert {p.suffix for p in (store.local / "demo.one").iterdir()} == {
        ".json", ".parquet", ".safetensors",
    }  # fmt: skip


@pytest.mark.parametrize("fact", PROVENANCE)
def test_a_record_that_does_not_say_where_or_when_is_none(store: Store, fact: str) -> None:
    facts = {name: value for name, value in PROVENANCE.items() if name != fact}
    saved = store.save(dataclasses.replace(record_of(Cell()), provenance=facts))
    assert store.load("demo.one", saved.identity) is None
    assert store.problems == [f"record {saved.name} does not say its {fact}; treated as missing"]


def test_missing_and_records_keep_the_order_of_cells(store: Store) -> None:
    cells = [Cell(seed=s) for s in (1, 2, 3)]
    store.save(record_of(cells[1]))
    assert store.missing("demo.one", 1, cells) == [cells[0], cells[2]]
    assert [r is not None for r in store.records("demo.one", 1, cells)] == [False, True, False]
    # another protocol number is another cell
    assert store.missing("demo.one", 2, cells) == cells


def test_identity_depends_on_experiment_protocol_and_config() -> None:
    config = to_dict(Cell())
    keys = {
        identity("demo.one", 1, config), identity("demo.two", 1, config),
        identity("demo.one", 2, config), identity("demo.one", 1, to_dict(Cell(seed=2))),
    }  # fmt: skip
    assert len(keys) == 4
    assert identity("demo.one", 1, dict(reversed(config.items()))) in keys


def test_failed_cells_are_kept_and_can_be_retried(store: Store) -> None:
    store.save(record_of(Cell(), status="failed"))
    assert store.missing("demo.one", 1, [Cell()]) == []
    assert store.missing("demo.one", 1, [Cell()], retry_failed=True) == [Cell()]
    store.save(record_of(Cell(), best=1.0))
    (found,) = store.records("demo.one", 1, [Cell()])
    assert found is not None and found.status == "done"


def test_published_comes_first_but_done_before_failed(store: Store) -> None:
    local = store.save(record_of(Cell(), best=0.25), CURVES)
    store.publish(local)
    store.save(record_of(Cell(), best=0.5))
    found = store.load("demo.one", local.identity)
    assert found is not None and found.metrics["best"] == 0.25
    assert found.folder == store.published / "demo.one" and len(found.read_curves()) == 2
    other = store.save(record_of(Cell(seed=9), status="failed"))
    store.publish(other)
    store.save(record_of(Cell(seed=9), best=0.125))
    found = store.load("demo.one", other.identity)
    assert found is not None and found.status == "done"


def test_publish_leaves_weights_out_unless_asked(store: Store) -> None:
    record = store.save(record_of(Cell()), CURVES, b"weights")
    store.publish(record)
    assert not list(store.published.rglob("*.safetensors"))
    assert read_record(store.published / "demo.one" / record.name).weights is None
    store.publish(record, keep_weights=True)
    assert [p.read_bytes() for p in store.published.rglob("*.safetensors")] == [b"weights"]


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def damage_metric(path: Path) -> None:
    path.write_text(path.read_text().replace('"best": 0.75', '"best": 0.95'))


def damage_curves(path: Path) -> None:
    (curves,) = path.parent.glob("*.parquet")
    curves.write_bytes(curves.read_bytes() + b" ")


def damage_gone(path: Path) -> None:
    (curves,) = path.parent.glob("*.parquet")
    curves.unlink()


def damage_renamed(path: Path) -> None:
    path.rename(path.with_name("s2-" + path.name.split("-", 1)[1]))


def damage_nan(path: Path) -> None:
    path.write_text(path.read_text().replace('"best": 0.75', '"best": NaN'))


def damage_infinity(path: Path) -> None:
    path.write_text(path.read_text().replace('"best": 0.75', '"best": 1e999'))


def damage_schema(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncate, "is unreadable"),
        (damage_metric, "was altered"),
        (damage_nan, "is unreadable"),
        (damage_infinity, "is unreadable"),
        (damage_curves, "was altered"),
        (damage_gone, "is gone"),
        (damage_renamed, "does not belong to its name"),
        (damage_schema, "no schema 1"),
    ],
)
def test_damage_is_reported_by_name_and_treated_as_missing(
    store: Store, damage: object, message: str
) -> None:
    saved = store.save(record_of(Cell(), best=0.75), CURVES)
    path = store.local / "demo.one" / saved.name
    damage(path)  # type: ignore[operator]
    assert store.missing("demo.one", 1, [Cell()]) == [Cell()]
    (problem,) = store.problems
    assert message in problem and saved.identity in problem and "treated as missing" in problem
    # running the cell again repairs it
    store.save(record_of(Cell(), best=0.75), CURVES)
    assert store.missing("demo.one", 1, [Cell()]) == []


def settle(store: Store) -> None:
    """Make all files a minute old: what was written just now is always read again."""
    then = time.time() - 60
    for path in store.local.parent.rglob("*.*"):
        os.utime(path, (then, then))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the records that were read from disk."""
    names: list[str] = []
    read = store_module.read_record
    monkeypatch.setattr(store_module, "read_record", lambda p: names.append(p.name) or read(p))
    return names


def test_an_unchanged_record_is_read_once(store: Store, reads: list[str]) -> None:
    cells = [Cell(seed=seed) for seed in range(1, 6)]
    for cell in cells:
        store.save(record_of(cell, best=0.75), CURVES)
    settle(store)
    again = Store(store.local, store.published)
    for reader in (store, again, store):
        assert all(record is not None for record in reader.records("demo.one", 1, cells))
    assert len(reads) == len(set(reads)) == 5


def test_a_record_of_this_moment_is_read_again(store: Store, reads: list[str]) -> None:
    saved = store.save(record_of(Cell(), best=0.75))
    for _ in range(2):
        assert store.load("demo.one", saved.identity) == saved
    assert len(reads) == 2


def test_a_changed_record_is_read_again(store: Store, reads: list[str]) -> None:
    saved = store.save(record_of(Cell(), best=0.75))
    settle(store)
    store.records("demo.one", 1, [Cell()])
    store.save(record_of(Cell(), best=0.5))
    settle(store)
    (found,) = store.records("demo.one", 1, [Cell()])
    assert found is not None and found.metrics == {"best": 0.5}
    assert reads == [saved.name] * 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncate, "is unreadable"), (damage_metric, "was altered"),
        (damage_curves, "was altered"), (damage_gone, "is gone"),
    ],
)  # fmt: skip
def test_damage_is_seen_in_a_record_that_was_read_before(
    store: Store, damage: object, message: str
) -> None:
    saved = store.save(record_of(Cell(), best=0.75), CURVES)
    settle(store)
    assert store.load("demo.one", saved.identity) == saved
    path = store.local / "demo.one" / saved.name
    damage(path)  # type: ignore[operator]
    # even with the old times and, for the metric, the old size
    settle(store)
    assert store.missing("demo.one", 1, [Cell()]) == [Cell()]
    (problem,) = store.problems
    assert message in problem and saved.identity in problem


def test_each_folder_is_listed_once_for_many_cells(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [Cell(seed=seed) for seed in range(1, 50)]
    store.save(record_of(cells[7]))
    lists: list[Path] = []
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: lists.append(path) or listed(path))
    found = store.records("demo.one", 1, cells)
    assert [n for n, record in enumerate(found) if record is not None] == [7]
    assert len(lists) == 2


def test_unwritable_folder_is_named_before_work(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(StoreError, match=r"cannot write records to .*file"):
        Store(blocked, tmp_path / "published").check_writable("demo.one")


def test_read_only_folder_is_named_before_work(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # chmod does not stop root, who runs the tests in containers: let the system call fail instead
    def read_only(self: Path, data: bytes) -> int:
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "write_bytes", read_only)
    with pytest.raises(StoreError, match=r"cannot write records to .*demo\.one: Read-only"):
        store.check_writable("demo.one")


WRITER = """
import sys
from pathlib import Path
import pandas as pd
sys.path.insert(0, sys.argv[3])
from tests.test_store import Cell, record_of
from lib.store import Store
store = Store(Path(sys.argv[1]), Path(sys.argv[1]) / "published")
for number in range(25):
    frame = pd.DataFrame({"epoch": [number], "train_loss": [float(sys.argv[2])]})
    store.save(record_of(Cell(), best=float(sys.argv[2])), frame)
"""


def test_two_processes_write_the_same_cell(tmp_path: Path, root: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, value, str(root)], cwd=root) for value in ("1", "2")]
    store = Store(tmp_path, tmp_path / "published")
    key = identity("demo.one", 1, to_dict(Cell()))
    while any(writer.poll() is None for writer in writers):
        store.load("demo.one", key)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert store.problems == []
    found = store.load("demo.one", key)
    assert found is not None
    # the curves are those of the run that wrote the record, never the other's
    assert found.read_curves()["train_loss"].tolist() == [found.metrics["best"]]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_failed_write_leaves_the_old_record(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = store.save(record_of(Cell(), best=0.5))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            store.save(record_of(Cell(), best=0.75))
    found = store.load("demo.one", saved.identity)
    assert found is not None and found.metrics["best"] == 0.5
    assert dataclasses.replace(found, folder=None) == dataclasses.replace(saved, folder=None)
