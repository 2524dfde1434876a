"""What the page about speed shows: tables and points from records, or how to get them."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from IPython.display import HTML

from lib import provenance
from lib.bench import table, targets
from lib.bench.config import Bench, in_words
from lib.bench.floor import KNOWN
from lib.bench.log import load_log
from lib.config import from_dict
from lib.experiments import cells_of, find
from lib.experiments.foundations import PREFIX
from lib.page import table as table_of
from lib.store import Record, Store

SET_FOR = "H100"  # the GPU that the targets were set for
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
        title = f"{html.escape(in_words(bench))} <small>{html.escape(record.readable)}</small>"
        body.append(f"<tr class='over'><th colspan='{width}'>{title}</th></tr>")
        body += [_row(row) for row in table.rows(record.metrics, record.provenance)]
        if record.status != "done":
            body.append(_row(["failed", *[""] * (width - 2), str(record.reason)]))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.HEADER)
    return HTML(
        f"<table class='provenance bench'><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def _row(cells: Sequence[str]) -> str:
    ours = " class='ours'" if "(ours)" in cells[0] else ""
    return f"<tr{ours}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def sweep_table(records: Sequence[Record]) -> HTML:
    """Milliseconds a step at each depth, for all runs and for one, and minutes in all."""
    if not records:
        return _not_run("sweep")
    rows = []
    for record in records:
        metrics = record.metrics
        for name in sorted(n.removesuffix(".ms") for n in metrics if n.endswith(".ms")):
            rows.append({
                "depth": name, "ms a step, all runs": table.number(metrics[f"{name}.ms"]),
                "per run": table.number(metrics[f"{name}.ms_per_run"]),
                "floor share": f"{metrics[f'{name}.floor_share']:.1%}", "minutes": "",
            })  # fmt: skip
        if "minutes" in metrics:
            minutes = f"{metrics['minutes']:.1f} (floor {metrics['floor_minutes']:.1f})"
            rows.append({"depth": "all", "ms a step, all runs": "", "per run": "",
                         "floor share": "", "minutes": minutes})  # fmt: skip
    return _html(pd.DataFrame(rows).set_index("depth"))


def targets_table(store: Store | None = None) -> HTML:
    """Targets, what was measured, and how far that is, each with its device: targets of GPUs were
    set for one kind, and a row from another says so."""
    rows, others = [], list[str]()
    for row in targets.table(store or Store.at(provenance.ROOT)):
        device = provenance.short_device(row["device"])
        mark = html.escape(f" ({device})") if device else ""
        if row["device"] in KNOWN and device != SET_FOR:
            others.append(device)
            mark = f"<strong>{mark}</strong>"
        rows.append({
            "work": f"{html.escape(row['work'])}<br><small>{html.escape(row['record'])}</small>",
            **{name: html.escape(row[name]) for name in ("floor", "must reach", "aim", "measured")},
            "reached": html.escape(row["reached"]) + mark,
        })  # fmt: skip
    text = pd.DataFrame(rows).to_html(index=False, border=0, classes="provenance", escape=False)
    note = (
        ""
        if not others
        else (
            f"<p class='muted'>Targets on a GPU were set for an {SET_FOR}. Rows marked "
            f"{' and '.join(dict.fromkeys(others))} were measured on that other device, and do not "
            f"say what an {SET_FOR} reaches.</p>"
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
    """One row a contestant: benchmark, contestant, ours, intensity (flop a byte), rate (flop/s),
    exponentials for each flop."""
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
                    "contestant": name,
                    "ours": name == record.provenance.get("ours"),
                    "intensity": flops / metrics["work.bytes"],
                    "rate": flops / (metrics[f"{name}.ms"] / 1e3),
                    "exponentials": metrics["work.exponentials"] / flops,
                }
            )
    columns = ["benchmark", "contestant", "ours", "intensity", "rate", "exponentials"]
    return pd.DataFrame(rows, columns=columns)


def _not_run(kind: str) -> HTML:
    return HTML(f"<p>Not run yet: <code>python -m lib bench {html.escape(kind)}</code></p>")


def _html(frame: pd.DataFrame) -> HTML:
    return HTML(frame.reset_index().to_html(index=False, border=0, classes="provenance"))
