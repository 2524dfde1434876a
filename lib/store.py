"""Records of finished cells: written atomically, read back with every byte checked.

A record is one JSON file ``<experiment>/<readable>-<identity>.json``; its learning curves lie
beside it as parquet and its final weights, if kept, as safetensors. Both are named by their own
SHA-256, so two processes that finish the same cell at once cannot mix their files: each record
points at what its own run wrote.

Two folders hold records. ``published`` (``book/results``) is in git and is what pages are judged
by; ``local`` (``.runs``) takes what runs here write. Reading looks in both: a finished record
comes before a failed one, a published record before a local one.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import io
import json
import os
import shutil
import time
import uuid
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from lib.config import canonical_json, digest, to_dict

SCHEMA = 1
TOLD = ("device_name", "started", "wall_seconds")  # where, when and how long: of every record
IDENTITY_LENGTH = 16
# a file that was written a moment ago may change again within the clock's grain, unseen: no record
# younger than this is taken from memory
SETTLED_NS = 2_000_000_000


class StoreError(RuntimeError):
    """A store that cannot be written to, or a record that cannot be used."""


@dataclass(frozen=True)
class Record:
    """What running one cell left.

    Attributes:
        experiment: name of the experiment, ``"achilles.composite"``.
        protocol: the experiment's protocol number when the cell ran.
        config: canonical config of the cell (``lib.config.to_dict``), seed included.
        readable: short name of the cell for people.
        status: ``"done"`` or ``"failed"`` (NaN); `reason` says why a cell failed.
        metrics: final numbers, by name.
        provenance: commit, device, versions, backend, times (``lib.provenance``).
        curves: file name of the parquet with one row an epoch, or None.
        weights: file name of the safetensors with the final weights, or None.
        folder: where the record was read from or written to.
    """

    experiment: str
    protocol: int
    config: dict[str, Any]
    readable: str
    status: str
    metrics: dict[str, float]
    provenance: dict[str, Any]
    reason: str | None = None
    curves: str | None = None
    weights: str | None = None
    folder: Path | None = field(default=None, compare=False)

    @property
    def identity(self) -> str:
        """Hash of experiment, protocol and config: 16 hex digits."""
        return identity(self.experiment, self.protocol, self.config)

    @property
    def name(self) -> str:
        """File name of the record, ``<readable>-<identity>.json``."""
        return f"{self.readable}-{self.identity}.json"

    @property
    def started(self) -> str:
        """When the run began: ISO 8601 in UTC, in the order of time; empty if that is unknown."""
        return str(self.provenance.get("started", ""))

    def read_curves(self) -> pd.DataFrame:
        """Learning curves, one row an epoch; empty frame if the record has none."""
        if self.curves is None or self.folder is None:
            return pd.DataFrame()
        return pd.read_parquet(self.folder / self.curves)

    def weights_path(self) -> Path | None:
        """Path of the final weights (safetensors), or None if they were not kept."""
        return self.folder / self.weights if self.weights and self.folder else None


def identity(experiment: str, protocol: int, config: dict[str, Any]) -> str:
    """Identity of a cell: the same config under the same protocol is the same cell."""
    whole = digest({"experiment": experiment, "protocol": protocol, "config": config})
    return whole[:IDENTITY_LENGTH]


@lru_cache(maxsize=16_384)
def canonical(cell: Hashable) -> dict[str, Any]:
    """Canonical config of a cell (``lib.config.to_dict``), made once, since cells are frozen. It is
    shared: do not write into it."""
    return to_dict(cell)


@lru_cache(maxsize=16_384)
def _cell_identity(experiment: str, protocol: int, cell: Hashable) -> str:
    return identity(experiment, protocol, canonical(cell))


def _sha(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def write_atomic(path: Path, payload: bytes) -> None:
    """Write to a temporary name in the same folder, then rename: readers see all or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as handle:
            handle.write(payload)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = str(path)  # "no space left" does not say where
        raise
    finally:
        temporary.unlink(missing_ok=True)


class Store:
    """Records in a `local` and a `published` folder.

    ``problems`` collects a line for each record that was found damaged while reading; such a
    record is treated as missing.
    """

    def __init__(self, local: Path, published: Path):
        self.local = Path(local)
        self.published = Path(published)
        self.problems: list[str] = []

    @classmethod
    def at(cls, root: Path) -> Store:
        """The store of the checkout at `root`; ``MAMBA_BOOK_RUNS`` moves its local folder."""
        local = os.environ.get("MAMBA_BOOK_RUNS")
        return cls(Path(local) if local else root / ".runs", root / "book" / "results")

    # -- writing ---------------------------------------------------------------------------

    def check_writable(self, experiment: str) -> None:
        """Fail before any work if a record of `experiment` could not be saved.

        Raises:
            StoreError: naming the folder and the cause.
        """
        folder = self.local / experiment
        probe = folder / f".probe-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"cannot write records to {folder}: {error.strerror or error}. Make it writable or "
                "set MAMBA_BOOK_RUNS to another folder."
            ) from error

    def save(
        self,
        record: Record,
        curves: pd.DataFrame | None = None,
        weights: bytes | None = None,
    ) -> Record:
        """Write `record` to the local folder, with its curves and serialised safetensors weights.

        Returns the record as it can be read back. The JSON is written last, so a record that
        exists always finds its files.
        """
        folder = self.local / record.experiment
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{record.readable}-{record.identity}"
        curves_name = weights_name = None
        if curves is not None and len(curves):
            buffer = io.BytesIO()
            curves.to_parquet(buffer, index=False)
            curves_name = self._put(folder, stem, "parquet", buffer.getvalue())
        if weights is not None:
            weights_name = self._put(folder, stem, "safetensors", weights)
        record = dataclasses.replace(
            record, folder=folder, curves=curves_name, weights=weights_name
        )
        write_atomic(folder / record.name, _serialise(record))
        return record

    @staticmethod
    def _put(folder: Path, stem: str, ending: str, payload: bytes) -> str:
        name = f"{stem}.{_sha(payload)[:12]}.{ending}"
        write_atomic(folder / name, payload)
        return name

    def publish(self, record: Record, keep_weights: bool = False) -> Path:
        """Copy a local record with its curves (and weights) to the published folder, in the place
        of one of the same cell, whose files go."""
        if record.folder is None:
            raise StoreError(f"{record.name} was never saved")
        target = self.published / record.experiment
        target.mkdir(parents=True, exist_ok=True)
        if not keep_weights:
            record = dataclasses.replace(record, weights=None)
        for name in (record.curves, record.weights):
            source = record.folder / name if name and record.folder else None
            if source is not None and source.parent != target:
                shutil.copyfile(source, target / source.name)
        write_atomic(target / record.name, _serialise(record))
        for path in files_of(target / record.name):
            if path.name not in (record.name, record.curves, record.weights):
                path.unlink(missing_ok=True)
        return target / record.name

    # -- reading ---------------------------------------------------------------------------

    def load(self, experiment: str, key: str) -> Record | None:
        """The record with identity `key`, or None (missing or damaged: see ``problems``)."""
        return self._best(self._listing(experiment)[key])

    def records(self, experiment: str, protocol: int, cells: Iterable[Any]) -> list[Record | None]:
        """One entry a cell, in order: its record, or None where it has not run.

        Each folder is listed once, and a record whose files did not change since this process read
        it is not read again: pages and claims ask for the same hundreds of records many times.
        Records are shared between callers, so do not write into one.
        """
        listing = self._listing(experiment)
        keys = [_cell_identity(experiment, protocol, cell) for cell in cells]
        return [self._best(listing[key]) for key in keys]

    def _listing(self, experiment: str) -> dict[str, list[Path]]:
        """Files that may hold a record, by identity; published ones first."""
        found: dict[str, list[Path]] = defaultdict(list)
        for folder in (self.published / experiment, self.local / experiment):
            try:
                names = sorted(os.listdir(folder))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for name in names:
                if name.endswith(".json") and "-" in name and not name.startswith("."):
                    found[name.removesuffix(".json").rsplit("-", 1)[1]].append(folder / name)
        return found

    def _best(self, paths: Sequence[Path]) -> Record | None:
        """A finished record before a failed one, then the first."""
        found = [record for path in paths if (record := self._read(path)) is not None]
        done = [record for record in found if record.status == "done"]
        return next(iter(done or found), None)

    def latest(self, record: Record) -> Record:
        """`record`, or the finished local one of the same cell if that did not start before it."""
        path = self.local / record.experiment / record.name
        local = self._read(path) if path.is_file() else None
        if local is None or local.status != "done" or local.started < record.started:
            return record
        return local

    def missing(
        self, experiment: str, protocol: int, cells: Sequence[Any], retry_failed: bool = False
    ) -> list[Any]:
        """The cells without a record (or, with `retry_failed`, without a finished one)."""
        pairs = zip(cells, self.records(experiment, protocol, cells), strict=True)
        return [
            cell
            for cell, record in pairs
            if record is None or (retry_failed and record.status != "done")
        ]

    def all(self, published_only: bool = False) -> list[Record]:
        """Every readable record, sorted by path."""
        folders = [self.published] if published_only else [self.published, self.local]
        paths = [path for folder in folders for path in sorted(folder.glob("*/*-*.json"))]
        return [record for path in paths if (record := self._read(path)) is not None]

    def _read(self, path: Path) -> Record | None:
        try:
            return _remembered(path)
        except StoreError as error:
            message = str(error)
            if message not in self.problems:
                self.problems.append(message)
            return None


# for each file of a record: time of writing, time of change, size, number
_State = list[tuple[int, int, int, int]]
_READ: dict[Path, tuple[_State, Record]] = {}


def _remembered(path: Path) -> Record:
    """:func:`read_record`, unless none of the record's files changed since this process read it."""
    known = _READ.pop(path, None)
    if known is None or known[0] != _state(known[1], path):
        begun = time.time_ns()
        record = read_record(path)
        known = _state(record, path), record
        if any(begun - written < SETTLED_NS for written, *_ in known[0]):
            return record
    _READ[path] = known
    return known[1]


def _state(record: Record, path: Path) -> _State:
    """What the file system says of a record's files; a file that is gone says nothing."""
    names = [path.name, *filter(None, (record.curves, record.weights))]
    found = [os.stat(p) for name in names if (p := path.parent / name).exists()]
    return [(fact.st_mtime_ns, fact.st_ctime_ns, fact.st_size, fact.st_ino) for fact in found]


def files_of(path: Path) -> list[Path]:
    """The files of the record at `path`, itself among them, whether it can be read or not."""
    return sorted(path.parent.glob(f"{glob.escape(path.stem)}.*"))


def _serialise(record: Record) -> bytes:
    body = {
        "schema": SCHEMA,
        "experiment": record.experiment,
        "protocol": record.protocol,
        "identity": record.identity,
        "readable": record.readable,
        "status": record.status,
        "reason": record.reason,
        "config": record.config,
        "metrics": record.metrics,
        "provenance": record.provenance,
        "curves": record.curves,
        "weights": record.weights,
    }
    body = json.loads(canonical_json(body))
    body["sha256"] = digest(body)
    return (json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def read_record(path: Path) -> Record:
    """Read one record and check its seal, its identity and the files that it names.

    Raises:
        StoreError: naming the file, if it is truncated, altered or incomplete.
    """
    try:
        body = json.loads(path.read_bytes())
        if not isinstance(body, dict) or body.get("schema") != SCHEMA:
            raise StoreError(f"record {path.name} has no schema {SCHEMA}; treated as missing")
        seal = body.pop("sha256", None)
        fits = seal == digest(body)  # refuses numbers that are none
    except (OSError, ValueError) as error:
        raise StoreError(
            f"record {path.name} is unreadable ({error}); treated as missing"
        ) from error
    if not fits:
        raise StoreError(
            f"record {path.name} was altered (its seal does not fit); treated as missing"
        )
    names = {f.name for f in dataclasses.fields(Record)} - {"folder"}
    try:
        record = Record(**{name: body[name] for name in names}, folder=path.parent)
    except KeyError as error:
        raise StoreError(f"record {path.name} lacks {error}; treated as missing") from error
    if record.identity != body.get("identity") or record.name != path.name:
        raise StoreError(f"record {path.name} does not belong to its name; treated as missing")
    untold = [name for name in TOLD if name not in record.provenance]
    if untold:
        raise StoreError(
            f"record {path.name} does not say its {' and '.join(untold)}; treated as missing"
        )
    for name in (record.curves, record.weights):
        if name is None:
            continue
        file = path.parent / name
        if not file.is_file():
            raise StoreError(f"record {path.name}: its file {name} is gone; treated as missing")
        if _sha(file.read_bytes())[:12] != name.rsplit(".", 2)[1]:
            raise StoreError(f"record {path.name}: its file {name} was altered; treated as missing")
    return record
