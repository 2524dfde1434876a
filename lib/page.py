"""What notebooks show beside figures: verdicts, provenance, and something to explore."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML

from lib import claims, progress, provenance, sessions
from lib.config import flatten, lookup
from lib.experiments import cells_of, find
from lib.figures import with_slider
from lib.store import Record, Store

FEW = 8  # claims that were not run and stand open on a page all the same


def records_of(
    experiment: str, profile: str, store: Store | None = None, done_only: bool = True
) -> list[Record]:
    """Records of a profile's cells, in the order of the cells; missing cells are left out."""
    found, store = find(experiment), store or Store.at(provenance.ROOT)
    cells = cells_of(found, profile)
    records = [r for r in store.records(experiment, found.protocol, cells) if r is not None]
    return [r for r in records if r.status == "done"] if done_only else records


def progress_line(experiment: str, profile: str, store: Store | None = None) -> str:
    """ "2 of 3 cells, 0 failed": said beside every figure, so that no subset is silent; where there
    is no record at all, also how to get one, and which records are damaged."""
    store = store or Store.at(provenance.ROOT)
    store = Store(store.local, store.published)  # whose problems are those of this experiment
    records = records_of(experiment, profile, store, done_only=False)
    done = sum(record.status == "done" for record in records)
    total = len(cells_of(find(experiment), profile))
    line = f"{profile}: {done} of {total} cells, {len(records) - done} failed"
    if not records and total:
        line += (
            f"\nNo result yet. To run:\npython -m lib run {experiment} \\\n  --profile {profile}"
        )
    return "\n".join([line, *(f"left out: {problem}" for problem in store.problems)])


def curves_of(records: Sequence[Record], settings: Sequence[str] = ()) -> pd.DataFrame:
    """Learning curves of several records in one tidy table, with the record's name and seed and,
    by the last part of their names, other `settings` of its config ("n_layers")."""
    parts = []
    for record in records:
        flat = flatten(record.config)
        chosen = {name.rsplit(".", 1)[-1]: flat[lookup(flat, name)] for name in settings}
        curves = record.read_curves()
        parts.append(curves.assign(record=record.readable, seed=flat["seed"], **chosen))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def verdict_table(chapter: str, prefix: str = "", root: Path = provenance.ROOT) -> HTML:
    """Claims of a chapter (those whose id starts with `prefix`), our numbers and verdicts; more
    than FEW claims that were not run are folded away.

    The book's own tables come from the ``{verdicts}`` directive, over the same rows.
    """
    rows = claims.report(root, chapter=chapter, prefix=prefix)
    idle = [row for row in rows if row["verdict"] == "not run"]
    if len(idle) <= FEW:
        return HTML(_verdict_rows(rows))
    judged = [row for row in rows if row["verdict"] != "not run"]
    text = f"{len(idle)} of {len(rows)} claims have not been run: show them"
    return HTML((_verdict_rows(judged) if judged else "") + _folded(text, _verdict_rows(idle)))


def _folded(summary: str, body: str) -> str:
    return f"<details class='idle'><summary>{html.escape(summary)}</summary>{body}</details>"


def _verdict_rows(rows: Sequence[dict[str, Any]]) -> str:
    table = [
        {
            "claim": _two_lines(html.escape(row["statement"]), _source_and_note(row)),
            "published": _two_lines(published_text(row), f"accepted: {row['value_text']}"),
            "ours": _two_lines(ours_text(row), runs_text(row)),
            "verdict": badge(row["verdict"], row["scaled"]),
        }
        for row in rows
    ]
    return pd.DataFrame(table).to_html(index=False, escape=False, border=0, classes="verdicts")


def _source_and_note(row: dict[str, Any]) -> str:
    lines = [row["source"], *([f"Note: {row['note']}."] if row["note"] else [])]
    return "<br>".join(html.escape(line) for line in lines)


def published_text(row: dict[str, Any]) -> str:
    """The published number, or that a claim has none."""
    return "a direction" if row["paper_value"] is None else f"{row['paper_value']:g}"


def _two_lines(first: str, second: str) -> str:
    return f"{first}<br><small class='note'>{second}</small>"


def ours_text(row: dict[str, Any]) -> str:
    """Mean and interval as HTML, "0.860" alone for a single seed, or a dash."""
    if row["our_mean"] is None:
        return "–"
    text = measured(row["our_mean"])
    if row["interval"]:
        low, high = map(measured, row["interval"])
        text += f" <span class='interval'>[{low}, {high}]</span>"
    return text


def measured(value: float) -> str:
    """Three digits behind the point, one of numbers that are large, such as megabytes."""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def runs_text(row: dict[str, Any]) -> str:
    """ "3 of 3 seeds", and the cells where a seed has several of them."""
    expected = row["expected_seeds"]
    text = f"{row['seeds']} of {expected} seed{'s' * (expected != 1)}"
    if row["expected_cells"] > row["expected_seeds"]:
        text += f", {row['cells']} of {row['expected_cells']} cells"
    return text


def badge(verdict: str, scaled: bool = False) -> str:
    """A verdict as HTML: told by its words, the colour only helps."""
    name = verdict.replace(" ", "-")
    mark = " <span class='verdict scaled'>scaled</span>" if scaled else ""
    return f"<span class='verdict {name}'>{verdict}</span>{mark}"


def table(
    frame: pd.DataFrame, precision: int = 3, empty: str = "No run yet.", fold: str = ""
) -> HTML:
    """A frame for readers, without its index, or the sentence `empty` where it has no row; folded
    away below the sentence `fold`, if there is one.

    Args:
        precision: digits behind the point of numbers that are not whole; what would vanish at so
            many is written with an exponent. Missing numbers are dashes; a text keeps its lines
            and their indents.
    """
    if not len(frame):
        return HTML(f"<p>{html.escape(empty)}</p>")
    shown = frame.map(lambda value: _cell(value, precision))
    text = shown.to_html(index=False, border=0, classes="provenance", escape=False)
    return HTML(_folded(fold, text) if fold else text)


def _cell(value: Any, precision: int) -> str:
    if isinstance(value, str):  # indented lines stay so
        return html.escape(value).replace("  ", "\u00a0 ").replace("\n", "<br>")
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if value is None or pd.isna(value):
        return "–"
    if float(value).is_integer():
        return f"{int(value):,}"
    tiny = abs(value) < 0.5 * 10.0**-precision
    return f"{value:.1e}" if tiny else f"{value:,.{precision}f}"


def tagged(
    words: Sequence[Any], tags: Sequence[str], colours: Mapping[str, str], title: str = ""
) -> HTML:
    """Words or sentences in boxes, each with its tag below and in its tag's colour; the lines
    break as the screen asks."""
    boxes = "".join(
        f"<span style='border-color: {colours[tag]}; background: {colours[tag]}33'>"
        f"{html.escape(str(word))}<small>{html.escape(tag)}</small></span>"
        for word, tag in zip(words, tags, strict=True)
    )
    head = f"<div>{html.escape(title)}</div>" if title else ""
    return HTML(f"{head}<div class='tagged'>{boxes}</div>")


def provenance_table(records: Iterable[Record]) -> HTML:
    """Which record holds which numbers: file, commit, device, backend, time."""
    rows = [
        {
            "record": record.name,
            **_origin(record),
            "seconds": _seconds([record]),
            "started (UTC)": _started(record),
        }
        for record in records
    ]
    return _facts(rows)


def provenance_groups(records: Iterable[Record]) -> HTML:
    """As :func:`provenance_table` for hundreds of records: one row for all that ran alike, with
    their number, their time together and, folded away, their names."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        key = (record.experiment, *_origin(record).values())
        groups.setdefault(key, []).append(record)
    rows = []
    for group in groups.values():
        started = sorted(_started(record) for record in group)
        names = "<br>".join(html.escape(record.name) for record in group)
        rows.append(
            {
                "records": f"<details><summary>{len(group)} of {group[0].experiment}</summary>"
                f"{names}</details>",
                **{name: html.escape(text) for name, text in _origin(group[0]).items()},
                "seconds": _seconds(group),
                "started (UTC)": started[0] + (f" to {started[-1]}" if len(group) > 1 else ""),
            }
        )
    return _facts(rows, escape=False)


def _facts(rows: list[dict[str, str]], escape: bool = True) -> HTML:
    if not rows:
        return HTML("<p>No record yet.</p>")
    table = pd.DataFrame(rows)
    return HTML(table.to_html(index=False, border=0, classes="provenance", escape=escape))


def _origin(record: Record) -> dict[str, str]:
    """Code, device and backends of a record; one after the other where a run was resumed with
    others."""
    facts = record.provenance

    def each(read: Callable[[dict[str, Any]], str]) -> str:
        return ", ".join(sessions.each(facts, read))

    return {
        "commit": each(_commit),
        "lib": each(lambda session: str(session["lib_hash"])),
        "device": ", ".join(sessions.devices(facts)),
        "torch": facts["versions"].get("torch", ""),
        "backends": ", ".join(f"{op} {'/'.join(names)}" for op, names in facts["backends"].items()),
    }


def _seconds(records: Sequence[Record]) -> str:
    facts = [record.provenance for record in records]
    return f"{sessions.certainty(facts)}{sum(map(sessions.wall_seconds, facts)):.0f}"


def _started(record: Record) -> str:
    return str(record.provenance["started"][:16].replace("T", " "))


def _commit(facts: dict[str, Any]) -> str:
    """Short commit; "+" if the tree had changes, "?" if there was no git to tell (see lib hash)."""
    mark = {True: "+", False: "", None: "?"}[facts.get("dirty")]
    return (facts.get("commit") or "unknown")[:10] + mark


def explore(plot: Callable[..., Any], start: Any = None, **choices: Sequence[Any]) -> Any:
    """Let the reader choose arguments of `plot`, which returns a plotly figure.

    With a live kernel: ipywidgets, one for each argument. In the static page: one figure with a
    slider over the first argument's choices (the others keep their first), drawn by the same
    `plot`, so that something moves without a kernel.

    Args:
        start: which of the first argument's choices is shown at first; by default the first.

    Raises:
        ValueError: `start` is no choice of the first argument.
    """
    first, *others = choices
    start = choices[first][0] if start is None else start
    if start not in choices[first]:
        raise ValueError(f"start is {start!r}, allowed: {', '.join(map(str, choices[first]))}")
    if progress.headless():
        fixed = {name: choices[name][0] for name in others}
        frames = {value: plot(**{first: value}, **fixed) for value in choices[first]}
        figure = with_slider(frames, first)
        shown = frames[start].layout
        for trace, opening in zip(figure.data, frames[start].data, strict=True):
            trace.update(opening, overwrite=True)
        figure.update_layout(title=shown.title, annotations=shown.annotations)
        figure.layout.sliders[0].active = list(frames).index(start)
        return figure
    from ipywidgets import SelectionSlider, interactive

    widgets = {
        name: SelectionSlider(
            options=list(values), value=start if name == first else values[0], description=name,
            continuous_update=False,
        )
        for name, values in choices.items()
    }  # fmt: skip
    return interactive(plot, **widgets)


def type_in(plot: Callable[[str], Any], **examples: Sequence[str]) -> Any:
    """Let the reader type the argument of `plot`, which returns a plotly figure.

    With a live kernel: a text box that opens with the first example. In the static page, where
    nothing can be computed from what is typed: a slider over the examples.

    Args:
        examples: one name with its example texts, short ones.

    Raises:
        ValueError: not exactly one name, or no example.
    """
    if len(examples) != 1 or not all(map(len, examples.values())):
        raise ValueError(f"examples is {examples!r}, allowed: one name with at least one text")
    ((name, texts),) = examples.items()
    if progress.headless():
        # whole texts would not fit below a slider
        labels = {f"{n}: {text[:12]}…": text for n, text in enumerate(texts, 1)}
        return explore(lambda **chosen: plot(labels[chosen[name]]), **{name: list(labels)})
    from ipywidgets import Text, interactive

    box = Text(value=texts[0], description=name, continuous_update=False)
    return interactive(plot, **{name: box})
