"""Figures of the chapter "Selective memory"."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from lib.figures import COLOURS, DASHES, band

# prefix of a metric to what is said of it
WRITERS = {
    "": "trained decoder",
    "untrained_": "untrained decoder",
    "zero_": "trained, state of zeros",
    "shuffled_": "trained, text in disorder",
    "alone_": "language model, told the text before",
}


def published_curves(table: pd.DataFrame, title: str) -> go.Figure:
    """Published scores by length, a line each model, or each group of one model.

    Args:
        table: :func:`lib.analysis.memory_reference.published`'s, of any kind by length.
    """
    figure = go.Figure()
    names = table["model"] + table["group"].map(lambda group: f", {group}" if group else "")
    for index, (name, rows) in enumerate(table.groupby(names, sort=False)):
        colour = COLOURS[index % len(COLOURS)]
        dash = DASHES[(index + index // len(COLOURS)) % len(DASHES)]
        figure.add_scatter(
            x=rows["length"], y=rows["value"], mode="lines+markers", name=str(name),
            line={"color": colour, "dash": dash},
        )  # fmt: skip
    return _by_length(figure, "ROUGE F1", title)


def by_writer(frame: pd.DataFrame, metric: str, title: str) -> go.Figure:
    """Our scores by length, the decoder's and the controls'.

    Args:
        frame: the experiment's table. metric: "rouge1", "token_accuracy", "omission" ...
    """
    figure = go.Figure()
    for index, (prefix, name) in enumerate(WRITERS.items()):
        if prefix + metric in frame:
            band(figure, frame, "length", prefix + metric, name, index, limits=(0, 1))
    return _by_length(figure, metric.replace("_", " "), title)


def _by_length(figure: go.Figure, label: str, title: str) -> go.Figure:
    figure.update_xaxes(title="length of the chunk (tokens)", type="log", dtick=0.30103)
    figure.update_yaxes(title=f"{label} (share)", range=[-0.02, 1.05])
    figure.update_layout(title=title, height=440)
    return figure
