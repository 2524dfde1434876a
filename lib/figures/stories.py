"""Figures of language models: how well held-out text is predicted, against what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lib.analysis.statistics import mean_interval
from lib.figures import COLOURS, band, one_entry_a_group
from lib.figures.layout import label_log_axes

COSTS = {
    "tokens": "training tokens", "petaflops": "compute, 10¹⁵ operations", "seconds": "time, s",
}  # fmt: skip
# column of the curves to what it is
MEASURES = {
    "valid_bits_per_byte": "bits per byte", "valid_loss": "loss, nats per token",
    "valid_accuracy": "predicted right, share",
    "train_loss": "training loss, nats per token",
}  # fmt: skip


def against_cost(
    curves: pd.DataFrame, title: str, metric: str = "valid_bits_per_byte",
    costs: Mapping[str, str] = COSTS, models: Sequence[str] = (),
) -> go.Figure:  # fmt: skip
    """One panel a cost, one line a model: mean over seeds. Of six measurements and more the first
    two are above the panels, so that the last ones can be told apart.

    Args:
        curves: columns model, seed, step, `metric` and each of `costs`; runs of one size on one
            text.
        metric: what is measured on held-out text.
        models: names in the order of their colours, so that figures of some agree with others.
    """
    figure = make_subplots(1, len(costs), shared_yaxes=True, horizontal_spacing=0.04)
    models = list(dict.fromkeys([*models, *curves["model"]]))
    if "petaflops" in costs and len(curves) and curves["petaflops"].max() < 0.01:  # small runs
        curves = curves.assign(petaflops=1e6 * curves["petaflops"])
        costs = {**costs, "petaflops": costs["petaflops"].replace("10¹⁵", "10⁹")}
    for column, (cost, label) in enumerate(costs.items(), 1):
        for index, model in enumerate(models):
            rows = curves[curves["model"] == model]
            rows = rows.dropna(subset=[cost])  # records of earlier code have no seconds
            if rows.empty:
                continue
            if cost == "seconds":  # seeds take different times: their mean time at each step
                rows = rows.assign(seconds=rows.groupby("step")["seconds"].transform("mean"))
            band(figure, rows, cost, metric, model, index, log=True, row=1, col=column)
        figure.update_xaxes(title=label, row=1, col=column)
    one_entry_a_group(figure)
    figure.update_yaxes(type="log")
    steps = sorted(curves["step"].unique())
    if len(steps) >= 6 and "accuracy" not in metric:
        shown = curves.loc[curves["step"] >= steps[2], metric]
        figure.update_yaxes(range=[math.log10(0.98 * shown.min()), math.log10(shown.max())])
    figure.update_yaxes(title=MEASURES.get(metric, metric), row=1, col=1)
    height = 420 if len(costs) > 1 else 480  # there may be a slider below a single panel
    figure.update_layout(title=title, height=height, legend_y=-0.3)
    return label_log_axes(figure, 7)


def memory_by_parameters(table: pd.DataFrame, title: str, said: tuple[float, float]) -> go.Figure:
    """Memory while a model writes, by its parameters: a mark a model and type of weights, lines for
    the weights alone, and what was said of one model.

    Args:
        table: columns name, n_parameters, float32_peak_mb and bfloat16_peak_mb.
        said: parameters and megabytes of a public statement.
    """
    figure = go.Figure()
    span = [1e8, 3e9]
    for index, (dtype, size) in enumerate((("float32", 4), ("bfloat16", 2))):
        figure.add_scatter(
            x=table["n_parameters"], y=table[f"{dtype}_peak_mb"], mode="markers", name=dtype,
            hovertext=table["name"], marker={"color": COLOURS[index], "size": 10},
        )  # fmt: skip
        figure.add_scatter(
            x=span, y=[n * size / 1e6 for n in span], mode="lines",
            name=f"weights alone, {size} bytes each", line={"color": COLOURS[index], "dash": "dot"},
        )  # fmt: skip
    figure.add_scatter(
        x=[said[0]], y=[said[1]], mode="markers", name="said of the 130M",
        marker={"symbol": "x", "size": 11, "color": COLOURS[6]},
    )  # fmt: skip
    figure.update_layout(
        title=title, height=460, legend_y=-0.25,
        xaxis={
            "type": "log", "title": "parameters", "tickvals": [1e8, 2e8, 5e8, 1e9, 2e9],
            "ticktext": ["100M", "200M", "500M", "1B", "2B"],
        },
        yaxis={"type": "log", "title": "memory while writing, MB"},
    )  # fmt: skip
    return label_log_axes(figure, 8)


def learning(curves: pd.DataFrame, title: str) -> go.Figure:
    """What each variant of training reports on held-out text, by training step.

    Args:
        curves: columns variant, step, seed and reported_loss.
    """
    figure = go.Figure()
    for index, (variant, rows) in enumerate(curves.groupby("variant", sort=True)):
        band(figure, rows, "step", "reported_loss", str(variant), index)
    if len(curves):
        low, high = curves["reported_loss"].min(), curves["reported_loss"].max()
        margin = 0.05 * (high - low) + 0.01
        figure.update_yaxes(range=[low - margin, high + margin])
    figure.update_layout(
        title=title, height=520, xaxis_title="training step", margin_t=110,
        yaxis_title="reported loss, nats per token",
        legend={"y": 1.0, "yanchor": "bottom", "x": 0.0},  # below the plot there may be a slider
    )  # fmt: skip
    return figure


def false_and_true(table: pd.DataFrame, title: str) -> go.Figure:
    """One row a variant of training: what it reports (open diamond) and what is true of the same
    model (full circle), means over seeds with 95 % intervals, and a small mark for each seed.

    Args:
        table: columns mistake, variant, made, seed, reported_loss and true_loss; the rows of each
            mistake stand together, the right twin below the wrong one.
    """
    figure = go.Figure()
    looks = {
        "reported_loss": ("reported", "diamond-open", COLOURS[1]),
        "true_loss": ("true", "circle", COLOURS[0]),
    }
    order = list(dict.fromkeys(table.sort_values(["mistake", "made"])["variant"]))
    for metric, (name, symbol, colour) in looks.items():
        figure.add_scatter(
            x=table[metric], y=table["variant"], mode="markers", showlegend=False,
            legendgroup=name, name=f"{name}, one seed", opacity=0.5, hovertext=table["seed"],
            marker={"symbol": symbol, "size": 6, "color": colour},
        )  # fmt: skip
        means = [mean_interval(table[table["variant"] == v][metric].tolist()) for v in order]
        figure.add_scatter(
            x=[mean for mean, _ in means], y=order, mode="markers", name=name, legendgroup=name,
            error_x={
                "array": [None if i is None else i[1] - m for m, i in means],
                "visible": any(i is not None for _, i in means),
            },
            marker={"symbol": symbol, "size": 12, "color": colour, "line_width": 2},
        )  # fmt: skip
    seeds = table["seed"].nunique()
    figure.update_layout(
        title=f"{title} ({seeds} seed{'s' * (seeds != 1)})", height=110 + 42 * len(order),
        xaxis_title="held-out loss, nats per token", margin_l=170,
        yaxis={"categoryorder": "array", "categoryarray": order},
    )  # fmt: skip
    return figure
