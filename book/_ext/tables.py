"""Sphinx extension: tables of verdicts, records and versions, made when the book is built.

    ```{verdicts}
    :chapter: achilles      rows of one chapter; all chapters when left out
    :summary:               counts by chapter instead of rows
    ```
    ```{records}            how far each experiment is, from its records
    ```
    ```{environment}        versions, and how long each notebook took
    ```
    ```{origins}            where in the history the code of the records is
    ```

Nothing is generated into git: the rows come from ``book/claims`` and the records at build time,
so a page cannot say what no record holds.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.osutil import relative_uri

from lib import book, claims, origins, provenance, runner, verdicts
from lib.book import ROOT_VARIABLE
from lib.notebook import EXECUTED
from lib.store import Store, StoreError, read_record

LOGGER = logging.getLogger(__name__)
STATIC = ("sphinx", "jupyter-book", "papermill", "ipykernel")


def repository() -> Path:
    """Root of the checkout, which Sphinx builds a copy of."""
    return Path(os.environ.get(ROOT_VARIABLE) or provenance.ROOT)


class Table(SphinxDirective):
    """What the directives share: nodes for links, tables and details."""

    has_content = False

    def text(self, text: str, *classes: str) -> nodes.inline:
        """Plain text, styled by `classes`."""
        return nodes.inline("", text, classes=list(classes))

    def link(self, path: str, text: str | None = None) -> addnodes.pending_xref:
        """A link to a page of the book; without `text` it shows the page's title.

        Sphinx warns of a page that is not there, which fails the build.
        """
        target = "/" + path.removesuffix(".ipynb").removesuffix(".md")
        return addnodes.pending_xref(
            "", nodes.inline("", text or target, classes=["xref", "std", "std-doc"]),
            refdoc=self.env.docname, refdomain="std", reftype="doc", reftarget=target,
            refexplicit=text is not None, refwarn=True,
        )  # fmt: skip

    def parsed(self, markdown: str) -> list[nodes.Node]:
        """Inline nodes of a line of Markdown."""
        holder = nodes.container()
        self.state.nested_parse(StringList([markdown], "tables.py"), self.content_offset, holder)
        return list(holder.children[0].children) if holder.children else []

    def table(
        self, header: Sequence[str], rows: Iterable[Sequence[Sequence[nodes.Node]]], kind: str,
        widths: Sequence[int],
    ) -> nodes.Node:  # fmt: skip
        """A table of class `kind`; each cell is a list of block or inline nodes. A row of a single
        cell is a heading of the rows below it."""
        group = nodes.tgroup(cols=len(header))
        group += [nodes.colspec(colwidth=width) for width in widths]
        group += nodes.thead("", self._row([[self.text(name)] for name in header], len(header)))
        group += nodes.tbody("", *(self._row(row, len(header)) for row in rows))
        # a div that can scroll sideways on a narrow screen
        return nodes.container("", nodes.table("", group), classes=["book-table", kind])

    @staticmethod
    def _row(cells: Sequence[Sequence[nodes.Node]], columns: int) -> nodes.row:
        alone = len(cells) == 1 < columns
        row = nodes.row(classes=["over"] if alone else [])
        for cell in cells:
            entry = nodes.entry(morecols=columns - 1) if alone else nodes.entry()
            for node in cell:
                entry += node if isinstance(node, nodes.Body) else _paragraph(entry, node)
            row += entry
        return row

    def note(self, text: str) -> nodes.Node:
        """A line that stands for an empty table."""
        return nodes.paragraph("", "", self.text(text, "muted"))


def _paragraph(entry: nodes.entry, node: nodes.Node) -> list[nodes.Node]:
    """Inline nodes that follow each other share a paragraph of the cell."""
    last = entry.children[-1] if entry.children else None
    if isinstance(last, nodes.paragraph):
        last += node
        return []
    return [nodes.paragraph("", "", node)]


class Verdicts(Table):
    """``{verdicts}``: claims, what our records measure, and the verdict on each."""

    option_spec: ClassVar[dict[str, Any]] = {
        "chapter": directives.unchanged_required,
        "summary": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        """Build the table."""
        try:
            rows = claims.report(repository())
        except claims.ClaimError as error:
            raise self.error(str(error)) from error
        chapters = list(dict.fromkeys(row["chapter"] for row in rows))
        wanted = self.options.get("chapter")
        if wanted is not None and wanted not in chapters:
            known = ", ".join(chapters) or "none"
            raise self.error(f"chapter is {wanted!r}, which has no claims; chapters: {known}")
        if "summary" in self.options:
            return [self.summary(rows, [wanted] if wanted else chapters)]
        found: list[nodes.Node] = []
        up = "../" * self.env.docname.count("/")
        for chapter in [wanted] if wanted else chapters:
            if wanted is None:
                found.append(nodes.paragraph("", "", self.chapter_link(chapter), classes=["over"]))
            chosen = [row for row in rows if row["chapter"] == chapter]
            for key in {row["source_key"]: None for row in chosen}:
                self.parsed(f"{{cite:t}}`{key}`")  # for the bibliography, which lists what is cited
            text = verdicts.tables(chosen, repository(), up)
            found.append(nodes.raw("", text, format="html"))
        return found or [self.note("No claims yet.")]

    def chapter_link(self, chapter: str) -> nodes.Node:
        """The chapter's page, ``book/<chapter>.md``."""
        return self.link(f"book/{chapter}")

    def summary(self, rows: list[dict[str, Any]], chapters: list[str]) -> nodes.Node:
        """How many claims of each chapter have which verdict."""
        used = [v for v in claims.VERDICTS if any(row["verdict"] == v for row in rows)]
        lines = []
        for chapter in chapters:
            own = [row["verdict"] for row in rows if row["chapter"] == chapter]
            counts = [own.count(verdict) for verdict in used]
            lines.append(
                [[self.chapter_link(chapter)], [self.text(str(len(own)))]]
                + [[self.text(str(n) if n else "–", "" if n else "muted")] for n in counts]
            )
        header = ["chapter", "claims", *used]
        return self.table(header, lines, "summary", [40] + [12] * (len(header) - 1))


class Records(Table):
    """``{records}``: how far each experiment is, one row a profile, chapter by chapter."""

    def run(self) -> list[nodes.Node]:
        """Build the table."""
        pages = book.pages(repository())
        rows = in_order(runner.status(repository()), pages)
        if not rows:
            return [self.note("No experiment yet.")]
        cells: list[Sequence[Sequence[nodes.Node]]] = []
        for chapter, group in groupby(rows, lambda row: row["chapter"]):
            page = f"book/{chapter}"
            title = self.link(page) if page in pages else self.text(chapter.capitalize())
            cells.append([[title]])
            cells += [self.experiment(row) for row in group]
        header = ["experiment", "profile", "cells", "device", "run time"]
        return [self.table(header, cells, "records-table", [40, 12, 16, 14, 18])]

    def experiment(self, row: dict[str, Any]) -> list[list[nodes.Node]]:
        """Title and name, profile, cells done and failed, devices, run time and last day."""
        name = nodes.paragraph("", "", nodes.literal("", row["experiment"]), classes=["muted"])
        state = "complete" if row["done"] == row["total"] else "partial"
        count = self.text(
            f"{row['done']} of {row['total']}", "number", state if row["done"] else "muted"
        )
        failed = nodes.paragraph("", f"{row['failed']} failed", classes=["muted"])
        devices = dict.fromkeys(map(provenance.short_device, row["devices"]))
        took = row["certainty"] + duration(row["wall_seconds"])
        last = nodes.paragraph(
            "", "", self.text((row["last"] or "")[:10], "number"), classes=["muted"]
        )
        return [
            [self.link(row["notebook"], row["title"]), name],
            [self.text(row["profile"])],
            [count, *([failed] if row["failed"] else [])],
            [self.text(", ".join(devices) or "–")],
            [self.text(took), last] if row["done"] else [self.text("–")],
        ]


def in_order(rows: Iterable[dict[str, Any]], pages: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of :func:`lib.runner.status` in the order in which `pages` show their experiments, an
    experiment's profiles together; those of no page last."""
    places = {f"{page}.ipynb": number for number, page in enumerate(pages)}
    listed = list(rows)
    first: dict[str, int] = {}
    for row in listed:
        place = places.get(row["notebook"], len(places))
        first[row["chapter"]] = min(place, first.get(row["chapter"], place))
    return sorted(
        listed,
        key=lambda row: (
            first[row["chapter"]], row["chapter"], places.get(row["notebook"], len(places)),
            row["experiment"],
        ),
    )  # fmt: skip


class Environment(Table):
    """``{environment}``: versions on the machine that built the book, time of each notebook."""

    def run(self) -> list[nodes.Node]:
        """Build the tables."""
        facts = provenance.machine()
        versions = {"Python": facts["python"], **facts["versions"]}
        versions |= provenance.versions(STATIC)
        about = [
            ("machine", f"{facts['device_name']}, {facts['system']}"),
            ("commit", commit(provenance.code())),
            *((name, version) for name, version in versions.items()),
        ]
        first = self.table(
            ["what", "version"],
            [[[self.text(name)], [nodes.literal("", value)]] for name, value in about],
            "environment-table",
            [30, 70],
        )
        times = [
            [[self.link(name)], [self.text(seconds, "number")], [self.text(when)]]
            for name, seconds, when in executions(repository() / EXECUTED)
        ]
        if not times:
            return [first, self.note("No notebook was executed.")]
        header = ["notebook", "run time", "executed (UTC)"]
        return [first, self.table(header, times, "times-table", [60, 20, 20])]


class Origins(Table):
    """``{origins}``: a sentence on the commits of all published records."""

    def run(self) -> list[nodes.Node]:
        """Build the sentence."""
        folder = Store.at(repository()).published
        try:
            records = [read_record(path) for path in sorted(folder.glob("*/*.json"))]
            found = origins.origins(records, repository())
        except StoreError as error:
            raise self.error(str(error)) from error
        except origins.NoHistory as error:
            return [self.note(f"This build did not look for the commits: {error}.")]
        text = f"This build held both against the history, for all {len(records)} records: "
        text += f"{origins.summary(found)}."
        return [nodes.paragraph("", "", self.text(text, "origins"))]


def commit(code: dict[str, Any]) -> str:
    """Commit of the checkout, with a word if files differ from it."""
    name = code["commit"][:10] if code["commit"] else "not from a git checkout"
    return f"{name}{' with changes' if code['dirty'] else ''}, lib {code['lib_hash'][:8]}"


def executions(folder: Path) -> list[tuple[str, str, str]]:
    """Path, run time and start of each executed notebook, as papermill noted them."""
    found = []
    for path in sorted(folder.rglob("*.ipynb")):
        # of a notebook that was renamed, or is none of the book's, nothing is left to show
        if path.name.startswith(".") or not (repository() / path.relative_to(folder)).is_file():
            continue
        facts = json.loads(path.read_text())["metadata"]["papermill"]
        started = facts["start_time"][:16].replace("T", " ")
        found.append((path.relative_to(folder).as_posix(), duration(facts["duration"]), started))
    return found


def duration(seconds: float) -> str:
    """``"4.2 s"``, ``"12 min"``, ``"3.5 h"``."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


TABLE = "verdict-table"  # what marks HTML whose links are those of lib.verdicts
LINK = re.compile(r"(?<=<a href=')(\.\./[^'#]*)#?([^']*)")


def note_downloads(app: Sphinx, document: nodes.document) -> None:
    """Records that tables of verdicts link to come with the book."""
    name = app.env.docname
    for node in verdict_tables(document):
        for path, _ in LINK.findall(node.astext()):
            target = beside(name, path)
            if target.endswith(".json") and (Path(app.srcdir) / target).is_file():
                app.env.dlfiles.add_file(name, target)


def resolve_links(app: Sphinx, document: nodes.document, name: str) -> None:
    """Links of tables of verdicts, which are to files of the repository, become links to the book's
    pages, to entries of its bibliography and to its copies of records; Sphinx warns of one whose
    target the book does not have, which fails the build."""
    if app.builder.format != "html":
        return
    here = app.builder.get_target_uri(name)

    def resolved(link: re.Match[str]) -> str:
        target = beside(name, link[1])
        found = address(app, target, link[2])
        if found is None:
            LOGGER.warning("a table of verdicts links to %s, which the book lacks",
                           f"{target}#{link[2]}".rstrip("#"), location=name)  # fmt: skip
            return link[0]
        page, mark, fragment = found.partition("#")
        return relative_uri(here, page) + mark + fragment

    for node in verdict_tables(document):
        node.replace_self(nodes.raw("", LINK.sub(resolved, node.astext()), **node.attributes))


def verdict_tables(part: nodes.Element) -> list[nodes.raw]:
    """The HTML of tables of verdicts, from directives and from notebooks."""
    return [n for n in part.findall(nodes.raw) if f" {TABLE}'" in n.astext()]


def beside(name: str, path: str) -> str:
    """A path that is relative to the page `name`, from the book's root."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), path))


def address(app: Sphinx, target: str, key: str = "") -> str | None:
    """Where the built book has a file of the repository or, by its `key`, a source; None if it has
    not."""
    if key:
        for citation in app.env.get_domain("cite").citations:  # type: ignore[attr-defined]
            if citation.key == key:
                page = app.builder.get_target_uri(citation.bibliography_key.docname)
                return f"{page}#{citation.citation_id}"
        return None
    if target in app.env.dlfiles:
        return f"_downloads/{app.env.dlfiles[target][1]}"
    page = posixpath.splitext(target)[0]
    return app.builder.get_target_uri(page) if page in app.env.found_docs else None


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
    sections = [section for section in document.findall(nodes.section) if verdict_tables(section)]
    return str(sections[-1]["ids"][0]) if sections else None


def counts_line(found: Counter[str], anchor: str | None) -> str:
    """The HTML of the line."""
    each = " ".join(
        f"<span class='nobreak'>{found[verdict]} {verdicts.badge(verdict)}</span>"
        for verdict in claims.VERDICTS
        if found[verdict]
    )
    which = f" <a href='#{anchor}'>which</a>" if anchor else ""
    return f"<p class='at-the-top'>Claims on this page: {each}{which}</p>"


def begin_with_counts(app: Sphinx, document: nodes.document) -> None:
    """Put under the title of a notebook's page how the claims on it came out: a reader wants the
    answer first, and the table of verdicts stands at the end."""
    found = counts(app.env.docname, repository())
    title = next(document.findall(nodes.title), None)
    if found and title is not None:
        place = title.parent.index(title) + 1
        title.parent.insert(
            place, nodes.raw("", counts_line(found, table_of(document)), format="html")
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_directive("verdicts", Verdicts)
    app.add_directive("records", Records)
    app.add_directive("environment", Environment)
    app.add_directive("origins", Origins)
    app.connect("doctree-read", note_downloads)
    app.connect("doctree-read", begin_with_counts)
    app.connect("doctree-resolved", resolve_links)
    # versions and records may change while a page's text does not: never read from a cache
    return {"parallel_read_safe": False, "parallel_write_safe": True}
