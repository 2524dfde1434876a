"""Tables of verdicts as HTML: the same for the book's pages, which a directive fills, and for
notebooks.

Links are relative to the repository's files, as a live notebook needs them
(``../../book/references.md#achilles2025``). When the book is built, ``book/_ext/tables.py`` turns
them into links to its pages, its bibliography's entries and copies of the records.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

FEW = 8  # claims in a row that were not run and stand open on a page all the same
FEW_SEEDS = 5  # whose values are shown one by one
SOURCES = "book/references"  # the page of the bibliography, and the file that it is made from

Row = Mapping[str, Any]  # of lib.claims.report


def tables(rows: Sequence[Row], root: Path, up: str, shown_in: bool = True) -> str:
    """Claims in their order, a table row each; more than FEW of one page in a row that have no run
    are folded away.

    Args:
        rows: of :func:`lib.claims.report`.
        root: the checkout, for names of sources and pages and for records.
        up: from the page's folder to `root`, ``"../../"``.
        shown_in: whether claims link to the notebook that shows them.
    """
    found, opened = [], list[Row]()
    for page, group in groupby(rows, lambda r: _without_run(r) and r["notebook"]):
        part = list(group)
        if not page or len(part) <= FEW:
            opened += part
            continue
        found += [_table(opened, root, up, shown_in)] if opened else []
        opened = []
        text = f"{heading(root / page)}: {len(part)} claims have not been run"
        unknown = sum(row["verdict"] != "not run" for row in part)
        text += f", {unknown} of them of an unknown protocol" if unknown else ""
        found.append(folded(text, _table(part, root, up, shown_in)))
    found += [_table(opened, root, up, shown_in)] if opened else []
    return "".join(found) or "<p class='muted'>No claims yet.</p>"


def _without_run(row: Row) -> bool:
    verdict = row["verdict"]
    return bool(verdict == "not run" or (verdict == "protocol unknown" and not row["values"]))


def _table(rows: Sequence[Row], root: Path, up: str, shown_in: bool) -> str:
    body = "".join(
        f"<tr><td>{_claim(row, root, up, shown_in)}</td><td>{_published(row)}</td>"
        f"<td>{_ours(row)}</td><td><p>{badge(row['verdict'], row['scaled'])}</p></td></tr>"
        for row in rows
    )
    head = "".join(f"<th>{name}</th>" for name in ("claim", "published", "ours", "verdict"))
    return (
        f"<div class='book-table verdict-table'><table class='table'><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _claim(row: Row, root: Path, up: str, shown_in: bool) -> str:
    """The sentence, where it was published, and what stands behind the verdict."""
    where = html.escape(row["where"])
    if row["source_key"]:
        key = row["source_key"]
        name = html.escape(source_name(key, root))
        where = f"{_link(f'{up}{SOURCES}.md#{key}', name)}, {where}"
    if shown_in:
        page = _link(up + row["notebook"], html.escape(heading(root / row["notebook"])))
        where += f". Shown in {page}"
    return f"<p>{html.escape(row['statement'])}</p><p class='muted'>{where}.</p>" + _details(
        row, root, up
    )


def _details(row: Row, root: Path, up: str) -> str:
    """Folded away: the tolerance and its reason, the records by name, how to run them. A note
    stands open, since it says what the verdict is worth."""
    note = f"<p class='muted'>Note: {html.escape(row['note'])}.</p>" if row["note"] else ""
    folder = f"book/results/{row['experiment']}"
    records = "".join(
        f"<li>{_record(f'{folder}/{name}', root, up)}</li>" for name in row["records"]
    )
    command = f"python -m lib run {row['experiment']} --profile {row['profile']}"
    parts = (
        f"<p>Counts as reproduced: {html.escape(row['tolerance_text'])}.</p>"
        + (f"<ul>{records}</ul>" if records else "<p>No record yet.</p>")
        + f"<p>Run by: <code>{html.escape(command)}</code></p>"
    )
    summary = "<summary>tolerance, records</summary>"
    return f"{note}<details>{summary}<div class='folded'>{parts}</div></details>"


def _record(path: str, root: Path, up: str) -> str:
    """A published record to download, or the name of one that is on this machine only."""
    name = f"<code>{html.escape(Path(path).name)}</code>"
    published = (root / path).is_file()
    return _link(up + path, name, "download") if published else f"{name} (not published)"


def _link(address: str, text: str, *attributes: str) -> str:
    """A link around the HTML `text`; a class for each of the attributes, which have no value."""
    more = "".join(f" class='{name}' {name}" for name in attributes)
    return f"<a href='{html.escape(address)}'{more}>{text}</a>"


def _published(row: Row) -> str:
    """The published value, what it is, and what counts as near it."""
    rule = f"<span class='number'>{html.escape(row['value_text'])}</span>"
    value = f"<span class='number'>{published_text(row)}</span>"
    what = f"<p class='muted'>{html.escape(row['quantity'])}</p>" if row["quantity"] else ""
    return f"<p>{value}</p>{what}<p class='muted'>accepted: {rule}</p>"


def _ours(row: Row) -> str:
    """Mean, 95 % interval over seeds, number of seeds, and their values where they differ."""
    text = f"<p>{ours_text(row)}</p><p class='muted'>{runs_text(row)}</p>"
    each = by_seed(row)
    return text + (f"<p class='muted'>by seed: {each}</p>" if each else "")


def published_text(row: Row) -> str:
    """The published number, or that a claim has none."""
    return "a direction" if row["paper_value"] is None else f"{row['paper_value']:g}"


def ours_text(row: Row) -> str:
    """Mean and interval as HTML, "0.860" alone for a single seed, or a dash."""
    if row["our_mean"] is None:
        return "<span class='number'>–</span>"
    text = f"<span class='number'>{measured(row['our_mean'])}</span>"
    if row["interval"]:
        low, high = map(measured, row["interval"])
        text += f" <span class='interval'>[{low}, {high}]</span>"
    return text


def by_seed(row: Row) -> str:
    """ "0.998, 0.000, 1.000": what lies behind a mean of up to FEW_SEEDS seeds that are not all
    alike; else nothing."""
    values = [measured(value) for value in row["values"]]
    return ", ".join(values) if len(values) <= FEW_SEEDS and len(set(values)) > 1 else ""


def measured(value: float) -> str:
    """Three digits behind the point, one of numbers that are large, such as megabytes."""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def runs_text(row: Row) -> str:
    """ "3 of 3 seeds", the cells where a seed has several of them, and those that failed."""
    expected = row["expected_seeds"]
    text = f"{row['seeds']} of {expected} seed{'s' * (expected != 1)}"
    if row["expected_cells"] > row["expected_seeds"]:
        text += f", {row['cells']} of {row['expected_cells']} cells"
    return text + (f", {row['failed']} failed" if row["failed"] else "")


def badge(verdict: str, scaled: bool = False) -> str:
    """A verdict as HTML: told by its words, the colour only helps."""
    name = verdict.replace(" ", "-")
    mark = " <span class='verdict scaled'>scaled</span>" if scaled else ""
    return f"<span class='verdict {name}'>{verdict}</span>{mark}"


def folded(summary: str, body: str) -> str:
    """The HTML `body` under a line that opens it."""
    return f"<details class='idle'><summary>{html.escape(summary)}</summary>{body}</details>"


def heading(notebook: Path) -> str:
    """The title of a notebook.

    Raises:
        OSError: there is no such file.
    """
    cells = json.loads(notebook.read_text())["cells"]
    return "".join(cells[0]["source"]).splitlines()[0].lstrip("# ")


def source_name(key: str, root: Path) -> str:
    """ "Gu and Dao [2023]", as the book's pages cite.

    Raises:
        KeyError: the bibliography has no entry `key`.
    """
    return _names(root / f"{SOURCES}.bib")[key]


@lru_cache
def _names(path: Path) -> dict[str, str]:
    """How each entry of a bibliography is cited, by its key."""
    # comes with what makes the book's bibliography
    from pybtex.database import parse_file  # type: ignore[import-untyped]

    return {
        key: f"{_people(list(_last_names(entry)))} [{entry.fields['year']}]"
        for key, entry in parse_file(str(path)).entries.items()
    }


def _last_names(entry: Any) -> Iterator[str]:
    for person in entry.persons["author"]:
        yield " ".join(map(str, [*person.rich_prelast_names, *person.rich_last_names]))


def _people(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
