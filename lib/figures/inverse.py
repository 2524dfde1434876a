"""Figures of the inverse matching task and of the full symmetry task."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lib.figures import COLOURS, DASHES, band, one_entry_a_group, token_strip
from lib.tasks.composite import Split
from lib.tasks.full_symmetry import FIRST_PAIRS, HELD_OUT
from lib.tasks.inverse_matching import InverseTask, Matching

GREY = "#999999"
MATCHING_COLOURS = {
    "listed": COLOURS[5], "answer": COLOURS[0], "query": COLOURS[1], "separator": GREY,
    "blank": GREY,
}  # fmt: skip
SYMMETRY_COLOURS = {"noise": GREY, "key": COLOURS[1], "first": COLOURS[0], "second": COLOURS[2]}
PARTS = {
    "train": "training",
    "test": "test: sets never trained",
    "ood": "OOD: tokens never trained",
}
EVERY_EPOCH = 60
SYMBOLS = {"train": "square", "test": "circle", "ood": "diamond"}


def example_matching(task: InverseTask, split: Matching, row: int) -> go.Figure:
    """One sequence of the inverse matching task, with the listed orders counted, the answer and
    the query pointed out."""
    label, size = int(split.labels[row]), task.set_size
    roles: list[str] = []
    names: list[str] = []

    def group(role: str, name: str, width: int) -> None:
        middle = (width - 1) // 2
        roles.extend([role] * width)
        names.extend(name if at == middle else "" for at in range(width))

    for number in range(1, task.listed + 1):
        asked = number == label
        group("answer" if asked else "listed", f"<b>{number}</b>" if asked else f"{number}", size)
        group("separator", "", 1)
    group("blank", "blanks", task.blanks)
    group("query", "query", size)
    query = " ".join(str(token) for token in split.tokens[row, -size:].tolist())
    answer = " ".join(str(token) for token in split.answer[row].tolist())
    figure = token_strip(
        split.tokens[row].tolist(), roles, MATCHING_COLOURS,
        f"answer {label}: the query {query} is number {label}, {answer}, reversed",
        names=names, size=_text_size(task.length, int(split.tokens[row].max())),
    )  # fmt: skip
    return figure.update_xaxes(range=[0.4, task.length + 0.6])


def _text_size(length: int, largest: int) -> int:
    """Points at which the numbers of a sequence stand side by side."""
    if length <= 14:
        return 18
    return 12 if largest < 100 else 8


def example_symmetry(split: Split, row: int) -> go.Figure:
    """One sequence of the full symmetry task, with the key, both anchors, which set of shifts they
    belong to, and the label pointed out."""
    tokens = split.tokens[row].tolist()
    at, pair = int(split.index[row]), divmod(int(split.pairs[row]), 10)
    own = "first" if pair in FIRST_PAIRS else "second"
    roles = ["noise"] * len(tokens)
    roles[at : at + 3] = ["key", own, own]
    names = ["anchor" if role == own else role for role in roles]
    key, label = int(split.keys[row]), int(split.labels[row])
    text = f"pair {pair[0]}{pair[1]}, {own} set: answer {label} (key {key}, shift {label - key:+d})"
    if pair == HELD_OUT:
        other = int(split.composite[row])
        text = (
            f"pair 43, never trained: {label} as its mirror 34 ({label - key:+d}), "
            f"{other} with the second set ({other - key:+d})"
        )
    return token_strip(tokens, roles, SYMMETRY_COLOURS, text, names=names)


def yardsticks(
    frame: pd.DataFrame,
    lines: Mapping[str, float],
    title: str,
    published: Mapping[str, Mapping[float, Mapping[str, float]]] | None = None,
    kind: str = "final",
    order: Sequence[str] | None = None,
    source: str = "paper",
) -> go.Figure:
    """Accuracy in training, test and OOD against gamma, one panel a model: mean over seeds and from
    the lowest to the highest seed, with lines at what observers with partial knowledge reach.

    Args:
        frame: columns ``model``, ``gamma``, ``seed`` and ``{kind}_{train,test,ood}``.
        lines: name of an observer to its accuracy (``lib.analysis.inverse_matching.yardsticks``).
        published: model to gamma to "train", "test", "ood" to the published accuracy; open marks.
        kind: "final" or "best", as the columns are named.
        order: models from left to right; one without a run keeps its panel, which says so.
        source: who published it.
    """
    published = published or {}
    models = list(order) if order is not None else list(dict.fromkeys(frame["model"]))
    figure = _panels(models, set(frame["model"]), title)
    for column, model in enumerate(models, 1):
        place = {"row": 1, "col": column}
        rows, first = frame[frame["model"] == model], column == 1
        for index, (part, text) in enumerate(PARTS.items()):
            _add_ours(figure, rows, f"{kind}_{part}", text, index, SYMBOLS[part], first, place)
            theirs = published.get(model, {})
            points = sorted((gamma, v[part]) for gamma, v in theirs.items() if part in v)
            _add_published(figure, points, f"{source}, {part}", index, place)
    _add_lines(figure, lines)
    # one entry for all published marks: their colours and shapes are those of ours
    if any(published.values()):
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=f"{source} (open marks)",
            marker={"symbol": "circle-open", "size": 11, "color": "#555555"}, row=1, col=1,
        )  # fmt: skip
    figure.update_yaxes(title=f"accuracy, {kind} epoch", row=1, col=1)
    figure.update_xaxes(title="gamma")
    gammas = [*frame["gamma"], *(gamma for model in models for gamma in published.get(model, {}))]
    if gammas:  # a panel without a run too
        figure.update_xaxes(range=[min(gammas) - 0.06, max(gammas) + 0.06])
    return figure


def learning(
    curves: pd.DataFrame, lines: Mapping[str, float], title: str, order: Sequence[str]
) -> go.Figure:
    """Accuracy in training, test and OOD by epoch, one panel a model, with lines at what observers
    with partial knowledge reach. Figures of the same models and seeds have the same traces.

    Args:
        curves: columns ``model``, ``seed``, ``epoch`` and those named in PARTS. From epoch
            EVERY_EPOCH on every third is drawn, and the last.
        lines: name of an observer to its accuracy.
        order: models from left to right; one without a run keeps its panel, which says so.
    """
    figure = _panels(order, set(curves["model"]), title)
    # a page holds hundreds of these curves: fewer points where they turn slowly, and no digits that
    # nobody can see
    epoch = curves["epoch"]
    curves = curves[(epoch < EVERY_EPOCH) | (epoch % 3 == 0) | (epoch == epoch.max())]
    curves = curves.astype({"epoch": "int16", **dict.fromkeys(PARTS, "float32")})
    for column, model in enumerate(order, 1):
        rows = curves[curves["model"] == model]
        for index, (part, text) in enumerate(PARTS.items()):
            if len(rows):
                band(figure, rows, "epoch", part, text, index, limits=(0, 1), row=1, col=column)
    one_entry_a_group(figure)
    _add_lines(figure, lines)
    figure.update_yaxes(title="accuracy", row=1, col=1)
    figure.update_xaxes(title="epoch")
    if len(curves):  # a panel without a run too
        figure.update_xaxes(range=[0, int(curves["epoch"].max())], dtick=100)
    return figure


def _panels(models: Sequence[str], run: Collection[str], title: str) -> go.Figure:
    """A panel of accuracies a model, under its name with a part a line (panels are narrow); a model
    that is not among those `run` is called so."""
    titles = [m if m in run else f"{m}: not run" for m in models]
    titles = [name.replace(", ", ",<br>").replace(" and ", "<br>and ") for name in titles]
    figure = make_subplots(
        1, len(models), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.03
    )
    figure.update_annotations(font_size=11)
    figure.update_yaxes(range=[-0.02, 1.08])
    more = 14 * max((name.count("<br>") for name in titles), default=0)
    return figure.update_layout(
        title=title, height=420 + more, legend_y=-0.22, margin={"r": 110, "t": 75 + more}
    )


def _add_lines(figure: go.Figure, lines: Mapping[str, float]) -> None:
    """Lines at what observers reach, named beside the last panel, where no curve runs through the
    words."""
    for text, value in lines.items():
        figure.add_hline(y=value, line={"width": 1, "dash": "dot", "color": "#888888"})
        figure.add_annotation(
            text=f"{text} {value:g}", x=1.01, xref="paper", xanchor="left", y=value, yref="y",
            showarrow=False, font_size=11,
        )  # fmt: skip


def _add_ours(
    figure: go.Figure, rows: pd.DataFrame, column: str, text: str, index: int, symbol: str,
    legend: bool, place: Mapping[str, int],
) -> None:  # fmt: skip
    """Mean over seeds with the range of the seeds, empty where no run is."""
    found = rows.groupby("gamma")[column].agg(["mean", "min", "max", "count"])
    figure.add_scatter(
        x=found.index.tolist(), y=found["mean"].tolist(), mode="lines+markers", name=text,
        legendgroup=text, showlegend=legend,
        line={"color": COLOURS[index], "dash": DASHES[index]},
        marker={"symbol": symbol, "size": 8},
        error_y={"type": "data", "symmetric": False, "thickness": 1, "width": 3,
                 "array": (found["max"] - found["mean"]).tolist(),
                 "arrayminus": (found["mean"] - found["min"]).tolist()},
        customdata=found[["min", "max", "count"]].to_numpy().tolist(),
        hovertemplate=f"{text}<br>gamma %{{x:g}}: mean %{{y:.3f}} of %{{customdata[2]:d}} seeds, "
                      "%{customdata[0]:.3f} to %{customdata[1]:.3f}<extra></extra>",
        **place,
    )  # fmt: skip


def _add_published(
    figure: go.Figure, points: Sequence[tuple[float, float]], text: str, index: int,
    place: Mapping[str, int],
) -> None:  # fmt: skip
    """Open marks in the colour of ours."""
    if points:
        gammas, values = zip(*points, strict=True)
        symbol = f"{list(SYMBOLS.values())[index]}-open"
        figure.add_scatter(
            x=gammas, y=values, mode="markers", name=text, showlegend=False,
            marker={"symbol": symbol, "size": 13, "color": COLOURS[index], "line": {"width": 1.5}},
            hovertemplate=f"{text}<br>gamma %{{x:g}}: %{{y:.2f}}<extra></extra>", **place,
        )  # fmt: skip
