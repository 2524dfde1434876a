"""What notebooks show beside figures: verdicts, provenance, and something to explore."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML

from lib import claims, progress, provenance
from lib.experiments import cells_of, find
from lib.figures import with_slider
from lib.store import Record, Store


def records_of(
    experiment: str, profile: str, store: Store | None = None, done_only: bool = True
) -> list[Record]:
    """Records of a profile's cells, in the order of the cells; missing cells are left out."""
    found, store = find(experiment), store or Store.at(provenance.ROOT)
    cells = cells_of(found, profile)
    records = [r for r in store.records(experiment, found.protocol, cells) if r is not None]
    return [r for r in records if r.status == "done"] if done_only else records


def progress_line(experiment: str, profile: str, store: Store | None = None) -> str:
    """ "2 of 3 cells, 0 failed": said beside every figure, so that no subset is silent."""
    records = records_of(experiment, profile, store, done_only=False)
    done = sum(record.status == "done" for record in records)
    total = len(cells_of(find(experiment), profile))
    return f"{profile}: {done} of {total} cells, {len(records) - done} failed"


def curves_of(records: Sequence[Record]) -> pd.DataFrame:
    """Learning curves of several records in one tidy table, with the record's name and seed."""
    parts = [
        record.read_curves().assign(record=record.readable, seed=record.config["seed"])
        for record in records
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def verdict_table(chapter: str, prefix: str = "", root: Path = provenance.ROOT) -> HTML:
    """Claims of a chapter (those whose id starts with `prefix`), our numbers and verdicts.

    The book's own tables come from the ``{verdicts}`` directive, over the same rows.
    """
    rows = [
        {
            "claim": _two_lines(html.escape(row["statement"]), html.escape(row["source"])),
            "published": _two_lines(f"{row['paper_value']:g}", f"accepted: {row['value_text']}"),
            "ours": _two_lines(ours_text(row), f"{row['seeds']} of {row['expected_seeds']} seeds"),
            "verdict": badge(row["verdict"], row["scaled"]),
        }
        for row in claims.report(root)
        if row["chapter"] == chapter and row["id"].startswith(prefix)
    ]
    table = pd.DataFrame(rows).to_html(index=False, escape=False, border=0, classes="verdicts")
    return HTML(table)


def _two_lines(first: str, second: str) -> str:
    return f"{first}<br><small class='note'>{second}</small>"


def ours_text(row: dict[str, Any]) -> str:
    """Mean and interval as HTML, "0.860" alone for a single seed, or a dash."""
    if row["our_mean"] is None:
        return "–"
    text = f"{row['our_mean']:.3f}"
    if row["interval"]:
        text += " <span class='interval'>[{:.3f}, {:.3f}]</span>".format(*row["interval"])
    return text


def badge(verdict: str, scaled: bool = False) -> str:
    """A verdict as HTML: told by its words, the colour only helps."""
    name = verdict.replace(" ", "-")
    mark = " <span class='verdict scaled'>scaled</span>" if scaled else ""
    return f"<span class='verdict {name}'>{verdict}</span>{mark}"


def provenance_table(records: Iterable[Record]) -> HTML:
    """Which record holds which numbers: file, commit, device, backend, time."""
    rows = [
        {
            "record": record.name,
            "commit": _commit(record.provenance),
            "lib": record.provenance["lib_hash"],
            "device": record.provenance["device_name"],
            "torch": record.provenance["versions"].get("torch", ""),
            "backends": ", ".join(
                f"{op} {'/'.join(names)}" for op, names in record.provenance["backends"].items()
            ),
            "seconds": f"{record.provenance['wall_seconds']:.0f}",
            "started (UTC)": record.provenance["started"][:16].replace("T", " "),
        }
        for record in records
    ]
    if not rows:
        return HTML("<p>No record yet.</p>")
    return HTML(pd.DataFrame(rows).to_html(index=False, border=0, classes="provenance"))


def _commit(facts: dict[str, Any]) -> str:
    """Short commit; "+" if the tree had changes, "?" if there was no git to tell (see lib hash)."""
    mark = {True: "+", False: "", None: "?"}[facts.get("dirty")]
    return (facts.get("commit") or "unknown")[:10] + mark


def explore(plot: Callable[..., Any], **choices: Sequence[Any]) -> Any:
    """Let the reader choose arguments of `plot`, which returns a plotly figure.

    With a live kernel: ipywidgets, one for each argument. In the static page: one figure with a
    slider over the first argument's choices (the others keep their first), drawn by the same
    `plot`, so that something moves without a kernel.
    """
    if progress.headless():
        first, *others = choices
        fixed = {name: choices[name][0] for name in others}
        frames = {value: plot(**{first: value}, **fixed) for value in choices[first]}
        return with_slider(frames, first)
    from ipywidgets import SelectionSlider, interactive

    widgets = {
        name: SelectionSlider(options=list(values), description=name, continuous_update=False)
        for name, values in choices.items()
    }
    return interactive(plot, **widgets)
