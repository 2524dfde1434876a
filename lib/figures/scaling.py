"""Figures of costs by length of the context."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lib.figures import COLOURS, DASHES, one_entry_a_group


def against_length(panels: Mapping[str, pd.DataFrame], title: str) -> go.Figure:
    """One panel a cost, one line a model, both axes logarithmic: a power law is a straight line.

    Args:
        panels: label of a cost, with its unit, to a table with columns model, length and value
            (medians over repeats). A panel without rows says that nothing was measured.
    """
    # labels stand above their panels: beside them they would be longer than a panel is high
    figure = make_subplots(
        1, len(panels), horizontal_spacing=0.09,
        subplot_titles=[label.replace(": ", ":<br>").replace(", ", ",<br>") for label in panels],
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
        figure.update_yaxes(type="log", exponentformat="SI", row=1, col=column)
    figure.update_annotations(font_size=13)
    one_entry_a_group(figure)
    figure.update_layout(title=title, height=450, margin_t=115, legend_y=-0.42)
    return figure
