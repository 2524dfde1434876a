"""Figures of costs by length of the context."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lib.figures import COLOURS, DASHES, one_entry_a_group
from lib.figures.layout import label_log_axes


def against_length(panels: Mapping[str, pd.DataFrame], title: str) -> go.Figure:
    """One panel a cost, one line a model, both axes logarithmic: a power law is a straight line.

    Args:
        panels: label of a cost, with its unit, to a table with columns model, length and value
            (medians over repeats). A panel without rows says that nothing was measured. The label
            of a single panel stands beside it.
    """
    # labels of several stand above them: beside them they would be longer than a panel is high
    alone = len(panels) == 1
    heads = [label.replace(": ", ":<br>").replace(", ", ",<br>") for label in panels]
    figure = make_subplots(
        1, len(panels), horizontal_spacing=0.09,
        subplot_titles=["" if alone and len(panels[label]) else head
                        for label, head in zip(panels, heads, strict=True)],
    )  # fmt: skip
    models = list(dict.fromkeys(m for table in panels.values() for m in table["model"]))
    for column, table in enumerate(panels.values(), 1):
        if not len(table):
            figure.layout.annotations[column - 1].text += "<br>not measured"
        for index, model in enumerate(models):
            rows = table[table["model"] == model]
            figure.add_scatter(
                x=rows["length"], y=rows["value"], mode="lines+markers", name=model,
                legendgroup=model, line={"color": COLOURS[index], "dash": DASHES[index]},
                row=1, col=column,
            )  # fmt: skip
        figure.update_xaxes(title="context, tokens", type="log", row=1, col=column)
        ticks = sorted(set(table["length"]))
        if ticks:  # lengths are powers of two, which ticks of a decade miss; at most five fit
            ticks = ticks[:: -(-len(ticks) // 5)]
            names = [f"{n // 1024}k" if n % 1024 == 0 else f"{n}" for n in ticks]
            figure.update_xaxes(tickvals=ticks, ticktext=names, tickangle=0, row=1, col=column)
        figure.update_yaxes(type="log", row=1, col=column)
    if alone:
        figure.update_yaxes(title=next(iter(panels)))
    figure.update_annotations(font_size=13)
    one_entry_a_group(figure)
    figure.update_layout(
        title=title, height=450, margin_t=70 if alone else 115, legend_y=-0.2 if alone else -0.42
    )
    return label_log_axes(figure)
