"""Tables that pages make of frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from lib import page


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
    assert "No run yet." in page.table(pd.DataFrame(columns=["a"])).data
    assert "No pair &lt; 1" in page.table(pd.DataFrame(columns=["a"]), empty="No pair < 1").data
    html = page.table(pd.DataFrame({"a": [1]}, index=["hidden"])).data
    assert "hidden" not in html and "<th>a</th>" in html


def test_words_stand_in_boxes_with_what_they_are() -> None:
    html = page.tagged(["a<", 5], ["x", "y"], {"x": "#000000", "y": "#0072B2"}, "T & t").data
    assert html.count("<small>") == 2 and "a&lt;<small>x</small>" in html
    assert "#0072B233" in html and "T &amp; t" in html
    with pytest.raises(ValueError, match="zip"):
        page.tagged(["a"], [], {})


def row(verdict: str, value: float | None = 0.5) -> dict[str, Any]:
    return {
        "chapter": "demo", "id": f"demo.{verdict}", "statement": "S", "source": "P, Fig. 1",
        "paper_value": value, "value_text": "≥ 0.02", "our_mean": 582.768, "interval": None,
        "seeds": 0, "expected_seeds": 1, "cells": 0, "expected_cells": 1, "verdict": verdict,
        "scaled": False, "note": None,
    }  # fmt: skip


def test_many_claims_that_were_not_run_are_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row("reproduced"), *[row("not run", None)] * (page.FEW + 1)]
    monkeypatch.setattr(
        page.claims, "report", lambda root, chapter, prefix: rows if chapter == "demo" else []
    )
    html = page.verdict_table("demo").data
    opened, folded = html.split("<details")
    assert opened.count("<tr>") == 1 and "reproduced" in opened and "582.8" in opened
    assert f"{page.FEW + 1} of {len(rows)} claims have not been run" in folded
    assert folded.count("a direction") == page.FEW + 1 and "0 of 1 seed<" in folded
    rows.pop()
    assert "<details" not in page.verdict_table("demo").data


def test_what_qualifies_a_verdict_stands_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row("reproduced"), {**row("partly"), "note": "chance < 1 does it"}]
    monkeypatch.setattr(page.claims, "report", lambda root, chapter, prefix: rows)
    html = page.verdict_table("demo").data
    assert html.count("Note: ") == 1 and "P, Fig. 1<br>Note: chance &lt; 1 does it.<" in html


def test_a_long_table_may_be_folded_away() -> None:
    frame = pd.DataFrame({"a": [1.5]})
    plain, folded = page.table(frame).data, page.table(frame, fold="all <pairs>").data
    assert folded == (
        f"<details class='idle'><summary>all &lt;pairs&gt;</summary>{plain}</details>"
    )
    assert "<details" not in page.table(frame[:0], fold="all pairs").data
