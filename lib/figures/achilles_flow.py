"""Figures of the interventions: flow between tokens, agreement by pair, kernels.

After arXiv 2509.17514, Figs. 5, 6 and 12. Figures of one kind always have the same number of
traces, so that ``lib.figures.with_slider`` can move through them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lib.figures import COLOURS, DIVERGING
from lib.figures.ablations import MODELS
from lib.figures.achilles import ROLE_COLOURS

if TYPE_CHECKING:
    from torch import Tensor

    from lib.analysis.flow import Lens

STEPS = 6  # widths that lines can have: plotly gives a trace one width
LIGHT = [[0.0, "#ffffff"], [1.0, "#9ecae1"]]  # black text is readable on all of it
INK, CUT = "#111111", COLOURS[2]
NODES = "markers+text"  # the only trace of this mode in a flow
# what plotly-theme.js draws in the dark instead: from its ground on, and white text
DARK = {"marker.colorscale": [[0.0, "#1d232b"], [1.0, "#1f6aa5"]], "textfont.color": "#f2f4f7"}
# below is where a slider goes
ON_TOP = {"x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom"}


def information_flow(
    S: Tensor, tokens: Sequence[int], lens: Lens, title: str, *, key: int | None = None,
    cut: Tensor | None = None, cut_layers: Sequence[int] | None = None,
    largest: Sequence[float] | None = None,
) -> go.Figure:  # fmt: skip
    """Which token reads which, layer by layer: width and opacity of a line are |S_ij|.

    A line from token j below to token i above is S_ij of the layer between them. A node holds what
    the head would answer there (logit lens), shaded by its probability.

    Args:
        S: (layers, l, l), of ``lib.analysis.flow.flow``.
        key: where the key stands, counted from 0: lines from it and from its pair get colours.
        cut: (l, l) mask of cut lines, marked with crosses, in `cut_layers` (all if None).
        largest: |S| of the widest line of each layer; by default the largest there is in it, since
            layers differ by orders of magnitude. Give it where figures are to be compared.
    """
    layers, length, _ = S.shape
    values = S.detach().cpu().double().numpy()
    tops = np.abs(values).max((1, 2)).tolist() if largest is None else list(largest)
    roles = ["noise"] * length
    if key is not None:
        roles[key : key + 3] = ["key", "anchor", "anchor"]
    edges = [(n, i, j) for n in range(layers) for j in range(length) for i in range(j, length)]
    figure = go.Figure()
    for role, colour in ROLE_COLOURS.items():
        for step in range(STEPS):
            chosen = [
                e for e in edges if roles[e[2]] == role and _step(values[e], tops[e[0]]) == step
            ]
            _lines(figure, chosen, role, colour, (step + 1) / STEPS)
        figure.add_scatter(  # in the legend, whatever widths occur
            x=[None], y=[None], mode="lines", name=f"from {role}",
            line={"color": colour, "width": 4},
        )  # fmt: skip
    _hovers(figure, edges, values, tokens)
    gone = [] if cut is None else cut.nonzero().tolist()
    which = range(layers) if cut_layers is None else cut_layers
    places = [_along(n, i, j) for n in which for i, j in gone]
    figure.add_scatter(
        x=[x for x, _ in places], y=[y for _, y in places], mode="markers", name="cut",
        marker={"symbol": "x", "size": 8, "color": CUT}, showlegend=bool(gone), hoverinfo="skip",
    )  # fmt: skip
    _nodes(figure, lens, tokens, roles)
    widest = ", ".join(f"{top:.3g}" for top in tops)
    depths = ["embedding", *(f"layer {n + 1}" for n in range(layers))]
    figure.update_layout(
        title=f"{title}<br><sup>widest lines, by layer: |S| = {widest}</sup>",
        height=210 + 100 * min(layers, 4) + 60 * max(0, layers - 4), margin_t=95, legend=ON_TOP,
        xaxis={"title": "position", "dtick": 1, "range": [0.4, length + 0.6], "showgrid": False},
        yaxis={"title": "residual stream after", "tickvals": list(range(layers + 1)),
               "ticktext": depths, "range": [-0.85, layers + 0.4], "showgrid": False,
               "zeroline": False},
    )  # fmt: skip
    return figure


def _step(value: float, top: float) -> int:
    """Which of the widths a line gets, 0 the thinnest."""
    share = min(abs(float(value)) / top, 1.0) if top > 0 else 0.0
    return max(0, int(np.ceil(share * STEPS)) - 1)


def _lines(
    figure: go.Figure, edges: Sequence[tuple[int, int, int]], role: str, colour: str, level: float
) -> None:
    x: list[float | None] = []
    y: list[float | None] = []
    for n, i, j in edges:
        x += [j + 1, i + 1, None]
        y += [n, n + 1, None]
    figure.add_scatter(
        x=x, y=y, mode="lines", line={"color": colour, "width": 0.3 + 6 * level},
        opacity=0.1 + 0.75 * level, hoverinfo="skip", showlegend=False, name=f"from {role}",
        meta={"dark": {"opacity": 0.35 + 0.6 * level}},
    )  # fmt: skip


def _along(n: int, i: int, j: int) -> tuple[float, float]:
    """A point on a line that is on no other: in the middle, lines of equal i + j would meet."""
    return j + 1 + 0.62 * (i - j), n + 0.62


def _hovers(
    figure: go.Figure, edges: Sequence[tuple[int, int, int]], values: np.ndarray,
    tokens: Sequence[int],
) -> None:  # fmt: skip
    """Lines have no hover of their own: a point that nobody sees on each."""
    places = [_along(*edge) for edge in edges]
    text = [
        f"layer {n + 1}: {tokens[i]} at {i + 1} reads {tokens[j]} at {j + 1}"
        f"<br>S = {values[n, i, j]:.3g}"
        for n, i, j in edges
    ]
    figure.add_scatter(
        x=[x for x, _ in places], y=[y for _, y in places], text=text, mode="markers",
        marker={"opacity": 0, "size": 10}, hoverinfo="text", showlegend=False,
    )  # fmt: skip


def _nodes(figure: go.Figure, lens: Lens, tokens: Sequence[int], roles: Sequence[str]) -> None:
    depths, length = lens.tokens.shape
    read, odds = lens.tokens.flatten().tolist(), lens.probabilities.flatten().tolist()
    places = [(at + 1, depth) for depth in range(depths) for at in range(length)]
    figure.add_scatter(
        x=[x for x, _ in places], y=[y for _, y in places], mode=NODES, showlegend=False,
        text=[str(token) for token in read], textfont={"color": INK, "size": 11},
        hovertext=[f"{token}, probability {p:.3f}" for token, p in zip(read, odds, strict=True)],
        hoverinfo="text", meta={"dark": DARK},
        marker={"size": 27, "color": odds, "colorscale": LIGHT, "cmin": 0, "cmax": 1,
                "opacity": 1, "line": {"color": "#888888", "width": 1},
                "colorbar": {"title": {"text": "probability<br>of the token<br>in the node"},
                             "thickness": 12}},
    )  # fmt: skip
    figure.add_scatter(
        x=list(range(1, length + 1)), y=[-0.6] * length, mode="text", showlegend=False,
        text=[f"<b>{token}</b>" for token in tokens], hovertext=list(roles), hoverinfo="text",
        textfont={"size": 14},
    )  # fmt: skip


def agreement_bars(
    groups: Mapping[str, Sequence[Mapping[int, float]]], title: str, y_title: str,
    published: Mapping[int, float] | None = None, whose: str = "paper",
    x_title: str = "anchor pair (43 is never trained)",
) -> go.Figure:  # fmt: skip
    """Share of equal answers by pair, a panel a group of models: a bar for their mean, a dot for
    each of several, a diamond for the published share.

    Args:
        groups: name to runs; for each run, pair (43) to share
            (``lib.analysis.interventions.agreement_by_pair``).
    """
    every = [run for runs in groups.values() for run in runs]
    pairs = sorted({pair for run in every for pair in run} | set(published or {}))
    columns = min(2, len(groups))
    rows = -(-len(groups) // columns)
    figure = make_subplots(
        rows,
        columns,
        shared_yaxes=True,
        subplot_titles=list(groups),
        horizontal_spacing=0.04,
        vertical_spacing=0.24 / rows,
    )
    shown: set[str] = set()
    for panel, runs in enumerate(groups.values()):
        for trace in _agreement(runs, pairs, published or {}, whose):
            trace.update(legendgroup=trace.name, showlegend=trace.name not in shown)
            shown.add(trace.name)
            figure.add_trace(trace, row=panel // columns + 1, col=panel % columns + 1)
    figure.update_xaxes(
        type="category", categoryorder="array", categoryarray=[str(pair) for pair in pairs],
        tickfont_size=10 if columns > 1 else 12, tickangle=0,
    )  # fmt: skip
    for column in range(1, columns + 1):
        last = (len(groups) - column) // columns + 1
        figure.update_xaxes(title=x_title, row=last, col=column)
    figure.update_yaxes(range=[0, 1.06])
    # once, since titles of all rows may run into one another
    figure.update_yaxes(title=y_title, row=(rows + 1) // 2, col=1)
    figure.update_annotations(font_size=13)
    figure.update_layout(
        title=title, height=180 + 220 * rows, barmode="overlay", legend_y=-0.32 / (rows + 0.4)
    )
    return figure


def _agreement(
    runs: Sequence[Mapping[int, float]], pairs: Sequence[int], published: Mapping[int, float],
    whose: str,
) -> list[Any]:  # fmt: skip
    """Bars, dots and diamonds of one panel of :func:`agreement_bars`."""
    names = [str(pair) for pair in pairs]
    kept = [[run[pair] for run in runs if pair in run] for pair in pairs]
    traces: list[Any] = [
        go.Bar(
            x=names, y=[float(np.mean(v)) if v else None for v in kept], opacity=0.6,
            name="ours" if len(runs) == 1 else f"ours, mean of {len(runs)} models",
            marker_color=[COLOURS[1] if pair == 43 else COLOURS[0] for pair in pairs],
            hovertemplate="pair %{x}: %{y:.4f}<extra>ours</extra>",
        )
    ]  # fmt: skip
    if len(runs) > 1:
        dots = [(name, share) for name, shares in zip(names, kept, strict=True) for share in shares]
        traces.append(
            go.Scatter(
                x=[name for name, _ in dots], y=[share for _, share in dots], mode="markers",
                name="each model", marker={"color": "#666666", "size": 6},
                hovertemplate="pair %{x}: %{y:.4f}<extra>one model</extra>",
            )
        )  # fmt: skip
    if published:
        given = [pair for pair in pairs if pair in published]
        traces.append(
            go.Scatter(
                x=[str(p) for p in given], y=[published[p] for p in given], mode="markers",
                name=whose, hovertemplate=f"pair %{{x}}: %{{y:.4f}}<extra>{whose}</extra>",
                marker={"symbol": "diamond-open", "size": 9, "color": "#000000", "line_width": 2},
            )
        )  # fmt: skip
    return traces


def cosine_maps(cosines: Mapping[str, Sequence[Tensor]], title: str) -> go.Figure:
    """Cosines between the taps of each layer's convolution, printed: a row a name ("at the start"),
    a column a layer. Tap 1 meets the oldest token, the last tap the token itself."""
    rows, columns = len(cosines), max(len(layers) for layers in cosines.values())
    panels = [f"{name}, layer {n + 1}" for name in cosines for n in range(columns)]
    figure = make_subplots(
        rows, columns, subplot_titles=panels, horizontal_spacing=0.3 / (columns + 2),
        vertical_spacing=0.25 / rows,
    )  # fmt: skip
    for row, layers in enumerate(cosines.values(), 1):
        for column, matrix in enumerate(layers, 1):
            for trace in _numbers(matrix.cpu().double().numpy()):
                figure.add_trace(trace, row=row, col=column)
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_xaxes(title="tap", row=rows)
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
    figure.update_yaxes(title="tap", col=1)
    figure.update_annotations(font_size=12)
    figure.update_layout(
        title=title, height=130 + 215 * rows,
        coloraxis={"colorscale": DIVERGING, "cmin": -1, "cmax": 1,
                   "colorbar": {"title": "cosine", "thickness": 12}},
    )  # fmt: skip
    return figure


def _numbers(matrix: np.ndarray) -> list[go.Heatmap]:
    """Dark and light cells apart, for plotly's own contrast of text is weak between them."""
    taps = [str(tap + 1) for tap in range(len(matrix))]
    dark = np.abs(matrix) > 0.5
    return [
        go.Heatmap(
            x=taps, y=taps, z=[[float(v) if show else None for v, show in zip(*line, strict=True)]
                               for line in zip(matrix.round(4), cells, strict=True)],
            coloraxis="coloraxis", texttemplate="%{z:.2f}", textfont={"size": 10, "color": ink},
            hovertemplate="taps %{y} and %{x}: %{z:.3f}<extra></extra>", hoverongaps=False,
            xgap=1, ygap=1,
        )
        for cells, ink in ((dark, "white"), (~dark, INK))
    ]  # fmt: skip


def routes_marks(table: pd.DataFrame, title: str) -> go.Figure:
    """How well models compose against how many answers they keep when S is cut behind the pair, a
    mark a model: left the best epoch, right the last.

    Args:
        table: of ``lib.analysis.routes.routes``.
    """
    panels = {"best_composite": "best epoch", "final_composite": "last epoch"}
    figure = make_subplots(
        1, 2, shared_yaxes=True, horizontal_spacing=0.05, subplot_titles=list(panels.values())
    )
    for column, name in enumerate(panels, 1):
        for index, (model, rows) in enumerate(table.groupby("model", sort=False)):
            figure.add_scatter(
                x=rows["kept"], y=rows[name], mode="markers", name=str(model),
                legendgroup=str(model), showlegend=column == 1,
                text=[
                    f"{layers:g} layers, seed {seed}, from {route}"
                    for layers, seed, route in zip(
                        rows["n_layers"], rows["seed"], rows["route"], strict=True
                    )
                ],
                hovertemplate="%{text}: %{x:.3f} kept, accuracy %{y:.3f}<extra></extra>",
                marker={"color": COLOURS[index % len(COLOURS)], "size": 10, "opacity": 0.85,
                        "symbol": MODELS[index % len(MODELS)]},
                row=1, col=column,
            )  # fmt: skip
    figure.update_xaxes(title="share of answers kept", range=[-0.06, 1.06])
    figure.update_yaxes(range=[-0.06, 1.06])
    figure.update_yaxes(title="composite accuracy, pair 43", row=1, col=1)
    figure.update_layout(title=title, height=400, legend_y=-0.25)
    return figure
