"""Tables that pages make of frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from lib import page, provenance
from lib.store import Record


@pytest.mark.parametrize(
    ("value", "precision", "text"),
    [
        (0.12345, 3, "0.123"), (1234.5, 1, "1,234.5"), (2048, 3, "2,048"), (3.0, 3, "3"),
        (-0.00012, 3, "-1.2e-04"), (0.0, 3, "0"), (np.float32(0.5), 2, "0.50"),
        (np.int64(7), 2, "7"), (float("nan"), 3, "–"), (None, 3, "–"), (True, 3, "yes"),
        (np.False_, 3, "no"), ("a < b\nand c", 3, "a &lt; b<br>and c"),
        (float("inf"), 3, "inf"), ("for x:\n  go", 3, "for x:<br>\u00a0 go"),
    ],
)  # fmt: skip
def test_a_cell_is_written_for_readers(value: object, precision: int, text: str) -> None:
    html = page.table(pd.DataFrame({"column": pd.Series([value], dtype=object)}), precision).data
    assert f"<td>{text}</td>" in html


def test_no_row_says_so_and_there_is_no_index() -> None:
    assert "still empty" in page.table(pd.DataFrame(columns=["a"])).data
    assert "No pair &lt; 1" in page.table(pd.DataFrame(columns=["a"]), empty="No pair < 1").data
    html = page.table(pd.DataFrame({"a": [1]}, index=["hidden"])).data
    assert "hidden" not in html and "<th>a</th>" in html


def test_words_stand_in_boxes_with_what_they_are() -> None:
    html = page.tagged(["a<", 5], ["x", "y"], {"x": "#000000", "y": "#0072B2"}, "T & t").data
    assert html.count("<small>") == 2 and "a&lt;<small>x</small>" in html
    assert "#0072B233" in html and "T &amp; t" in html
    with pytest.raises(ValueError, match="zip"):
        page.tagged(["a"], [], {})


def record(seed: int = 1, **facts: Any) -> Record:
    """A record of a run with these facts among its provenance."""
    provenance = {
        "commit": "4418e579e8aa", "dirty": None, "lib_hash": "2317ada32fbf5407",
        "device_name": "NVIDIA H100 80GB HBM3", "versions": {"torch": "2.11.0"},
        "backends": {"selective_scan": ["fused"]}, "wall_seconds": 1200.0,
        "training_seconds": 1000.0, "started": "2026-11-28T02:26:00+00:00", **facts,
    }  # fmt: skip
    return Record("demo.one", 1, {"seed": seed}, f"demo-s{seed}", "done", {}, provenance)


def told(shown: Any) -> tuple[list[str], list[list[str]], str]:
    """Heads and rows of a table of records, and what stands around it."""
    soup = BeautifulSoup(shown.data, "html.parser")
    heads = [th.get_text() for th in soup.select("th")]
    rows = [[td.get_text("|") for td in tr.select("td")] for tr in soup.select("tbody tr")]
    return heads, rows, " ".join(p.get_text() for p in soup.select("p"))


def test_what_repeats_in_every_row_is_said_once_above_them() -> None:
    one, two = record(1), record(2, device_name="AMD EPYC", dirty=True)
    heads, rows, around = told(page.provenance_table([one, two]))
    assert heads == ["record", "code", "device", "seconds", "day (UTC)"]
    assert [row[0] for row in rows] == [r.name.split(".")[0][:-8] for r in (one, two)]
    assert [row[1] for row in rows] == ["4418e579?", "4418e579+"]
    assert [row[2:] for row in rows] == [
        ["H100", "1,200", "2026-11-28"], ["AMD EPYC", "1,200", "2026-11-28"],
    ]  # fmt: skip
    assert "In every row: experiment demo.one; lib 2317ada3; torch 2.11.0; backends sel" in around
    # a single row says all by itself
    heads, rows, around = told(page.provenance_table([one]))
    assert heads[1:5] == ["experiment", "code", "device", "backends"] and "every" not in around
    assert rows[0][2] == "4418e579?|lib\xa02317ada3"


def test_marks_of_commits_are_explained_where_they_stand() -> None:
    for dirty, marks in [(None, "?"), (True, "+"), (False, "")]:
        _, rows, around = told(page.provenance_table([record(dirty=dirty)]))
        assert rows[0][2].startswith(f"4418e579{marks}|")
        assert [key for key in page.MARKS if f"{key}: run" in around] == list(marks)


def test_records_of_one_day_name_it_once() -> None:
    later = record(2, started="2026-11-30T10:00:00+00:00")
    assert told(page.provenance_groups([record(1), record(3)]))[1][0][-1] == "2026-11-28"
    (row,) = told(page.provenance_groups([later, record(1), record(3)]))[1]
    assert row[-1] == "2026-11-28| to |2026-11-30" and row[-2] == "3,600"


def test_the_time_of_records_that_shared_it_is_theirs_once() -> None:
    for facts, said in (({}, "at most 1,200"), ({"shared_time": True}, "2,400")):
        group = [record(seed, abreast=3, **facts) for seed in (1, 2)]
        (row,) = told(page.provenance_groups(group))[1]
        assert row[-2] == said


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA H200", "H200"), ("AMD EPYC", "AMD EPYC"),
        ("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB"), ("", ""),
        ("AMD EPYC 7763 64-Core Processor", "AMD EPYC 7763"),
        ("Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz", "Intel Xeon Platinum 8480+"),
    ],
)  # fmt: skip
def test_devices_have_short_names(name: str, short: str) -> None:
    assert provenance.short_device(name) == short


def test_a_long_table_may_be_folded_away() -> None:
    frame = pd.DataFrame({"a": [1.5]})
    plain, folded = page.table(frame).data, page.table(frame, fold="all <pairs>").data
    assert folded == (
        f"<details class='idle'><summary>all &lt;pairs&gt;</summary>{plain}</details>"
    )
    assert "<details" not in page.table(frame[:0], fold="all pairs").data
