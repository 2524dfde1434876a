"""Figures of the three phases: what is known and what is noisy after each, architecture by
architecture, with mean and interval over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lib.analysis.statistics import mean_interval
from lib.figures import COLOURS, one_entry_a_group
from lib.tasks.noise import TITLES

PHASES = {"base": "before", "clean": "1 clean", "noisy": "2 noisy", "again": "3 clean"}
SYMBOLS = ("circle", "diamond", "square", "x")
MEASURES = {
    "content": "content accuracy",
    "noise": "answers equal to the noisy one",
    "own": "answers in the noise's form",
    "clean": "answers equal to the clean one",
    "noise_chosen": "noisy answers, noisy facts",
    "noise_others": "noisy answers, other facts",
    "own_chosen": "the noise's form, noisy facts",
    "own_others": "the noise's form, other facts",
    "clean_chosen": "clean answers, noisy facts",
    "clean_others": "clean answers, other facts",
    "content_chosen": "content accuracy, noisy facts",
    "content_others": "content accuracy, other facts",
    "novel": "novel-word accuracy",
    "their_accuracy": "the third party's accuracy",
    "their_flip": "the third party's character-flip rate",
    "their_english": "the third party's English ratio",
}
# of all facts together
WHOLE = [name for name in MEASURES if "_chosen" not in name and "_others" not in name]
FLOWS = {
    "kept": "known after 1:<br>still known in 2",
    "back": "lost in 2:<br>known again after 3",
    "lost": "known after 1:<br>not known after 3",
    "gained": "not known after 1:<br>known after 3",
}
GREY = "#888888"  # seen on a light page and on a dark one


def phases(frame: pd.DataFrame, measure: str, title: str, noises: Sequence[str]) -> go.Figure:
    """A measure in percent before and after each phase, a panel a noise, a line an architecture.

    Args:
        frame: of ``lib.experiments.noise_phases.frame``, one cell for each model, noise and seed.
        measure: a key of MEASURES. noises: keys of TITLES; the panels.
    """
    columns = min(3, len(noises))
    rows = -(-len(noises) // columns)
    figure = make_subplots(
        rows, columns, subplot_titles=[TITLES[noise] for noise in noises], shared_yaxes=True,
        horizontal_spacing=0.04, vertical_spacing=0.16,
    )  # fmt: skip
    models = list(dict.fromkeys(frame["model"]))
    for panel, noise in enumerate(noises):
        place = {"row": panel // columns + 1, "col": panel % columns + 1}
        for index, model in enumerate(models):
            part = frame[(frame["noise"] == noise) & (frame["model"] == model)]
            x = [at + 0.1 * _aside(index, len(models)) for at in range(len(PHASES))]
            line(figure, part, x, [f"{measure}_{p}" for p in PHASES], model, index,
                 said=list(PHASES.values()), **place)  # fmt: skip
    figure.update_xaxes(
        tickvals=list(range(len(PHASES))), ticktext=list(PHASES.values()), zeroline=False,
        range=[-0.4, len(PHASES) - 0.6],
    )  # fmt: skip
    figure.update_yaxes(range=[-4, 104], ticksuffix=" %")
    words = MEASURES[measure].split()  # on two lines: a panel is not high
    cut = (len(words) + 1) // 2
    label = "<br>".join(" ".join(part) for part in (words[:cut], words[cut:]) if part)
    figure.update_yaxes(title=label, title_font_size=12, col=1)
    figure.update_layout(title=title, height=130 + 230 * rows, legend_y=-0.12)
    one_entry_a_group(figure)
    return figure


def _aside(index: int, count: int) -> float:
    """How far the index-th of `count` lines stands beside their place, in steps: equal values would
    lie exactly on each other."""
    return index - (count - 1) / 2


def line(
    figure: go.Figure, part: pd.DataFrame, x: Sequence[float], names: Sequence[str],
    model: str, index: int, said: Sequence[str] | None = None, **place: int,
) -> None:  # fmt: skip
    """Add metrics `names` of the records `part`, one a seed, over `x`, of which is `said` where a
    pointer rests: means, the 95 % interval over seeds from three on, and for a single seed the
    record's own interval over facts."""
    seeds = part["seed"].nunique()
    middle, up, down = [], [], []
    for name in names:
        values = part[name].dropna().tolist() if name in part else []
        low = high = mean = float("nan")
        if values:
            mean, interval = mean_interval(values)
            low, high = interval if interval and seeds > 2 else (mean, mean)
            if seeds == 1 and f"{name}_low" in part:
                low, high = part[f"{name}_low"].iloc[0], part[f"{name}_high"].iloc[0]
        middle.append(100 * mean)
        up.append(100 * (min(1.0, high) - mean))
        down.append(100 * (mean - max(0.0, low)))
    count = f"{seeds} seeds" if seeds != 1 else "1 seed, interval over facts"
    figure.add_scatter(
        x=list(x), y=middle, mode="lines+markers", name=f"{model} ({count})", legendgroup=model,
        line={"color": COLOURS[index], "width": 2},
        marker={"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 8},
        error_y={"type": "data", "symmetric": False, "array": up, "arrayminus": down,
                 "thickness": 1.2},
        customdata=list(x if said is None else said),
        hovertemplate="%{customdata}: %{y:.1f} %<extra>" + model + "</extra>", **place,
    )  # fmt: skip


def mixed(
    frame: pd.DataFrame, measures: Sequence[str], title: str, noises: Sequence[str]
) -> go.Figure:
    """Metrics over the share of noisy facts in phase 2: a row a metric, a column a noise. A line
    joins shares whose models began with the same ones after phase 1, seed by seed.

    Args:
        frame: of ``lib.experiments.noise_phases.frame``, one cell for each model, noise, share and
            seed.
    """
    figure = make_subplots(
        len(measures), len(noises), column_titles=[TITLES[noise] for noise in noises],
        shared_yaxes=True, shared_xaxes=True, horizontal_spacing=0.03, vertical_spacing=0.05,
    )  # fmt: skip
    models = list(dict.fromkeys(frame["model"]))
    for row, measure in enumerate(measures, 1):
        for column, noise in enumerate(noises, 1):
            for index, model in enumerate(models):
                part = frame[(frame["noise"] == noise) & (frame["model"] == model)]
                shares = sorted(part["share"].unique())
                wide = pd.concat(
                    [part[part["share"] == s].set_index("seed")[[measure]].rename(
                        columns={measure: f"{s}"}) for s in shares] or [pd.DataFrame()], axis=1,
                ).reset_index(names="seed") if shares else part  # fmt: skip
                places = _with_breaks(part, shares)
                aside = 2 * _aside(index, len(models))
                line(figure, wide, [100 * s + aside for s in places], [f"{s}" for s in places],
                     model, index, [f"{100 * s:g}" for s in places], row=row,
                     col=column)  # fmt: skip
        name, _, phase = measure.rpartition("_")
        figure.update_yaxes(title=f"{MEASURES[name]}<br>after {PHASES[phase]}", row=row, col=1,
                            title_font_size=11)  # fmt: skip
    figure.update_xaxes(zeroline=False)
    figure.update_xaxes(title="noisy facts / %", title_font_size=11, row=len(measures))
    figure.update_yaxes(range=[-4, 104], ticksuffix=" %")
    height = 180 + 190 * len(measures)
    figure.update_layout(
        title=title, title_y=1 - 18 / height, height=height, margin={"l": 90, "t": 90},
        legend_y=-0.1,
    )  # fmt: skip
    one_entry_a_group(figure)
    return figure


def _with_breaks(part: pd.DataFrame, shares: Sequence[float]) -> list[float]:
    """`shares`, and between two that are of models apart a place of which nothing is known: there a
    line breaks."""
    began = part.pivot(index="seed", columns="share", values="began")
    places: list[float] = []
    for share in shares:
        if places:
            both = began[[places[-1], share]].dropna()
            if both.nunique(axis=1).gt(1).any():
                places.append((places[-1] + share) / 2)
        places.append(share)
    return places


def flows(frame: pd.DataFrame, title: str, noises: Sequence[str]) -> go.Figure:
    """What becomes of facts between phases (FLOWS), a panel a flow, a group of bars a noise: means
    and, from three seeds on, 95 % intervals over seeds. A seed without such facts is left out, and
    where no seed has any stands "none"."""
    figure = make_subplots(
        2, 2, subplot_titles=list(FLOWS.values()), shared_yaxes=True, shared_xaxes=True,
        horizontal_spacing=0.05, vertical_spacing=0.18,
    )  # fmt: skip
    models = list(dict.fromkeys(frame["model"]))
    counts = {model: frame[frame["model"] == model]["seed"].nunique() for model in models}
    seeds = {model: "1 seed" if n == 1 else f"{n} seeds" for model, n in counts.items()}
    for panel, flow in enumerate(FLOWS):
        place = {"row": panel // 2 + 1, "col": panel % 2 + 1}
        for index, model in enumerate(models):
            means, up, down = [], [], []
            for at, noise in enumerate(noises):
                part = frame[(frame["noise"] == noise) & (frame["model"] == model)]
                values = part[flow].dropna().tolist() if flow in part else []
                mean, interval = mean_interval(values) if values else (float("nan"), None)
                if not values:  # a missing bar looks like one of height 0
                    figure.add_annotation(
                        text="none", textangle=-90, font={"size": 9, "color": GREY}, y=0,
                        yanchor="bottom", showarrow=False,
                        x=at + 0.8 / len(models) * _aside(index, len(models)), **place,
                    )  # fmt: skip
                means.append(100 * mean)
                wide = interval is not None and len(values) > 2
                low, high = interval if interval and wide else (mean, mean)
                up.append(100 * (min(1.0, high) - mean))
                down.append(100 * (mean - max(0.0, low)))
            figure.add_bar(
                x=[TITLES[noise] for noise in noises], y=means, name=f"{model} ({seeds[model]})",
                legendgroup=model, marker_color=COLOURS[index],
                error_y={"type": "data", "symmetric": False, "array": up, "arrayminus": down,
                         "thickness": 1.5, "width": 3, "color": GREY},
                **place,
            )  # fmt: skip
    figure.update_yaxes(range=[0, 104], ticksuffix=" %")
    figure.update_yaxes(title="share of facts", title_font_size=12, col=1)
    height, above, below = 680, 150, 130  # room for three rows of a legend and heads of two
    figure.update_layout(
        title=title, title_y=1 - 18 / height, height=height, bargap=0.2,
        margin={"t": above, "b": below},
        legend={"y": 1 + (above - 38) / (height - above - below), "yanchor": "top", "x": 0},
    )  # fmt: skip
    one_entry_a_group(figure)
    return figure


def traces(
    distances: pd.DataFrame, title: str, what: str = "noisy answers after phase 3"
) -> go.Figure:
    """How far answers of a noise are from what models would say, in nats a token: after phase 3 of
    those that met it (filled), and of their controls (open). A point a seed, a group a noise.

    Args:
        distances: of ``lib.experiments.noise_phases.distances``. what: is so far, on the axis.
    """
    figure = go.Figure()
    for index, (model, part) in enumerate(distances.groupby("model", sort=False)):
        for column, whether, open_ in (
            ("phase 3", "met the noise", ""), ("control, phase 3", "never met it", "-open"),
        ):  # fmt: skip
            figure.add_scatter(
                x=[TITLES[noise] for noise in part["noise"]], y=part[column], mode="markers",
                name=f"{model}, {whether}", offsetgroup=model, customdata=part["seed"],
                marker={"symbol": SYMBOLS[index % len(SYMBOLS)] + open_, "size": 9,
                        "color": COLOURS[index], "line_width": 2 if open_ else 0},
                hovertemplate="seed %{customdata}: %{y:.2f} nats a token<extra>%{fullData.name}"
                              "</extra>",
            )  # fmt: skip
    figure.update_yaxes(title=f"{what}<br>nats a token", rangemode="tozero")
    figure.update_layout(title=title, scattermode="group", scattergap=0.4, height=460)
    return figure


RATE_PANELS = {
    "unmoved": "weights that a step leaves unmoved",
    "own_noisy": "flipped form after phase 2",
    "content_noisy": "content accuracy after phase 2",
    "content_again": "content accuracy after phase 3",
}


def rates(frame: pd.DataFrame, title: str) -> go.Figure:
    """Over the learning rate, for weights kept in float32 and in bfloat16: a panel each of
    RATE_PANELS. `frame` is of ``lib.experiments.noise_bf16.frame``."""
    figure = make_subplots(
        2, 2, subplot_titles=list(RATE_PANELS.values()), shared_xaxes=True, shared_yaxes=True,
        horizontal_spacing=0.05, vertical_spacing=0.14,
    )  # fmt: skip
    steps = sorted(frame["rate"].unique())
    for panel, measure in enumerate(RATE_PANELS):
        for index, kind in enumerate(("float32", "bfloat16")):
            part = frame[frame["weights"] == kind]
            columns = {
                f"{rate}": part[part["rate"] == rate].set_index("seed")[measure] for rate in steps
            }
            wide = pd.DataFrame(columns).reset_index(names="seed")
            line(figure, wide, steps, list(columns), f"weights in {kind}", index,
                 row=panel // 2 + 1, col=panel % 2 + 1)  # fmt: skip
    figure.update_xaxes(type="log", exponentformat="power", dtick=1)
    figure.update_xaxes(title="learning rate", row=2)
    figure.update_yaxes(range=[-4, 104], ticksuffix=" %")
    figure.update_layout(title=title, height=560, legend_y=-0.16)
    one_entry_a_group(figure)
    return figure


def losses(frame: pd.DataFrame, title: str) -> go.Figure:
    """Over the learning rate, for weights kept in float32 and in bfloat16, the training loss in the
    last epoch of phase 2 in nats a token: lines through the means, a point a seed.

    Args:
        frame: of ``lib.experiments.noise_bf16.frame``.
    """
    figure = go.Figure()
    for index, kind in enumerate(("float32", "bfloat16")):
        part = frame[frame["weights"] == kind]
        means = part.groupby("rate")["train_loss_noisy"].mean()
        seeds = part["seed"].nunique()
        name = f"weights in {kind} ({seeds} seed{'s' * (seeds != 1)})"
        colour, symbol = COLOURS[index], SYMBOLS[index]
        figure.add_scatter(x=list(means.index), y=means.tolist(), mode="lines", name=name,
                           legendgroup=kind, line={"color": colour, "width": 2})  # fmt: skip
        figure.add_scatter(
            x=part["rate"], y=part["train_loss_noisy"], mode="markers", legendgroup=kind,
            showlegend=False, marker={"color": colour, "symbol": symbol, "size": 8},
            customdata=part["seed"],
            hovertemplate=f"{kind}, seed %{{customdata}}: %{{y:.2f}} nats a token<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(type="log", title="learning rate", exponentformat="power", dtick=1)
    figure.update_yaxes(title="training loss, end of phase 2<br>nats a token", rangemode="tozero")
    figure.update_layout(title=title, height=380)
    return figure


def lost_by_size(rates_shown: Sequence[float], title: str) -> go.Figure:
    """By the size of a weight, for each learning rate, whether an update of that size moves it in
    bfloat16: the part of 64 weights within each power of two that it moves."""
    import torch

    from lib.analysis.rounding import lost

    powers = list(range(-16, 1))
    within = torch.linspace(1, 2, 65)[:-1]
    figure = go.Figure()
    for index, rate in enumerate(rates_shown):
        moved = [
            100 * (1 - float(lost(within * 2.0**p, torch.full_like(within, rate)).float().mean()))
            for p in powers
        ]
        figure.add_scatter(
            x=[2.0**p for p in powers], y=moved, mode="lines+markers", name=f"rate {rate:g}",
            line={"color": COLOURS[index % len(COLOURS)], "width": 2},
            marker={"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 7},
        )  # fmt: skip
    figure.update_xaxes(type="log", title="size of the weight", exponentformat="power", dtick=1)
    figure.update_yaxes(title="moved by an update", ticksuffix=" %")
    figure.update_layout(title=title, height=380)
    return figure
