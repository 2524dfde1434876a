"""The book's style sheet, as a browser applies it."""

from __future__ import annotations

from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from tests.built import Page, Site, browser, drawn
from tests.conftest import ROOT

WIDE = "wide" * 100
PAGE = f"""<html data-theme="light"><head><link rel="stylesheet" href="book.css"></head><body>
<div class="cell_output" style="width: 300px">
<div class="output stream"><pre id="printed" style="margin: 0">a b {WIDE}</pre></div>
<div class="output text_html" id="below"><p style="margin: 0">A title</p></div></div>
<div class="cell_input" style="width: 300px"><pre id="code">a b {WIDE}</pre></div>
<script>
for (const e of document.querySelectorAll("pre")) e.dataset.cut = e.scrollWidth > e.clientWidth;
const [above, below] = document.querySelectorAll(".output");
below.dataset.gap = below.getBoundingClientRect().top - above.getBoundingClientRect().bottom;
</script></body></html>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> BeautifulSoup:
    """Outputs of a cell, 300 pixels wide, as a browser lays them out."""
    program = browser()
    if program is None:
        pytest.skip("no chromium here to draw the page")
    folder = tmp_path_factory.mktemp("style")
    (folder / "book.css").write_text((ROOT / "book/_static/book.css").read_text())
    Path(folder / "page.html").write_text(PAGE)
    return drawn(Page(Site(ROOT, folder), "page", PAGE), program)


def test_printed_sentences_break_and_code_does_not(page: BeautifulSoup) -> None:
    assert page.select_one("#printed")["data-cut"] == "false"  # type: ignore[index]
    assert page.select_one("#code")["data-cut"] == "true"  # type: ignore[index]


def test_outputs_of_a_cell_stand_apart(page: BeautifulSoup) -> None:
    gap = float(str(page.select_one("#below")["data-gap"]))  # type: ignore[index]
    assert 8 <= gap <= 24
