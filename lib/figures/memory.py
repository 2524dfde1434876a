"""Figures of the chapter "Selective memory": lengths, controls, published numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from lib.figures import COLOURS, DASHES, band

# columns of tables of correlations to what readers see
CORRELATIONS = {
    "omission with frequency": "rank correlation of omission with frequency",
    "the same, within one kind": "the same correlation, within one kind of text",
}

# prefix of a metric to what is said of it
WRITERS = {
    "": "trained decoder",
    "untrained_": "untrained decoder",
    "zero_": "trained, state of zeros",
    "shuffled_": "trained, text in disorder",
    "alone_": "language model, told the text before",
}

SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star")
UNRELATED = "no model: another text of its kind"
SWAPPED = "trained decoder, its answer to another chunk"

# name of a metric and its unit
MEASURES = {
    "rouge1": ("ROUGE-1 F1", ""),
    "rougeL": ("ROUGE-L F1", ""),
    "omission": ("omission", "share of tokens"),
    "token_accuracy": ("tokens in their place", "share"),
    "similarity": ("similarity", "cosine"),
    "swapped_omission": ("omission, another chunk's answer", "share of tokens"),
    "zero_omission": ("omission, state of zeros", "share of tokens"),
    "alone_omission": ("omission, language model alone", "share of tokens"),
    "shuffled_omission": ("omission, text in disorder", "share of tokens"),
}
# the same below a slider, where there is little room
SHORT = {
    "rouge1": "ROUGE-1",
    "rougeL": "ROUGE-L",
    "token_accuracy": "in place",
    "swapped_omission": "another's answer",
    "zero_omission": "zeros",
    "alone_omission": "model alone",
    "shuffled_omission": "disorder",
}

# above the plot: below it there may be a slider
TOP: dict[str, Any] = {
    "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0.0},
    "margin": {"t": 110},
}


def no_run(text: str = "no finished run yet") -> go.Figure:
    """What stands in place of a figure that no record is behind."""
    figure = go.Figure()
    figure.add_annotation(text=text, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    figure.update_layout(height=160, xaxis_visible=False, yaxis_visible=False)
    return figure


def opening(lengths: Iterable[int], near: int = 64) -> int:
    """Where a slider over lengths opens: at the largest up to `near`, where something is lost."""
    lengths = sorted(lengths)
    return max((length for length in lengths if length <= near), default=lengths[0])


def measure_name(metric: str) -> str:
    """ "tokens in their place" of "token_accuracy"."""
    return MEASURES[metric][0]


def measure_axis(metric: str) -> str:
    """The same with its unit."""
    name, unit = MEASURES[metric]
    return f"{name} ({unit})" if unit else name


def published_curves(table: pd.DataFrame, title: str) -> go.Figure:
    """Published scores by length, a line each model, or each group of a single model.

    Args:
        table: :func:`lib.analysis.memory_reference.published`'s, of any kind by length.
    """
    figure = go.Figure()
    names = table["model"].str.upper()
    if table["group"].any():  # of one model, which the title names
        names = table["group"]
    for index, (name, rows) in enumerate(table.groupby(names, sort=False)):
        figure.add_scatter(
            x=rows["length"], y=rows["value"], mode="lines+markers", name=str(name),
            line=_line(index), marker={"symbol": _symbol(index), "size": 8},
        )  # fmt: skip
    return by_length(figure, "ROUGE F1", title)


def _line(index: int) -> dict[str, str]:
    """Colour and dashes of the index-th line of a figure with many."""
    dash = DASHES[(index + index // len(COLOURS)) % len(DASHES)]
    return {"color": COLOURS[index % len(COLOURS)], "dash": dash}


def _symbol(index: int) -> str:
    """Symbol of the same line: another where a colour comes again."""
    return SYMBOLS[(index + index // len(COLOURS)) % len(SYMBOLS)]


def early_to_late(table: pd.DataFrame, title: str) -> go.Figure:
    """How many tokens were omitted in the first part of the text for each in the last.

    Args:
        table: :func:`lib.analysis.memory_reference.omitted_by_length`'s.
    """
    figure = go.Figure(
        go.Scatter(
            x=table["length"], y=table["ratio"], mode="lines+markers", showlegend=False,
            customdata=table[["first", "last"]],
            hovertemplate="%{x} tokens: %{customdata[0]} in the first part, %{customdata[1]} in "
            "the last<extra></extra>",
        )
    )  # fmt: skip
    by_length(figure, "omitted tokens, first part / last part", title)
    figure.update_yaxes(range=None, rangemode="tozero")
    return figure


def by_writer(
    frame: pd.DataFrame, metric: str, title: str, unrelated: pd.DataFrame | None = None
) -> go.Figure:
    """Our scores by length, the decoder's and the controls'; beside them, where records have it,
    what its answers have in common with other chunks.

    Args:
        frame: the experiment's table. metric: "rouge1", "token_accuracy", "omission" ...
        unrelated: :func:`lib.experiments.memory_unrelated.frame`'s: a control without a model.
    """
    if not len(frame):
        return no_run()
    figure = go.Figure()
    for index, (prefix, name) in enumerate(WRITERS.items()):
        if prefix + metric in frame:
            band(figure, frame, "length", prefix + metric, name, index, limits=(0, 1))
    # one line each in any case: frames of a slider have as many
    if any(str(name).startswith("swapped_") for name in frame):
        _control(figure, frame, f"swapped_{metric}", SWAPPED, len(WRITERS) + 1)
    if unrelated is not None:
        rows = unrelated[unrelated["length"].isin(frame["length"])]
        _control(figure, rows, metric, UNRELATED, len(WRITERS))
    by_length(figure, measure_axis(metric), title)
    # room above for a legend that needs a row for each entry, as on a phone
    entries = sum(trace.showlegend is not False for trace in figure.data)
    above = max(200, 40 + 20 * (entries + 1))
    height = 410 + above
    return figure.update_layout(
        height=height, margin_t=above,
        legend={"orientation": "h", "yref": "container", "y": 1 - 38 / height, "yanchor": "top",
                "x": 0},
    )  # fmt: skip


def _control(figure: go.Figure, rows: pd.DataFrame, metric: str, name: str, index: int) -> None:
    """A thin line of means over seeds; an empty one where nothing was measured."""
    found = rows.dropna(subset=[metric]) if metric in rows else rows[:0].assign(**{metric: 0.0})
    means = found.groupby("length")[metric].mean()
    figure.add_scatter(
        x=list(means.index), y=list(means), mode="lines+markers", name=name, line=_line(index),
    )  # fmt: skip


def size_of(rows: pd.DataFrame) -> str:
    """For example ``2.0M parameters``, of the rows of one model."""
    return f"{millions(rows['parameters'].iloc[0])} parameters"


def millions(count: float) -> str:
    """ "2.0M" of 1,982,464."""
    return f"{count / 1e6:.1f}M"


def listed(values: Iterable[Any]) -> str:
    """ "8, 16, 32 and 64"."""
    *some, last = [*map(str, values)] or ["none"]
    return f"{', '.join(some)} and {last}" if some else last


def by_model(frame: pd.DataFrame, metric: str, title: str) -> go.Figure:
    """Our scores by length, a line each model."""
    if not len(frame):
        return no_run()
    figure = go.Figure()
    for index, (_, rows) in enumerate(frame.groupby("model", sort=False)):
        band(figure, rows, "length", metric, size_of(rows), index, limits=(0, 1))
    return by_length(figure, measure_axis(metric), title)


def by_category(frame: pd.DataFrame, metric: str, title: str) -> go.Figure:
    """A score of one model by length, a line each kind of text: columns ``<metric>_<kind>``."""
    names = [name for name in frame if str(name).startswith(f"{metric}_")]
    if not names:
        return no_run()
    figure = go.Figure()
    for index, name in enumerate(sorted(names)):
        rows = frame.dropna(subset=[name])
        band(figure, rows, "length", name, name.removeprefix(f"{metric}_"), index, limits=(0, 1))
    return by_length(figure, measure_axis(metric), title)


def learning(table: pd.DataFrame, title: str) -> go.Figure:
    """Held-out accuracy of decoders as they train, a line each run.

    Args:
        table: :func:`lib.experiments.memory_training.learning`'s.
    """
    if not len(table):
        return no_run()
    figure = go.Figure()
    groups = table.groupby(["length", "rate", "steps", "tokens"], sort=False)
    for index, ((length, rate, steps, tokens), rows) in enumerate(groups):
        figure.add_scatter(
            x=rows["step"], y=rows["test_accuracy"], mode="lines+markers",
            name=f"{length} tokens, rate {rate:g}, {steps:,} steps of {tokens:,}",
            line=_line(index), marker_symbol=_symbol(index),
        )  # fmt: skip
    figure.update_xaxes(title="optimiser steps")
    figure.update_yaxes(title="tokens predicted right (share)", rangemode="tozero")
    lines = len(figure.data)  # a line of the legend each, below the axes
    return figure.update_layout(title=title, height=400 + 22 * lines, margin_b=90 + 22 * lines)


def by_length(figure: go.Figure, label: str, title: str) -> go.Figure:
    """Axes of a figure over the length of a chunk."""
    figure.update_xaxes(title="length of the chunk (tokens)", type="log", dtick=0.30103)
    figure.update_yaxes(title=label, range=[-0.02, 1.05])
    figure.update_layout(title=title, height=440)
    return figure
