"""What notebooks show beside figures: verdicts, provenance, and something to explore."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML

from lib import claims, progress, provenance, sessions, verdicts
from lib.config import flatten, lookup
from lib.experiments import cells_of, find
from lib.figures import axes_of, with_slider
from lib.store import Record, Store

# how readers are told which runs a profile holds
RUNS = {
    "paper": "at the paper's scale", "matched": "of the matched profile",
    "quick": "of the quick profile", "pinned": "of the pinned profile",
}  # fmt: skip
HASH = 8  # digits that are shown of a hash
HASHES = f"Of each hash its first {HASH} digits; <code>lib</code> is one over all files of code."
EMPTY = "This table is still empty."  # what ran, and how to run it, says progress_line
# columns, each with the facts in it, one below the other, and what stands before them there
COLUMNS = {
    "experiment": {"experiment": ""}, "code": {"commit": "", "lib": "lib&nbsp;"},
    "device": {"device": "", "torch": "torch&nbsp;"}, "backends": {"backends": ""},
}  # fmt: skip
# marks behind a commit (lib.provenance.code)
MARKS = {
    "?": "run from a copy of the files without git, so whether they were those of the commit is "
    "told by the hash of <code>lib</code> alone",
    "+": "run with changes that were not yet in the commit",
}


def records_of(
    experiment: str, profile: str, store: Store | None = None, done_only: bool = True
) -> list[Record]:
    """Records of a profile's cells, in the order of the cells; missing cells are left out."""
    found, store = find(experiment), store or Store.at(provenance.ROOT)
    cells = cells_of(found, profile)
    records = [r for r in store.records(experiment, found.protocol, cells) if r is not None]
    return [r for r in records if r.status == "done"] if done_only else records


def progress_line(experiment: str, profile: str, store: Store | None = None) -> str:
    """ "2 of 3 runs at the paper's scale are in; none failed": said beside every figure, so that no
    subset is silent; where there is no record at all, also how to get one, and which records are
    damaged."""
    store = store or Store.at(provenance.ROOT)
    store = Store(store.local, store.published)  # whose problems are those of this experiment
    records = records_of(experiment, profile, store, done_only=False)
    done = sum(record.status == "done" for record in records)
    total = len(cells_of(find(experiment), profile))
    line = f"{done} of {total} run{'s' if total != 1 else ''} {RUNS[profile]} are in"
    if records or not total:
        line += f"; {len(records) - done or 'none'} failed"
    else:
        line += f". To run them:\npython -m lib run {experiment} \\\n  --profile {profile}"
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
    """Claims of a chapter (those whose id starts with `prefix`), our numbers and verdicts: the
    table of the ``{verdicts}`` directive, for a notebook two folders below the `root`."""
    rows = claims.report(root, chapter=chapter, prefix=prefix)
    return HTML(verdicts.tables(rows, root, "../../", shown_in=False))


def table(frame: pd.DataFrame, precision: int = 3, empty: str = EMPTY, fold: str = "") -> HTML:
    """A frame for readers, without its index, or the sentence `empty` where it has no row; folded
    away below the sentence `fold`, if there is one.

    Args:
        precision: digits behind the point of numbers that are not whole; what would vanish at so
            many is written with an exponent. Missing numbers are dashes; a text keeps its lines
            and their indents.
    """
    if not len(frame):
        return HTML(f"<p class='muted'>{html.escape(empty)}</p>")
    shown = frame.map(lambda value: _cell(value, precision))
    text = shown.to_html(index=False, border=0, classes="provenance", escape=False)
    return HTML(verdicts.folded(fold, text) if fold else text)


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
    """Which record holds which numbers: a row each with name, code, device, backends and time."""
    return _facts([[record] for record in records], _named)


def provenance_groups(records: Iterable[Record]) -> HTML:
    """As :func:`provenance_table` for hundreds of records: one row for all that ran alike, with
    their number, their time together and, folded away, their names."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(_origin([record]).values()), []).append(record)
    return _facts(list(groups.values()), _counted)


def _facts(groups: list[list[Record]], said: Callable[[list[Record]], str]) -> HTML:
    """A row for each group of records, which ran alike; `said` writes which records they are. What
    is the same in all of several rows stands once, above them; below, what marks mean."""
    if not groups:
        return HTML("<p>No record yet.</p>")
    origins = [_origin(group) for group in groups]
    same = [
        name for name, text in origins[0].items()
        if len(groups) > 1 and all(origin[name] == text for origin in origins)
    ]  # fmt: skip
    rows = [
        {
            "record" if said is _named else "records": said(group),
            **{
                head: "<br>".join(f"{before}{_broken(origin[name])}" for name, before in parts)
                for head, names in COLUMNS.items()
                if (parts := [(name, names[name]) for name in names if name not in same])
            },
            "seconds": _seconds(group),
            "day (UTC)": _days(group),
        }
        for group, origin in zip(groups, origins, strict=True)
    ]
    table = pd.DataFrame(rows).to_html(index=False, border=0, classes="provenance", escape=False)
    table = f"<div class='scroll'>{table}</div>"
    above = "; ".join(f"{name} {_broken(origins[0][name])}" for name in same if origins[0][name])
    if above:
        table = f"<p class='muted'>In every row: {above}.</p>{table}"
    used = {key for origin in origins for key in MARKS if key in origin["commit"]}
    below = " ".join(f"<code>{key}</code>: {text}." for key, text in MARKS.items() if key in used)
    return HTML(f"<div class='facts'>{table}<p class='muted'>{HASHES} {below}</p></div>")


def _named(group: list[Record]) -> str:
    (record,) = group
    name = f"{record.readable}-{record.identity[:HASH]}"
    return f"<span title='{html.escape(record.name)}'>{html.escape(name)}</span>"


def _counted(group: list[Record]) -> str:
    names = "<br>".join(html.escape(record.name) for record in group)
    return f"<details><summary>{len(group)}</summary>{names}</details>"


def _origin(group: list[Record]) -> dict[str, str]:
    """Experiment, code, device and backends of records that ran alike; one after the other where a
    run was resumed with others."""
    facts = group[0].provenance

    def each(read: Callable[[dict[str, Any]], str]) -> str:
        return ", ".join(sessions.each(facts, read))

    return {
        "experiment": group[0].experiment,
        "commit": each(_commit),
        "lib": each(lambda session: str(session["lib_hash"])[:HASH]),
        "device": ", ".join(map(provenance.short_device, sessions.devices(facts))),
        "torch": facts["versions"].get("torch", ""),
        "backends": ", ".join(f"{op} {'/'.join(names)}" for op, names in facts["backends"].items()),
    }


def _broken(text: str) -> str:
    """A text as HTML, whose long names may break behind their parts; versions do not."""
    return re.sub(r"(_|/|\.(?=[a-z]))", r"\1<wbr>", html.escape(text))


def _seconds(group: Sequence[Record]) -> str:
    facts = [record.provenance for record in group]
    return f"{sessions.certainty(facts)}{sessions.together(facts):,.0f}"


def _days(group: Sequence[Record]) -> str:
    """The day on which records were started, or the first and the last; "" if that is unknown."""
    days = sorted(record.started[:10] for record in group)
    ends = dict.fromkeys([days[0], days[-1]])
    return " to ".join(f"<span class='number'>{day}</span>" for day in ends)


def _commit(facts: dict[str, Any]) -> str:
    """Short commit with a mark of MARKS."""
    mark = {True: "+", False: "", None: "?"}[facts.get("dirty")]
    return (facts.get("commit") or "unknown")[:HASH] + mark


def explore(
    plot: Callable[..., Any], start: Any = None, labels: Mapping[Any, str] | None = None,
    **choices: Sequence[Any],
) -> Any:  # fmt: skip
    """Let the reader choose arguments of `plot`, which returns a plotly figure.

    With a live kernel: ipywidgets, one for each argument. In the static page: one figure with a
    slider over the first argument's choices (the others keep their first), drawn by the same
    `plot`, so that something moves without a kernel; of a single choice, its figure alone.

    Args:
        start: which of the first argument's choices is shown at first; by default the first.
        labels: what readers see in place of a choice, each another; those not named stand as they
            are.

    Raises:
        ValueError: `start` is no choice of the first argument.
    """
    first, *others = choices
    names = {value: (labels or {}).get(value, value) for value in choices[first]}
    start = choices[first][0] if start is None else start
    if start not in choices[first]:
        raise ValueError(f"start is {start!r}, allowed: {', '.join(map(str, choices[first]))}")
    if progress.headless():
        fixed = {name: choices[name][0] for name in others}
        frames = {name: plot(**{first: value}, **fixed) for value, name in names.items()}
        if len(frames) == 1:
            return frames[names[start]]
        figure = with_slider(frames, first)
        shown = frames[names[start]]
        for trace, opening in zip(figure.data, shown.data, strict=True):
            trace.update(opening, overwrite=True)
        figure.update_layout(
            title=shown.layout.title, annotations=shown.layout.annotations,
            **axes_of(frames)[names[start]],
        )  # fmt: skip
        figure.layout.sliders[0].active = list(choices[first]).index(start)
        return figure
    from ipywidgets import SelectionSlider, interactive

    widgets = {
        name: SelectionSlider(
            options=[(str((labels or {}).get(value, value)), value) for value in values],
            value=start if name == first else values[0], description=name,
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
        return explore(
            lambda **chosen: plot(labels[chosen[name]]), None, None, **{name: list(labels)}
        )
    from ipywidgets import Text, interactive

    box = Text(value=texts[0], description=name, continuous_update=False)
    return interactive(plot, **{name: box})
