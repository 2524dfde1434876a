"""Sphinx extension: tables of verdicts, records and versions, made when the book is built.

    ```{verdicts}
    :chapter: achilles      rows of one chapter; all chapters when left out
    :summary:               counts by chapter instead of rows
    ```
    ```{records}            how far each experiment is, from its records
    ```
    ```{environment}        versions, and how long each notebook took
    ```

Nothing is generated into git: the rows come from ``book/claims`` and the records at build time,
so a page cannot say what no record holds.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from lib import claims, provenance, runner
from lib.book import ROOT_VARIABLE
from lib.notebook import EXECUTED
from lib.page import FEW, measured, published_text, runs_text

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
        """A table of class `kind`; each cell is a list of block or inline nodes."""
        group = nodes.tgroup(cols=len(header))
        group += [nodes.colspec(colwidth=width) for width in widths]
        group += nodes.thead("", self._row([[self.text(name)] for name in header]))
        group += nodes.tbody("", *(self._row(row) for row in rows))
        # a div that can scroll sideways on a narrow screen
        return nodes.container("", nodes.table("", group), classes=["book-table", kind])

    @staticmethod
    def _row(cells: Sequence[Sequence[nodes.Node]]) -> nodes.row:
        row = nodes.row()
        for cell in cells:
            entry = nodes.entry()
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
        for chapter in [wanted] if wanted else chapters:
            if wanted is None:
                found.append(nodes.paragraph("", "", self.chapter_link(chapter), classes=["over"]))
            found += self.claims_tables([row for row in rows if row["chapter"] == chapter])
        return found or [self.note("No claims yet.")]

    def chapter_link(self, chapter: str) -> nodes.Node:
        """The chapter's page, ``book/<chapter>.md``."""
        return self.link(f"book/{chapter}")

    def summary(self, rows: list[dict[str, Any]], chapters: list[str]) -> nodes.Node:
        """How many claims of each chapter have which verdict."""
        used = [v for v in claims.VERDICTS if any(row["verdict"] == v for row in rows)]
        lines = []
        for chapter in chapters:
            verdicts = [row["verdict"] for row in rows if row["chapter"] == chapter]
            counts = [verdicts.count(verdict) for verdict in used]
            lines.append(
                [[self.chapter_link(chapter)], [self.text(str(len(verdicts)))]]
                + [[self.text(str(n) if n else "–", "" if n else "muted")] for n in counts]
            )
        header = ["chapter", "claims", *used]
        return self.table(header, lines, "summary", [40] + [12] * (len(header) - 1))

    def claims_tables(self, rows: list[dict[str, Any]]) -> list[nodes.Node]:
        """Claims in their order; more than FEW of one page in a row that were not run are folded
        away."""
        found: list[nodes.Node] = []
        open_rows: list[dict[str, Any]] = []
        for page, group in groupby(rows, lambda r: r["verdict"] == "not run" and r["notebook"]):
            part = list(group)
            if not page or len(part) <= FEW:
                open_rows += part
                continue
            found += [self.claims_table(open_rows)] if open_rows else []
            open_rows = []
            text = f"{title(page)}: {len(part)} claims have not been run"
            found += [
                nodes.raw("", f"<details class='idle'><summary>{text}</summary>", format="html"),
                self.claims_table(part),
                nodes.raw("", "</details>", format="html"),
            ]
        return found + ([self.claims_table(open_rows)] if open_rows else [])

    def claims_table(self, rows: list[dict[str, Any]]) -> nodes.Node:
        """One row a claim."""
        return self.table(
            ["claim", "published", "ours", "verdict"],
            [[self.claim(row), self.published(row), self.ours(row), self.verdict(row)]
             for row in rows],
            "verdict-table",
            [52, 14, 18, 16],
        )  # fmt: skip

    def claim(self, row: dict[str, Any]) -> list[nodes.Node]:
        """The sentence, where it was published, and what stands behind the verdict."""
        source = self.parsed(f"{{cite:t}}`{row['source_key']}`") if row["source_key"] else []
        where = row["source"].removeprefix(f"{row['source_key']}, ")
        line = nodes.paragraph("", "", *source, classes=["muted"])
        line += nodes.Text(f"{', ' if source else ''}{where}. Shown in ")
        line += [self.link(row["notebook"]), nodes.Text(".")]
        return [nodes.paragraph("", row["statement"]), line, *self.details(row)]

    def details(self, row: dict[str, Any]) -> list[nodes.Node]:
        """Folded away: the tolerance and its reason, a note, the records by name."""
        parts: list[nodes.Node] = [
            nodes.paragraph("", f"Counts as reproduced: {row['tolerance_text']}."),
        ]
        if row["note"]:
            parts.append(nodes.paragraph("", f"Note: {row['note']}."))
        records = nodes.bullet_list()
        for name in row["records"]:
            records += nodes.list_item("", nodes.paragraph("", "", self.record(row, name)))
        parts.append(records if row["records"] else nodes.paragraph("", "No record yet."))
        command = f"python -m lib run {row['experiment']} --profile {row['profile']}"
        parts.append(nodes.paragraph("", "", nodes.Text("Run by: "), nodes.literal("", command)))
        return [
            nodes.raw("", "<details><summary>tolerance, records</summary>", format="html"),
            nodes.container("", *parts, classes=["folded"]),
            nodes.raw("", "</details>", format="html"),
        ]

    def record(self, row: dict[str, Any], name: str) -> nodes.Node:
        """A published record to download, or the name of one that is on this machine only."""
        path = f"/book/results/{row['experiment']}/{name}"
        if not (Path(self.env.srcdir) / path.lstrip("/")).is_file():
            return nodes.inline("", "", nodes.literal("", name), nodes.Text(" (not published)"))
        return addnodes.download_reference(
            "", "", nodes.literal("", name), reftarget=path, refdoc=self.env.docname,
            refdomain="", reftype="download", refexplicit=True, refwarn=True,
        )  # fmt: skip

    def published(self, row: dict[str, Any]) -> list[nodes.Node]:
        """The published value and what counts as near it."""
        value = published_text(row)
        rule = nodes.paragraph("", "accepted: ", classes=["muted"])
        rule += self.text(row["value_text"], "number")
        return [nodes.paragraph("", "", self.text(value, "number")), rule]

    def ours(self, row: dict[str, Any]) -> list[nodes.Node]:
        """Mean, 95 % interval over seeds, number of seeds."""
        mean = "–" if row["our_mean"] is None else measured(row["our_mean"])
        seeds = runs_text(row)
        if row.get("failed"):
            seeds += f", {row['failed']} failed"
        cell = [nodes.paragraph("", "", self.text(mean, "number"))]
        if row["interval"]:
            low, high = map(measured, row["interval"])
            cell[0] += [nodes.Text(" "), self.text(f"[{low}, {high}]", "interval")]
        return [*cell, nodes.paragraph("", seeds, classes=["muted"])]

    def verdict(self, row: dict[str, Any]) -> list[nodes.Node]:
        """The badge: its words tell, its colour helps."""
        cell = [self.text(row["verdict"], "verdict", row["verdict"].replace(" ", "-"))]
        if row["scaled"]:
            cell += [nodes.Text(" "), self.text("scaled", "verdict", "scaled")]
        return [nodes.paragraph("", "", *cell)]


class Records(Table):
    """``{records}``: how far each experiment is, one row a profile."""

    def run(self) -> list[nodes.Node]:
        """Build the table."""
        rows = runner.status(repository())
        if not rows:
            return [self.note("No experiment yet.")]
        cells = []
        for row in rows:
            counts = f"{row['done']} of {row['total']}"
            took = row["certainty"] + duration(row["wall_seconds"])
            state = "complete" if row["done"] == row["total"] else "partial"
            cells.append([
                [self.link(row["notebook"], row["title"]),
                 nodes.paragraph("", "", nodes.literal("", row["experiment"]), classes=["muted"])],
                [self.text(row["profile"])],
                [self.text(counts, "number", state if row["done"] else "muted")],
                [self.text(str(row["failed"]), "number", "" if row["failed"] else "muted")],
                [self.text(", ".join(row["devices"]) or "–")],
                [self.text(took if row["done"] else "–")],
                [self.text((row["last"] or "–")[:10], "number")],
            ])  # fmt: skip
        header = ["experiment", "profile", "cells done", "failed", "device", "run time", "last run"]
        return [self.table(header, cells, "records-table", [30, 10, 12, 8, 20, 10, 10])]


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


def title(notebook: str) -> str:
    """The heading of a notebook, as HTML."""
    cells = json.loads((repository() / notebook).read_text())["cells"]
    return html.escape("".join(cells[0]["source"]).splitlines()[0].lstrip("# "))


def duration(seconds: float) -> str:
    """``"4.2 s"``, ``"12 min"``, ``"3.5 h"``."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_directive("verdicts", Verdicts)
    app.add_directive("records", Records)
    app.add_directive("environment", Environment)
    # versions and records may change while a page's text does not: never read from a cache
    return {"parallel_read_safe": False, "parallel_write_safe": True}
