"""Figures of the interventions: every number there once, and everything movable by a slider."""

from __future__ import annotations

import itertools

import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from lib import page
from lib.analysis.composite import answer_probabilities
from lib.analysis.cuts import PATHS, cut_edges, edge_cut, source_cut
from lib.analysis.flow import Lens, flow, kernel_cosines, logit_lens
from lib.experiments.achilles import mamba2_model
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


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    model = build_language_model(mamba2_model(2, 0.5, d_state=8), seed=0)
    for layer in model.layers:  # an untrained model hardly says anything: make it speak up
        layer.mixer.out_proj.weight.data.mul_(20)
        layer.mixer.dt_bias.data.fill_(0.5)
    return model.requires_grad_(False)


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


def test_changed_answers_are_named() -> None:
    before, after = [0.1, 0.6, 0.2, 0.1], [0.1, 0.2, 0.65, 0.05]
    figure = figures.answer_change(before, after, TOKENS, {"composite": 1, "other": 0}, "S cut", 2)
    one, two = figure.data
    assert one.x == two.x == ("0<br>other", "1<br>composite", "2")
    assert one.y == (0.1, 0.6, 0.2) and two.y == (0.1, 0.2, 0.65)
    assert "answer 1 becomes 2" in figure.layout.title.text
    assert two.marker.pattern.shape == "/"  # told apart without colour
    same = figures.answer_change(before, before, TOKENS, {}, "S cut")
    assert "the answer stays" in same.layout.title.text


def test_the_reader_can_cut(model: LanguageModel) -> None:
    tokens = torch.tensor([30, 50, 4, 3, 40, 60])
    plot, choices = figures.cutting(model, tokens, 1, {"composite": 40})
    assert choices["layer"] == ["all", "1", "2"]
    figure = plot("anchor 2", "all paths", "2")
    cut = source_cut(torch.tensor([1]), 6, (2,))[0]
    with cut_edges(model, cut, [1], PATHS):
        odds = answer_probabilities(model, tokens)
    before = answer_probabilities(model, tokens)
    for bars, expected in zip(figure.data, (before, odds), strict=True):
        shown = {int(label.split("<")[0]): y for label, y in zip(bars.x, bars.y, strict=True)}
        assert 40 in shown and shown == {token: expected[token] for token in shown}
    assert before != odds
    nothing = plot("nothing", "all paths", "all")
    assert nothing.data[0].y == nothing.data[1].y
    still = page.explore(plot, **choices)  # headless in tests
    assert [frame.name for frame in still.frames] == choices["cut"]
    heights = {frame.data[1].y for frame in still.frames}
    assert len(heights) == len(choices["cut"])


def test_every_figure_has_a_title_and_labelled_axes(model: LanguageModel) -> None:
    drawn = [
        figures.information_flow(S, TOKENS, LENS, "t"),
        figures.agreement_bars({"x": [{11: 1.0}]}, "t", "share"),
        figures.cosine_maps({"x": kernel_cosines(model)}, "t"),
        figures.answer_change([0.4, 0.6], [0.5, 0.5], TOKENS, {}, "t"),
    ]
    for figure in drawn:
        axes = [*figure.select_xaxes(), *figure.select_yaxes()]
        assert figure.layout.title.text and any(axis.title.text for axis in axes)
        assert figure.to_json()


def test_routes_marks_put_each_model_at_its_share_and_accuracy() -> None:
    table = pd.DataFrame(
        {"model": ["Mamba-2, γ 1", "Mamba-2, γ 1", "Mamba-2, γ 2"], "seed": [1, 2, 1],
         "route": ["the convolution", "the state", "both"], "kept": [0.99, 0.02, 0.5],
         "best_composite": [0.7, 0.1, 0.4], "final_composite": [0.6, 0.05, 0.3]}
    )  # fmt: skip
    figure = figures.routes_marks(table, "title")
    assert [(t.name, t.xaxis, tuple(t.x), tuple(t.y)) for t in figure.data] == [
        ("Mamba-2, γ 1", "x", (0.99, 0.02), (0.7, 0.1)), ("Mamba-2, γ 2", "x", (0.5,), (0.4,)),
        ("Mamba-2, γ 1", "x2", (0.99, 0.02), (0.6, 0.05)), ("Mamba-2, γ 2", "x2", (0.5,), (0.3,)),
    ]  # fmt: skip
    assert figure.data[0].text == ("seed 1, by the convolution", "seed 2, by the state")
    assert [t.showlegend for t in figure.data] == [True, True, False, False]
