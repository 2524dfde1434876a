"""Where things stand in a figure: ticks of logarithmic axes, and legends that nothing covers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

WIDTH = 596  # px of a plot in a page's column, without its margins
LETTER, SAMPLE = 7.3, 48  # px: a letter of a legend, and what stands before and between entries
ROW = 20  # px of a row of a legend
HEAD_LETTER = 7.9  # px: a letter of a figure's or an axis's title
MARGINS, PLOT = (60, 20), 250  # px: left and right of a plot by default, and the least of a plot
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round numbers from `low` to `high`: powers of ten, with 2 and 5 between them
    where there is room; equal steps where the range is short."""
    if high / low <= 8:
        steps = [digit * 10.0**n for n in range(-12, 16) for digit in (1, 2, 5)]
        for step in steps:
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            if last - first < most:
                return [float(f"{n * step:.9g}") for n in range(first, last + 1)] or [low]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        every = [float(f"{digit}e{n}") for n in decades for digit in digits]
        ticks = [tick for tick in every if low * 0.999 <= tick <= high * 1.001]
        if len(ticks) <= most:
            return ticks
    return ticks[:: -(-len(ticks) // most)]


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """All as plain numbers ("0.05", "1,000") or, where some are long, all as powers ("2·10⁵")."""
    if max(ticks) < 1e5 and min(ticks) >= 1e-3:
        return [f"{tick:,.6g}" for tick in ticks]
    return [_power(tick) for tick in ticks]


def _power(value: float) -> str:
    digits, _, exponent = f"{value:.4e}".partition("e")
    factor, power = f"{float(digits):g}", str(int(exponent)).translate(RAISED)
    if power == "⁰":
        return factor
    ten = "10" if power == "¹" else f"10{power}"
    return ten if factor == "1" else f"{factor}·{ten}"


def label_log_axes(figure: go.Figure, most: int = 6) -> go.Figure:
    """Give logarithmic axes few ticks, all labelled and in one way. Plotly mixes large and small
    labels, powers and letters ("2 5 1000 2", "10¹⁶ 100T"). Axes with ticks of their own keep them.
    """
    for kind, axes in (("x", figure.select_xaxes()), ("y", figure.select_yaxes())):
        found = {axis.plotly_name.replace("axis", ""): axis for axis in axes}
        values: dict[str, list[float]] = {}
        for trace in figure.data:
            name = trace[f"{kind}axis"] or kind
            root = found[name].matches or name
            values.setdefault(root, []).extend(v for v in _numbers(trace[kind]) if v > 0)
        for name, axis in found.items():
            if axis.type != "log" or axis.tickvals is not None:
                continue
            own = values.get(axis.matches or name)
            low, high = (min(own), max(own)) if own else (1.0, 1.0)
            if axis.range:
                low, high = (10.0**end for end in axis.range)
            ticks = log_ticks(low, high, most)
            if len(ticks) > 0:
                axis.update(tickvals=ticks, ticktext=tick_texts(ticks))
    return figure


def _numbers(values: Iterable[Any] | None) -> list[float]:
    some = () if values is None else values
    return [float(v) for v in some if isinstance(v, (int, float, np.number))]


def range_of(figure: go.Figure, name: str) -> tuple[float, float] | None:
    """Range of the axis `name` ("yaxis"): its own or one around the data; None where the data are
    no numbers or have areas of their own (maps, boxes)."""
    axis, letter = figure.layout[name], name[0]
    if axis.range:
        return tuple(axis.range)
    traces = [t for t in figure.data if (t[f"{letter}axis"] or letter) == letter]
    if axis.type == "category" or any(t.type not in ("scatter", "bar") for t in traces):
        return None
    every = [v for t in traces for v in (() if t[letter] is None else t[letter]) if v is not None]
    if not every or len(_numbers(every)) < len(every):
        return None
    from_zero = any(t.type == "bar" and (t.orientation == "h") == (letter == "x") for t in traces)
    ends = _numbers(every) + [0.0] * from_zero
    for trace in traces:
        bars = trace[f"error_{letter}"]
        below = bars.arrayminus if bars.symmetric is False else bars.array
        for sizes, sign in ((bars.array, 1), (below, -1)) if bars.visible is not False else ():
            pairs = zip(trace[letter], () if sizes is None else sizes, strict=False)
            ends += [at + sign * size for at, size in pairs if at is not None and size is not None]
    if axis.type == "log":
        ends = [math.log10(end) for end in ends if end > 0]
    ends = [end for end in ends if math.isfinite(end)]
    if not ends:
        return None
    room = 0.06 * (max(ends) - min(ends)) or 0.5
    low = min(ends) if from_zero and min(ends) >= 0 else min(ends) - room
    high = max(ends) + room
    return (high, low) if axis.autorange == "reversed" else (low, high)


def legend_rows(figure: go.Figure, width: float = WIDTH) -> int:
    """How many rows a horizontal legend needs: entries stand in columns as wide as the widest."""
    names = [t.name for t in figure.data if t.showlegend is not False and t.name]
    if figure.layout.showlegend is False or len(names) < (1 if figure.layout.showlegend else 2):
        return 0
    return _rows(names, width)


def _rows(names: Sequence[str], width: float) -> int:
    widths = [SAMPLE + LETTER * len(name) for name in names]
    if sum(widths) <= width:
        return 1
    return -(-len(names) // max(1, int(width // max(widths))))


def least_width(figure: Mapping[str, Any]) -> float:
    """px below which something of a figure (as plotly's JSON) is cut off or runs into something
    else: its title, titles of x axes, a legend with room for so many rows as it has in a page's
    column, a plot between wide margins; or what the figure says itself, ``layout.meta.minWidth``.
    """
    layout = figure.get("layout", {})
    margin = layout.get("margin", {})
    left, right = margin.get("l", MARGINS[0]), margin.get("r", MARGINS[1])
    found = [(layout.get("meta") or {}).get("minWidth", 0), left + right + PLOT]
    for one in (layout, *(frame.get("layout", {}) for frame in figure.get("frames") or ())):
        found.append(_wide(one.get("title")) / 0.97)
    for name, axis in layout.items():
        text = _wide(axis.get("title")) / 2 if name.startswith("xaxis") else 0
        start, end = axis.get("domain") or (0, 1) if text else (0, 1)
        middle = (start + end) / 2  # where the title is centred
        found.append(left + right + max((text - left) / middle, (text - right) / (1 - middle)))
    if (layout.get("legend") or {}).get("yref") == "container":
        traces = figure.get("data") or ()
        names = [t["name"] for t in traces if t.get("showlegend") is not False and t.get("name")]
        widths = [SAMPLE + LETTER * len(name) for name in names]
        if names and (rows := _rows(names, WIDTH)) < len(names):
            columns = -(-len(names) // rows)
            found.append(left + right + (sum(widths) if rows == 1 else columns * max(widths)))
    return float(max(found))


def _wide(title: Any) -> float:
    """px of a title's longest line."""
    text = title.get("text") if isinstance(title, Mapping) else title
    lines = (text or "").split("<br>")
    sizes = [0.72 if "<sup>" in line else 1.0 for line in lines]
    return max(
        HEAD_LETTER * size * len(re.sub("<.*?>", "", line))
        for line, size in zip(lines, sizes, strict=True)
    )


def legend_on_top(figure: go.Figure, rows: int) -> None:
    """Put a legend that would stand below the plot, where a slider is, under the title; the figure
    grows by the room that this takes."""
    legend, layout = figure.layout.legend, figure.layout
    if not rows or legend.yref == "container" or (legend.y is not None and legend.y >= 0.5):
        return
    above = 38 + 18 * (layout.title.text or "").count("<br>")
    heads = [
        note.text.count("<br>") + 1
        for note in layout.annotations
        if note.yref == "paper" and note.y is not None and note.y >= 0.999 and note.text
    ]
    margin = above + ROW * rows + 14 + 18 * max(heads, default=0)
    before = layout.margin.t if layout.margin.t is not None else 70
    height = (layout.height or 450) + max(0, margin - before)
    figure.update_layout(
        height=height, margin_t=max(margin, before),
        legend={"orientation": "h", "x": 0, "xanchor": "left", "yref": "container",
                "y": 1 - above / height, "yanchor": "top"},
    )  # fmt: skip


def slider_place(first: str, last: str) -> dict[str, float]:
    """Start and length of a slider's rail, so that the halves of its outer labels that stand beyond
    its ends are not cut off."""
    left = max(0.0, LETTER * len(first) / 2 - 60) / WIDTH
    right = max(0.06 * WIDTH, LETTER * len(last) / 2 - 14) / WIDTH
    return {"x": round(left, 3), "len": round(1 - left - right, 3)}
