"""Cutting and exchanging inside models of the composite task, for readers to try.

After arXiv 2509.17514, section 4.1 and Fig. 6. A figure shows one sequence in one model: above,
which token reads which (:mod:`lib.figures.achilles_flow`) while the intervention lasts, with what
was done marked; below, what the model answers without it and with it. Figures of one kind have the
same number of traces and of answers, so that a slider can move through them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lib.figures import COLOURS, SEQUENTIAL
from lib.figures.achilles_flow import CUT, NODES, information_flow
from lib.tasks.composite import HELD_OUT

if TYPE_CHECKING:
    from lib.experiments.interventions import Opened
    from lib.models.language_model import LanguageModel
    from lib.store import Record
    from lib.tasks.composite import Split

# for page.explore(plot, **choices)
Explorer = tuple[Callable[..., go.Figure], dict[str, list[Any]]]

SHOWN = 7  # answers below a flow, always as many
LAYER, BARS, GAP, TOP, BOTTOM = 58, 140, 105, 105, 90  # px: of a layer, of the bars, around them
# of the answer before, in another sequence, and after; told apart without colour too
LOOKS = (("#999999", ""), (COLOURS[4], "."), (COLOURS[0], "/"))
# in words, who is no longer heard, counted from the key, and whether anchors are deaf as well
SOURCES: dict[str, tuple[str, tuple[int, ...], bool]] = {
    "key and anchors": ("key and anchors", (0, 1, 2), True),
    "only after the pair": ("key and anchors, after the pair,", (0, 1, 2), False),
    "key": ("the key", (0,), True),
    "first anchor": ("the first anchor", (1,), True),
    "second anchor": ("the second anchor", (2,), True),
    "both anchors": ("both anchors", (1, 2), True),
    "nothing": ("", (), True),
}
PATHS = {
    "state (S)": ("state",),
    "convolution": ("conv",),
    "state and convolution": ("state", "conv"),
    "all paths": ("state", "conv", "decay"),
}
TAKEN = {"behind the pair": False, "anchors too": True}
NONE, ALL, LAST, BUT_LAST = "none", "all", "last", "all but the last"
PAIR = 10 * HELD_OUT[0] + HELD_OUT[1]


def opened_by_name(records: Sequence[Record], seed: int) -> dict[str, Opened]:
    """The models of `records` that kept their weights, by name, those first that gave the composite
    answer most often at the end of training; of several alike only the first. An untrained model if
    there is none."""
    from lib.experiments.interventions import open_model

    kept = [record for record in records if record.weights]
    kept.sort(key=lambda record: -record.metrics["final_composite"])
    found: dict[str, Opened] = {}
    for record in kept:
        one = open_model([record], seed)
        found.setdefault(one.name, one)
    return found or {"untrained": open_model([], seed)}


def reading(opened: Opened, pair: int = PAIR, key_at: int = 3) -> go.Figure:
    """Which token reads which in a model, nothing changed; the title says what it answers.

    Args:
        key_at: where the key stands, counted from 1.
    """
    from lib.analysis.flow import flow, logit_lens

    split = opened.with_pair(pair, key_at - 1)
    tokens = split.tokens[0]
    S, lens = flow(opened.model, tokens), logit_lens(opened.model, tokens)
    answer = int(lens.tokens[-1, -1])
    names = [name for name, value in worth_naming(split).items() if value == answer]
    other = "neither composite nor symmetric" if pair == PAIR else "not as trained"
    said = f"pair {pair}, answer {answer}: {' and '.join(names) or other}"
    return information_flow(S, tokens.tolist(), lens, _title(said, opened.title), key=key_at - 1)


def cutting(models: Mapping[str, Opened]) -> Explorer:
    """What later tokens no longer hear of, in which model and sequence, along which path, in which
    layers: one of SOURCES and, if the reader likes, an edge of his own from one token to another.

    Args:
        models: name to model, at least one; the first is shown first.
    """
    from lib.analysis.cuts import cut_edges, edge_cut, source_cut

    names = list(models)
    size = min(one.each.tokens.shape[1] for one in models.values())
    edges = {f"{j + 1} → {i + 1}": (i, j) for j in range(size) for i in range(j + 1, size)}

    def plot(
        cut: str = "key and anchors", model: str = names[0], pair: int = PAIR, key_at: int = 3,
        path: str = "state (S)", layer: str = ALL, edge: str = NONE,
    ) -> go.Figure:  # fmt: skip
        opened = models[model]
        split, layers = opened.with_pair(pair, key_at - 1), layers_of(opened.model, layer)
        length = split.tokens.shape[1]
        words, sources, deaf = SOURCES[cut]
        mask = source_cut(split.index, length, sources, deaf)[0]
        mask |= edge_cut(length, [edges[edge]] if edge != NONE else [])
        seen = _look(opened.model, split, cut_edges(opened.model, mask, layers, PATHS[path]))
        done = [part for part in (words, edge) if part not in ("", NONE)]
        before, after = (_best(seen[name]) for name in ("before", "after"))
        said = f"answer {before} becomes {after}" if before != after else f"answer {after} stays"
        title = f"{' and '.join(done) or 'nothing'} cut off: {said}"
        about = f"{model}; pair {pair}; {path} {_where(opened.model, layer)}"
        lines = "state" in PATHS[path]  # the convolution moves things without one
        if lines:
            for number in range(len(seen["flow"]["S"])) if layers is None else layers:
                seen["flow"]["S"][number][mask] = 0  # recomputed for drawing, and not read
        figure = information_flow(
            **seen["flow"], title=_title(title, about), key=key_at - 1,
            cut=mask if lines else None, cut_layers=layers,
        )  # fmt: skip
        odds = {"before": seen["before"], "with the cut": seen["after"]}
        return answer_bars(figure, odds, worth_naming(split))

    return plot, {
        "cut": list(SOURCES), "model": names, "pair": _pairs(models), "key_at": _places(models),
        "path": list(PATHS), "layer": _layers(models), "edge": [NONE, *edges],
    }  # fmt: skip


def exchanging(models: Mapping[str, Opened]) -> Explorer:
    """What a sequence answers when some of its tokens hold what the convolution gave in its twin,
    the same sequence with pair 43: in which model and sequence, at which tokens, in which layers.

    Args:
        models: as of :func:`cutting`.
    """
    from lib.analysis.composite import answer_probabilities
    from lib.analysis.interventions import replaced_tokens, substitution

    names = list(models)
    pairs = [pair for pair in _pairs(models) if pair != PAIR]  # 43 is its own twin

    def plot(
        pair: int = pairs[0], model: str = names[0], key_at: int = 3,
        exchanged: str = "behind the pair", layer: str = ALL,
    ) -> go.Figure:  # fmt: skip
        opened, too = models[model], TAKEN[exchanged]
        split, twins = (opened.with_pair(p, key_at - 1) for p in (pair, PAIR))
        layers = layers_of(opened.model, layer)
        during = substitution(opened.model, split, twins, layers, include_pair=too)
        seen = _look(opened.model, split, during)
        theirs = answer_probabilities(opened.model, twins.tokens[0])
        before, other, after = (_best(odds) for odds in (seen["before"], theirs, seen["after"]))
        said = f"answer {before} becomes {after}" if before != after else f"answer {after} stays"
        said += ", that of the twin" if after == other else f", the twin's is {other}"
        about = f"{model}; pair {pair}, twin {PAIR}; {exchanged} {_where(opened.model, layer)}"
        figure = information_flow(
            **seen["flow"], title=_title(f"twin's convolution: {said}", about), key=key_at - 1
        )
        held = replaced_tokens(split, too)[0].nonzero().flatten().tolist()
        every = range(len(opened.model.layers)) if layers is None else layers
        figure.add_scatter(
            x=[at + 1 for _ in every for at in held], y=[n + 0.3 for n in every for _ in held],
            mode="markers", name="of the twin", hoverinfo="skip", showlegend=True,
            marker={"symbol": "diamond", "size": 9, "color": CUT},
        )  # fmt: skip
        # of a trained pair only what it was trained with: the other names are the twin's
        marks = {"as trained": int(split.labels[0]), **worth_naming(twins)}
        odds = {"before": seen["before"], "the twin": theirs, "exchanged": seen["after"]}
        return answer_bars(figure, odds, marks)

    return plot, {
        "pair": pairs, "model": names, "key_at": _places(models), "exchanged": list(TAKEN),
        "layer": _layers(models),
    }  # fmt: skip


def cut_maps(maps: Mapping[str, pd.DataFrame], title: str) -> go.Figure:
    """Shares of sequences as maps beside each other: a row a model, a column what is cut off.

    Args:
        maps: what is counted, to a table with the same rows.
    """
    figure = make_subplots(
        1, len(maps), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=list(maps),
        column_widths=[len(table.columns) for table in maps.values()],
    )  # fmt: skip
    rows = 0
    for column, table in enumerate(maps.values(), 1):
        rows = len(table)
        figure.add_heatmap(
            x=["<br>".join(textwrap.wrap(name, 22)) for name in table.columns], y=list(table.index),
            z=table.round(4).to_numpy().tolist(), zmin=0, zmax=1, colorscale=SEQUENTIAL,
            showscale=False, texttemplate="%{z:.2f}", xgap=1, ygap=1,
            hovertemplate="%{y}; cut off: %{x}: %{z:.3f}<extra></extra>", row=1, col=column,
        )  # fmt: skip
    figure.update_xaxes(tickangle=-45, tickfont_size=11)  # columns are as narrow as their numbers
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(
        title=title, height=250 + 24 * rows, margin={"l": 190, "b": 140}, meta={"minWidth": 620}
    )
    return figure


def answer_bars(
    figure: go.Figure, odds: Mapping[str, Sequence[float]], marks: Mapping[str, int]
) -> go.Figure:
    """Put what is answered below an information flow: SHOWN answers, a bar for each probability.

    Args:
        figure: of :func:`information_flow`; it gets the bars, and room for them.
        odds: name ("before") to the probabilities of all tokens, two or three of them.
        marks: name ("composite") to an answer that is shown and named in any case.
    """
    named = set(marks.values())
    likely = np.argsort(-np.max(list(odds.values()), axis=0), kind="stable").tolist()
    shown = sorted([*named, *(token for token in likely if token not in named)][:SHOWN])
    labels = [
        "<br>".join([f"<b>{token}</b>", *(name for name in marks if marks[name] == token)])
        for token in shown
    ]
    looks = LOOKS if len(odds) == len(LOOKS) else (LOOKS[0], LOOKS[-1])
    for (name, values), (colour, pattern) in zip(odds.items(), looks, strict=True):
        figure.add_bar(
            x=labels, y=[round(values[token], 6) for token in shown], name=name,
            xaxis="x2", yaxis="y2", legend="legend2",
            marker_color=colour, marker_pattern_shape=pattern,
            hovertemplate=f"%{{x}}: %{{y:.3f}}<extra>{name}</extra>",
        )  # fmt: skip
    low, high = figure.layout.yaxis.range
    flow = round(LAYER * (high - low))
    whole = flow + GAP + BARS
    figure.update_traces(
        marker_colorbar={"len": flow / whole, "y": 1, "yanchor": "top"}, selector={"mode": NODES}
    )
    figure.update_layout(
        height=TOP + whole + BOTTOM, margin={"t": TOP, "b": BOTTOM}, barmode="group",
        yaxis_domain=[1 - flow / whole, 1],
        xaxis2={"title": "answer", "anchor": "y2", "type": "category", "tickangle": 0,
                "tickfont_size": 10},
        yaxis2={"title": "probability", "anchor": "x2", "domain": [0, BARS / whole],
                "range": [0, 1.05]},
        legend2={"orientation": "h", "x": 1, "xanchor": "right", "y": BARS / whole,
                 "yanchor": "bottom"},
        meta={"minWidth": 620},
    )  # fmt: skip
    return figure


def worth_naming(split: Split) -> dict[str, int]:
    """Answers to a sequence that stand for a solution: of pair 43 both, of a trained one that of
    training and, for pair 34, what composing would have given."""
    given = {"composite": split.composite, "symmetric": split.symmetric, "as trained": split.labels}
    answers = {name: int(answer[0]) for name, answer in given.items()}
    if int(split.pairs[0]) == PAIR:
        return {name: answers[name] for name in ("composite", "symmetric")}
    special = answers["composite"] != answers["as trained"]
    return {name: answers[name] for name in ("as trained", "composite")[: 1 + special]}


def layers_of(model: LanguageModel, choice: str) -> list[int] | None:
    """Layers counted from 0 for a reader's choice, who counts from 1; None for all, and none where
    the model has no such layer."""
    count = len(model.layers)
    if choice in (ALL, LAST, BUT_LAST):
        return {ALL: None, LAST: [count - 1], BUT_LAST: list(range(count - 1))}[choice]
    return [int(choice) - 1] if int(choice) <= count else []


def _where(model: LanguageModel, choice: str) -> str:
    words = {
        ALL: "in all layers",
        LAST: "in the last layer",
        BUT_LAST: "in all layers but the last",
    }
    if choice in words:
        return words[choice]
    absent = ", which this model has not: nothing done" if layers_of(model, choice) == [] else ""
    return f"in layer {choice}{absent}"


def _look(
    model: LanguageModel, split: Split, during: AbstractContextManager[Any]
) -> dict[str, Any]:
    """Answers before and after, and the arguments of :func:`information_flow` during the
    intervention; the widest line is that of before, so that widths can be compared."""
    from lib.analysis.composite import answer_probabilities
    from lib.analysis.flow import flow, logit_lens

    tokens = split.tokens[0]
    before, largest = answer_probabilities(model, tokens), flow(model, tokens).abs().amax((1, 2))
    with during:
        drawn = {"S": flow(model, tokens), "lens": logit_lens(model, tokens)}
        after = answer_probabilities(model, tokens)
    drawn |= {"tokens": tokens.tolist(), "largest": largest.tolist()}
    return {"before": before, "after": after, "flow": drawn}


def _best(odds: Sequence[float]) -> int:
    return int(np.argmax(odds))


def _title(said: str, about: str) -> str:
    return f"{said[0].upper()}{said[1:]}<br><sup>{about}</sup>"


def _pairs(models: Mapping[str, Opened]) -> list[int]:
    """All pairs that all models know, the unseen one first."""
    known = [{10 * a + b for a, b in one.task.rules.pairs} for one in models.values()]
    return sorted(set.intersection(*known), key=lambda pair: (pair != PAIR, pair))


def _places(models: Mapping[str, Opened]) -> list[int]:
    """Where a key may stand, counted from 1; the third place, the paper's, is the first choice."""
    count = min(len(one.each) for one in models.values())
    return sorted(range(1, count + 1), key=lambda place: (place != 3, place))


def _layers(models: Mapping[str, Opened]) -> list[str]:
    deepest = max(len(one.model.layers) for one in models.values())
    return [ALL, BUT_LAST, LAST, *(str(n + 1) for n in range(deepest))]
