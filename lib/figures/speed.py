"""Figures of the page about speed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from lib.figures import COLOURS
from lib.figures.layout import label_log_axes

# what each ceiling of a roofline is called and how its line looks
CEILINGS = {
    "bandwidth": ("memory", "solid"),
    "products": ("matrix products, float32 accuracy (tensor cores)", "longdash"),
    "fmas": ("multiply-adds, float32 (plain units)", "dash"),
    "exponentials": ("exponentials, one for each {each} flop", "dot"),
}
# colour and symbol of each contestant, the same in all figures; no figure has two of one colour
LOOKS = {
    "fused": (COLOURS[2], "diamond"), "chunked": (COLOURS[0], "circle"),
    "compiled": (COLOURS[1], "square"), "eager": (COLOURS[5], "x"),
    "mamba_ssm": (COLOURS[3], "cross"), "transformers": (COLOURS[4], "triangle-up"),
    "mambapy": (COLOURS[5], "star"),
}  # fmt: skip
OTHER = ("#888888", "hexagon")
PARTS = {"bytes": COLOURS[0], "multiply-adds": COLOURS[1], "products": COLOURS[3],
         "exponentials": COLOURS[2]}  # fmt: skip


def roofline(points: pd.DataFrame, rates: Mapping[str, Any], title: str) -> go.Figure:
    """Achieved against possible: flop/s over flop for each byte that has to move.

    Args:
        points: of one device, as ``lib.bench.show.by_device`` gives them; marks one above the
            other did the same work, ours are filled.
        rates: of the device: bandwidth (bytes/s), fmas, products (multiply-adds/s), exponentials
            (1/s); those that are None are not drawn, nor are exponentials where they bound nothing.
        title: of the figure.

    Raises:
        ValueError: points of several devices, whose ceilings differ.
    """
    if (count := points["device"].nunique()) > 1:
        raise ValueError(f"points are of {count} devices, allowed: one, whose rates are drawn")
    figure = go.Figure()
    low, high = points["intensity"].min() / 4, points["intensity"].max() * 4
    share = float(points["exponentials"].max())
    levels = _levels(rates, share)
    bandwidth = rates.get("bandwidth")
    meets = high  # where memory's line reaches the highest ceiling: it ends there
    if bandwidth is not None and levels:
        meets = min(high, max(levels.values()) / bandwidth)
    low = min(low, meets / 4)
    for index, (name, (label, dash)) in enumerate(CEILINGS.items()):
        if name in levels:
            x, y = [low, high], [levels[name]] * 2
        elif name == "bandwidth" and bandwidth is not None:
            x, y = [low, meets], [bandwidth * low, bandwidth * meets]
        else:
            continue
        figure.add_scatter(
            x=x, y=y, mode="lines", line={"color": "#888888", "dash": dash},
            name=label.format(each=f"{1 / share:.0f}" if share else ""), legendrank=900 + index,
        )  # fmt: skip
    for name, rows in points.groupby("contestant", sort=True):
        ours = bool(rows["ours"].any())
        colour, symbol = LOOKS.get(str(name), OTHER)
        figure.add_scatter(
            x=rows["intensity"], y=rows["rate"], mode="markers",
            name=f"{name} (ours)" if ours else str(name), hovertext=rows["benchmark"],
            hovertemplate="%{hovertext}<br>%{y:.3s}flop/s<extra>%{fullData.name}</extra>",
            marker={"color": colour, "size": 11, "symbol": symbol if ours else f"{symbol}-open"},
        )  # fmt: skip
    figure.update_layout(
        title=title, height=520, legend_y=-0.2,
        xaxis={"type": "log", "title": "flop for each byte that has to move"},
        yaxis={"type": "log", "title": "flop/s achieved"},
    )  # fmt: skip
    return label_log_axes(figure, 8)


def _levels(rates: Mapping[str, Any], share: float) -> dict[str, float]:
    """Flop/s of the level ceilings. That of exponentials is of the work with the largest `share` of
    them, and is left out where it lies above the others."""
    found = {n: 2.0 * rates[n] for n in ("products", "fmas") if rates.get(n) is not None}
    rate = rates.get("exponentials")
    if rate is not None and share > 0 and rate / share < max(found.values(), default=math.inf):
        found["exponentials"] = rate / share
    return found


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
    for name, rows in frame.groupby("contestant", sort=False):
        colour, symbol = LOOKS.get(str(name), OTHER)
        figure.add_box(
            x=rows["ms"], name=str(name), boxpoints="all", jitter=0.4, pointpos=0,
            marker={"color": colour, "symbol": symbol}, line_width=1,
        )  # fmt: skip
    figure.update_layout(title=title, height=300, showlegend=False)
    if "<br>" in title:
        figure.update_layout(title_y=0.92)  # two lines at the usual height would begin above it
    figure.update_xaxes(title="ms a call, one mark a repeat", type="log")
    return figure
