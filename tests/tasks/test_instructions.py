"""Loading questions and answers: forms of file, and errors that say what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from lib.tasks import instructions
from lib.tasks.instructions import (
    HUB,
    SOURCES,
    DataError,
    Source,
    data_folder,
    fetch,
    load_authors,
    load_hub,
    read_pairs,
)
from lib.tasks.prompts import Pair, to_template, without_label

CSV = b'Question,Answer\r\nWho?,"Me, I\nthink."\r\nNone,NA\r\n'
PAIRS = [Pair("Who?", "Me, I\nthink."), Pair("None", "NA")]  # words, not missing values


def test_csv_with_and_without_byte_order_mark() -> None:
    assert read_pairs(CSV, "x.csv", "Question", "Answer") == PAIRS
    assert read_pairs(b"\xef\xbb\xbf" + CSV, "x.csv", "Question", "Answer") == PAIRS


def test_json_and_lines_join_instruction_and_input() -> None:
    rows = [
        {"instruction": "Add.", "input": "1, 2", "output": "3"},
        {"instruction": "Name one.", "input": "", "output": "One"},
    ]
    expected = [
        Pair("Instruction: Add.\n\nInput: 1, 2 ", "3"),
        Pair("Instruction: Name one.\n\n ", "One"),
    ]
    whole = json.dumps(rows).encode()
    lines = "\n".join(map(json.dumps, rows)).encode()
    assert read_pairs(whole, "x.json", "instruction", "output") == expected
    assert read_pairs(lines, "x.jsonl", "instruction", "output") == expected


def test_a_file_without_answers() -> None:
    assert read_pairs(b"Question\nA\nB\n", "x.csv", "Question", "") == [
        Pair("A", ""),
        Pair("B", ""),
    ]


@pytest.mark.parametrize(
    ("payload", "name", "message"),
    [
        (b"input,output\na,b\n", "x.csv",
         r"x.csv has no column 'Question'; its columns are 'input', 'output'"),
        (b"Question,Answer\na,b\nc,\n", "x.csv", r"x.csv, row 2: empty 'Answer'.*empty='drop'"),
        (b"Question,Answer\na, \n", "x.csv", r"row 1: empty 'Answer'"),
        (b"Question,Answer\n,b\n", "x.csv", r"row 1: no text in 'Question'"),
        (b"Question,Answer\na\n", "x.csv", r"row 1: no text in 'Question' or 'Answer'"),
        (b"Question,Answer\n", "x.csv", r"x.csv holds no rows"),
        (b'[{"Question": "a", "Answer": 3}]', "x.json", r"row 1: no text"),
        (b"[{", "x.json", r"x.json cannot be read"),
        (b'Question,Answer\na,"b\n', "x.csv", r"x.csv cannot be read: unexpected end of data"),
        (b"Question,Answer\n\xff,b\n", "x.csv", r"x.csv cannot be read: .*utf-8"),
    ],
)  # fmt: skip
def test_bad_files_are_named(payload: bytes, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pairs(payload, name, "Question", "Answer")


def test_empty_answers_are_the_caller_s_choice() -> None:
    payload = b"Question,Answer\na,b\nc,\n"
    assert read_pairs(payload, "x.csv", "Question", "Answer", "drop") == [Pair("a", "b")]
    assert read_pairs(payload, "x.csv", "Question", "Answer", "keep")[1] == Pair("c", "")
    with pytest.raises(DataError, match="empty is 'skip', allowed: refuse, drop, keep"):
        read_pairs(payload, "x.csv", "Question", "Answer", "skip")  # type: ignore[arg-type]


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one file, "toy", that the loader takes for one of the authors'."""
    source = Source("sub/toy.csv", "who/repo/toy.csv", hashlib.sha256(CSV).hexdigest(),
                    "Question", "Answer")  # fmt: skip
    monkeypatch.setitem(SOURCES, "toy", source)
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "sub" / "toy.csv").write_bytes(CSV)
    return tmp_path / "data"


def test_known_files_are_read_by_name(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_authors("toy", known) == PAIRS
    monkeypatch.setenv(instructions.DATA_VARIABLE, str(known))
    assert load_authors("toy") == PAIRS
    with pytest.raises(DataError, match="data set is 'toys', allowed: D_GK, D_cfact_train"):
        load_authors("toys")


def test_a_changed_byte_is_refused(known: Path) -> None:
    (known / "sub" / "toy.csv").write_bytes(CSV.replace(b"Me", b"We"))
    with pytest.raises(DataError, match=r"toy.csv is another file: its SHA-256 is \w{64}, expec"):
        load_authors("toy", known)
    assert load_authors("toy", known, check=False)[0].answer == "We, I\nthink."


def test_missing_folders_and_files_are_named(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(instructions.DATA_VARIABLE, raising=False)
    with pytest.raises(DataError, match="set MAMBA_BOOK_NOISE_DATA or give one"):
        data_folder()
    with pytest.raises(DataError, match="nowhere is no folder"):
        data_folder(known / "nowhere")
    (known / "sub" / "toy.csv").unlink()
    with pytest.raises(DataError, match=r"cannot read .*toy.csv: No such file"):
        load_authors("toy", known)


def test_fetch_downloads_checks_and_keeps(known: Path, tmp_path: Path) -> None:
    remote = tmp_path / "remote" / "who" / "repo"
    remote.mkdir(parents=True)
    (remote / "toy.csv").write_bytes(CSV)
    base = (tmp_path / "remote").as_uri()
    (path,) = fetch(["toy"], tmp_path / "new", base)
    assert path == tmp_path / "new" / "sub" / "toy.csv" and path.read_bytes() == CSV
    (remote / "toy.csv").write_bytes(b"other")
    assert fetch(["toy"], tmp_path / "new", base) == [path]  # not downloaded again
    path.write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"toy.csv is another file"):
        fetch(["toy"], tmp_path / "new", base)
    assert path.read_bytes() == b"damaged"
    (remote / "toy.csv").unlink()
    with pytest.raises(DataError, match=r"cannot download file:.*toy.csv"):
        fetch(["toy"], tmp_path / "new", base)


def test_sources_are_pinned() -> None:
    for source in SOURCES.values():
        owner, repository, commit, *_ = source.address.split("/")
        assert owner and repository and len(commit) == 40 and len(source.sha256) == 64
    for _, revision, _, sha256, fields in HUB.values():
        assert len(revision) == 40 and len(sha256) == 64 and len(fields) == 3


def test_hub_without_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    # tests run with HF_HUB_OFFLINE=1 and nothing in the cache under this revision
    import huggingface_hub

    def away(*_: object, **__: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", away)
    with pytest.raises(DataError, match=r"cannot get mlabonne/alpagasus at d16a20b598 .*Connecti"):
        load_hub("alpagasus")
    with pytest.raises(DataError, match="hub data set is 'alpaca', allowed: alpagasus, dolly"):
        load_hub("alpaca")


@pytest.mark.parametrize("name", sorted(HUB))
def test_hub_files_are_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    import pandas as pd

    repository, revision, file, _, (asked, context, said) = HUB[name]
    rows = [
        {asked: "Add.", context: "1, 2", said: "3", "more": 1},
        {asked: "Go.", context: "", said: "On"},
    ]
    path = tmp_path / Path(file).name
    if file.endswith("parquet"):
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    calls = []

    def found(*args: str, **options: str) -> str:
        calls.append((args, options))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", found)
    with pytest.raises(DataError, match=f"{repository}/.* is another file"):
        load_hub(name)
    monkeypatch.setattr(instructions, "check_hash", lambda *_: None)
    assert load_hub(name) == [
        Pair("Instruction: Add.\n\nInput: 1, 2 ", "3"), Pair("Instruction: Go.\n\n ", "On"),
    ]  # fmt: skip
    assert calls[0] == ((repository, file), {"repo_type": "dataset", "revision": revision})


def test_labels_and_templates() -> None:
    assert without_label("Output: It is.") == "It is."
    assert without_label("instruction: Say output: 3") == "Say output: 3"
    assert without_label("The output: 3 ") == "The output: 3"
    assert without_label(to_template("Say so.")) == "Say so."


DATA = os.environ.get("MAMBA_BOOK_NOISE_DATA")


@pytest.mark.skipif(not DATA, reason="MAMBA_BOOK_NOISE_DATA names no folder with the authors' data")
def test_every_file_of_the_authors_is_as_known() -> None:
    expected = {"D_GK": 9676, "D_cfact_train": 9644, "D_ch_train": 7162, "D_ad_50samples": 49,
                "D_test": 449, "D_wtest": 450, "D_ctest": 450, "D_xlittest": 449,
                "claude_t45": 5301, "helpfulness_t45": 2021, "dolly_3k": 2996, "random_9k": 9225,
                "mamba-130m-finetuned": 449, "mamba-130m-charflip": 449,
                "mamba-130m-unlearned": 449}  # fmt: skip
    assert {name: len(load_authors(name, empty="drop")) for name in SOURCES} == expected
