"""Figures of the page "Mamba in a page"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from lib.figures import COLOURS, DASHES, DIVERGING, SEQUENTIAL, heat_map
from lib.figures.layout import label_log_axes


def state_map(states: Tensor, title: str) -> go.Figure:
    """The state over time: states (n, l), one row an entry of the state."""
    n, length = states.shape
    return heat_map(
        states.tolist(), x=range(1, length + 1), y=range(1, n + 1), title=title,
        x_title="token", y_title="entry n, decay rate −n", unit="h", height=440,
    )  # fmt: skip


def selection(x: Tensor, signal: Tensor, runs: Mapping[str, tuple[Tensor, Tensor]]) -> go.Figure:
    """Input, step sizes and state side by side for several choices of Δ.

    Args:
        x: (l,) input. signal: (l,) mask of the tokens worth keeping.
        runs: name to (dt (l,), states (n, l)).
    """
    names = list(runs)
    titles = [*(f"{name}: input and Δ" for name in names), *(f"{name}: state" for name in names)]
    figure = make_subplots(
        2, len(names), subplot_titles=titles, row_heights=[0.4, 0.6], vertical_spacing=0.16,
        horizontal_spacing=0.1,
    )  # fmt: skip
    places = list(range(1, len(x) + 1))
    top = max(float(states.abs().max()) for _, states in runs.values())
    for column, (dt, states) in enumerate(runs.values(), 1):
        for name, mask, colour in (
            ("input x, signal", signal, COLOURS[1]), ("input x, noise", ~signal, "#999999"),
        ):  # fmt: skip
            figure.add_bar(
                x=[place for place, own in zip(places, mask.tolist(), strict=True) if own],
                y=x[mask].tolist(), name=name, showlegend=column == 1, legendgroup=name,
                width=0.8, marker_color=colour, row=1, col=column,
            )  # fmt: skip
        figure.add_scatter(
            x=places, y=dt.tolist(), name="step Δ", showlegend=column == 1, legendgroup="dt",
            mode="lines+markers", line={"color": COLOURS[0], "shape": "hvh"}, row=1, col=column,
        )  # fmt: skip
        figure.add_heatmap(
            x=places, y=list(range(1, states.shape[0] + 1)), z=states.tolist(), zmin=-top, zmax=top,
            colorscale=DIVERGING, showscale=column == len(names),
            colorbar={"title": "h", "len": 0.5, "y": 0.25, "thickness": 12},
            hovertemplate="token %{x}<br>entry %{y}<br>h %{z:.3g}<extra></extra>",
            row=2, col=column,
        )  # fmt: skip
        figure.update_yaxes(autorange="reversed", title="state entry n", row=2, col=column)
        figure.update_xaxes(title="token", row=2, col=column)
    figure.update_yaxes(title="value", row=1, col=1)
    figure.update_layout(
        title="Signals (orange) among noise (grey)", height=560, legend_y=-0.12, barmode="overlay"
    )
    return figure


def dt_and_decay(dt: Tensor, decay: Tensor, tokens: Sequence[int], title: str) -> go.Figure:
    """Step size and surviving share of the old state: dt, decay (layers, l)."""
    layers = dt.shape[0]
    labels = [f"{place}: {token}" for place, token in enumerate(tokens, 1)]
    figure = make_subplots(
        1, 2, subplot_titles=("step Δ (log scale)", "share of the old state that survives"),
        horizontal_spacing=0.12,
    )  # fmt: skip
    for layer in range(layers):
        style = {"color": COLOURS[layer % len(COLOURS)], "dash": DASHES[layer % len(DASHES)]}
        figure.add_scatter(
            x=labels, y=dt[layer].tolist(), mode="lines+markers", name=f"layer {layer + 1}",
            line=style, row=1, col=1,
        )  # fmt: skip
    figure.add_heatmap(
        x=labels, y=[f"layer {n + 1}" for n in range(layers)], z=decay.tolist(), zmin=0, zmax=1,
        colorscale=SEQUENTIAL, colorbar={"title": "exp(ΔA)", "thickness": 12}, row=1, col=2,
    )  # fmt: skip
    figure.update_yaxes(type="log", title="Δ", row=1, col=1)
    figure.update_yaxes(autorange="reversed", row=1, col=2)
    figure.update_xaxes(title="position: token", type="category", tickangle=45)
    figure.update_layout(title=title, height=430, legend_y=-0.4)
    return label_log_axes(figure)


def matrix_over_time(matrix: Tensor, title: str, diverging: bool = False) -> go.Figure:
    """An (l, l) matrix that acts on time: rows are outputs, columns inputs."""
    length = matrix.shape[0]
    figure = heat_map(
        matrix.tolist(), x=range(1, length + 1), y=range(1, length + 1), title=title,
        x_title="input token j", y_title="output token i", unit="weight", diverging=diverging,
        height=420,
    )  # fmt: skip
    figure.update_yaxes(scaleanchor="x", constrain="domain")
    figure.update_xaxes(constrain="domain")
    return figure


def two_ways(outputs: Mapping[str, Tensor], title: str) -> go.Figure:
    """The same output (l,) computed in two ways, one on top of the other, and what is between."""
    (first, a), (second, b) = outputs.items()
    places = list(range(1, len(a) + 1))
    gap = float((a - b).abs().max())
    figure = go.Figure()
    figure.add_scatter(
        x=places, y=a.tolist(), mode="lines", name=first, line={"color": COLOURS[0], "width": 4}
    )
    figure.add_scatter(
        x=places, y=b.tolist(), mode="markers", name=second,
        marker={"color": COLOURS[1], "symbol": "x", "size": 9},
    )  # fmt: skip
    figure.update_layout(
        title=f"{title} (largest difference {gap:.1e})",
        height=320,
        xaxis_title="token",
        yaxis_title="y",
    )
    return figure
