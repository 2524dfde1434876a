"""Figures of published accuracies: after each phase, and what changed from first to last, with the
interval that the number of questions alone gives."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lib.analysis.noise_reference import PHASES
from lib.figures import COLOURS, DASHES, one_entry_a_group
from lib.figures.noise_phases import PHASES as NAMES
from lib.figures.noise_phases import TITLES

SYMBOLS = ("circle", "diamond", "square", "x", "triangle-up", "star")


def accuracies(frame: pd.DataFrame, noises: Sequence[str], title: str) -> go.Figure:
    """Accuracy after each phase, a panel a noise, a line a model.

    Args:
        frame: of ``lib.analysis.noise_reference.published``.
    """
    figure = make_subplots(1, len(noises), subplot_titles=[TITLES[noise] for noise in noises],
                           shared_yaxes=True, horizontal_spacing=0.03)  # fmt: skip
    for column, noise in enumerate(noises, 1):
        for index, model in enumerate(dict.fromkeys(frame["model"])):
            part = frame[(frame["model"] == model) & (frame["noise"] == noise)]
            part = part.set_index("phase").reindex(PHASES)  # an empty trace for what was not run
            figure.add_scatter(
                x=[NAMES[phase] for phase in PHASES], y=100 * part["value"], name=model,
                legendgroup=model, mode="lines+markers", row=1, col=column,
                line={"color": COLOURS[index], "dash": DASHES[index], "width": 2},
                marker={"symbol": SYMBOLS[index], "size": 8},
                error_y={"type": "data", "symmetric": False, "thickness": 1,
                         "array": 100 * (part["high"] - part["value"]),
                         "arrayminus": 100 * (part["value"] - part["low"])},
                hovertemplate="%{x}: %{y:.1f} %<extra>" + model + "</extra>",
            )  # fmt: skip
    figure.update_yaxes(range=[-4, 104], ticksuffix=" %")
    figure.update_xaxes(range=[-0.4, 2.4], tickfont_size=10)
    figure.update_yaxes(title="accuracy as published,<br>95 % interval over questions", col=1)
    figure.update_layout(title=title, height=420, margin_l=90, legend_y=-0.2)
    one_entry_a_group(figure)
    return figure


def changes(frame: pd.DataFrame, noise: str) -> go.Figure:
    """Change of accuracy from phase 1 to phase 3 under a noise, a row a model; what crosses zero is
    told from no change by none of these questions.

    Args:
        frame: of ``lib.analysis.noise_reference.recoveries``.
    """
    models = list(dict.fromkeys(frame["model"]))
    part = frame[frame["noise"] == noise].set_index("model").reindex(models)
    figure = go.Figure(
        go.Scatter(
            x=100 * part["change"], y=models, mode="markers",
            marker={"color": COLOURS[0], "size": 10},
            error_x={"type": "data", "symmetric": False, "thickness": 1.2,
                     "array": 100 * (part["high"] - part["change"]),
                     "arrayminus": 100 * (part["change"] - part["low"])},
            hovertemplate="%{y}: %{x:.1f} points<extra></extra>", showlegend=False,
        )
    )  # fmt: skip
    figure.add_vline(x=0, line={"width": 1, "dash": "dot", "color": "#888888"})
    figure.update_xaxes(title="accuracy after phase 3 less that after phase 1 / points",
                        range=[-28, 22])  # fmt: skip
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=models[::-1])
    figure.update_layout(
        title=f"{TITLES[noise]}: from phase 1 to phase 3", height=340, margin_l=110
    )
    return figure
