"""Figures of ablations on the composite task: what each change of a model did to its answers."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lib.figures import COLOURS, band, one_entry_a_group, reference_line
from lib.figures.layout import ROW, legend_rows

LABELS = {"composite": "composite label", "symmetric": "symmetric label"}
SYMBOLS = {"composite": "circle", "symmetric": "diamond"}
MODELS = ("circle", "diamond", "square", "x", "triangle-up", "cross", "star", "hourglass")
NOTHING = "no run yet"
GREY = "#888888"
AT_THE_FOOT = {"yref": "container", "y": 0.01, "yanchor": "bottom"}  # a legend, however high


def _with_columns(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    """`frame` with these columns too, empty where no run has them: none ran, or all failed."""
    return frame.reindex(columns=list(dict.fromkeys([*frame.columns, *names])))


def _say_if_nothing(figure: go.Figure, numbers: pd.DataFrame) -> None:
    """Write across the figure that no run stands behind it, if none of `numbers` is one."""
    if not numbers.notna().any(axis=None):
        figure.add_annotation(
            text=NOTHING, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font_size=15
        )


def variants(
    frame: pd.DataFrame, order: Sequence[str], title: str,
    published: Mapping[str, Mapping[str, float]] | None = None,
) -> go.Figure:  # fmt: skip
    """Accuracy on pair 43 under both labels, one row a variant, one mark a seed: left the best
    epoch, right the last.

    Args:
        frame: columns ``variant``, ``seed`` and ``{best,final}_{composite,symmetric}``.
        order: variants from top to bottom; those without a run keep their row, which says so.
        published: variant to published values, named as the frame's columns: open marks of their
            label's kind, each in the panel of its epoch.
    """
    measured = [f"{kind}_{name}" for kind in ("best", "final") for name in LABELS]
    frame = _with_columns(frame, "variant", "seed", *measured)
    figure = make_subplots(
        1, 2, shared_yaxes=True, horizontal_spacing=0.04,
        subplot_titles=("best epoch, each label by itself", "last epoch"),
    )  # fmt: skip
    for column, kind in enumerate(("best", "final"), 1):
        for index, (name, text) in enumerate(LABELS.items()):
            figure.add_scatter(
                x=frame[f"{kind}_{name}"], y=frame["variant"], mode="markers", name=text,
                legendgroup=name, showlegend=column == 1,
                text=[f"seed {seed}" for seed in frame["seed"]],
                hovertemplate="%{y}, %{text}: %{x:.3f}<extra></extra>",
                marker={"color": COLOURS[index], "symbol": SYMBOLS[name], "size": 10,
                        "opacity": 0.75},
                row=1, col=column,
            )  # fmt: skip
    for index, (label, text) in enumerate(LABELS.items()):
        for column, kind in enumerate(("best", "final"), 1):
            name = f"{kind}_{label}"
            marks = {v: values[name] for v, values in (published or {}).items() if name in values}
            if not marks:
                continue
            figure.add_scatter(
                x=list(marks.values()), y=list(marks), mode="markers", name=f"published, {text}",
                legendgroup=f"published {label}",
                hovertemplate=f"%{{y}}, published, {text}: %{{x:.2f}}<extra></extra>",
                marker={"color": COLOURS[index], "symbol": f"{SYMBOLS[label]}-open", "size": 17,
                        "line": {"width": 2}},
                row=1, col=column,
            )  # fmt: skip
    one_entry_a_group(figure)
    figure.update_yaxes(
        categoryorder="array", categoryarray=list(reversed(order)), type="category",
        range=[-0.6, len(order) - 0.4],
    )  # fmt: skip
    figure.update_xaxes(title="accuracy on pair 43", range=[-0.06, 1.06])
    _say_if_nothing(figure, frame[measured])
    missing = [name for name in order if not (frame["variant"] == name).any()]
    for column in (1, 2) if len(frame) else ():
        for name in missing:
            figure.add_annotation(
                text="not run", x=0.5, y=name, showarrow=False, font={"size": 11, "color": GREY},
                row=1, col=column,
            )  # fmt: skip
    figure.update_layout(
        title=f"{title}<br><sup>a mark a seed</sup>", height=225 + 34 * len(order), margin_l=190,
        margin_t=85, legend_y=-0.3,
    )  # fmt: skip
    return figure


def learning(
    curves: pd.DataFrame, order: Sequence[str], title: str, height: int = 380
) -> go.Figure:
    """Accuracy on pair 43 by epoch, one panel a label, one line a variant.

    Args:
        curves: columns ``epoch``, ``composite``, ``symmetric``, ``seed`` and ``variant``.
    """
    curves = _with_columns(curves, "variant", *LABELS)
    figure = make_subplots(
        1, 2, shared_yaxes=True, horizontal_spacing=0.05, subplot_titles=list(LABELS.values())
    )
    for column, label in enumerate(LABELS, 1):
        for index, name in enumerate(order):
            rows = curves[curves["variant"] == name]
            if len(rows):
                band(figure, rows, "epoch", label, name, index, limits=(0, 1), row=1, col=column)
    one_entry_a_group(figure)
    figure.update_yaxes(range=[-0.02, 1.05])
    figure.update_yaxes(title="accuracy on pair 43", row=1, col=1)
    figure.update_xaxes(title="epoch")
    _say_if_nothing(figure, curves.loc[curves["variant"].isin(order), list(LABELS)])
    room = 25 * max(1, legend_rows(figure))
    figure.update_layout(
        title=title, height=height + room - 25, margin_b=60 + room,
        legend=AT_THE_FOOT,
    )  # fmt: skip
    return figure


def sensitivity(
    frame: pd.DataFrame, questions: Mapping[str, str], base: str = "as in the book",
    title: str = "Which unstated choice turns which answer to pair 43",
) -> go.Figure:  # fmt: skip
    """For each question and each choice, how far the composite answer leads over the symmetric one:
    right of zero a model composes, left of it it does not care about order.

    Args:
        frame: columns ``question``, ``choice``, ``seed`` and the best and final accuracies; rows
            with the choice `base` are the model that the choices change.
        questions: question to the sentence above its panel; what others chose has no row.
    """
    measured = [f"{kind}_{name}" for kind in ("best", "final") for name in LABELS]
    frame = _with_columns(frame, "question", "choice", "seed", *measured)
    frame = frame[frame["question"].isin(list(questions))]
    order = sorted(set(frame["choice"]) - {base})
    order = [base, *order] if base in set(frame["choice"]) else order
    figure = make_subplots(
        1, len(questions), shared_yaxes=True, horizontal_spacing=0.03,
        # panels are narrow
        subplot_titles=["<br>".join(textwrap.wrap(text, 14)) for text in questions.values()],
    )  # fmt: skip
    figure.update_annotations(font_size=13)
    for column, question in enumerate(questions, 1):
        rows = frame[frame["question"] == question]
        for index, (kind, symbol) in enumerate((("best", "circle-open"), ("final", "x"))):
            lead = rows[f"{kind}_composite"] - rows[f"{kind}_symmetric"]
            figure.add_scatter(
                x=lead, y=rows["choice"], mode="markers", name=f"{kind} epoch", legendgroup=kind,
                showlegend=column == 1, text=[f"seed {seed}" for seed in rows["seed"]],
                hovertemplate="%{y}, %{text}: %{x:+.3f}<extra></extra>",
                marker={"color": COLOURS[index], "symbol": symbol, "size": 9},
                row=1, col=column,
            )  # fmt: skip
    for column in range(1, len(questions) + 1):  # plotly draws none in a panel that is still empty
        figure.add_vline(x=0, line={"width": 1, "color": "#888888"}, row=1, col=column)
    figure.update_yaxes(
        categoryorder="array", categoryarray=list(reversed(order)), type="category",
        range=[-0.6, len(order) - 0.4],
    )  # fmt: skip
    figure.update_xaxes(range=[-1.1, 1.1], tickvals=[-1, 0, 1], tickangle=0)
    _say_if_nothing(figure, frame[measured])
    figure.update_xaxes(
        title="composite less symmetric accuracy, a mark a seed",
        row=1, col=(len(questions) + 1) // 2,
    )  # fmt: skip
    figure.update_layout(
        title=title, height=240 + 30 * len(order), margin={"l": 200, "t": 110, "b": 100},
        legend=AT_THE_FOOT,
    )  # fmt: skip
    return figure


def choice_marks(
    table: pd.DataFrame, value: str, title: str, x_title: str,
    published: Mapping[str, float] | None = None,
) -> go.Figure:  # fmt: skip
    """One row a choice, one mark a run, a colour and a symbol for each model.

    Args:
        table: columns ``choice``, ``model``, ``seed`` and `value`; rows stand in the order in which
            choices first occur.
        published: text to value, drawn as vertical lines.
    """
    table = _with_columns(table, "choice", "model", "seed", value)
    order = list(dict.fromkeys(table["choice"]))
    figure = go.Figure()
    lines = published or {}
    for text, at in lines.items():
        crowded = any(0 < other - at < 0.2 for other in lines.values())
        figure.add_vline(
            x=at, line={"width": 1, "dash": "dot", "color": "#888888"}, annotation_text=text,
            annotation_font_size=11, annotation_position="top",
            annotation_xanchor="right" if crowded else "center",
        )  # fmt: skip
    for index, (model, rows) in enumerate(table.groupby("model", sort=False)):
        figure.add_scatter(
            x=rows[value], y=rows["choice"], mode="markers", name=str(model),
            text=[f"seed {seed}" for seed in rows["seed"]],
            hovertemplate="%{y}, %{text}: %{x:.4f}<extra>" + str(model) + "</extra>",
            marker={"color": COLOURS[index % len(COLOURS)], "size": 9, "opacity": 0.8,
                    "symbol": MODELS[index % len(MODELS)]},
        )  # fmt: skip
    figure.update_yaxes(
        categoryorder="array", categoryarray=order[::-1], type="category",
        range=[-0.6, len(order) - 0.4],
    )  # fmt: skip
    figure.update_xaxes(title=x_title, range=[-0.03, 1.03])
    _say_if_nothing(figure, table[[value]])
    figure.update_layout(showlegend=True)  # a single model has a name too
    room = ROW * max(1, legend_rows(figure, 430))  # between the axis and the figure's lower end
    figure.update_layout(
        title=title, height=175 + room + 26 * len(order), margin={"l": 230, "b": 65 + room},
        legend=AT_THE_FOOT, meta={"minWidth": 600},
    )  # fmt: skip
    return figure


MIRROR = {"mirror": "pair 34, trained", "symmetric": "pair 43, as its mirror"}
WATCHED = {**MIRROR, "composite": "pair 43, composed"}
PANELS, LETTERS = 3, 24  # side by side, and what a panel's title has room for


def mirror_marks(
    frame: pd.DataFrame, title: str, published: Mapping[str, float] | None = None,
    across: str = "depth, and the second set's shift of anchor 4",
) -> go.Figure:  # fmt: skip
    """Full symmetry: accuracy on pair 34 and on its unseen mirror 43 at the last epoch, a mark a
    run, by depth and by the shift that the paper leaves out, or by model.

    Args:
        frame: columns ``place``, ``seed``, ``final_mirror``, ``final_symmetric``.
        published: "34" and "43" to the published value, drawn as lines.
        across: what places are.
    """
    measured = [f"final_{name}" for name in MIRROR]
    frame = _with_columns(frame, "place", "seed", *measured)
    figure = go.Figure()
    places = [str(place).replace(", ", "<br>") for place in frame["place"]]
    for index, (name, text) in enumerate(MIRROR.items()):
        figure.add_scatter(
            x=places, y=frame[f"final_{name}"], mode="markers", name=text,
            text=[f"seed {seed}" for seed in frame["seed"]],
            hovertemplate="%{x}, %{text}: %{y:.3f}<extra>" + text + "</extra>",
            marker={"color": COLOURS[index], "symbol": ("circle", "diamond")[index], "size": 10,
                    "opacity": 0.75},
        )  # fmt: skip
    for pair, value in (published or {}).items():
        reference_line(figure, value, f"paper, {pair}: {value:g}", beside=True)
    figure.update_xaxes(type="category", title=across)
    figure.update_yaxes(title="accuracy, last epoch, a mark a seed", range=[-0.03, 1.1])
    _say_if_nothing(figure, frame[measured])
    rows = 1 + max((place.count("<br>") for place in places), default=0)  # below the axis
    figure.update_layout(
        title=title, height=380 + 16 * rows, margin_b=85 + 16 * rows, legend=AT_THE_FOOT
    )
    if published:
        figure.update_layout(margin_r=100)
    return figure


def mirror_curves(curves: pd.DataFrame, title: str) -> go.Figure:
    """Full symmetry by epoch, a panel for each place: pair 34, and pair 43 counted as its mirror
    and as composed with the second set; mean over seeds and their spread. Epochs are logarithmic,
    for nearly all happens in the first of them.

    Args:
        curves: columns ``epoch``, ``mirror``, ``symmetric``, ``composite``, ``seed``, ``place``. Of
            late epochs every fifth is drawn, and the last.
    """
    rows = _with_columns(curves, "epoch", "place", *WATCHED)
    epoch = rows["epoch"]
    rows = rows[(epoch <= 30) | (epoch % 5 == 0) | (epoch == epoch.max())]
    groups = list(rows.groupby("place", sort=False))
    # a longer one would run into the next panel's
    names = [str(p) if len(p) <= LETTERS else p.replace(", ", ",<br>") for p, _ in groups]
    lines = max((name.count("<br>") for name in names), default=0)
    high, wide = max(1, math.ceil(len(groups) / PANELS)), max(1, min(PANELS, len(groups)))
    figure = make_subplots(
        high, wide, shared_yaxes=True, subplot_titles=names, horizontal_spacing=0.03,
        vertical_spacing=(0.4 + 0.05 * lines) / high,
    )  # fmt: skip
    figure.update_annotations(font_size=12)
    for at, (_, group) in enumerate(groups):
        row, col = at // wide + 1, at % wide + 1
        for index, (name, text) in enumerate(WATCHED.items()):
            band(figure, group, "epoch", name, text, index, limits=(0, 1), row=row, col=col)
    one_entry_a_group(figure)
    _say_if_nothing(figure, rows[list(WATCHED)])
    figure.update_xaxes(type="log", tickvals=[1, 10, 100], title="epoch")
    if len(rows):
        figure.update_xaxes(range=[0, math.log10(max(2, epoch.max()))])
    figure.update_yaxes(range=[-0.02, 1.05])
    figure.update_yaxes(title="accuracy", col=1)
    figure.update_layout(
        title=title, height=150 + (230 + 14 * lines) * high, legend_y=-0.36 / high,
        margin_t=75 + 14 * lines,
    )  # fmt: skip
    return figure
