"""What the page about speed shows: tables and points from records, or how to get them."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from IPython.display import HTML

from lib import provenance
from lib.bench import table, targets
from lib.bench.config import Bench, in_words
from lib.bench.floor import KNOWN
from lib.bench.log import load_log
from lib.bench.recorded import Recorded, recorded
from lib.config import from_dict
from lib.experiments import cells_of, find
from lib.experiments.foundations import PREFIX
from lib.page import HASH
from lib.page import table as table_of
from lib.store import Record, Store

SHOWN = ("set for", "floor", "must reach", "aim", "measured")  # columns as targets.table has them
OURS = "(ours)"
# names in records to what readers see
WORDS = {"in_turn": "in turn", "use_mambapy": "transformers' model with mambapy's scan"}
OLDER = "†"  # marks what was measured by other code than the page is built from
BENCHES: dict[str, Any] = {bench.kind: bench for bench in get_args(Bench)}


def records_of(kind: str, profile: str, store: Store | None = None) -> list[Record]:
    """Records of a benchmark's cells, failed ones too, in the order of the cells."""
    experiment = find(PREFIX + kind)
    store = store or Store.at(provenance.ROOT)
    cells = cells_of(experiment, profile)
    found = store.records(experiment.name, experiment.protocol, cells)
    return [record for record in found if record is not None]


def bench_table(kind: str, records: Sequence[Record]) -> HTML:
    """Every contestant of every record: time, ratio to ours, share of the floor, difference; what
    was measured stands over its contestants, in words."""
    if not records:
        return _not_run(kind)
    width = len(table.HEADER)
    body = []
    for record in records:
        bench = from_dict(BENCHES[kind], record.config)
        title = (
            f"{html.escape(in_words(bench))} <small>{html.escape(record.readable)}<br>"
            f"{html.escape(_origin(record))}</small>"
        )
        body.append(f"<tr class='over'><th colspan='{width}'>{title}</th></tr>")
        body += [_row(_worded(row)) for row in table.rows(record.metrics, record.provenance)]
        if record.status != "done":
            body.append(_row(["failed", *[""] * (width - 2), str(record.reason)]))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.HEADER)
    return HTML(
        f"<table class='provenance bench'><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table>{_age(records)}"
    )


def title_of(record: Record) -> str:
    """What a record's benchmark measures, in words, as the first line of a figure's title."""
    words = in_words(from_dict(BENCHES[record.experiment.removeprefix(PREFIX)], record.config))
    return words[:1].upper() + words[1:]


def _worded(row: Sequence[str]) -> list[str]:
    """A row of :func:`lib.bench.table.rows` without names of code; ours differs from ours by
    nothing, which is no finding."""
    name, *numbers, difference, note = (WORDS.get(cell, cell) for cell in row)
    if difference == "0e+00":
        difference = "–" if name.endswith(OURS) else "0"
    return [name, *numbers, difference, note]


def _origin(record: Record) -> str:
    """Where, when and by which code a record was measured."""
    facts = record.provenance
    device = provenance.short_device(str(facts.get("device_name", "")))
    code = str(facts.get("lib_hash", "unknown"))[:HASH]
    mark = "" if _is_current(record) else f" {OLDER}"
    return f"{device}, {record.started[:10] or 'day unknown'}, lib {code}{mark}"


def _is_current(record: Record) -> bool:
    return record.provenance.get("lib_hash") == provenance.library_hash()


def _age(records: Sequence[Record]) -> str:
    """What the mark of records of other code means, and how many have it."""
    older = sum(not _is_current(record) for record in records)
    if not older:
        return ""
    return (
        f"<p class='muted'>{OLDER} {older} of {len(records)}: measured by other code than this "
        "page was built from. <code>lib</code> is a hash over all files of code, so it differs "
        "even where nothing has changed that is timed here; the day tells how old a number is.</p>"
    )


def _row(cells: Sequence[str]) -> str:
    ours = " class='ours'" if OURS in cells[0] else ""
    return f"<tr{ours}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def sweep_table(records: Sequence[Record], store: Store | None = None) -> HTML:
    """Milliseconds a step at each depth, for all runs and for one; minutes of steps that are
    reckoned from them; and beside those, where all runs of the phase diagram have records, what
    these took themselves, how much of that was timed, and how far the reckoning is off where all
    of it was."""
    if not records:
        return _not_run("sweep")
    store = store or Store.at(provenance.ROOT)
    rows = []
    for record in records:
        metrics = record.metrics
        for name, layers, minutes in _depths(record):
            rows.append({
                "depth": name, "ms a step, all runs": table.number(metrics[f"{name}.ms"]),
                "per run": table.number(metrics[f"{name}.ms_per_run"]),
                "floor share": f"{metrics[f'{name}.floor_share']:.1%}",
                "minutes, extrapolated": f"{minutes:.1f}", **_real(store, layers),
            })  # fmt: skip
        if "minutes" in metrics:
            whole = f"{metrics['minutes']:.1f} (floor {metrics['floor_minutes']:.1f})"
            rows.append({"depth": "all", "ms a step, all runs": "", "per run": "",
                         "floor share": "", "minutes, extrapolated": whole,
                         **_real(store)})  # fmt: skip
    text = pd.DataFrame(rows).to_html(index=False, border=0, classes="provenance")
    origins = html.escape("; ".join(map(_origin, records)))
    text += f"<p class='muted'>Times of a step: {origins}. {_reckoned(records, store)}</p>"
    return HTML(text + _age(records))


def _reckoned(records: Sequence[Record], store: Store) -> str:
    """How long runs took at the depths at which all of them were timed, against the first record's
    reckoning."""
    depths, real, extrapolated = [], 0.0, 0.0
    for name, layers, minutes in _depths(records[0]):
        found = _runs(store, layers)
        if found.whole and found.timed_steps == 1:
            depths.append(name)
            real += found.minutes
            extrapolated += minutes
    if not depths:
        return ""
    return (
        f"At the depths whose runs were timed from end to end ({', '.join(depths)}) they took "
        f"{real:.1f} minutes, {real / extrapolated:.2f} times the {extrapolated:.1f} extrapolated."
    )


def _depths(record: Record) -> Iterator[tuple[str, int, float]]:
    """Each depth of a sweep: its name, its layers, and minutes of all steps at the time of one."""
    for name in sorted(n.removesuffix(".ms") for n in record.metrics if n.endswith(".ms")):
        minutes = record.metrics[f"{name}.ms"] * record.config["steps"] / 6e4
        yield name, int(name.removeprefix("L")), minutes


def _runs(store: Store, layers: int | None) -> Recorded:
    """The phase diagram's runs of a depth, or all."""
    return recorded(
        targets.SWEPT, store=store, only=lambda cell: layers in (None, cell.model.n_layers)
    )


def _real(store: Store, layers: int | None = None) -> dict[str, str]:
    """What the phase diagram's runs of a depth, or all, took themselves."""
    found = _runs(store, layers)
    real, part = "real runs, minutes", "of it timed"
    if not found.whole:
        return {real: "", part: ""}
    return {
        real: f"{found.certainty}{found.minutes:.1f}",
        part: f"{found.timed:.1f} ({found.timed_steps:.0%} of steps)",
    }


def targets_table(store: Store | None = None) -> HTML:
    """Targets, what was measured, and how far that is, each with its device: targets of GPUs were
    set for one kind, and a row from another says so."""
    rows, others = [], list[str]()
    for row in targets.table(store or Store.at(provenance.ROOT)):
        device = provenance.short_device(row["device"])
        told = ", ".join(filter(None, [device, row["day"]]))
        mark = html.escape(f" ({told})") if told else ""
        if row["device"] in KNOWN and device != targets.GPU:
            others.append(device)
            mark = f"<strong>{mark}</strong>"
        rows.append({
            "work": f"{html.escape(row['work'])}<br><small>{html.escape(row['record'])}</small>",
            **{name: html.escape(row[name]) for name in SHOWN},
            "reached": html.escape(row["reached"]) + mark,
        })  # fmt: skip
    text = pd.DataFrame(rows).to_html(index=False, border=0, classes="provenance", escape=False)
    note = (
        ""
        if not others
        else (
            f"<p class='muted'>Targets on a GPU were set for an {targets.GPU}. Rows marked "
            f"{' and '.join(dict.fromkeys(others))} were measured on that other device, and do not "
            f"say what an {targets.GPU} reaches.</p>"
        )
    )
    return HTML(f"<div class='facts'><div class='scroll'>{text}</div>{note}</div>")


def log_table(root: Path = provenance.ROOT) -> HTML:
    """What was tried, what was expected of it and what it gained; folded away, for it is long."""
    trials = load_log(root)
    if not trials:
        return HTML("<p>Nothing has been written down yet.</p>")
    rows = [
        {
            "change": trial.change,
            "expected before": trial.prediction,
            "measured": f"{trial.before:g} to {trial.after:g} {trial.unit} ({trial.bench})",
            "times faster": f"{trial.gain:.2f}",
            "kept": "yes" if trial.kept else "no",
        }
        for trial in trials
    ]
    kept = sum(trial.kept for trial in trials)
    text = f"Changes that were tried: {len(trials)}, kept: {kept}"
    return table_of(pd.DataFrame(rows), fold=text)


def points(records: Sequence[Record]) -> pd.DataFrame:
    """One row a contestant: benchmark, device, contestant, ours, intensity (flop a byte), rate
    (flop/s), exponentials for each flop."""
    rows = []
    for record in records:
        metrics = record.metrics
        if not metrics.get("work.bytes"):
            continue
        flops = metrics["work.flops"]
        for name in table.contestants_of(metrics):
            rows.append(
                {
                    "benchmark": record.readable,
                    "device": str(record.provenance.get("device_name", "")),
                    "contestant": name,
                    "ours": name == record.provenance.get("ours"),
                    "intensity": flops / metrics["work.bytes"],
                    "rate": flops / (metrics[f"{name}.ms"] / 1e3),
                    "exponentials": metrics["work.exponentials"] / flops,
                }
            )
    columns = ["benchmark", "device", "contestant", "ours", "intensity", "rate", "exponentials"]
    return pd.DataFrame(rows, columns=columns)


def by_device(records: Sequence[Record]) -> Iterator[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """Each device that records were measured on, with its :func:`points` and the rates of its first
    record that has any: points of one device do not belong under another's ceilings."""
    for device, rows in points(records).groupby("device", sort=False):
        own = [r.provenance for r in records if r.provenance.get("device_name", "") == device]
        rates: dict[str, Any] = next((f["rates"] for f in own if f.get("rates")), {})
        yield provenance.short_device(str(device)), rows, rates


def _not_run(kind: str) -> HTML:
    return HTML(f"<p>Not run yet: <code>python -m lib bench {html.escape(kind)}</code></p>")
