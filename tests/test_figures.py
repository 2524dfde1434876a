from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch
from plotly.subplots import make_subplots

from lib import figures, page
from lib.figures import achilles, foundations
from lib.tasks.composite import CompositeTask, build


def curves(seeds: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    parts = [
        pd.DataFrame(
            {
                "epoch": range(1, 6), "seed": seed, "train_loss": rng.random(5) + 0.1,
                **{name: rng.random(5) for name in achilles.WATCHED},
            }
        )
        for seed in range(seeds)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def test_renderer_shows_html_without_plotly_js_and_mimetype_for_jupyterlab() -> None:
    assert pio.renderers.default == "plotly_mimetype+book"
    html = pio.renderers["book"].to_mimebundle(go.Figure(go.Bar(y=[1])).to_plotly_json())[
        "text/html"
    ]
    assert "Plotly.newPlot" in html and len(html) < 20_000 and "cdn" not in html


@pytest.mark.parametrize(
    ("rows", "columns", "width"), [(1, 1, None), (3, 1, None), (1, 2, 26), (2, 3, 39), (1, 5, 40)]
)
def test_panels_beside_each_other_need_room(rows: int, columns: int, width: int | None) -> None:
    figure = make_subplots(rows, columns)
    for column in range(columns):
        figure.add_bar(y=[1], row=rows, col=column + 1)
    html = pio.renderers["book"].to_mimebundle(figure.to_plotly_json())["text/html"]
    assert figures.panels(figure.to_plotly_json()["layout"]) == columns
    if width is None:
        assert "min-width" not in html
    else:
        assert html.startswith(f'<div style="min-width: {width}rem">')


def test_spread_is_mean_and_interval_over_seeds() -> None:
    frame = pd.DataFrame({"x": [1, 1, 1, 2], "y": [1.0, 2.0, 3.0, 5.0], "seed": [1, 2, 3, 1]})
    table = figures.spread(frame, "x", "y")
    assert table["seeds"].tolist() == [3, 1] and table["mean"].tolist() == [2.0, 5.0]
    assert table["low"][0] == pytest.approx(2 - 4.303 / 3**0.5, abs=1e-3)
    assert np.isnan(table["low"][1])
    logs = figures.spread(frame, "x", "y", log=True)
    assert logs["mean"][0] == pytest.approx(6 ** (1 / 3)) and logs["low"][0] > 0


def test_bands_stay_within_limits_and_show_every_seed() -> None:
    frame = pd.DataFrame({"x": [1] * 3, "y": [0.0, 0.5, 1.0], "seed": [1, 2, 3]})
    figure = go.Figure()
    figures.band(figure, frame, "x", "y", "accuracy", 0, limits=(0, 1))
    entry, area, *seeds, mean = figure.data
    assert entry.name == figures.BAND
    assert min(area.y) == 0 and max(area.y) == 1
    assert len(seeds) == 3 and mean.name == "accuracy (3 seeds)"


def test_bands_are_where_there_are_three_seeds_and_points_are_marked() -> None:
    frame = pd.DataFrame(
        [(x, x + seed / 10, seed) for x in (1, 2, 4, 5, 6) for seed in range(1 if x == 4 else 3)],
        columns=["x", "y", "seed"],
    )
    figure = go.Figure()
    figures.band(figure, frame[frame["x"] > 1], "x", "y", "score", 0)
    _, *areas, one, two, three, mean = figure.data
    assert [sorted(set(area.x)) for area in areas] == [[2], [5, 6]]
    assert all(area.fill == "toself" for area in areas) and areas[0].line.width > 0
    assert mean.name == "score (1 to 3 seeds)" and mean.mode == "lines+markers"
    assert list(one.x) == [2, 4, 5, 6] and list(two.x) == list(three.x) == [2, 5, 6]
    many = pd.DataFrame({"x": range(20), "y": 0.5, "seed": 1})
    figure = go.Figure()
    figures.band(figure, many, "x", "y", "score", 0)
    (line,) = figure.data
    assert line.mode == "lines" and line.name == "score (1 seed)"


def every_figure() -> dict[str, go.Figure]:
    train, test = build(CompositeTask(train_per_pair=5, test_per_pair=5), 0)
    frame = pd.DataFrame(
        {"seed": [1, 2], **{f"{k}_{n}": [0.1, 0.2] for k in ("best", "final")
                            for n in ("composite", "symmetric")},
         **{f"pair_{p}": [0.5, 0.6] for p in (11, 34, 43)}}
    )  # fmt: skip
    published = {"composite": 0.98, "symmetric": 0.06}
    states = torch.randn(4, 6)
    return {
        "example": achilles.example(train, 0),
        "example 43": achilles.example(test, int(test.where(43).nonzero()[0])),
        "curves": achilles.training_curves(curves(), "t", {"paper": 0.98}),
        "one seed": achilles.training_curves(curves(1), "t"),
        "best": achilles.best_and_final({"own": frame, "tied": frame}, published),
        "pairs": achilles.pair_accuracies(frame, "t"),
        "answers": achilles.answer_bars([0.1] * 10, [1, 2], {"composite": 3, "symmetric": 4}),
        "states": foundations.state_map(states, "t"),
        "selection": foundations.selection(
            torch.randn(6), torch.arange(6) == 1, {"a": (torch.rand(6), states)}
        ),
        "dt": foundations.dt_and_decay(torch.rand(3, 6), torch.rand(3, 6), [1] * 6, "t"),
        "matrix": foundations.matrix_over_time(torch.randn(6, 6), "t", diverging=True),
        "two ways": foundations.two_ways({"a": torch.rand(6), "b": torch.rand(6)}, "t"),
    }


def test_the_legend_has_signals_and_noise() -> None:
    x, signal = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([False, True, False])
    figure = foundations.selection(x, signal, {"a": (torch.rand(3), torch.rand(2, 3))})
    own, others, *_ = figure.data
    assert (list(own.x), list(own.y)) == ([2], [2]) and list(others.x) == [1, 3]
    assert own.showlegend and others.showlegend and own.name != others.name
    # alone in its trace a bar would be as wide as the way to the next, and beside its place
    assert own.width == 0.8 and figure.layout.barmode == "overlay"


@pytest.mark.parametrize("name", list(every_figure()))
def test_every_figure_has_data_a_title_and_labelled_axes(name: str) -> None:
    figure = every_figure()[name]
    assert len(figure.data) > 0 and figure.layout.title.text
    titles = [a.title.text for a in figure.select_xaxes()] + [
        a.title.text for a in figure.select_yaxes()
    ]
    assert any(titles)
    figure.to_json()  # nothing that a page could not hold


def test_symmetric_scales_are_centred() -> None:
    figure = foundations.matrix_over_time(torch.tensor([[3.0, 0.0], [-1.0, 1.0]]), "t", True)
    assert figure.data[0].zmin == -3.0 and figure.data[0].zmax == 3.0


def test_slider_has_a_frame_a_choice_and_moves_all_traces() -> None:
    def plot(height: int, shade: str) -> go.Figure:
        return go.Figure(go.Bar(y=[height])).update_layout(title=f"{height} {shade}")

    figure = page.explore(plot, height=[1, 2, 3], shade=["a", "b"])  # headless in tests
    assert [frame.name for frame in figure.frames] == ["1", "2", "3"]
    assert [frame.data[0].y[0] for frame in figure.frames] == [1, 2, 3]
    assert figure.frames[2].layout.title.text == "3 a"
    assert len(figure.layout.sliders[0].steps) == 3
    assert figure.data[0].y[0] == 1  # opens where the slider stands


def test_slider_shows_labels_in_place_of_choices() -> None:
    def plot(of: str) -> go.Figure:
        return go.Figure(go.Bar(y=[len(of)])).update_layout(title=of)

    figure = page.explore(plot, "encode", {"encode": "reading"}, of=["train", "encode"])
    (slider,) = figure.layout.sliders
    assert [step.label for step in slider.steps] == ["train", "reading"]
    # the plot itself is asked by the choice
    assert [frame.layout.title.text for frame in figure.frames] == ["train", "encode"]
    assert figure.layout.title.text == "encode" and slider.active == 1
    alone = page.explore(plot, labels={"encode": "reading"}, of=["encode"])
    assert alone.layout.title.text == "encode"


def test_slider_takes_titles_and_ranges_of_axes_along() -> None:
    def plot(some_name: str) -> go.Figure:
        figure = go.Figure(go.Bar(y=[1])).update_layout(height=300 if some_name == "a_b" else 400)
        return figure.update_yaxes(title=some_name, range=[0, len(some_name)])

    figure = page.explore(plot, some_name=["a_b", "c"])
    assert figure.layout.height == 400  # that of the highest
    assert figure.frames[1].layout.yaxis.title.text == "c"
    assert list(figure.frames[1].layout.yaxis.range) == [0, 1]
    step = figure.layout.sliders[0].steps[0]
    assert step.label == "a b" and list(step.args[0]) == ["a_b"]


def test_frames_of_different_shape_are_refused() -> None:
    one, two = go.Figure(go.Bar(y=[1])), go.Figure([go.Bar(y=[1]), go.Bar(y=[2])])
    with pytest.raises(ValueError, match=r"frames have \[1, 2\] traces"):
        figures.with_slider({1: one, 2: two}, "x")


def test_widgets_with_a_live_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAMBA_BOOK_HEADLESS", "0")
    monkeypatch.setattr("lib.progress.in_notebook", lambda: True)
    widget = page.explore(lambda height: go.Figure(), height=[1, 2, 3])
    assert [child.description for child in widget.children[:-1]] == ["height"]


def test_widgets_show_labels_and_ask_by_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAMBA_BOOK_HEADLESS", "0")
    monkeypatch.setattr("lib.progress.in_notebook", lambda: True)
    widget = page.explore(lambda of: go.Figure(), "b", {"b": "reading"}, of=["a", "b"])
    (slider, _) = widget.children
    assert [label for label, _ in slider.options] == ["a", "reading"] and slider.value == "b"
