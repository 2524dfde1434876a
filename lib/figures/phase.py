"""Figures of the phase diagram: maps over depth and gamma, beside published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lib.analysis.phase import Diagram, Map, beside, thinned
from lib.analysis.reference import Reference
from lib.figures import (
    COLOURS,
    DASHES,
    DIVERGING,
    SEQUENTIAL,
    band,
    one_entry_a_group,
    seeds_of,
)

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
GREY = "rgba(128,128,128,0.25)"
CURVES = {"composite": "composite label", "symmetric": "symmetric label", "seen": "seen pairs"}


@dataclass(frozen=True)
class Panel:
    """One map to draw.

    Attributes:
        title: what it shows and whose it is.
        values: rows are layers, columns gammas; NaN is a missing cell.
        hover: a line more for each cell, or None.
        marks: what is written into a missing cell, such as "×" for failed; "–" by default.
        partial: cells with some of their seeds only; their number gets an asterisk.
    """

    title: str
    values: pd.DataFrame
    hover: pd.DataFrame | None = None
    marks: pd.DataFrame | None = None
    partial: pd.DataFrame | None = None


def ours(title: str, found: Map, values: pd.DataFrame | None = None) -> Panel:
    """A panel of our runs: the mean over seeds unless other `values` are given; cells that failed
    or lack seeds are marked."""
    means, lows, highs = (t.map("{:.3f}".format) for t in (found.mean, found.low, found.high))
    counts = found.done.astype(str) + f" of {found.seeds} seeds"
    failed = found.failed.map(lambda n: f", {n} failed" if n else "")
    hover = "mean " + means + ", seeds " + lows + " to " + highs + "<br>" + counts + failed
    return Panel(
        title,
        found.mean if values is None else values,
        hover.where(found.done > 0, counts + failed),
        found.failed.map(lambda n: "×" if n else "–"),
        (found.done > 0) & (found.done < found.seeds),
    )


def published(title: str, values: pd.DataFrame, failed: Sequence[tuple[int, float]] = ()) -> Panel:
    """A panel of published numbers; `failed` are cells that the source reports as failed."""
    marks = pd.DataFrame("–", index=values.index, columns=values.columns)
    for layers, gamma in failed:
        marks.loc[layers, gamma] = "×"
    return Panel(title, values, marks=marks)


def difference(title: str, found: Map, theirs: pd.DataFrame) -> Panel:
    """A panel of our mean less the published number."""
    return ours(title, found, found.mean - theirs.reindex_like(found.mean))


def against(
    diagram: Diagram, reference: Reference, whose: str, metrics: Sequence[str], title: str
) -> go.Figure:
    """For each metric a row: the published map (where there is one) and ours.

    Without a run of ours, the published maps alone, and the title says so.
    """
    if not len(diagram):
        title = f"{title}: {whose.partition(',')[0]} only; ours has not run"
    panels = []
    for metric in metrics:
        name = metric_title(metric)
        if metric in reference.maps:
            panels.append(published(f"{whose}: {name}", reference.maps[metric], reference.failed))
        if len(diagram):
            panels.append(ours(f"ours: {name}", diagram.map(metric)))
    return maps(panels, title)


def differences(diagram: Diagram, reference: Reference, title: str) -> go.Figure:
    """Ours less the published map, for every metric that was published; `title` says whose."""
    panels = [
        difference(metric_title(metric), diagram.map(metric), theirs)
        for metric, theirs in reference.maps.items()
    ]
    return maps(panels, title, diverging=True)


def spreads(diagram: Diagram, metrics: Sequence[str], title: str) -> go.Figure:
    """The range over seeds of each metric, cell by cell."""
    found = {metric_title(metric): diagram.map(metric) for metric in metrics}
    return maps([ours(name, each, each.spread) for name, each in found.items()], title)


def best_less_last(diagram: Diagram, title: str) -> go.Figure:
    """Best over epochs less the last epoch, taken in each run, then the mean over seeds."""
    labels = ("composite", "symmetric")
    found = {label: diagram.map(f"best_{label}", f"final_{label}") for label in labels}
    return maps([ours(f"{label}, best less last", each) for label, each in found.items()], title)


def maps(
    panels: Sequence[Panel], title: str, *, diverging: bool = False, columns: int = 2
) -> go.Figure:
    """Maps side by side on one colour scale, the number of each cell printed in it.

    Colours run from 0 to 1 (cividis), or from -1 to 1 for differences, so that figures can be
    compared. A missing cell is grey with "–" (not run) or "×" (failed).
    """
    rows = -(-len(panels) // columns)
    figure = make_subplots(
        rows, columns, subplot_titles=[panel.title for panel in panels],
        horizontal_spacing=0.06, vertical_spacing=0.16 / rows,
    )  # fmt: skip
    for index, panel in enumerate(panels):
        place = {"row": index // columns + 1, "col": index % columns + 1}
        for trace in _traces(panel, diverging):
            figure.add_trace(trace, **place)
        axes = {"showgrid": False, "zeroline": False, "type": "category", **place}
        bottom = index + columns >= len(panels)
        figure.update_xaxes(title="gamma" if bottom else None, tickangle=0, **axes)
        figure.update_yaxes(title="layers" if place["col"] == 1 else None, **axes)
        figure.update_yaxes(autorange="reversed", **place)
    figure.update_annotations(font_size=12)
    figure.update_xaxes(tickfont_size=10)
    figure.update_layout(
        title=title,
        height=130 + 225 * rows,
        margin={"t": 75, "l": 45, "r": 10},
        coloraxis={
            "colorscale": DIVERGING if diverging else SEQUENTIAL,
            "cmin": -1 if diverging else 0,
            "cmax": 1,
            "colorbar": {"thickness": 10, "len": min(1, 260 / (225 * rows) + 0.2)},
        },
    )
    return figure


def _traces(panel: Panel, diverging: bool) -> list[go.Heatmap]:
    """The cells that have a number, and the grey of those that have none."""
    x = [f"{gamma:g}" for gamma in panel.values.columns]
    y = [str(layers) for layers in panel.values.index]
    place = "layers %{y}, gamma %{x}<br>"
    text = panel.values.map(short)
    if panel.partial is not None:
        text = text.where(~panel.partial, text + "*")
    hover = panel.values.map("{:+.3f}".format if diverging else "{:.3f}".format)
    if panel.hover is not None:
        hover = panel.hover if not diverging else hover + "<br>" + panel.hover
    missing = panel.values.isna()
    marks = text.where(missing, "") if panel.marks is None else panel.marks
    # plotly's own contrast is weak in the middle of the scale
    light = panel.values.abs() > 0.5 if diverging else panel.values < 0.5
    common: dict[str, Any] = {"x": x, "y": y, "xgap": 1, "ygap": 1, "texttemplate": "%{text}"}
    numbers = [
        go.Heatmap(
            z=_nullable(panel.values.where(cells)), text=text.where(cells, "").to_numpy().tolist(),
            customdata=hover.to_numpy().tolist(), textfont={"size": 9, "color": ink},
            hovertemplate=place + "%{customdata}<extra></extra>", name=panel.title,
            coloraxis="coloraxis", hoverongaps=False, **common,
        )
        for cells, ink in ((light, "white"), (~light & ~missing, "#111111"))
    ]  # fmt: skip
    grey = go.Heatmap(
        z=[[1 if gap else None for gap in row] for row in missing.to_numpy()],
        text=marks.where(missing, "").to_numpy().tolist(), showscale=False,
        colorscale=[[0, GREY], [1, GREY]], textfont={"size": 9, "color": "#8a8a8a"},
        hovertemplate=place + "no number (%{text})<extra></extra>", hoverongaps=False, **common,
    )  # fmt: skip
    return [*numbers, grey]


def _nullable(values: pd.DataFrame) -> list[list[float | None]]:
    """NaN becomes null, and digits that nobody sees stay out of the page."""
    rows = values.round(4).to_numpy()
    return [[None if np.isnan(v) else float(v) for v in row] for row in rows]


def metric_title(metric: str) -> str:
    """ "best_composite" as readers see it: "composite, best epoch"."""
    kind, _, label = metric.partition("_")
    if label.endswith("_by_tens"):
        return f"{label.removesuffix('_by_tens')}, {kind} of every tenth epoch"
    return f"{label}, {'best' if kind == 'best' else 'last'} epoch"


def short(value: float) -> str:
    """Two decimals in little room: ".98", "1.0", "-.05", ".00"; empty for NaN."""
    if np.isnan(value):
        return ""
    text = f"{value if abs(value) >= 0.005 else 0:.2f}"
    return text.replace("1.00", "1.0").replace("0.", ".", 1)


def scatter(pairs: Mapping[str, tuple[Map, pd.DataFrame]], title: str, whose: str) -> go.Figure:
    """Ours against the published number, one mark a cell, with the range of our seeds.

    Args:
        pairs: metric to our map and the published one, a panel each.
        whose: whose numbers stand on the x axis.
    """
    figure = make_subplots(
        1, len(pairs), subplot_titles=[metric_title(metric) for metric in pairs],
        shared_yaxes=True, horizontal_spacing=0.05,
    )  # fmt: skip
    for column, (found, theirs) in enumerate(pairs.values(), 1):
        figure.add_scatter(
            x=[0, 1], y=[0, 1], mode="lines", line={"color": "#888888", "dash": "dot", "width": 1},
            name="equal", showlegend=column == 1, hoverinfo="skip", legendgroup="equal",
            row=1, col=column,
        )  # fmt: skip
        table = beside(found, theirs)
        for index, layers in enumerate(sorted(found.mean.index)):
            rows = table[table["n_layers"] == layers]
            if not len(rows):
                continue
            figure.add_scatter(
                x=rows["published"], y=rows["ours"].round(4), mode="markers",
                name=f"{layers} layers", legendgroup=f"L{layers}", showlegend=column == 1,
                marker={"color": COLOURS[index % len(COLOURS)], "size": 8, "opacity": 0.8,
                        "symbol": SYMBOLS[index % len(SYMBOLS)]},
                error_y={"type": "data", "symmetric": False, "thickness": 0.8, "width": 0,
                         "array": (rows["high"] - rows["ours"]).round(4),
                         "arrayminus": (rows["ours"] - rows["low"]).round(4)},
                text=[f"{layers} layers, gamma {g:g}" for g in rows["gamma"]],
                hovertemplate="%{text}<br>published %{x:.2f}, ours %{y:.3f}<extra></extra>",
                row=1, col=column,
            )  # fmt: skip
    figure.update_xaxes(title=whose, range=[-0.03, 1.05])
    figure.update_yaxes(range=[-0.03, 1.05])
    figure.update_yaxes(title="ours, mean and range over seeds", row=1, col=1)
    figure.update_layout(title=title, height=440, legend_y=-0.2)
    return figure


def along_gamma(diagrams: Mapping[str, Diagram], metrics: Sequence[str], title: str) -> go.Figure:
    """Runs of several kinds beside each other over gamma: a panel for each depth of which all have
    runs and each metric, with every seed, the mean and its interval.

    Args:
        diagrams: what kind of model to its runs.
        metrics: from left to right.
    """
    columns = ["n_layers", "gamma", "seed", "status", *metrics]
    frames = {name: each.frame.reindex(columns=columns) for name, each in diagrams.items()}
    runs = {name: frame[frame["status"] == "done"] for name, frame in frames.items()}
    layers = sorted(set.intersection(*(set(frame["n_layers"]) for frame in runs.values())))
    if not layers:
        title = f"{title}: no depth has run of all"
    titles = [f"{n} layers: {metric_title(metric)}" for n in layers for metric in metrics]
    figure = make_subplots(
        max(1, len(layers)), len(metrics), subplot_titles=titles, shared_yaxes=True,
        horizontal_spacing=0.04,
    )  # fmt: skip
    for row, n in enumerate(layers, 1):
        for column, metric in enumerate(metrics, 1):
            for index, (name, frame) in enumerate(runs.items()):
                chosen = frame[frame["n_layers"] == n]
                band(figure, chosen, "gamma", metric, name, index, limits=(0, 1), row=row,
                     col=column)  # fmt: skip
    one_entry_a_group(figure)
    figure.update_yaxes(range=[-0.02, 1.05])
    figure.update_yaxes(title="accuracy on pair 43", col=1)
    figure.update_xaxes(title="gamma", row=max(1, len(layers)))
    return figure.update_layout(title=title, height=140 + 280 * max(1, len(layers)))


def curves_at(
    curves: pd.DataFrame, gamma: float, layers: Sequence[int], points: int = 70
) -> go.Figure:
    """Learning curves at one gamma, a panel for each depth: mean over seeds and their range.

    Args:
        curves: tidy, with n_layers, gamma, seed, epoch and the accuracies.
        layers: depths to draw; one without runs at this gamma has an empty panel that says so.
        points: epochs drawn, about; more make the page heavy.
    """
    wide = min(3, len(layers))
    high = -(-len(layers) // wide)
    here = {n: curves[(curves["n_layers"] == n) & (curves["gamma"] == gamma)] for n in layers}
    titles = [f"{n} layers" + ("" if len(here[n]) else ": not run") for n in layers]
    figure = make_subplots(
        high, wide, subplot_titles=titles, shared_xaxes=True, shared_yaxes=True,
        horizontal_spacing=0.03, vertical_spacing=0.1,
    )  # fmt: skip
    for index, rows in enumerate(here.values()):
        place = {"row": index // wide + 1, "col": index % wide + 1}
        _add_curves(figure, thinned(rows, points) if len(rows) else rows, index == 0, place)
    figure.update_yaxes(range=[-0.02, 1.05])
    figure.update_yaxes(title="accuracy", col=1)
    figure.update_xaxes(title="epoch", row=high)
    height = 160 + 210 * high
    counts = pd.Series([rows["seed"].nunique() for rows in here.values() if len(rows)], dtype=int)
    figure.update_layout(
        title=f"gamma {gamma:g}: mean over seeds; band: range of {seeds_of(counts)}",
        height=height, margin={"t": 100},
        legend={"yref": "container", "y": 1 - 38 / height, "yanchor": "top", "x": 0},
    )  # fmt: skip
    return figure


def _add_curves(
    figure: go.Figure, rows: pd.DataFrame, legend: bool, place: Mapping[str, int]
) -> None:
    """A range and a mean for each curve; empty ones where there is no run, since every frame of a
    slider needs the same traces."""
    for index, (column, name) in enumerate(CURVES.items()):
        table = rows.groupby("epoch")[column].agg(["mean", "min", "max"]).round(3)
        epochs = table.index.tolist()
        figure.add_scatter(
            x=epochs + epochs[::-1], y=table["max"].tolist() + table["min"].tolist()[::-1],
            fill="toself", mode="lines", line_width=0, fillcolor=COLOURS[index], opacity=0.2,
            hoverinfo="skip", showlegend=False, legendgroup=column, **place,
        )  # fmt: skip
        figure.add_scatter(
            x=epochs, y=table["mean"].tolist(), mode="lines", name=name, legendgroup=column,
            showlegend=legend, line={"color": COLOURS[index], "dash": DASHES[index], "width": 2},
            **place,
        )  # fmt: skip


def answers_at(
    table: pd.DataFrame, gamma: float, layers: Sequence[int], marks: Mapping[str, int],
    reach: int = 20,
) -> go.Figure:  # fmt: skip
    """What models answer to the held-out pair at one gamma, a panel for each depth: shares of
    answer less key, those of the known solutions in colour.

    Args:
        table: columns n_layers, gamma, seed, offset and share.
        layers: depths to draw; one of which nothing is known at this gamma has an empty panel that
            says so. Several seeds are averaged.
        marks: solution to its offset.
        reach: offsets beyond are one bar at each end.
    """
    wide = min(3, len(layers))
    high = -(-len(layers) // wide)
    here = {n: table[(table["n_layers"] == n) & (table["gamma"] == gamma)] for n in layers}
    counts = {n: rows["seed"].nunique() for n, rows in here.items()}
    titles = [
        f"{n} layers" + (f", {count} seeds" if count > 1 else "" if count else ": not looked at")
        for n, count in counts.items()
    ]
    figure = make_subplots(
        high, wide, subplot_titles=titles, shared_xaxes=True, shared_yaxes=True,
        horizontal_spacing=0.03, vertical_spacing=0.12,
    )  # fmt: skip
    offsets = list(range(-reach, reach + 1))
    for index, rows in enumerate(here.values()):
        place = {"row": index // wide + 1, "col": index % wide + 1}
        shares = rows.assign(offset=rows["offset"].clip(-reach, reach)).groupby("offset")["share"]
        total = (shares.sum() / max(1, rows["seed"].nunique())).reindex(offsets, fill_value=0.0)
        groups = [*((name, [at]) for name, at in marks.items()),
                  ("another answer", [o for o in offsets if o not in marks.values()])]  # fmt: skip
        for number, (name, at) in enumerate(groups):
            figure.add_bar(
                x=at, y=total[at].round(4).tolist(), name=name, legendgroup=name,
                showlegend=index == 0, width=0.9,
                marker={"color": COLOURS[number] if number < len(marks) else "#777777"},
                hovertemplate="answer less key %{x}: %{y:.3f}<extra>" + name + "</extra>", **place,
            )  # fmt: skip
    ticks = [-reach, -reach // 2, 0, reach // 2, reach]
    texts = [f"≤{-reach}", *map(str, ticks[1:-1]), f"≥{reach}"]
    # wide enough that the outer labels of neighbours do not meet
    figure.update_xaxes(
        range=[-1.3 * reach, 1.3 * reach], tickvals=ticks, ticktext=texts, tickangle=0,
        tickfont_size=11,
    )  # fmt: skip
    figure.update_xaxes(title="answer less key", row=high)
    figure.update_yaxes(range=[0, 1.05])
    figure.update_yaxes(title="share of sequences", col=1)
    height = 190 + 200 * high
    figure.update_layout(
        title=f"gamma {gamma:g}: answers to pair 43, last epoch", barmode="overlay", height=height,
        margin={"t": 120},
        legend={"yref": "container", "y": 1 - 38 / height, "yanchor": "top", "x": 0},
    )  # fmt: skip
    return figure
