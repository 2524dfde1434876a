"""Questions with answers: the authors' files of arXiv 2407.00996, and two data sets of the hub.

No data lies in this repository, since much of it may be used for research only. It is read from a
folder (``MAMBA_BOOK_NOISE_DATA``), or downloaded, and used only if its SHA-256 is the known one: a
file that differs in one byte would give numbers that nobody can compare.

Two of the authors' files begin with a byte-order mark, columns are called "input" in some and
"Question" in others, some training texts carry labels ("Instruction: ", "Output: ") and a few
answers are empty. The first three are dealt with here; the last is for the caller to decide.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lib.tasks.prompts import Pair, to_template

DATA_VARIABLE = "MAMBA_BOOK_NOISE_DATA"
Empty = Literal["refuse", "drop", "keep"]

_Q = "quest-lab-iisc/Learn-Unlearn-Relearn-Noise-SLMs/2f3b4ee67aa49e1b817c41160c8c43931f0aab94"
_A = "gpt4life/alpagasus/95ad3e52510df8c0a2f0dd6cbe50b501acde83a1"
_T = "ARC345/learn-unlearn-mamba/47f57ff2ee81e3f03014731baa6b0f9af6319ec9/mamba/evaluation"
RAW = "https://raw.githubusercontent.com"


class DataError(ValueError):
    """Data that cannot be had or used, naming file, place and cause."""


@dataclass(frozen=True)
class Source:
    """A file that is known byte for byte.

    Attributes:
        file: where it lies in the local folder; `address`: in a public repository, with its commit.
        question, answer: columns, "" for no such column. Alpaca's fields (instruction, input) are
            joined by the authors' template where `question` is "instruction".
    """

    file: str
    address: str
    sha256: str
    question: str
    answer: str


def _source(file: str, folder: str, sha256: str, question: str, answer: str) -> Source:
    return Source(file, f"{folder}/{Path(file).name}", sha256, question, answer)


SOURCES = {
    Path(source.file).stem: source
    for source in (
        _source("D_GK.csv", f"{_Q}/data/train",
                "dbac1e6fdc59b49bfb94891858567e8d6c44eb40dc6b3d3a304de3a1748b10ab",
                "input", "output"),
        _source("D_cfact_train.csv", f"{_Q}/data/train",
                "3ea13bcdb52ba06e8378a38545c106f7c1470b7e2341251d86902754dc66db94",
                "input", "output"),
        _source("D_ch_train.csv", f"{_Q}/data/train",
                "ebda6181efc903f639c8fdb48d210902f8390927337076cdbb21d73528dc6880",
                "input", "output"),
        _source("D_ad_50samples.csv", f"{_Q}/data/50samples_train",
                "a3786ba8f3014e8e593b28879095d53aa7144f876374a39e4e8a5036bf3e936f",
                "input", "output"),
        _source("D_test.csv", f"{_Q}/data/test",
                "25abaec7f264b467eb242ca23a200ac476d9e75029eddd97678cc8a0032f7a5e",
                "Question", "Answer"),
        _source("D_wtest.csv", f"{_Q}/data/test",
                "f8bf77a230004629fa1d5829a7827665cc207d93d0dc8ddef4995f0a972503ca",
                "Question", "Answer"),
        _source("D_ctest.csv", f"{_Q}/data/test",
                "33d4fb9b5560295444109126cdc2922947077df681535e5c137686c359d2b4f5",
                "Question", "Answer"),
        _source("D_xlittest.csv", f"{_Q}/data/test",
                "a8e60625dbd5eec0498ff602a3c5383b1b9bf4c71b42db9263b7106dd05dabf4",
                "Question", ""),
        _source("claude_t45.json", f"{_A}/data/filtered",
                "726de12839a57201915867a0cdaec5010619915d8668fa57ff5fa9efa6e893f3",
                "instruction", "output"),
        _source("helpfulness_t45.json", f"{_A}/data/filtered",
                "617fdaa4ff38d39b1fbb18044f771a01c93679c859937acecf8e4d54595eccf6",
                "instruction", "output"),
        _source("dolly_3k.json", f"{_A}/data/filtered",
                "cb8d16e85ec217a53587c96596a1e8971b8d72a2fd9d5bc23a2dd3d57b59eeea",
                "instruction", "output"),
        _source("random_9k.json", f"{_A}/data/random",
                "dbb217523fb750e4c56013844e22f5f3363c8c8b01013df5b39e8cabec0e48b0",
                "instruction", "output"),
        _source("third_party/mamba-130m-finetuned.csv", _T,
                "6b4577b7357ed77ad744ad7ab20f8b344d2a4a0171344062b6a7fd8a46164eea",
                "Question", "Answer"),
        _source("third_party/mamba-130m-charflip.csv", _T,
                "0bd8e563fddac3d800e319fc0c9b24d5cf3a26503065e3d78f34b7923e141317",
                "Question", "Answer"),
        _source("third_party/mamba-130m-unlearned.csv", _T,
                "3fb8fdcc0cedf988e171cb72b485b14c009953028808027108bc95bd890d7341",
                "Question", "Answer"),
    )
}  # fmt: skip

# hub name to repository, revision, file, its hash, and the fields of question, context and answer
HUB = {
    "alpagasus": (
        "mlabonne/alpagasus", "d16a20b59841c9b35dcbd78696fa9d609b4d5f91",
        "data/train-00000-of-00001-0c59455170918204.parquet",
        "57317594f58811e3b922b62a167885ecc2081fbfe54547c124731f3be73fcb7a",
        ("instruction", "input", "output"),
    ),
    "dolly": (
        "databricks/databricks-dolly-15k", "bdd27f4d94b9c1f951818a7da7fd7aeea5dbff1a",
        "databricks-dolly-15k.jsonl",
        "2df9083338b4abd6bceb5635764dab5d833b393b55759dffb0959b6fcbf794ec",
        ("instruction", "context", "response"),
    ),
}  # fmt: skip


def data_folder(folder: Path | str | None = None) -> Path:
    """The local folder: `folder`, or the one that ``MAMBA_BOOK_NOISE_DATA`` names.

    Raises:
        DataError: neither is given, or there is no such folder.
    """
    named = folder or os.environ.get(DATA_VARIABLE)
    if not named:
        raise DataError(
            f"no folder with the authors' data: set {DATA_VARIABLE} or give one; "
            "lib.tasks.instructions.fetch fills it from the public repositories"
        )
    path = Path(named).expanduser()
    if not path.is_dir():
        raise DataError(f"{path} is no folder (from {'the call' if folder else DATA_VARIABLE})")
    return path


def find_source(name: str) -> Source:
    """The known file called `name`, without its ending.

    Raises:
        DataError: there is none; the message lists those there are.
    """
    if name not in SOURCES:
        raise DataError(f"data set is {name!r}, allowed: {', '.join(SOURCES)}")
    return SOURCES[name]


def load_authors(
    name: str, folder: Path | str | None = None, empty: Empty = "refuse", check: bool = True
) -> list[Pair]:
    """Rows of one of the known files (:data:`SOURCES`) in the local folder, in the file's order.

    Args:
        empty: what becomes of rows with an empty answer, of which D_GK has two and D_ad_50samples
            one. Files without a column of answers give empty ones whatever this says.
        check: whether the hash must be the known one; else any file of that name and form will do.

    Raises:
        DataError: unknown name, no such folder or file, wrong hash, missing column, empty answer.
    """
    source = find_source(name)
    path = data_folder(folder) / source.file
    payload = _read(path)
    if check:
        check_hash(payload, source.sha256, str(path))
    return read_pairs(payload, str(path), source.question, source.answer, empty)


def read_pairs(
    payload: bytes, name: str, question: str, answer: str, empty: Empty = "refuse"
) -> list[Pair]:
    """Rows of a CSV, JSON or JSON-lines file; its kind is told from the ending of `name`.

    Args:
        question, answer: columns; `answer` "" for none. Where `question` is "instruction", the
            authors' template joins it with the field "input" or "context", if there is one.

    Raises:
        DataError: not of that form, a column is missing, or an answer or question is empty.
    """
    if empty not in ("refuse", "drop", "keep"):
        raise DataError(f"empty is {empty!r}, allowed: refuse, drop, keep")
    rows = list(_rows(payload, name))
    if not rows:
        raise DataError(f"{name} holds no rows")
    for column in filter(None, (question, answer)):
        if column not in rows[0]:
            raise DataError(
                f"{name} has no column {column!r}; its columns are {', '.join(map(repr, rows[0]))}"
            )
    pairs = []
    for number, row in enumerate(rows, 1):
        asked, said = row.get(question), row.get(answer) if answer else ""
        if not isinstance(asked, str) or not asked.strip() or not isinstance(said, str):
            raise DataError(f"{name}, row {number}: no text in {question!r} or {answer!r}")
        if answer and not said.strip() and empty != "keep":
            if empty == "refuse":
                raise DataError(
                    f"{name}, row {number}: empty {answer!r}; empty='drop' leaves such rows out"
                )
            continue
        if question == "instruction":
            asked = to_template(asked, str(row.get("input") or row.get("context") or ""))
        pairs.append(Pair(asked, said))
    return pairs


def _rows(payload: bytes, name: str) -> Iterable[dict[str, Any]]:
    try:
        text = payload.decode("utf-8-sig")  # with or without a byte-order mark
        if name.endswith(".jsonl"):
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        if name.endswith(".json"):
            return list(json.loads(text))
        return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, ValueError, csv.Error) as error:
        raise DataError(f"{name} cannot be read: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def check_hash(payload: bytes, sha256: str, name: str) -> None:
    """Raise a DataError unless `payload` is the known file."""
    found = hashlib.sha256(payload).hexdigest()
    if found != sha256:
        raise DataError(f"{name} is another file: its SHA-256 is {found}, expected {sha256}")


def fetch(names: Sequence[str], folder: Path | str, base: str = RAW) -> list[Path]:
    """Download known files into `folder`, each checked before it is written; what is there and
    right is left alone.

    Raises:
        DataError: unknown name, no connection, or the file there is another one.
    """
    done = []
    for source in map(find_source, names):
        path = Path(folder) / source.file
        if not (path.is_file() and hashlib.sha256(_read(path)).hexdigest() == source.sha256):
            address = f"{base}/{source.address}"
            try:
                with urllib.request.urlopen(address, timeout=60) as answer:
                    payload = answer.read()
            except (urllib.error.URLError, OSError) as error:
                raise DataError(f"cannot download {address}: {error}") from error
            check_hash(payload, source.sha256, address)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(payload)
        done.append(path)
    return done


def load_hub(name: str, empty: Empty = "refuse") -> list[Pair]:
    """AlpaGasus's 9k or Dolly's 15k from the hub at a pinned revision, as the authors' template.

    The paper's Dolly has 2,996 of those rows, which "dolly_3k" of :data:`SOURCES` holds.

    Raises:
        DataError: unknown name, the hub is out of reach and the file not cached, wrong hash.
    """
    if name not in HUB:
        raise DataError(f"hub data set is {name!r}, allowed: {', '.join(HUB)}")
    repository, revision, file, sha256, (asked, context, said) = HUB[name]
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(repository, file, repo_type="dataset", revision=revision)
    except Exception as error:  # the client raises a dozen kinds, some of other packages
        raise DataError(
            f"cannot get {repository} at {revision[:10]} from the hub ({type(error).__name__}); "
            "is there a connection, and is HF_HUB_OFFLINE unset?"
        ) from error
    payload = _read(Path(path))
    check_hash(payload, sha256, f"{repository}/{file}")
    if file.endswith(".parquet"):
        import pandas as pd

        rows = pd.read_parquet(io.BytesIO(payload))[[asked, context, said]].to_dict("records")
        payload, file = json.dumps(rows).encode(), "rows.json"
    return read_pairs(payload, file, asked, said, empty)
