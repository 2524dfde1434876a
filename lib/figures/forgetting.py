"""Figures of the chapter "Selective memory": which parts of a text are lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lib.figures import COLOURS, DASHES, band, heat_map
from lib.figures.layout import label_log_axes
from lib.figures.memory import TOP, WRITERS, measure_axis, no_run

LOST, KEPT = COLOURS[1], "#888888"
NUMBERED = 7  # groups of a map of pairs up to which numbers fit into its cells
LINE = 44  # characters of a line of text, as many as a phone shows
# the universal tagset of parts of speech
WORDS = {
    "ADJ": "adjective", "ADP": "preposition", "ADV": "adverb", "CONJ": "conjunction",
    "DET": "determiner", "INTJ": "interjection", "NOUN": "noun", "NUM": "number",
    "PRON": "pronoun", "PRT": "particle", "PUNCT": "punctuation", "SYM": "symbol",
    "VERB": "verb", "X": "other",
}  # fmt: skip
OUTSIDE = {"Not NE": "outside names", "Misc": "other names"}


def by_group(table: pd.DataFrame, title: str) -> go.Figure:
    """Omission of groups as bars; beside them what it would be if all groups had words of the same
    sizes, and what the language model alone would leave out. Error bars are the 95 % interval of
    drawing chunks again of a single seed, the lowest and the highest of several.

    Args:
        table: rows of one model with group, omission, low, high and writer, perhaps standardised
            and, of several records, seed.
    """
    if not len(table):
        return no_run()
    own, seeds = _over_seeds(table[table["writer"] == ""], "group")
    own = own.sort_values("omission")
    names = own["group"].map(group_name)
    figure = go.Figure()
    figure.add_bar(
        x=own["omission"], y=names, name="omission", marker_color=COLOURS[0], orientation="h",
        error_x={
            "type": "data", "symmetric": False, "array": own["high"] - own["omission"],
            "arrayminus": own["omission"] - own["low"], "color": "#888888",
        },
        customdata=own[["count", "chunks"]],
        hovertemplate="%{y}: %{x:.3f}<br>%{customdata[0]} occurrences in %{customdata[1]} chunks"
        "<extra></extra>",
    )  # fmt: skip
    marks: list[tuple[str, Any, Any, str, str]] = []
    if "standardised" in own:
        marks.append(("words of equal sizes", own["standardised"], names, "diamond", COLOURS[1]))
    alone, _ = _over_seeds(table[table["writer"] == "alone_"], "group")
    if len(alone):
        name, groups = "language model alone", alone["group"].map(group_name)
        marks.append((name, alone["omission"], groups, "line-ns-open", COLOURS[4]))
    for name, x, y, symbol, colour in marks:
        figure.add_scatter(
            x=x, y=y, mode="markers", name=name,
            marker={"symbol": symbol, "size": 11, "color": colour, "line": {"width": 3}},
        )  # fmt: skip
    bars = f"mean of {seeds} seeds, lowest to highest" if seeds > 1 else "95 % interval over chunks"
    return _bars(figure, names.tolist(), title, f"omission, {bars}")


def pair_map(pairs: pd.DataFrame, title: str) -> go.Figure:
    """Differences in omission between groups, the row's less the column's, in the order of how much
    is lost; pairs that are not among `pairs` stay empty.

    Args:
        pairs: columns group, other and difference (the group's omission less the other's).
    """
    if not len(pairs):
        return no_run()
    turned = pairs.rename(columns={"group": "other", "other": "group"})
    both = pd.concat([pairs, turned.assign(difference=-turned["difference"])])
    square = both.pivot_table(index="group", columns="other", values="difference")
    order = square.mean(axis=1).sort_values(ascending=False).index
    square = square.reindex(index=order, columns=order)
    figure = heat_map(
        square, x=list(order), y=list(map(group_name, order)), title=title, diverging=True,
        x_title="compared with", y_title="", unit="omission,<br>row less<br>column",
        height=260 + 22 * len(order),
    )  # fmt: skip
    figure.update_traces(
        hovertemplate="%{y} less %{x}: %{z:+.3f} of omission<extra></extra>",
        texttemplate="%{z:.2f}" if len(order) <= NUMBERED else None,
    )  # fmt: skip
    figure.update_xaxes(showgrid=False, tickangle=-45)
    return figure.update_yaxes(showgrid=False, automargin=True)


def published_groups(table: pd.DataFrame, title: str) -> go.Figure:
    """Published omission of groups, a bar each model, in the order of the first model.

    Args:
        table: columns model, group and value.
    """
    figure = go.Figure()
    models = list(dict.fromkeys(table["model"]))
    first = table[table["model"] == models[0]].sort_values("value")
    for index, model in enumerate(models):
        rows = table[table["model"] == model]
        figure.add_bar(
            x=rows["value"], y=rows["group"].map(group_name), name=model.upper(), orientation="h",
            marker={"color": COLOURS[index], "pattern": {"shape": ("", "/")[index % 2]}},
            hovertemplate="%{y}: %{x:.3f}", cliponaxis=False, textposition="outside",
            text=["" if value else "0" for value in rows["value"]],  # no bar looks like no number
        )  # fmt: skip
    groups = first["group"].map(group_name).tolist()
    return _bars(figure, groups, title, "omission (share of words)", len(models))


def _bars(figure: go.Figure, names: list[str], title: str, label: str, each: int = 1) -> go.Figure:
    """Axes of horizontal bars, the first name at the bottom."""
    top = max(max(trace.x, default=0) for trace in figure.data)
    figure.update_xaxes(title=label, range=[0, min(1.05, 1.2 * top)])
    figure.update_yaxes(categoryorder="array", categoryarray=names, automargin=True)
    height = 260 + (14 + 12 * each) * len(names)
    return figure.update_layout(title=title, height=height, **TOP)


def group_name(group: str) -> str:
    """A class of words as readers know it, with the tag that claims name."""
    return f"{WORDS[group]} ({group})" if group in WORDS else OUTSIDE.get(group, group)


def over(
    tables: Mapping[str, pd.DataFrame], title: str, label: str, *, log: bool = False,
    extra: pd.DataFrame | None = None,
) -> go.Figure:  # fmt: skip
    """Omission over a number (position, frequency, perplexity), a line each table, its control
    dotted in the same colour. Error bars are the 95 % interval over chunks of a single seed, the
    lowest and the highest of several.

    Args:
        tables: name to rows with x, omission, low, high and writer, of one or several seeds.
        extra: published: columns x and omission.
    """
    if extra is None and not any(map(len, tables.values())):
        return no_run()
    figure = go.Figure()
    many = len(tables) > 2  # then one entry of the legend stands for all controls
    for index, (name, table) in enumerate(tables.items()):
        if not len(table):
            continue
        colour = COLOURS[index % len(COLOURS)]
        for writer, dash, mark in (
            ("", DASHES[0], ""),
            ("alone_", "dot", ", language model alone"),
        ):
            rows = table[table["writer"] == writer]
            if not len(rows):
                continue
            mean, seeds = _over_seeds(rows, "x")
            entry = name + (f" ({seeds} seeds)" if seeds > 1 and not writer else mark)
            figure.add_scatter(
                x=mean["x"], y=mean["omission"], mode="lines+markers",
                name="dotted: language model alone" if many and writer else entry,
                legendgroup=name, line={"color": colour, "dash": dash},
                showlegend=not (many and writer) or index == 0,
                error_y={
                    "type": "data", "symmetric": False, "array": mean["high"] - mean["omission"],
                    "arrayminus": mean["omission"] - mean["low"], "thickness": 1,
                    "visible": not writer,
                },
            )  # fmt: skip
    if extra is not None and len(extra):
        figure.add_scatter(
            x=extra["x"], y=extra["omission"], mode="lines+markers", name="published",
            line={"color": COLOURS[6], "dash": "dash"},
        )  # fmt: skip
    figure.update_xaxes(title=label, zeroline=False)
    if log:
        label_log_axes(figure.update_xaxes(type="log"))
    top = max(max(trace.y, default=0) for trace in figure.data)
    figure.update_yaxes(title="omission (share of tokens)", range=[0, min(1.05, 1.2 * top)])
    figure.update_layout(title=title, height=520, **(TOP if len(figure.data) < 5 else {}))
    return figure


def panels_over(
    tables: Mapping[str, pd.DataFrame], title: str, label: str, *, log: bool = False,
    columns: int = 4,
) -> go.Figure:  # fmt: skip
    """Omission over a number, a panel each table: the decoder and, in grey, the language model
    alone. Error bars as in :func:`over`.

    Args:
        tables: name to rows with x, omission, low, high and writer, of one or several seeds.
    """
    tables = {name: table for name, table in tables.items() if len(table)}
    if not tables:
        return no_run()
    high = -(-len(tables) // columns)
    many = {name: _over_seeds(table, "x")[1] for name, table in tables.items()}
    heads = [f"{name}, {many[name]} seed{'s' * (many[name] != 1)}" for name in tables]
    figure = make_subplots(
        high, columns, shared_xaxes="all", shared_yaxes=True, subplot_titles=heads,
        horizontal_spacing=0.025, vertical_spacing=0.28 / high,
    )  # fmt: skip
    looks = {"": ("decoder", COLOURS[0], "solid"),
             "alone_": ("language model alone", KEPT, "dot")}  # fmt: skip
    for index, table in enumerate(tables.values()):
        for writer, (name, colour, dash) in looks.items():
            rows = table[table["writer"] == writer]
            mean = _over_seeds(rows, "x")[0] if len(rows) else rows
            figure.add_scatter(
                x=mean["x"], y=mean["omission"], mode="lines+markers", name=name,
                legendgroup=name, showlegend=index == 0, line={"color": colour, "dash": dash},
                marker_size=4, error_y={
                    "type": "data", "symmetric": False, "array": mean["high"] - mean["omission"],
                    "arrayminus": mean["omission"] - mean["low"], "thickness": 1, "width": 2,
                    "visible": not writer,
                },
                row=index // columns + 1, col=index % columns + 1,
            )  # fmt: skip
    if log:
        figure.update_xaxes(type="log")
        label_log_axes(figure, 4)
    figure.update_xaxes(zeroline=False, showticklabels=True, tickangle=0, tickfont_size=11)
    figure.update_yaxes(range=[0, 1.05])
    figure.update_yaxes(title="omission (share of tokens)", row=(high + 1) // 2, col=1)
    figure.update_annotations(font_size=12)
    figure.add_annotation(
        text=label, x=0.5, y=0, yshift=-28, xref="paper", yref="paper", yanchor="top",
        showarrow=False, font_size=13,
    )  # fmt: skip
    height = 140 + 205 * high
    return figure.update_layout(
        title=title, height=height, margin={"t": 105, "b": 60},
        legend={"yref": "container", "y": 1 - 38 / height, "yanchor": "top", "x": 0},
    )  # fmt: skip


def _over_seeds(rows: pd.DataFrame, by: str) -> tuple[pd.DataFrame, int]:
    """Means at each value of `by`, the number of seeds, and what error bars show: of one seed its
    interval, of several the lowest and the highest."""
    seeds = rows["seed"].nunique() if "seed" in rows else 1
    mean = rows.groupby(by, as_index=False).mean(numeric_only=True)
    if seeds > 1:
        at = rows.groupby(by)["omission"]
        mean["low"], mean["high"] = at.min().to_numpy(), at.max().to_numpy()
    return mean, seeds


def writers(table: pd.DataFrame, title: str) -> go.Figure:
    """Omission by place in the chunk (0 to 1), of the decoder and its controls.

    Args:
        table: rows with x, omission and writer, of one length and model, of one or several seeds.
    """
    if not len(table):
        return no_run()
    figure = go.Figure()
    for index, (writer, name) in enumerate(WRITERS.items()):
        rows = table[table["writer"] == writer]
        if len(rows):
            mean, _ = _over_seeds(rows, "x")
            figure.add_scatter(
                x=mean["x"], y=mean["omission"], mode="lines+markers", name=name,
                line={"color": COLOURS[index], "dash": DASHES[index]},
            )  # fmt: skip
    label = "place in the chunk (0: its start, 1: its end)"
    figure.update_xaxes(title=label, zeroline=False, range=[-0.03, 1.03])
    figure.update_yaxes(title="omission (share of tokens)", range=[0, 1.02])
    figure.update_layout(title=title, height=520, **TOP)
    return figure


def causal(table: pd.DataFrame, category: str, words: Mapping[str, str], title: str) -> go.Figure:
    """Omission of a category's words over its frequency in pretraining, of all other categories, of
    words whose frequency stayed, and of controls' answers: mean and interval over seeds.

    Args:
        table: :func:`lib.experiments.memory_causal.by_frequency`'s, of one length.
        words: what the words of two categories are called.
    """
    if not len(table):
        return no_run()
    figure = go.Figure()
    (other,) = set(words) - {category}
    names = {"own": words[category], "rest": "all other categories",
             "alone": "the same, language model alone",
             "swapped": "the same, answer to another chunk",
             "unchanged": f"{words[other]}, as frequent as before"}  # fmt: skip
    for index, (column, name) in enumerate(names.items()):
        rows = table.dropna(subset=[column])
        if len(rows):
            band(figure, rows, "frequency", column, name, index, limits=(0, 1))
    figure.update_xaxes(
        title=f"{category} in pretraining (times the base rate)", type="log", range=[-1.1, 1.1],
        tickvals=[0.1, 1, 10],
    )  # fmt: skip
    figure.update_yaxes(title="omission (share of tokens)", range=[0, 1.05])
    figure.update_layout(title=title, height=560, **{**TOP, "margin": {"t": 170}})
    return figure


def architectures(frame: pd.DataFrame, metric: str, title: str) -> go.Figure:
    """A score over the size of the state, a marker each architecture and seed.

    Args:
        metric: a key of :data:`lib.figures.memory.MEASURES`.
    """
    if not len(frame):
        return no_run()
    figure = go.Figure()
    symbols = ("circle", "square", "diamond", "cross", "triangle-up", "x")
    for index, (name, rows) in enumerate(frame.groupby("architecture", sort=False)):
        figure.add_scatter(
            x=rows["state_floats"], y=rows[metric], mode="markers", name=str(name),
            marker={"symbol": symbols[index % 6], "size": 11, "color": COLOURS[index % 7]},
            customdata=rows[["parameters", "seed"]],
            hovertemplate=f"{name}: %{{y:.3f}}<br>%{{x}} floats, %{{customdata[0]}} parameters, "
            "seed %{customdata[1]}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title="size of the state (numbers), logarithmic", type="log")
    figure.update_yaxes(title=measure_axis(metric), range=[0, 1.05])
    figure.update_layout(title=title, height=520, **TOP)
    return label_log_axes(figure)


def speed(frame: pd.DataFrame, of: str, title: str) -> go.Figure:
    """Tokens a second by length of a chunk, a bar each precision and batch.

    Args:
        frame: :func:`lib.experiments.memory_scale.frame`'s. of: "train", "encode" or "decode".
    """
    figure = go.Figure()
    for index, (precision, rows) in enumerate(frame.groupby("precision", sort=False)):
        names = [f"{row.length} tokens x {row.batch}" for row in rows.itertuples()]
        figure.add_bar(
            x=names, y=rows[f"{of}_tokens_per_second"], name=str(precision),
            marker_color=COLOURS[index],
        )  # fmt: skip
    figure.update_xaxes(title="length of a chunk x chunks a batch")
    top = frame[f"{of}_tokens_per_second"].max()
    figure.update_yaxes(title="tokens a second", range=[0, 1.1 * top])
    figure.update_layout(title=title, height=480, showlegend=True, **TOP)
    return figure


def passage(pieces: Sequence[str], marks: str, written: str, title: str) -> go.Figure:
    """A text with its lost tokens marked, and below it what was written from memory.

    Args:
        pieces: the text's tokens. marks: "1" for each that came back, "0" for each that did not.
    """
    read = [
        f"<span style='color:{LOST}'><b>{text}</b></span>" if lost else text
        for text, lost in _lines(list(zip(pieces, (mark == "0" for mark in marks), strict=True)))
    ]
    answer = [text for text, _ in _lines([(written, False)])]
    text = "".join(["<b>read</b> (orange and bold: lost)<br>", *read, "<br><br>"])
    text += "".join(["<b>written from memory</b><br>", *answer])
    rows = text.count("<br>") + 1
    figure = go.Figure()
    figure.add_annotation(
        text=text, x=0, y=1, xref="paper", yref="paper", xanchor="left", yanchor="top",
        align="left", showarrow=False, font={"family": "monospace", "size": 12},
    )  # fmt: skip
    # an invisible trace makes the figure real for plotly and for sliders
    figure.add_scatter(x=[0], y=[0], mode="markers", marker_opacity=0, hoverinfo="skip")
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    margin = {"l": 50, "r": 15, "t": 60, "b": 20}  # room for half a label of a slider
    figure.update_layout(title=title, height=190 + 17 * rows, margin=margin, showlegend=False)
    return figure


def shown(piece: str) -> str:
    """A piece of text on one line, as plotly shows it."""
    text = piece.replace("\n", "⏎").replace("&", "&amp;").replace("<", "&lt;")
    return text.replace(" ", "\u00a0")


def _lines(pieces: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Pieces with breaks so that no line has more than LINE characters; one ends at a line end of
    the text."""
    found, column = [], 0
    for piece, flag in pieces:
        parts = [""]
        if column and column + len(piece) > LINE and len(piece) <= LINE:
            parts, column = ["", ""], 0
        for letter in piece:
            if column == LINE:
                parts.append("")
                column = 0
            parts[-1] += letter
            column += 1
            if letter == "\n":
                parts.append("")
                column = 0
        found.append(("<br>".join(map(shown, parts)), flag))
    return found
