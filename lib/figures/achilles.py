"""Figures of the chapter "Achilles' Heel of Mamba"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lib.figures import COLOURS, band, reference_line, token_strip
from lib.tasks.composite import Split

ROLE_COLOURS = {"noise": "#999999", "key": COLOURS[1], "anchor": COLOURS[0]}
WATCHED = {
    "composite": "pair 43, composite label",
    "symmetric": "pair 43, symmetric label",
    "seen": "seen pairs, unseen places",
}


def example(split: Split, row: int) -> go.Figure:
    """One sequence of the task, with the key, both anchors and the label pointed out."""
    tokens = split.tokens[row].tolist()
    key, pair = int(split.index[row]), int(split.pairs[row])
    roles = ["noise"] * len(tokens)
    roles[key], roles[key + 1], roles[key + 2] = "key", "anchor", "anchor"
    value, label = int(split.keys[row]), int(split.labels[row])
    text = f"pair {pair}: answer {label} (key {value}, shift {label - value:+d})"
    if pair == 43:
        symmetric = int(split.symmetric[row])
        text = (
            f"pair 43, never trained: {label} if composite ({label - value:+d}), "
            f"{symmetric} if symmetric ({symmetric - value:+d})"
        )
    return token_strip(tokens, roles, ROLE_COLOURS, text)


def training_curves(
    curves: pd.DataFrame, title: str, published: Mapping[str, float] | None = None
) -> go.Figure:
    """Accuracies and loss by epoch: each seed, mean over seeds, 95 % interval.

    Args:
        curves: tidy, one row an epoch and seed (``lib.page.curves_of``).
        published: label to value, drawn as lines in the accuracy panel and named beside it.
    """
    figure = make_subplots(
        1, 2, column_widths=[0.62, 0.38], horizontal_spacing=0.2 if published else 0.1,
        subplot_titles=("accuracy on test sequences", "training loss, nats"),
    )  # fmt: skip
    for index, (column, name) in enumerate(WATCHED.items()):
        band(figure, curves, "epoch", column, name, index, limits=(0, 1), row=1, col=1)
    band(figure, curves, "epoch", "train_loss", "training loss", 6, log=True, row=1, col=2)
    for text, value in (published or {}).items():
        text = text.replace(", ", ",<br>").replace(f" {value:g}", f"<br>{value:g}")
        reference_line(figure, value, text, beside=True, row=1, col=1)
    figure.update_yaxes(title="accuracy (share of sequences)", range=[-0.02, 1.05], row=1, col=1)
    figure.update_yaxes(type="log", exponentformat="power", row=1, col=2)
    figure.update_xaxes(title="epoch")
    figure.update_layout(title=title, height=460, legend_y=-0.2)
    return figure


def best_and_final(frames: Mapping[str, pd.DataFrame], published: Mapping[str, float]) -> go.Figure:
    """Every seed's best-over-epochs and final accuracy for pair 43, one panel a label.

    Args:
        frames: name of a group of runs to its table (``Experiment.frame``).
        published: "composite" and "symmetric" to the published best value.
    """
    figure = make_subplots(
        1, 2, shared_yaxes=True, subplot_titles=("composite label", "symmetric label")
    )
    for column, label in enumerate(("composite", "symmetric"), 1):
        for index, (name, frame) in enumerate(frames.items()):
            for kind, symbol in (("best", "circle"), ("final", "x")):
                figure.add_scatter(
                    x=[f"{name}<br>{kind}"] * len(frame), y=frame[f"{kind}_{label}"],
                    mode="markers", name=f"{name}, {kind}", legendgroup=f"{name}{kind}",
                    showlegend=column == 1, text=[f"seed {s}" for s in frame["seed"]],
                    hovertemplate="%{text}: %{y:.3f}<extra></extra>",
                    marker={"color": COLOURS[index], "symbol": symbol, "size": 10, "opacity": 0.8},
                    row=1, col=column,
                )  # fmt: skip
        reference_line(figure, published[label], f"paper {published[label]:g}", row=1, col=column)
    figure.update_yaxes(range=[-0.02, 1.05])
    figure.update_yaxes(title="accuracy on pair 43, one mark a seed", row=1, col=1)
    figure.update_xaxes(tickangle=0)
    figure.update_layout(title="Best over epochs against the last epoch", height=420, legend_y=-0.2)
    return figure


def pair_accuracies(frame: pd.DataFrame, title: str) -> go.Figure:
    """Final accuracy on each of the sixteen pairs: a bar for the mean, a dot for each seed."""
    columns = [name for name in frame.columns if name.startswith("pair_")]
    pairs = [name.removeprefix("pair_") for name in columns]
    means = frame[columns].mean()
    figure = go.Figure(
        go.Bar(
            x=pairs,
            y=means,
            name="mean over seeds",
            marker_color=[COLOURS[1] if p == "43" else COLOURS[0] for p in pairs],
            opacity=0.6,
        )
    )
    for _, row in frame.iterrows():
        figure.add_scatter(
            x=pairs, y=row[columns].tolist(), mode="markers", name=f"seed {row['seed']}",
            marker={"color": "#444444", "size": 6},
        )  # fmt: skip
    figure.update_layout(
        title=title, height=380, yaxis_range=[0, 1.05], yaxis_title="accuracy",
        xaxis={"title": "anchor pair (43, never trained: composite label)",
               "type": "category"},
    )  # fmt: skip
    return figure


def answer_bars(
    probabilities: Sequence[float], tokens: Sequence[int], marks: Mapping[str, int], top: int = 8
) -> go.Figure:
    """The most likely answers to one sequence, with the composite and symmetric answers marked."""
    order = sorted(range(len(probabilities)), key=lambda t: -probabilities[t])[:top]
    shown = sorted({*order, *marks.values()})
    names = {value: name for name, value in reversed(list(marks.items()))}
    figure = go.Figure(
        go.Bar(
            x=[str(token) for token in shown],
            y=[probabilities[token] for token in shown],
            text=[names.get(token, "") for token in shown],
            textposition="outside",
            textangle=0,
            constraintext="none",  # as large on a narrow screen
            textfont_size=11,
            cliponaxis=False,
            marker_color=[COLOURS[0] if t in names else "#999999" for t in shown],
        )
    )
    figure.update_layout(
        title="sequence " + " ".join(str(t) for t in tokens),
        height=380,
        yaxis={"title": "probability of the answer", "range": [0, 1.12]},
        xaxis={"title": "answer token", "type": "category"},
        meta={"minWidth": 80 + 60 * len(shown)},  # of the names above the bars
    )
    return figure
