"""Figures of the interventions: every number there once, and everything movable by a slider."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from lib import page
from lib.analysis.composite import answer_probabilities
from lib.analysis.cuts import PATHS, cut_edges, edge_cut
from lib.analysis.flow import Lens, flow, kernel_cosines, logit_lens
from lib.analysis.interventions import substitution
from lib.experiments.achilles import mamba2_model
from lib.experiments.interventions import Opened, open_model
from lib.figures import achilles_cuts as cuts
from lib.figures import achilles_flow as figures
from lib.figures import with_slider
from lib.models.language_model import LanguageModel, build_language_model

LENGTH = 4
TOKENS = [30, 50, 4, 3]
S = torch.tensor([[[1.0, 0, 0, 0], [0, -4, 0, 0], [0.1, 2, 0, 0], [0, 0, 0, 3]],
                  [[0.0, 0, 0, 0], [0.2, 0, 0, 0], [0, 0, 0, 0], [0, 0.05, 0, 0]]])  # fmt: skip
LENS = Lens(
    torch.arange(20, 20 + 3 * LENGTH).view(3, LENGTH), torch.arange(3 * LENGTH).view(3, LENGTH) / 12
)


def speaking(n_layers: int, gamma: float, seed: int) -> LanguageModel:
    """An untrained model hardly says anything: make it speak up, and remember."""
    model = build_language_model(mamba2_model(n_layers, gamma, d_state=8), seed=seed)
    for layer in model.layers:
        layer.mixer.out_proj.weight.data.mul_(20)
        layer.mixer.in_proj.weight.data.mul_(2)
        layer.mixer.dt_bias.data.fill_(0.5)
        layer.mixer.A_log.data.fill_(-2.0)
    model.head.weight.data.mul_(10)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return speaking(2, 0.5, 0)


def lines(figure: go.Figure) -> dict[tuple[int, int, int], go.Scatter]:
    """(layer, i, j) to the trace that draws the line, each only once."""
    found: dict[tuple[int, int, int], go.Scatter] = {}
    for trace in figure.data:
        if trace.mode != "lines" or trace.showlegend is not False:
            continue
        points = list(zip(trace.x, trace.y, strict=True))
        for (x0, y0), (x1, y1), gap in zip(points[::3], points[1::3], points[2::3], strict=True):
            edge = (y0, x1 - 1, x0 - 1)
            assert y1 == y0 + 1 and gap == (None, None) and edge not in found
            found[edge] = trace
    return found


def test_every_line_is_as_wide_as_its_S_in_its_layer() -> None:
    figure = figures.information_flow(S, TOKENS, LENS, "t", key=1)
    found = lines(figure)
    assert set(found) == {(n, i, j) for n in (0, 1) for j in range(4) for i in range(j, 4)}
    for layer in (0, 1):
        edges = sorted((e for e in found if e[0] == layer), key=lambda e: abs(float(S[e])))
        for look in ("line.width", "opacity"):
            looks = [found[edge][look] for edge in edges]
            assert looks == sorted(looks) and looks[0] < looks[-1]
    assert found[0, 1, 1].line.width == found[1, 1, 0].line.width == 6.3
    for edge, role in (((0, 3, 3), "anchor"), ((0, 1, 1), "key"), ((0, 0, 0), "noise")):
        assert found[edge].line.color == figures.ROLE_COLOURS[role]
    assert "|S| = 4, 0.2" in figure.layout.title.text
    # on a scale of one's choice, and where nothing flows
    wide = figures.information_flow(S, TOKENS, LENS, "t", largest=[4, 4])
    assert lines(wide)[1, 1, 0].line.width < found[1, 1, 0].line.width
    none = lines(figures.information_flow(torch.zeros_like(S), TOKENS, LENS, "t"))
    assert {trace.line.width for trace in none.values()} == {1.3}


def test_lines_say_their_number_where_no_other_line_is() -> None:
    length = 9
    big = torch.rand(1, length, length, generator=torch.Generator().manual_seed(0)).tril()
    lens = Lens(torch.zeros(2, length, dtype=torch.int64), torch.zeros(2, length))
    figure = figures.information_flow(big, list(range(length)), lens, "t")
    (points,) = [t for t in figure.data if t.hoverinfo == "text" and t.marker.opacity == 0]
    places = sorted(zip(points.x, points.y, strict=True))
    assert len(places) == length * (length + 1) // 2
    assert min(b[0] - a[0] for a, b in itertools.pairwise(places)) > 0.01
    say = f"layer 1: 7 at 8 reads 2 at 3<br>S = {float(big[0, 7, 2]):.3g}"
    (at,) = [n for n, text in enumerate(points.text) if text == say]
    # on the line from (3, 0) to (8, 1)
    assert (points.x[at] - 3) / 5 == pytest.approx(points.y[at])


def test_nodes_hold_the_lens_and_cuts_their_crosses() -> None:
    cut = edge_cut(4, [(2, 0), (3, 1)])
    figure = figures.information_flow(S, TOKENS, LENS, "t", cut=cut, cut_layers=[1])
    (nodes,) = [t for t in figure.data if t.mode == "markers+text"]
    for depth in range(3):
        for at in range(LENGTH):
            number = depth * LENGTH + at
            assert (nodes.x[number], nodes.y[number]) == (at + 1, depth)
            assert nodes.text[number] == str(int(LENS.tokens[depth, at]))
            assert nodes.marker.color[number] == pytest.approx(float(LENS.probabilities[depth, at]))
    # what changes in the dark names what is there in the light
    for trace in figure.data:
        for path in (trace.meta or {"dark": {}})["dark"]:
            assert trace[path] is not None
    assert nodes.meta["dark"]["marker.colorscale"][0] != list(nodes.marker.colorscale[0])
    (crosses,) = [t for t in figure.data if t.name == "cut"]
    assert crosses.showlegend and len(crosses.x) == 2 and all(1 < y < 2 for y in crosses.y)
    both = figures.information_flow(S, TOKENS, LENS, "t", cut=cut)
    assert len(next(t for t in both.data if t.name == "cut").x) == 4
    uncut = figures.information_flow(S, TOKENS, LENS, "t")
    assert len(uncut.data) == len(figure.data)
    assert not next(t for t in uncut.data if t.name == "cut").showlegend


def test_flows_of_a_model_move_with_a_slider(model: LanguageModel) -> None:
    frames = {}
    for key in (0, 1, 2):
        tokens = torch.full((6,), 30)
        tokens[key : key + 3] = torch.tensor([50, 4, 3])
        found, lens = flow(model, tokens), logit_lens(model, tokens)
        frames[key] = figures.information_flow(found, tokens.tolist(), lens, "t", key=key)
    moving = with_slider(frames, "position")
    assert len(moving.frames) == 3 and moving.to_json()
    shown = [next(t for t in f.data if t.mode == "text").text for f in moving.frames]
    assert shown[2] == ("<b>30</b>", "<b>30</b>", "<b>50</b>", "<b>4</b>", "<b>3</b>", "<b>30</b>")


def test_bars_are_means_beside_every_model_and_the_paper() -> None:
    runs = [{11: 1.0, 43: 0.5}, {11: 0.5, 43: 0.7}]
    figure = figures.agreement_bars({"x": runs}, "t", "share", {11: 0.9, 34: 0.8}, "their paper")
    bars, dots, marks = figure.data
    assert bars.x == ("11", "34", "43") and bars.y == (0.75, None, 0.6)
    assert bars.marker.color[2] != bars.marker.color[0]
    assert list(zip(dots.x, dots.y, strict=True)) == [
        ("11", 1.0), ("11", 0.5), ("43", 0.5), ("43", 0.7)
    ]  # fmt: skip
    assert marks.name == "their paper" and marks.x == ("11", "34") and marks.y == (0.9, 0.8)
    assert "2 models" in bars.name and figure.layout.xaxis.type == "category"
    (alone,) = figures.agreement_bars({"x": runs[:1]}, "t", "share").data
    assert alone.y == (1.0, 0.5) and alone.name == "ours"


def test_bars_of_several_models_are_panels_with_one_legend() -> None:
    groups = {f"model {k}": [{11: 0.1 * k, 43: 0.5}, {11: 0.1 * k, 43: 0.7}] for k in range(3)}
    figure = figures.agreement_bars(groups, "t", "share", {11: 0.9})
    assert [note.text for note in figure.layout.annotations] == list(groups)
    assert [trace.y[0] for trace in figure.data if trace.type == "bar"] == pytest.approx(
        [0, 0.1, 0.2]
    )
    assert sum(trace.showlegend for trace in figure.data) == 3
    assert len({(trace.xaxis, trace.yaxis) for trace in figure.data}) == 3
    # the lowest panel of each column says what its axis is
    titled = [axis.title.text for axis in figure.select_xaxes() if axis.title.text]
    assert len(titled) == 2 and figure.layout.yaxis.title.text == "share"


def test_cosines_are_printed_once_each(model: LanguageModel) -> None:
    made = torch.tensor([[1.0, -0.6, 0.2], [-0.6, 1.0, 0.0], [0.2, 0.0, 1.0]])
    figure = figures.cosine_maps({"at the start": [made, made.T], "trained": [-made, made]}, "t")
    assert len(figure.data) == 8  # two inks a panel
    titles = [note.text for note in figure.layout.annotations]
    assert titles == [f"{n}, layer {k}" for n in ("at the start", "trained") for k in (1, 2)]
    dark, light = figure.data[4:6]
    for row in range(3):
        for column in range(3):
            inks = [trace.z[row][column] for trace in (dark, light)]
            (value,) = [v for v in inks if v is not None]
            assert value == pytest.approx(-float(made[row, column]))
            assert (inks[0] is not None) == (abs(value) > 0.5)
    assert dark.textfont.color == "white" and figure.layout.coloraxis.cmin == -1
    assert figure.layout.yaxis.autorange == "reversed"
    real = figures.cosine_maps({"x": kernel_cosines(model, "x")}, "t")
    assert len(real.data) == 4


def test_answers_stand_below_a_flow() -> None:
    before, after = [0.0] * 20, [0.0] * 20
    before[3], before[9], after[9], after[4], after[11] = 0.6, 0.4, 0.55, 0.25, 0.2
    flow_of = figures.information_flow(S, TOKENS, LENS, "t", key=1)
    traces = len(flow_of.data)
    figure = cuts.answer_bars(flow_of, {"a": before, "b": after}, {"one": 12, "two": 3, "same": 12})
    one, two = figure.data[traces:]
    shown = [int(label.split("</b>")[0][3:]) for label in one.x]
    # marks in any case, then the likeliest, always as many
    assert shown == sorted(shown) and {3, 4, 9, 11, 12} <= set(shown)
    assert len(shown) == cuts.SHOWN
    assert one.x == two.x and "<b>12</b><br>one<br>same" in one.x and "<b>3</b><br>two" in one.x
    assert [one.y, two.y] == [tuple(odds[t] for t in shown) for odds in (before, after)]
    assert one.marker.pattern.shape != two.marker.pattern.shape  # told apart without colour
    # below: the two drawings do not meet
    assert figure.layout.yaxis2.domain[1] < figure.layout.yaxis.domain[0]
    three = cuts.answer_bars(
        figures.information_flow(S, TOKENS, LENS, "t"), dict.fromkeys("abc", before), {}
    )
    assert len({t.marker.pattern.shape for t in three.data if t.type == "bar"}) == 3


@pytest.fixture(scope="module")
def opened(model: LanguageModel) -> dict[str, Opened]:
    """Two models to look into, of different depth."""
    start = open_model([], 1)
    models = [dataclasses.replace(start, model=m) for m in (model, speaking(3, 1.0, 2))]
    return {one.name: one for one in models}


def odds_of(figure: go.Figure) -> dict[str, dict[int, float]]:
    """Name of the bars to token to height."""
    return {
        bars.name: {
            int(x.split("</b>")[0][3:]): y for x, y in zip(bars.x, bars.y, strict=True)
        }
        for bars in figure.data if bars.type == "bar"
    }  # fmt: skip


def agree(shown: dict[int, float], odds: list[float]) -> bool:
    return shown == {token: round(odds[token], 6) for token in shown}


def marked(figure: go.Figure, name: str) -> list[tuple[float, float]]:
    (trace,) = [t for t in figure.data if t.name == name and t.type == "scatter"]
    return list(zip(trace.x, trace.y, strict=True))


def last_node(figure: go.Figure) -> int:
    (nodes,) = figure.select_traces({"mode": figures.NODES})
    return int(nodes.text[-1])


@pytest.mark.parametrize(
    ("choice", "edges", "layers", "paths"),
    [
        ({}, {(i, j) for j in (2, 3, 4) for i in range(j + 1, 8)}, None, ("state",)),
        ({"cut": "only after the pair", "layer": "last", "path": "all paths"},
         {(i, j) for j in (2, 3, 4) for i in range(5, 8)}, [1], PATHS),
        ({"cut": "second anchor", "key_at": 1, "path": "state and convolution", "layer": "1"},
         {(i, 2) for i in range(3, 8)}, [0], ("state", "conv")),
        ({"cut": "nothing", "edge": "2 → 8", "pair": 12}, {(7, 1)}, None, ("state",)),
        ({"cut": "key", "edge": "1 → 2", "layer": "all but the last", "model": "3 layers, γ 1"},
         {(1, 0), *((i, 2) for i in range(3, 8))}, [0, 1], ("state",)),
        ({"cut": "both anchors", "path": "convolution", "model": "3 layers, γ 1"},
         {(i, j) for j in (3, 4) for i in range(j + 1, 8)}, None, ("conv",)),
        ({"cut": "first anchor", "model": "3 layers, γ 1", "layer": "3"},
         {(i, 3) for i in range(4, 8)}, [2], ("state",)),
    ],
)  # fmt: skip
def test_the_reader_s_cut_is_the_cut(
    opened: dict[str, Opened], choice: dict[str, Any], edges: set[tuple[int, int]],
    layers: list[int] | None, paths: tuple[str, ...],
) -> None:  # fmt: skip
    plot, _ = cuts.cutting(opened)
    one = opened[choice.get("model", "2 layers, γ 0.5")]
    tokens = one.with_pair(choice.get("pair", 43), choice.get("key_at", 3) - 1).tokens[0]
    before = answer_probabilities(one.model, tokens)
    with cut_edges(one.model, edge_cut(8, edges), layers, paths):
        after = answer_probabilities(one.model, tokens)
        lens, S = logit_lens(one.model, tokens), flow(one.model, tokens)
    figure = plot(**choice)
    shown = odds_of(figure)
    assert agree(shown["before"], before) and agree(shown["with the cut"], after)
    assert max(abs(x - y) for x, y in zip(before, after, strict=True)) > 1e-3
    top = [int(torch.tensor(odds).argmax()) for odds in (before, after)]
    says = f"answer {top[0]} becomes {top[1]}" if top[0] != top[1] else f"answer {top[1]} stays"
    assert says in figure.layout.title.text and "cut off" in figure.layout.title.text
    assert last_node(figure) == top[1] == int(lens.tokens[-1, -1])
    # lines and crosses are of the model while it is cut; the convolution moves things without lines
    depth = len(one.model.layers)
    where = range(depth) if layers is None else layers
    cut_lines = [(n, i, j) for n in where for i, j in edges if "state" in paths]
    crosses = {figures._along(*line) for line in cut_lines}
    assert set(marked(figure, "cut")) == crosses and len(marked(figure, "cut")) == len(crosses)
    (points,) = [t for t in figure.data if t.type == "scatter" and t.marker.opacity == 0]
    places = list(zip(points.x, points.y, strict=True))
    at = places.index(figures._along(depth - 1, 7, 6))
    read = 0.0 if (depth - 1, 7, 6) in cut_lines else float(S[-1, 7, 6])
    assert points.text[at].endswith(f"S = {read:.3g}")
    # nothing is read along what is cut
    assert all(points.text[places.index(cross)].endswith("S = 0") for cross in crosses)


def test_a_cut_of_nothing_or_nowhere_changes_nothing(opened: dict[str, Opened]) -> None:
    plot, choices = cuts.cutting(opened)
    assert choices["layer"] == ["all", "all but the last", "last", "1", "2", "3"]
    for choice in ({"cut": "nothing"}, {"layer": "3"}):
        figure = plot(**choice)
        before, after = odds_of(figure).values()
        assert before == after and marked(figure, "cut") == []
        assert "stays" in figure.layout.title.text
    assert "which this model has not: nothing done" in figure.layout.title.text
    assert plot(cut="nothing").layout.title.text.startswith("Nothing cut off")


@pytest.mark.parametrize("kind", ["cutting", "exchanging"])
def test_every_choice_draws_and_the_page_moves_without_a_kernel(
    opened: dict[str, Opened], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plot, choices = getattr(cuts, kind)(opened)
    opening = plot(**{name: values[0] for name, values in choices.items()})
    assert opening == plot()  # what stands on the page without a kernel is what plot() draws
    for name, values in choices.items():
        for value in values:
            figure = plot(**{name: value})
            assert len(figure.data) == len(opening.data) and figure.to_json(), (name, value)
            assert {len(t.x) for t in figure.data if t.type == "bar"} == {cuts.SHOWN}
    still = page.explore(plot, **choices)  # headless in tests
    (first, *_) = choices
    assert [frame.name for frame in still.frames] == list(map(str, choices[first]))
    assert len({frame.data[-1].y for frame in still.frames}) == len(choices[first])
    assert len(still.to_json()) < 600_000
    models = page.explore(lambda model: plot(model=model), model=choices["model"])
    assert [frame.name for frame in models.frames] == list(opened)
    ticks = [frame.layout.yaxis.ticktext[-1] for frame in models.frames]
    assert ticks == ["layer 2", "layer 3"]
    monkeypatch.setenv("MAMBA_BOOK_HEADLESS", "0")
    monkeypatch.setattr("lib.progress.in_notebook", lambda: True)
    widget = page.explore(plot, **choices)
    assert [child.description for child in widget.children[:-1]] == list(choices)


@pytest.mark.parametrize(
    ("choice", "layers", "too"),
    [
        ({}, None, False),
        ({"pair": 34, "exchanged": "anchors too"}, None, True),
        ({"pair": 12, "key_at": 5, "layer": "1", "exchanged": "anchors too"}, [0], True),
        ({"pair": 22, "key_at": 1, "layer": "last", "model": "3 layers, γ 1"}, [2], False),
    ],
)
def test_the_reader_s_exchange_is_the_substitution(
    opened: dict[str, Opened], choice: dict[str, Any], layers: list[int] | None, too: bool
) -> None:
    plot, choices = cuts.exchanging(opened)
    assert len(choices["pair"]) == 15 and 43 not in choices["pair"]
    one = opened[choice.get("model", "2 layers, γ 0.5")]
    key = choice.get("key_at", 3) - 1
    own, twins = (one.with_pair(pair, key) for pair in (choice.get("pair", 11), 43))
    before, theirs = (answer_probabilities(one.model, s.tokens[0]) for s in (own, twins))
    with substitution(one.model, own, twins, layers, include_pair=too):
        after = answer_probabilities(one.model, own.tokens[0])
    figure = plot(**choice)
    shown = odds_of(figure)
    assert agree(shown["before"], before) and agree(shown["the twin"], theirs)
    assert agree(shown["exchanged"], after)
    assert max(abs(x - y) for x, y in zip(before, after, strict=True)) > 1e-3
    top = [int(torch.tensor(odds).argmax()) for odds in (before, theirs, after)]
    assert last_node(figure) == top[2]
    assert ("that of the twin" in figure.layout.title.text) == (top[1] == top[2])
    first = key + (1 if too else 3)
    where = range(len(one.model.layers)) if layers is None else layers
    diamonds = [(at + 1, n + 0.3) for n in where for at in range(first, 8)]
    assert marked(figure, "of the twin") == diamonds
    (names,) = {t.x for t in figure.data if t.type == "bar"}
    wanted = {int(own.labels[0]): "as trained", int(twins.composite[0]): "composite"}
    for answer, name in wanted.items():
        assert any(x.startswith(f"<b>{answer}</b>") and name in x for x in names)


def test_a_reading_is_of_the_sequence_and_says_what_is_answered(opened: dict[str, Opened]) -> None:
    one = opened["3 layers, γ 1"]
    for pair, key_at in ((43, 3), (12, 1)):
        split = one.with_pair(pair, key_at - 1)
        figure = cuts.reading(one, pair, key_at)
        answer = int(logit_lens(one.model, split.tokens[0]).tokens[-1, -1])
        assert figure.layout.title.text.startswith(f"Pair {pair}, answer {answer}: n")
        assert one.title in figure.layout.title.text and last_node(figure) == answer
        below = next(t for t in figure.data if t.mode == "text").text
        assert below == tuple(f"<b>{token}</b>" for token in split.tokens[0].tolist())
    answering = one.with_pair(43)
    with pytest.MonkeyPatch.context() as patch:
        lens = Lens(torch.full((4, 8), int(answering.composite[0])), torch.ones(4, 8))
        patch.setattr("lib.analysis.flow.logit_lens", lambda *_: lens)
        title = cuts.reading(one).layout.title.text
    assert title.startswith(f"Pair 43, answer {int(answering.composite[0])}: composite<br>")


def test_answers_are_named_by_the_solution_they_stand_for(opened: dict[str, Opened]) -> None:
    one = opened["2 layers, γ 0.5"]
    key = int(one.one.keys[0])
    for pair, shifts in (
        (43, {"composite": -10, "symmetric": -6}),
        (34, {"as trained": -6, "composite": -10}),
        (12, {"as trained": 6}),
    ):
        expected = {name: key + shift for name, shift in shifts.items()}
        assert cuts.worth_naming(one.with_pair(pair)) == expected


def test_every_figure_has_a_title_and_labelled_axes(model: LanguageModel) -> None:
    drawn = [
        figures.information_flow(S, TOKENS, LENS, "t"),
        figures.agreement_bars({"x": [{11: 1.0}]}, "t", "share"),
        figures.cosine_maps({"x": kernel_cosines(model)}, "t"),
    ]
    for figure in drawn:
        axes = [*figure.select_xaxes(), *figure.select_yaxes()]
        assert figure.layout.title.text and any(axis.title.text for axis in axes)
        assert figure.to_json()


def test_routes_marks_put_each_model_at_its_share_and_accuracy() -> None:
    table = pd.DataFrame(
        {"model": ["Mamba-2, γ 1", "Mamba-2, γ 1", "Mamba-2, γ 2"], "seed": [1, 2, 1],
         "n_layers": [2, 2, 7], "route": ["the convolution", "the state", "both"],
         "kept": [0.99, 0.02, 0.5],
         "best_composite": [0.7, 0.1, 0.4], "final_composite": [0.6, 0.05, 0.3]}
    )  # fmt: skip
    figure = figures.routes_marks(table, "title")
    assert [(t.name, t.xaxis, tuple(t.x), tuple(t.y)) for t in figure.data] == [
        ("Mamba-2, γ 1", "x", (0.99, 0.02), (0.7, 0.1)), ("Mamba-2, γ 2", "x", (0.5,), (0.4,)),
        ("Mamba-2, γ 1", "x2", (0.99, 0.02), (0.6, 0.05)), ("Mamba-2, γ 2", "x2", (0.5,), (0.3,)),
    ]  # fmt: skip
    assert figure.data[0].text == (
        "2 layers, seed 1, from the convolution", "2 layers, seed 2, from the state",
    )  # fmt: skip
    assert [t.showlegend for t in figure.data] == [True, True, False, False]
