"""Figures of the page about speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lib.figures import COLOURS
from lib.figures.layout import label_log_axes

# what each ceiling of a roofline is called and how its line looks
CEILINGS = {
    "bandwidth": ("memory", "solid"),
    "products": ("matrix products, float32 accuracy (tensor cores)", "longdash"),
    "fmas": ("multiply-adds, float32 (plain units)", "dash"),
    "exponentials": ("exponentials, at the scan's two for each state entry", "dot"),
}
MARKS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star")
PARTS = {"bytes": COLOURS[0], "multiply-adds": COLOURS[1], "products": COLOURS[3],
         "exponentials": COLOURS[2]}  # fmt: skip


def roofline(points: pd.DataFrame, rates: Mapping[str, Any], title: str) -> go.Figure:
    """Achieved against possible: flop/s over flop for each byte that has to move.

    Args:
        points: of one device, as ``lib.bench.show.by_device`` gives them; marks one above the
            other did the same work, ours are filled.
        rates: of the device: bandwidth (bytes/s), fmas, products (multiply-adds/s), exponentials
            (1/s); those that are None are not drawn.
        title: of the figure.

    Raises:
        ValueError: points of several devices, whose ceilings differ.
    """
    if (count := points["device"].nunique()) > 1:
        raise ValueError(f"points are of {count} devices, allowed: one, whose rates are drawn")
    figure = go.Figure()
    low, high = points["intensity"].min() / 4, points["intensity"].max() * 4
    for index, (name, (label, dash)) in enumerate(CEILINGS.items()):
        x, y = _ceiling(name, rates, points, low, high)
        if y is not None:
            figure.add_scatter(
                x=x, y=y, mode="lines", name=label, line={"color": "#888888", "dash": dash},
                legendrank=900 + index,
            )  # fmt: skip
    for index, (name, rows) in enumerate(points.groupby("contestant", sort=True)):
        ours = bool(rows["ours"].any())
        symbol = MARKS[index % len(MARKS)]
        figure.add_scatter(
            x=rows["intensity"], y=rows["rate"], mode="markers",
            name=f"{name} (ours)" if ours else str(name), hovertext=rows["benchmark"],
            hovertemplate="%{hovertext}<br>%{y:.3s}flop/s<extra>%{fullData.name}</extra>",
            marker={"color": COLOURS[index % len(COLOURS)], "size": 11,
                    "symbol": symbol if ours else f"{symbol}-open"},
        )  # fmt: skip
    figure.update_layout(
        title=title, height=520, legend_y=-0.2,
        xaxis={"type": "log", "title": "flop for each byte that has to move"},
        yaxis={"type": "log", "title": "flop/s achieved"},
    )  # fmt: skip
    return label_log_axes(figure, 8)


def _ceiling(
    name: str, rates: Mapping[str, Any], points: pd.DataFrame, low: float, high: float
) -> tuple[Any, Any]:
    rate = rates.get(name)
    x = np.geomspace(low, high, 2)
    if rate is None:
        return x, None
    if name == "bandwidth":
        return x, rate * x
    if name != "exponentials":
        return x, np.full(2, 2.0 * rate)
    share = points["exponentials"].max()  # the scan's: blocks have hardly any
    return x, (np.full(2, rate / share) if share > 0 else None)


def floor_bars(parts: Mapping[str, float], title: str) -> go.Figure:
    """What bounds some work: microseconds by kind of work; the longest bar is the floor."""
    names = list(PARTS)
    figure = go.Figure(
        go.Bar(
            x=[1e6 * parts.get(name, 0.0) for name in names], y=names, orientation="h",
            marker_color=list(PARTS.values()), hovertemplate="%{x:.3g} µs<extra></extra>",
        )
    )  # fmt: skip
    figure.update_layout(
        title=title, height=280, xaxis_title="least time, µs", yaxis_autorange="reversed",
        showlegend=False,
    )  # fmt: skip
    return figure


def times(frame: pd.DataFrame, title: str) -> go.Figure:
    """Every single timing: one row a contestant, one mark a repeat.

    Args:
        frame: columns contestant, ms.
        title: of the figure.
    """
    figure = go.Figure()
    for index, (name, rows) in enumerate(frame.groupby("contestant", sort=False)):
        figure.add_box(
            x=rows["ms"], name=str(name), boxpoints="all", jitter=0.4, pointpos=0,
            marker_color=COLOURS[index % len(COLOURS)], line_width=1,
        )  # fmt: skip
    figure.update_layout(title=title, height=300, showlegend=False)
    figure.update_xaxes(title="ms a call, one mark a repeat", type="log")
    return figure
