"""Sphinx extension: under the title of a notebook's page, how the claims on it came out.

A reader who opens a page wants the answer first; the table of verdicts stands at its end. The
counts are made from claims and records when the book is built, as that table is.
"""

from __future__ import annotations

import os
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from lib import claims, provenance, verdicts
from lib.book import ROOT_VARIABLE


@lru_cache
def _report(root: Path, chapter: str) -> tuple[dict[str, Any], ...]:
    return tuple(claims.report(root, chapter=chapter))


def counts(name: str, root: Path) -> Counter[str]:
    """Verdicts of the claims that are shown on the page `name`, and how many there are of each."""
    parts = name.split("/")
    if parts[0] != "notebooks" or not (root / "book" / "claims" / f"{parts[1]}.yml").is_file():
        return Counter()
    rows = _report(root, parts[1])
    return Counter(row["verdict"] for row in rows if row["notebook"] == f"{name}.ipynb")


def table_of(document: nodes.document) -> str | None:
    """Anchor of the innermost section with the page's table of verdicts, if it has one."""
    sections = [
        section
        for section in document.findall(nodes.section)
        if any("verdict-table" in raw.astext() for raw in section.findall(nodes.raw))
    ]
    return str(sections[-1]["ids"][0]) if sections else None


def line(found: Counter[str], anchor: str | None) -> str:
    """The HTML of the line."""
    each = " ".join(
        f"<span class='nobreak'>{found[verdict]} {verdicts.badge(verdict)}</span>"
        for verdict in claims.VERDICTS
        if found[verdict]
    )
    which = f" <a href='#{anchor}'>which</a>" if anchor else ""
    return f"<p class='at-the-top'>Claims on this page: {each}{which}</p>"


def add(app: Sphinx, document: nodes.document) -> None:
    """Put the line behind the page's title."""
    found = counts(app.env.docname, Path(os.environ.get(ROOT_VARIABLE) or provenance.ROOT))
    title = next(document.findall(nodes.title), None)
    if found and title is not None:
        place = title.parent.index(title) + 1
        title.parent.insert(place, nodes.raw("", line(found, table_of(document)), format="html"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("doctree-read", add)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
