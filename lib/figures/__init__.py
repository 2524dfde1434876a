"""Figures: one look for all, with axes, units, seeds and spread. Importing sets up plotly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from plotly.io._base_renderers import MimetypeRenderer

from lib.analysis.statistics import mean_interval
from lib.figures.layout import least_width, legend_on_top, legend_rows, range_of, slider_place

# Okabe and Ito's colours, told apart by people with any colour vision; each line also has its dash
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid")
SEQUENTIAL = "Cividis"
DIVERGING = "RdBu"
MARKED = 12  # points up to which each is marked
BAND = "band: 95 % interval of the mean"
PANEL, WIDEST = 13, 40  # rem: width that a panel needs beside others, and that a page's column has
REM, PHONE = 16, 340  # px: a rem, and a column that every screen has


class BookRenderer(MimetypeRenderer):
    """HTML of a figure without plotly.js in it; the book's pages load one copy for all."""

    def to_mimebundle(self, fig_dict: dict[str, Any]) -> dict[str, str]:
        """The ``text/html`` part that Jupyter Book shows."""
        html = pio.to_html(
            fig_dict, include_plotlyjs=False, include_mathjax=False, full_html=False,
            validate=False, config={"displaylogo": False, "responsive": True},
            auto_play=False,  # a slider waits for its reader
        )  # fmt: skip
        columns, least = panels(fig_dict.get("layout", {})), least_width(fig_dict)
        if columns > 1 or least > PHONE:
            # on a narrow screen such a figure scrolls, or titles would meet or be cut off
            width = min(max(PANEL * columns, math.ceil(least / REM)), WIDEST)
            html = f'<div style="min-width: {width}rem">{html}</div>'
        return {"text/html": html}


def panels(layout: Mapping[str, Any]) -> int:
    """How many panels of a figure stand side by side."""
    axes = (axis for name, axis in layout.items() if name.startswith("xaxis"))
    return max(1, len({round(axis["domain"][0], 3) for axis in axes if axis.get("domain")}))


def set_up() -> None:
    """Register the renderer (mimetype for JupyterLab, HTML for the book) and the template."""
    pio.renderers["book"] = BookRenderer()
    pio.renderers.default = "plotly_mimetype+book"
    template = go.layout.Template(pio.templates["plotly_white"])
    template.layout.update(
        colorway=COLOURS,
        font={"family": "system-ui, sans-serif", "size": 13},
        # transparent, so that the page's light or dark ground shows through
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 60, "r": 20, "t": 70, "b": 50},
        title={"font": {"size": 15}, "x": 0.02, "yref": "container", "y": 0.97},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#999999", "activecolor": "#555555"},
        legend={"orientation": "h", "y": -0.25, "tracegroupgap": 0},  # rows of layout.ROW
    )
    pio.templates["book"] = template
    pio.templates.default = "book"


set_up()


def spread(
    frame: pd.DataFrame, x: str, y: str, seed: str = "seed", log: bool = False
) -> pd.DataFrame:
    """Mean and 95 % interval (Student's t over seeds) of `y` at each `x`, and the number of seeds.

    With `log`, mean and interval are those of log(y), so they stay positive (geometric mean).
    Returns a frame with columns x, mean, low, high, seeds; low and high are NaN for one seed.
    """
    rows = []
    for at, some in frame.groupby(x):
        numbers = np.log(some[y]) if log else some[y]
        mean, interval = mean_interval(numbers.tolist())
        low, high = interval or (float("nan"), float("nan"))
        rows.append({"mean": mean, "low": low, "high": high})
        rows[-1] = {name: float(np.exp(v)) if log else v for name, v in rows[-1].items()}
        rows[-1] |= {"x": at, "seeds": some[seed].nunique()}
    return pd.DataFrame(rows, columns=["x", "mean", "low", "high", "seeds"])


def band(
    figure: go.Figure, frame: pd.DataFrame, x: str, y: str, name: str, index: int,
    *, log: bool = False, limits: tuple[float, float] | None = None, **place: Any,
) -> None:  # fmt: skip
    """Add `y` over `x`: a thick line for the mean over seeds, a thin line for each seed and, where
    there are three seeds, a band for the mean's 95 % interval (that of two seeds says nothing);
    one entry of the legend says so. Points of short lines are marked: between them nothing was
    measured.

    Args:
        log: mean and interval of log(y), for logarithmic axes.
        limits: values that y can take, (0, 1) for an accuracy; the band is cut there.
    """
    table = spread(frame, x, y, log=log)
    colour, dash = COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)]
    mode = "lines+markers" if len(table) <= MARKED else "lines"
    enough = table["seeds"] > 2
    if enough.any() and BAND not in {trace.legendgroup for trace in figure.data}:
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=BAND, legendgroup=BAND, legendrank=2000,
            marker={"symbol": "square", "size": 14, "color": "#999999", "opacity": 0.5}, **place,
        )  # fmt: skip
    for _, piece in table[enough].groupby((~enough).cumsum()):
        low, high = piece["low"], piece["high"]
        if limits is not None:
            low, high = low.clip(*limits), high.clip(*limits)
        lone = len(piece) == 1  # has no breadth that could be filled
        figure.add_scatter(
            x=np.concatenate([piece["x"], piece["x"][::-1]]), y=np.concatenate([high, low[::-1]]),
            fill="toself", mode="lines", line={"width": 6 if lone else 0, "color": colour},
            fillcolor=colour, opacity=0.3 if lone else 0.15, hoverinfo="skip", showlegend=False,
            legendgroup=name, **place,
        )  # fmt: skip
    if (table["seeds"] > 1).any():
        for seed, rows in frame.sort_values(x).groupby("seed"):
            figure.add_scatter(
                x=rows[x], y=rows[y], mode=mode, line={"color": colour, "width": 0.7},
                marker_size=4, opacity=0.6, showlegend=False, legendgroup=name,
                name=f"{name}, seed {seed}", **place,
            )  # fmt: skip
    figure.add_scatter(
        x=table["x"], y=table["mean"], mode=mode, name=f"{name} ({seeds_of(table['seeds'])})",
        legendgroup=name, line={"color": colour, "dash": dash, "width": 2.5}, marker_size=7,
        **place,
    )  # fmt: skip


def seeds_of(counts: pd.Series) -> str:
    """ "3 seeds", or "1 to 3 seeds" where points have different numbers of them."""
    least, most = (0, 0) if counts.empty else (int(counts.min()), int(counts.max()))
    number = str(most) if least == most else f"{least} to {most}"
    return f"{number} seed{'s' if number != '1' else ''}"


def one_entry_a_group(figure: go.Figure) -> None:
    """Leave one entry of the legend for each group, not one a panel."""
    seen: set[str] = set()
    for trace in figure.data:
        if trace.showlegend is not False and trace.legendgroup in seen:
            trace.showlegend = False
        elif trace.showlegend is not False:
            seen.add(trace.legendgroup)


def reference_line(
    figure: go.Figure, y: float, text: str, *, beside: bool = False, **place: Any
) -> None:
    """A thin horizontal line at a published value, labelled above its left end or, where curves run
    through that, `beside` its right end."""
    figure.add_hline(
        y=y, line={"width": 1, "dash": "dot", "color": "#888888"}, annotation_text=text,
        annotation_position="right" if beside else "top left", annotation_font_size=11,
        annotation_align="left", **place,
    )  # fmt: skip


def heat_map(
    values: Any, *, x: Sequence[Any], y: Sequence[Any], title: str, x_title: str, y_title: str,
    unit: str, diverging: bool = False, height: int = 320,
) -> go.Figure:  # fmt: skip
    """A matrix (rows from top to bottom) with labelled axes; diverging scales are centred on 0, and
    what is no number stays empty."""
    top = float(np.nanmax(np.abs(np.asarray(values, dtype=float)))) if diverging else None
    figure = go.Figure(
        go.Heatmap(
            z=np.asarray(values, dtype=float),
            x=list(x),
            y=list(y),
            xgap=1,
            ygap=1,
            colorscale=DIVERGING if diverging else SEQUENTIAL,
            zmin=-top if top is not None else None,
            zmax=top,
            colorbar={"title": unit, "thickness": 12},
            hovertemplate=(
                f"{x_title} %{{x}}<br>{y_title} %{{y}}<br>{unit} %{{z:.3g}}<extra></extra>"
            ),
        )
    )
    figure.update_layout(
        title=title,
        height=height,
        xaxis_title=x_title,
        yaxis_title=y_title,
        yaxis_autorange="reversed",
    )
    return figure


def with_slider(frames: Mapping[Any, go.Figure], name: str) -> go.Figure:
    """One figure that a slider moves through `frames`, without a kernel.

    All figures must have the same traces in the same order; their layouts' titles, axes and
    annotations may differ. The highest of them sets the height. A legend below the plot goes above
    it, out of the slider's way.
    """
    keys = list(frames)
    counts = {len(figure.data) for figure in frames.values()}
    if len(counts) != 1:
        raise ValueError(f"frames have {sorted(counts)} traces, allowed: the same number in each")
    whole, axes = go.Figure(frames[keys[0]]), axes_of(frames)
    whole.frames = [
        go.Frame(
            name=str(key), data=figure.data,
            layout={
                "title": figure.layout.title, "annotations": figure.layout.annotations,
                **axes[key],
            },
        )
        for key, figure in frames.items()
    ]  # fmt: skip
    settings = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}}
    labels = [str(key).replace("_", " ") for key in keys]
    heights = [figure.layout.height for figure in frames.values() if figure.layout.height]
    whole.update_layout(
        height=max(heights, default=None),
        sliders=[
            {
                **slider_place(labels[0], labels[-1]),
                "currentvalue": {"prefix": f"{name}: "},
                "pad": {"t": 64},  # below the title of the axis
                "steps": [
                    {
                        "label": label, "method": "animate",
                        "args": [[str(key)], settings],
                    }
                    for key, label in zip(keys, labels, strict=True)
                ],
            }
        ],
    )  # fmt: skip
    legend_on_top(whole, max(map(legend_rows, frames.values())))
    return whole


def axes_of(frames: Mapping[Any, go.Figure]) -> dict[Any, dict[str, Any]]:
    """Title, ticks and range of each figure's first two axes, where they are set: sliders find
    none. Axes of numbers that reach from and to others in each figure get a range from the data:
    a moving slider leaves a range as it was."""
    found: dict[Any, dict[str, Any]] = {key: {} for key in frames}
    for name in ("xaxis", "yaxis"):
        ranges = {key: range_of(figure, name) for key, figure in frames.items()}
        moves = None not in ranges.values() and len(set(ranges.values())) > 1
        for key, figure in frames.items():
            axis = figure.layout[name]
            own: dict[str, Any] = {"title": {"text": axis.title.text}} if axis.title.text else {}
            if axis.tickvals is not None:
                own |= {"tickvals": list(axis.tickvals), "ticktext": axis.ticktext}
            if axis.range or moves:
                own |= {"range": list(ranges[key] or axis.range), "autorange": False}
            if own:
                found[key][name] = own
    return found


def token_strip(
    tokens: Sequence[Any], roles: Sequence[str], colours: Mapping[str, str], title: str = "",
    names: Sequence[str] | None = None, size: int = 18,
) -> go.Figure:  # fmt: skip
    """A sequence as a row of boxes, one a token, coloured and labelled by role.

    Args:
        names: what stands below each token, if not its role; long sequences name one in a group.
        size: of the tokens' type.
    """
    figure = go.Figure()
    # px of a token with its role; names of one's own stand below groups and have their room
    box = max(20, *(0.6 * size * len(str(token)) + 6 for token in tokens))
    box = max(box, *(6.2 * len(role) + 6 for role in roles)) if names is None else box
    names = roles if names is None else names
    for at, (token, role, name) in enumerate(zip(tokens, roles, names, strict=True)):
        figure.add_shape(
            type="rect", x0=at + 0.55, x1=at + 1.45, y0=0, y1=1, line_width=1,
            line_color=colours[role], fillcolor=colours[role], opacity=0.25,
        )  # fmt: skip
        figure.add_annotation(
            x=at + 1, y=0.58, text=f"<b>{token}</b>", showarrow=False, font_size=size
        )
        figure.add_annotation(x=at + 1, y=0.18, text=name, showarrow=False, font_size=11)
    # shapes alone draw no axes: an invisible trace makes the figure real for plotly and for tests
    figure.add_scatter(
        x=[n + 1 for n in range(len(tokens))], y=[0.5] * len(tokens), mode="markers",
        marker_opacity=0, hovertext=[f"{t}: {r}" for t, r in zip(tokens, roles, strict=True)],
        hoverinfo="text", showlegend=False,
    )  # fmt: skip
    figure.update_layout(
        title=title,
        height=190,
        xaxis={"title": "position", "dtick": 1, "showgrid": False},
        yaxis={"visible": False, "range": [-0.05, 1.05]},
        meta={"minWidth": round(80 + box * len(tokens))},
    )
    return figure
