"""Figures of language models: how well held-out text is predicted, against what it cost."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lib.figures import band, one_entry_a_group

COSTS = {
    "tokens": "training tokens", "petaflops": "training compute, 10¹⁵ operations",
    "seconds": "training time, s",
}  # fmt: skip


def against_cost(
    curves: pd.DataFrame, title: str, metric: str = "valid_bits_per_byte",
    costs: Mapping[str, str] = COSTS,
) -> go.Figure:  # fmt: skip
    """One panel a cost, one line a model: mean over seeds.

    Args:
        curves: columns model, seed, `metric` and each of `costs`; runs of one size on one text.
        metric: what is measured on held-out text.
    """
    figure = make_subplots(1, len(costs), shared_yaxes=True, horizontal_spacing=0.04)
    models = list(dict.fromkeys(curves["model"]))
    for column, (cost, label) in enumerate(costs.items(), 1):
        for index, model in enumerate(models):
            rows = curves[curves["model"] == model]
            if cost == "seconds":  # seeds take different times: their mean time at each step
                rows = rows.assign(seconds=rows.groupby("step")["seconds"].transform("mean"))
            band(figure, rows, cost, metric, model, index, log=True, row=1, col=column)
        figure.update_xaxes(title=label, row=1, col=column)
    one_entry_a_group(figure)
    figure.update_yaxes(type="log")
    figure.update_yaxes(title=metric.removeprefix("valid_").replace("_", " "), row=1, col=1)
    figure.update_layout(title=title, height=420, legend_y=-0.3)
    return figure
