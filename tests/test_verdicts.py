"""Tables of verdicts: the same HTML for pages and for notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup, Tag

from lib import page, verdicts
from tests.conftest import ROOT

NOTEBOOK = "notebooks/achilles/composite.ipynb"


def row(verdict: str, value: float | None = 0.5, **more: Any) -> dict[str, Any]:
    return {
        "chapter": "demo", "id": f"demo.{verdict}", "statement": "S < T", "source_key": "mamba2023",
        "where": "Fig. 1", "paper_value": value, "value_text": "≥ 0.02", "our_mean": 582.768,
        "interval": None, "values": [582.768], "seeds": 0, "expected_seeds": 1, "cells": 0,
        "expected_cells": 1, "failed": 0, "verdict": verdict, "scaled": False, "note": None,
        "quantity": None,
        "tolerance_text": "≥ 0.02: a reason", "records": [], "experiment": "achilles.composite",
        "profile": "paper", "notebook": NOTEBOOK, **more,
    }  # fmt: skip


def drawn(*rows: dict[str, Any], **more: Any) -> list[Tag]:
    """The rows of a table."""
    text = verdicts.tables(rows, ROOT, "../../", **more)
    return BeautifulSoup(text, "html.parser").select(".book-table.verdict-table tbody tr")


def test_many_claims_that_were_not_run_are_folded() -> None:
    rows = [row("reproduced"), *[row("not run", None)] * (verdicts.FEW + 1)]
    opened, folded = verdicts.tables(rows, ROOT, "../../").split("<details class='idle'")
    assert opened.count("<tr><td>") == 1 and "582.8" in opened
    assert f"{verdicts.FEW + 1} claims have not been run" in folded
    assert folded.count("a direction") == verdicts.FEW + 1 and "0 of 1 seed<" in folded
    assert "class='idle'" not in verdicts.tables(rows[1:-1], ROOT, "../../")
    assert "No claims yet" in verdicts.tables([], ROOT, "")


def test_claims_that_no_run_can_decide_are_folded_with_them_unless_they_have_one() -> None:
    unknown = row("protocol unknown", values=[], our_mean=None)
    rows = [*[row("not run", None)] * verdicts.FEW, unknown, row("protocol unknown")]
    page = BeautifulSoup(verdicts.tables(rows, ROOT, "../../"), "html.parser")
    folded = page.select("details.idle tbody tr")
    (opened,) = [each for each in page.select("tbody tr") if each not in folded]
    assert len(folded) == verdicts.FEW + 1 and "582.8" in opened.get_text()
    assert "claims have not been run, 1 of them of an unknown protocol" in page.get_text()


def test_a_notebook_shows_the_directive_s_table(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row("reproduced")]
    monkeypatch.setattr(
        page.claims, "report", lambda root, chapter, prefix: rows if chapter == "demo" else []
    )
    wanted = verdicts.tables(rows, ROOT, "../../", shown_in=False)
    assert page.verdict_table("demo").data == wanted and wanted.count("<tr><td>") == 1


def test_sources_are_named_for_readers() -> None:
    (shown,) = drawn(row("reproduced"))
    source, notebook = shown.select("p.muted a")
    assert source.get_text() == "Gu and Dao [2023]"
    assert source["href"] == "../../book/references.md#mamba2023"
    assert notebook["href"] == f"../../{NOTEBOOK}" and notebook.get_text()
    assert "mamba2023" not in shown.get_text() and "S < T" in shown.get_text()
    assert [len(tr.select("a")) for tr in drawn(row("reproduced"), shown_in=False)] == [1]
    assert verdicts.source_name("achilles2025", ROOT) == "Chen et al. [2025]"
    assert verdicts.source_name("hlife2025", ROOT) == "hlife0 [2026]"
    with pytest.raises(KeyError, match="nobody"):
        verdicts.source_name("nobody", ROOT)


def test_what_qualifies_a_verdict_stands_beside_it() -> None:
    plain, noted = drawn(row("reproduced"), row("partly", note="chance < 1 does it"))
    assert "Note:" not in plain.get_text()
    (note,) = [p for p in noted.select("p.muted") if "Note: chance < 1 does it." in p.get_text()]
    assert note.find_parent("details") is None
    assert "≥ 0.02: a reason" in noted.select_one("details").get_text()  # type: ignore[union-attr]


def test_seeds_that_disagree_are_shown_one_by_one() -> None:
    apart = {"interval": [0.0, 1.0], "our_mean": 0.5, "values": [0.99, 0.0101, 0.5]}
    assert "by seed: 0.990, 0.010, 0.500" in drawn(row("partly", **apart))[0].get_text()
    for values in ([0.5], [0.99999, 1.0], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], []):
        assert "by seed" not in drawn(row("partly", values=values))[0].get_text(), values


def test_failed_cells_are_not_silent() -> None:
    assert "0 of 1 seed, 2 failed" in drawn(row("not run", failed=2))[0].get_text()


def test_published_records_can_be_downloaded(tmp_path: Path) -> None:
    published = tmp_path / "book/results/achilles.composite/a.json"
    published.parent.mkdir(parents=True)
    published.write_text("{}")
    (tmp_path / "book/references.bib").write_text((ROOT / "book/references.bib").read_text())
    claim = row("reproduced", records=["a.json", "b.json"])
    text = verdicts.tables([claim], tmp_path, "../", shown_in=False)
    here, there = BeautifulSoup(text, "html.parser").select("li")
    link = here.select_one("a.download[download]")
    assert link is not None and link["href"] == "../book/results/achilles.composite/a.json"
    assert there.get_text() == "b.json (not published)" and not there.select("a")


def test_a_number_says_what_it_is_where_it_is_no_accuracy() -> None:
    plain, named = drawn(row("reproduced"), row("partly", quantity="MB"))
    assert "MB" not in plain.get_text()
    assert [p.get_text() for p in named.select("td")[1].select("p")] == [
        "0.5", "MB", "accepted: ≥ 0.02"
    ]  # fmt: skip
