"""The built book in ``_build/html``: every figure, formula, link and verdict is there, offline."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup

from lib import book, claims, runner
from lib.verdicts import measured, published_text
from tests.built import Page, Site, browser, drawn, external
from tests.conftest import ROOT

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def site() -> Site:
    """The built book; `make test` has built it."""
    folder = ROOT / book.HTML
    if not (folder / "index.html").is_file():
        if os.environ.get("CI"):
            pytest.fail("no built book in _build/html; `make test` builds it")
        pytest.skip("the book is not built; run `make book` first")
    return Site(ROOT, folder)


def test_every_page_of_the_table_of_contents_is_there(site: Site) -> None:
    names = book.pages(ROOT)
    assert len(names) >= 8
    assert [name for name in names if not (site.folder / f"{name}.html").is_file()] == []


def test_no_page_is_left_from_an_older_table_of_contents(site: Site) -> None:
    files = [p for name in ("book", "notebooks") for p in (site.folder / name).rglob("*.html")]
    found = {p.relative_to(site.folder).with_suffix("").as_posix() for p in files}
    assert found == set(book.pages(ROOT))


def test_pages_are_of_these_notebooks(site: Site) -> None:
    for name in book.notebooks(ROOT):
        assert book.not_ready(ROOT / name, ROOT / book.EXECUTED / name) is None, name


def test_every_figure_of_a_notebook_is_on_its_page(site: Site) -> None:
    for page in site.notebooks():
        expected = sum(PLOTLY in out.get("data", {}) for out in site.outputs(page))
        assert expected > 0, f"{page.name} shows no figure"
        figures = page.figures()
        assert len(figures) == expected, page.name
        drawings = set(re.findall(r"Plotly\.newPlot\(\s*[\"']([\w-]+)[\"']", page.html))
        assert drawings == {figure["id"] for figure in figures}, page.name


def test_no_output_needs_a_kernel(site: Site) -> None:
    for page in site.notebooks():
        assert [o for o in site.outputs(page) if WIDGET in o.get("data", {})] == [], page.name


def test_plotly_is_loaded_before_figures_and_only_where_there_are_any(site: Site) -> None:
    for page in site.pages():
        scripts = page.soup.select('script[src*="plotly.min.js"]')
        assert len(scripts) == (1 if page.figures() else 0), page.name
        for script in scripts:
            assert not script.has_attr("defer") and not script.has_attr("async"), page.name
            assert page.html.index("plotly.min.js") < page.html.index("plotly-graph-div"), page.name
            assert page.soup.select('script[src*="plotly-theme.js"]'), page.name


def test_no_page_shows_an_error(site: Site) -> None:
    for page in site.pages():
        content = page.soup.find("article")
        assert content is not None, page.name
        assert "Traceback (most recent call last)" not in content.get_text(), page.name
        assert not page.soup.select(".output.traceback, .system-message, .problematic"), page.name
    for page in site.notebooks():
        assert [o for o in site.outputs(page) if o["output_type"] == "error"] == [], page.name


def test_no_page_loads_anything_from_elsewhere(site: Site) -> None:
    extra = [site.page("search"), site.page("genindex"), site.page("index")]
    for page in [*site.pages(), *extra]:
        assert [address for address in page.loads() if external(address)] == [], page.name
        for script in page.soup.find_all("script", src=False):
            # the address of the public repository may be told to scripts, not code to fetch
            found = re.findall(r"https?://[^\s\"'<>]*\.(?:js|mjs|css|wasm)\b", script.get_text())
            assert found == [], page.name
            assert "require(" not in script.get_text()[:2000] or "plotly" in script.get_text()


def test_no_style_sheet_loads_anything_from_elsewhere(site: Site) -> None:
    sheets = {page.local(a) for page in site.pages() for a in page.loads() if ".css" in a}
    assert len(sheets) >= 5
    for sheet in sheets:
        text = sheet.read_text()
        assert not re.search(r"(url\(|@import)\s*['\"]?\s*(https?:)?//", text), sheet.name


def test_everything_a_page_loads_is_there(site: Site) -> None:
    for page in site.pages():
        absent = [a for a in page.loads()
                  if not a.startswith("data:") and not page.local(a).is_file()]  # fmt: skip
        assert absent == [], page.name


def test_internal_links_and_anchors_resolve(site: Site) -> None:
    seen = 0
    for page in [*site.pages(), site.page("index")]:
        for address in page.links():
            parts = urlsplit(address)
            if external(address) or parts.scheme in ("mailto", "javascript", "data"):
                continue
            target = page.local(address)
            assert target.is_file(), f"{page.name}: {address}"
            assert target.is_relative_to(site.folder.resolve()), f"{page.name}: {address}"
            if parts.fragment and target.suffix == ".html":
                name = target.relative_to(site.folder.resolve()).with_suffix("").as_posix()
                anchors = site.page(name).anchors | {"", "top"}
                assert unquote(parts.fragment) in anchors, f"{page.name}: {address}"
            seen += 1
    assert seen > 100


def test_formulas_are_there_and_mathjax_is_local(site: Site) -> None:
    with_math = [page for page in site.pages() if page.soup.select(".math")]
    assert {"book/achilles", "notebooks/foundations/mamba_in_a_page"} <= {p.name for p in with_math}
    for page in with_math:
        (address,) = [a for a in page.loads() if "mathjax" in a]
        assert page.local(address).is_file(), page.name
    fonts = site.folder / "_static/mathjax/output/chtml/fonts/woff-v2"
    assert len(list(fonts.glob("*.woff"))) > 10


def rows_of(page: Page) -> list[str]:
    """Text of each row of the tables of verdicts on a page."""
    rows = page.soup.select(".verdict-table tbody tr")
    return [plain(row.get_text(" ")) for row in rows]


def plain(text: str) -> str:
    """Text with single spaces and without the curled quotes that Sphinx makes."""
    return " ".join(text.translate(str.maketrans("‘’“”", "''\"\"")).split())


def test_every_claim_has_its_row(site: Site) -> None:
    report = claims.report(ROOT)
    assert report
    for page, wanted in [
        (site.page("book/index"), report),
        *((site.page(f"book/{chapter}"), [r for r in report if r["chapter"] == chapter])
          for chapter in {row["chapter"] for row in report}),
    ]:  # fmt: skip
        rows = rows_of(page)
        assert len(rows) == len(wanted), page.name
        for row, text in zip(wanted, rows, strict=True):
            assert plain(row["statement"]) in text
            assert row["verdict"] in text and published_text(row) in text
            if row["our_mean"] is not None:
                assert measured(row["our_mean"]) in text
            assert all(name in text for name in row["records"])
            if row["interval"]:
                low, high = map(measured, row["interval"])
                assert f"[{low}, {high}]" in text
            assert "</" not in text


def test_a_page_begins_with_how_its_claims_came_out(site: Site) -> None:
    report = claims.report(ROOT)
    seen = 0
    for page in site.notebooks():
        wanted = Counter(r["verdict"] for r in report if r["notebook"] == f"{page.name}.ipynb")
        lines = page.soup.select(".at-the-top")
        assert len(lines) == bool(wanted), page.name
        for line in lines:
            said = re.findall(r"(\d+) ([a-z ]+?)(?= \d|  which|$)", plain(line.get_text(" ")))
            found = {verdict.removesuffix(" which"): int(number) for number, verdict in said}
            assert found == wanted, page.name
            assert line.find_previous("h1") is not None and line.select("a"), page.name
            seen += wanted.total()
    assert seen == len(report)


def test_the_summary_counts_every_claim(site: Site) -> None:
    report = claims.report(ROOT)
    table = site.page("book/index").soup.select_one(".book-table.summary")
    assert table is not None
    cells = [[c.get_text(strip=True) for c in row.select("td")] for row in table.select("tbody tr")]
    assert len(cells) == len({row["chapter"] for row in report})
    assert sum(int(row[1]) for row in cells) == len(report)
    for row in cells:
        assert sum(int(text) for text in row[2:] if text != "–") == int(row[1])


def test_the_status_page_has_every_experiment_and_notebook(site: Site) -> None:
    page = site.page("book/status")
    assert len(page.soup.select(".records-table tbody tr:not(.over)")) == len(runner.status(ROOT))
    times = page.soup.select(".times-table tbody tr")
    assert len(times) == len(book.notebooks(ROOT))
    assert "torch" in page.soup.select_one(".environment-table").get_text()  # type: ignore[union-attr]


def test_search_knows_every_page(site: Site) -> None:
    text = (site.folder / "searchindex.js").read_text()
    index = json.loads(re.fullmatch(r"Search\.setIndex\((.*)\);?\s*", text, re.S)[1])  # type: ignore[index]
    assert set(index["docnames"]) >= set(book.pages(ROOT))
    assert "mamba" in index["terms"] and "verdict" in index["terms"]


def test_launch_and_download_buttons(site: Site) -> None:
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    for page in site.notebooks():
        launches = [a for a in page.links() if urlsplit(a).netloc == "mybinder.org"]
        assert len(launches) == 1, page.name
        (target,) = parse_qs(urlsplit(launches[0]).query)["urlpath"]
        path = target.removeprefix("lab/tree/")
        assert (ROOT / path).is_file() and path == f"{page.name}.ipynb"
        assert "/".join(url.rsplit("/", 2)[1:]) in launches[0]
        downloads = [a for a in page.links() if a.endswith(".ipynb") and "_sources" in a]
        assert downloads, page.name
        notebook = json.loads(page.local(downloads[0]).read_text())
        assert any(cell.get("outputs") for cell in notebook["cells"]), page.name
    for page in site.pages():
        # a script writes both, so that pages without scripts show no dead buttons
        assert "theme-switch-button" in page.html and "search-button" in page.html, page.name


@pytest.fixture(scope="module")
def program() -> str:
    """A headless browser."""
    found = browser()
    if found is None:
        pytest.skip("no chromium here to draw the pages")
    return found


# what the button for the theme does, once every figure is dressed for the first one
TURN_DARK = """
window.addEventListener("load", () => {
  const timer = setInterval(() => {
    const figures = [...document.querySelectorAll(".plotly-graph-div")];
    if (!figures.every((figure) => figure.dataset.dressed === "light")) return;
    clearInterval(timer);
    document.documentElement.dataset.first = figures.length + " light";
    document.documentElement.dataset.theme = "dark";
  }, 50);
});
"""


def expect_drawn(page: Page, soup: BeautifulSoup, theme: str) -> None:
    figures = soup.select(".plotly-graph-div")
    assert len(figures) == len(page.figures()) > 0, page.name
    for figure in figures:
        assert figure.select(".main-svg"), f"{page.name}: a figure is not drawn"
        assert figure.get("data-dressed") == theme, f"{page.name}: a figure keeps its colours"
    assert not soup.select("mjx-merror, [data-mjx-error]"), page.name
    formulas = page.soup.select(".math")
    assert len(soup.select("mjx-container")) >= len(formulas), page.name


def test_a_browser_draws_every_figure_and_formula_in_both_themes(site: Site, program: str) -> None:
    for page in site.notebooks():
        soup = drawn(page, program, script=TURN_DARK)
        expect_drawn(page, soup, "dark")
        assert soup.html is not None
        assert soup.html["data-first"] == f"{len(page.figures())} light", page.name


def test_pages_open_dark_for_whom_all_is_dark(site: Site, program: str) -> None:
    of_each_chapter = {page.path.parent: page for page in site.notebooks()}
    assert len(of_each_chapter) >= 4
    for page in of_each_chapter.values():
        soup = drawn(page, program, "--blink-settings=preferredColorScheme=0")
        expect_drawn(page, soup, "dark")
