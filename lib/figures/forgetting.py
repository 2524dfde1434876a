"""Figures of the chapter "Selective memory": which parts of a text are lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from lib.figures import COLOURS, DASHES, band
from lib.figures.memory import TOP, WRITERS, no_run

LOST, KEPT = COLOURS[1], "#888888"
LINE = 76  # characters of a line of text


def by_group(
    table: pd.DataFrame, title: str, published: pd.DataFrame | None = None
) -> go.Figure:  # fmt: skip
    """Omission of groups as bars, with the interval of drawing chunks again; beside them what it
    would be if all groups had words of the same sizes, what the language model alone would leave
    out, and published values.

    Args:
        table: rows of one record with group, omission, low, high and writer, perhaps standardised.
        published: columns group and value.
    """
    if not len(table):
        return no_run()
    own = table[table["writer"] == ""].sort_values("omission")
    figure = go.Figure()
    figure.add_bar(
        x=own["group"], y=own["omission"], name="omission", marker_color=COLOURS[0],
        error_y={
            "type": "data", "symmetric": False, "array": own["high"] - own["omission"],
            "arrayminus": own["omission"] - own["low"], "color": "#888888",
        },
        customdata=own[["count", "chunks"]],
        hovertemplate="%{x}: %{y:.3f}<br>%{customdata[0]} occurrences in %{customdata[1]} chunks"
        "<extra></extra>",
    )  # fmt: skip
    marks: list[tuple[str, Any, Any, str, str]] = []
    if "standardised" in own:
        marks.append(
            ("words of equal sizes", own["group"], own["standardised"], "diamond", COLOURS[1])
        )
    alone = table[table["writer"] == "alone_"]
    if len(alone):
        name = "language model alone, told the text before"
        marks.append((name, alone["group"], alone["omission"], "line-ew-open", COLOURS[6]))
    if published is not None and len(published):
        marks.append(("published", published["group"], published["value"], "x", COLOURS[3]))
    for name, x, y, symbol, colour in marks:
        figure.add_scatter(
            x=x, y=y, mode="markers", name=name,
            marker={"symbol": symbol, "size": 11, "color": colour, "line": {"width": 2}},
        )  # fmt: skip
    figure.update_yaxes(title="omission (share of occurrences)", rangemode="tozero")
    figure.update_xaxes(categoryorder="array", categoryarray=own["group"].tolist())
    figure.update_layout(title=title, height=440, **TOP)
    return figure


def over(
    tables: Mapping[str, pd.DataFrame], title: str, label: str, *, log: bool = False,
    extra: pd.DataFrame | None = None, unit: str = "share of tokens",
) -> go.Figure:  # fmt: skip
    """Omission over a number (position, frequency, perplexity), a line each table, its control
    dotted in the same colour.

    Args:
        tables: name to rows with x, omission, low, high and writer, of one or several seeds.
        extra: published: columns x and omission.
    """
    if extra is None and not any(map(len, tables.values())):
        return no_run()
    figure = go.Figure()
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
            mean = rows.groupby("x", as_index=False)[["omission", "low", "high"]].mean()
            single = rows["seed"].nunique() == 1 if "seed" in rows else True
            figure.add_scatter(
                x=mean["x"], y=mean["omission"], mode="lines+markers", name=name + mark,
                legendgroup=name, line={"color": colour, "dash": dash},
                error_y={
                    "type": "data", "symmetric": False, "array": mean["high"] - mean["omission"],
                    "arrayminus": mean["omission"] - mean["low"], "thickness": 1,
                    "visible": single and not writer,
                },
            )  # fmt: skip
    if extra is not None and len(extra):
        figure.add_scatter(
            x=extra["x"], y=extra["omission"], mode="lines+markers", name="published, 130M",
            line={"color": COLOURS[6], "dash": "dash"},
        )  # fmt: skip
    figure.update_xaxes(title=label, type="log" if log else "linear")
    figure.update_yaxes(title=f"omission ({unit})", rangemode="tozero")
    figure.update_layout(title=title, height=440, **(TOP if len(figure.data) < 5 else {}))
    return figure


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
            mean = rows.groupby("x", as_index=False)["omission"].mean()
            figure.add_scatter(
                x=mean["x"], y=mean["omission"], mode="lines+markers", name=name,
                line={"color": COLOURS[index], "dash": DASHES[index]},
            )  # fmt: skip
    figure.update_xaxes(title="place in the chunk (share)")
    figure.update_yaxes(title="omission (share of tokens)", range=[0, 1.02])
    figure.update_layout(title=title, height=440, **TOP)
    return figure


def causal(table: pd.DataFrame, category: str, title: str) -> go.Figure:
    """Omission of a category over its frequency in pretraining, that of all others, and what the
    language model alone leaves out of it: mean and interval over seeds.

    Args:
        table: :func:`lib.experiments.memory_causal.by_frequency`'s, of one length.
    """
    if not len(table):
        return no_run()
    figure = go.Figure()
    names = {
        "own": category, "rest": "all other categories",
        "alone": f"{category}, language model alone",
    }  # fmt: skip
    for index, (column, name) in enumerate(names.items()):
        rows = table.dropna(subset=[column])
        if len(rows):
            band(figure, rows, "frequency", column, name, index, limits=(0, 1))
    figure.update_xaxes(title=f"frequency of {category} in pretraining (times the base rate)",
                        type="log")  # fmt: skip
    figure.update_yaxes(title="omission (share of tokens)", rangemode="tozero")
    figure.update_layout(title=title, height=440, **TOP)
    return figure


def architectures(frame: pd.DataFrame, metric: str, title: str) -> go.Figure:
    """A score over the size of the state, a marker each architecture and seed."""
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
    figure.update_xaxes(title="state (floats)", type="log")
    figure.update_yaxes(title=f"{metric.replace('_', ' ')} (share)", rangemode="tozero")
    figure.update_layout(title=title, height=440, **TOP)
    return figure


def speed(frame: pd.DataFrame, of: str, title: str) -> go.Figure:
    """Tokens a second by length of a chunk, a bar each precision and batch.

    Args:
        frame: :func:`lib.experiments.memory_scale.frame`'s. of: "train" or "decode".
    """
    figure = go.Figure()
    for index, (precision, rows) in enumerate(frame.groupby("precision", sort=False)):
        names = [f"{row.length} tokens x {row.batch}" for row in rows.itertuples()]
        figure.add_bar(
            x=names, y=rows[f"{of}_tokens_per_second"], name=str(precision),
            marker_color=COLOURS[index],
        )  # fmt: skip
    figure.update_xaxes(title="length of a chunk x chunks a batch")
    figure.update_yaxes(title="tokens a second")
    figure.update_layout(title=title, height=400, showlegend=True, **TOP)
    return figure


def passage(pieces: Sequence[str], marks: str, written: str, title: str) -> go.Figure:
    """A text with its lost tokens marked, and below it what was written from memory.

    Args:
        pieces: the text's tokens. marks: "1" for each that came back, "0" for each that did not.
    """
    places, lines = layout(pieces)
    figure = go.Figure()
    for flag, name, colour in (("1", "came back", KEPT), ("0", "lost", LOST)):
        own = [
            (x, -y, shown(piece), piece)
            for (x, y), piece, mark in zip(places, pieces, marks, strict=True)
            if mark == flag
        ]
        bold = [f"<b>{text}</b>" if flag == "0" else text for _, _, text, _ in own]
        figure.add_scatter(
            x=[one[0] for one in own], y=[one[1] for one in own],
            text=bold, mode="text", name=name, textposition="middle right",
            textfont={"family": "monospace", "size": 12, "color": colour},
            hovertext=[f"{piece!r}: {name}" for *_, piece in own], hoverinfo="text",
        )  # fmt: skip
    below, _ = layout([written[at : at + LINE] for at in range(0, len(written), LINE)])
    figure.add_scatter(
        x=[0 for _ in below],
        y=[-(lines + 2 + row) for row in range(len(below))],
        text=[shown(written[at : at + LINE]) for at in range(0, len(written), LINE)],
        mode="text", name="written from memory", textposition="middle right",
        textfont={"family": "monospace", "size": 12, "color": COLOURS[0]}, hoverinfo="skip",
    )  # fmt: skip
    rows = lines + 3 + max(1, len(below))
    figure.update_xaxes(visible=False, range=[-1, LINE + 10])
    figure.update_yaxes(visible=False, range=[-rows, 1])
    figure.update_layout(title=title, height=min(700, 150 + 20 * rows), **TOP)
    return figure


def shown(piece: str) -> str:
    """A piece of text on one line, as plotly shows it."""
    text = piece.replace("\n", "⏎").replace("&", "&amp;").replace("<", "&lt;")
    return text.replace(" ", "\u00a0")


def layout(pieces: Sequence[str]) -> tuple[list[tuple[int, int]], int]:
    """Column and line of each piece on lines of LINE characters, and the last line's number."""
    places, column, line = [], 0, 0
    for piece in pieces:
        if column and column + len(piece) > LINE:
            column, line = 0, line + 1
        places.append((column, line))
        column += len(piece)
        if "\n" in piece:
            column, line = 0, line + 1
    return places, line
