"""What stands where: nothing covers a legend, axes are numbered in one way, sliders show all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots

from lib import page
from lib.figures import (
    BAND,
    ablations,
    band,
    forgetting,
    foundations,
    memory,
    stories,
    token_strip,
)
from lib.figures.layout import (
    ROW,
    label_log_axes,
    least_width,
    legend_rows,
    log_ticks,
    range_of,
    slider_place,
    tick_texts,
)
from lib.figures.scaling import against_length

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.04, 1500, ["0.1", "1", "10", "100", "1,000"]),
        (1e-5, 0.2, ["10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²", "10⁻¹"]),
        (2e11, 4e16, ["10¹²", "10¹³", "10¹⁴", "10¹⁵", "10¹⁶"]),
        (128, 2300, ["200", "500", "1,000", "2,000"]),
        (1.55, 2.3, ["1.6", "1.8", "2", "2.2"]),
        (22, 40, ["25", "30", "35", "40"]),
        (7, 7, ["7"]),
        (2e5, 1.1e7, ["2·10⁵", "5·10⁵", "10⁶", "2·10⁶", "5·10⁶", "10⁷"]),
        (1, 1e12, ["1", "10³", "10⁶", "10⁹", "10¹²"]),
    ],
)
def test_ticks_of_a_log_axis_are_few_round_and_written_in_one_way(
    low: float, high: float, texts: list[str]
) -> None:
    ticks = log_ticks(low, high)
    assert tick_texts(ticks) == texts and len(ticks) <= 6
    assert all(low * 0.99 <= tick <= high * 1.01 for tick in ticks)


def test_log_axes_get_ticks_of_their_data_or_range_and_keep_their_own() -> None:
    figure = make_subplots(1, 3, shared_yaxes=True)
    for column in (1, 2, 3):
        figure.add_scatter(x=[1, 10], y=[10.0 ** (-2 * column), 0.0, 1.0], row=1, col=column)
    figure.update_yaxes(type="log")
    figure.update_xaxes(type="log", tickvals=[3], ticktext=["three"], col=2)
    figure.update_xaxes(type="log", range=[0, 3], col=3)
    label_log_axes(figure)
    assert figure.layout.xaxis.tickvals is None  # linear
    assert figure.layout.xaxis2.ticktext == ("three",)
    assert figure.layout.xaxis3.ticktext == ("1", "10", "100", "1,000")
    # panels that share an axis share its ticks, down to the lowest of all
    assert figure.layout.yaxis.tickvals == figure.layout.yaxis3.tickvals
    assert figure.layout.yaxis.tickvals[0] == 1e-6


def test_figures_number_their_log_axes() -> None:
    table = pd.DataFrame(
        {"architecture": ["a", "b"], "state_floats": [128, 2300], "omission": 0.5, "seed": 1,
         "parameters": 9}
    )  # fmt: skip
    figure = forgetting.architectures(table, "omission", "t")
    assert figure.layout.xaxis.ticktext == ("200", "500", "1,000", "2,000")
    sizes = pd.DataFrame({"model": "m", "length": [4, 8], "value": [3e6, 4e8]})
    alone = against_length({"kept, bytes": sizes}, "t")
    assert alone.layout.yaxis.ticktext == ("5·10⁶", "10⁷", "2·10⁷", "5·10⁷", "10⁸", "2·10⁸")
    # a single panel is named beside its axis, not above
    assert alone.layout.yaxis.title.text == "kept, bytes"
    assert not [note for note in alone.layout.annotations if note.text]


def lines(names: list[str], **layout: object) -> go.Figure:
    figure = go.Figure([go.Scatter(x=[1, 2], y=[1, 2], name=name) for name in names])
    return figure.update_layout(title="t", height=400, **layout)


def test_rows_of_a_legend() -> None:
    assert legend_rows(lines(["alone"])) == 0  # plotly shows none
    assert legend_rows(lines(["alone"], showlegend=True)) == 1
    assert legend_rows(lines(["a", "b", "c"])) == 1
    assert legend_rows(lines(["a" * 30, "b" * 30, "c" * 30])) == 2
    assert legend_rows(lines(["a", "b"], showlegend=False)) == 0


@pytest.mark.parametrize("place", [{}, {"legend_y": -0.3}, {"legend": {"y": -0.4}}])
def test_a_slider_covers_no_legend(place: dict[str, object]) -> None:
    names = ["first model (3 seeds)", "second model (3 seeds)", "third model (3 seeds)"]
    figure = page.explore(lambda at: lines(names, **place), at=[1, 2])
    legend, layout = figure.layout.legend, figure.layout
    assert (legend.yref, legend.yanchor) == ("container", "top")
    below = (1 - legend.y) * layout.height  # px from above
    assert 30 < below < 45  # under the title ...
    assert below + 2 * ROW <= layout.margin.t  # ... and above the plot
    assert layout.height - layout.margin.t == 400 - 70  # which is as high as before


def test_a_legend_that_is_above_stays() -> None:
    figure = page.explore(lambda at: lines(["a", "b"], **memory.TOP), at=[1, 2])
    assert figure.layout.legend.y == 1 and figure.layout.legend.yref is None


def test_a_slider_has_room_for_its_outer_labels() -> None:
    short, long = slider_place("4", "256"), slider_place("a long first label", "a long last label!")
    assert short["x"] == 0 and short["len"] == pytest.approx(0.94)
    assert long["x"] > 0 and long["x"] + long["len"] < 0.94


def test_a_slider_takes_ranges_and_ticks_of_the_data_along() -> None:
    def plot(scale: int) -> go.Figure:
        figure = go.Figure(go.Scatter(x=[1, 2], y=[scale, 10 * scale]))
        return label_log_axes(figure.update_yaxes(type="log"))

    figure = page.explore(plot, start=1000, scale=[1, 1000])
    for frame in figure.frames:
        low, high = frame.layout.yaxis.range
        scale = int(frame.name)
        assert low < math.log10(scale) and high > math.log10(10 * scale)
        assert frame.layout.yaxis.tickvals[0] == scale
    assert figure.layout.yaxis.range == figure.frames[1].layout.yaxis.range  # opens there
    assert figure.layout.yaxis.tickvals == figure.frames[1].layout.yaxis.tickvals
    assert figure.frames[0].layout.xaxis.range is None  # the same in all


def test_ranges_hold_bars_and_errors_and_leave_categories_alone() -> None:
    bars = go.Figure(go.Bar(x=[4.0, 8.0], y=["a", "b"], orientation="h"))
    assert range_of(bars, "xaxis") == pytest.approx((0, 8.48))
    assert range_of(bars, "yaxis") is None
    errors = go.Figure(go.Scatter(x=[1, 2], y=[1.0, 2.0], error_y={"array": [0.5, 3.0]}))
    low, high = range_of(errors, "yaxis") or (0, 0)
    assert low < -1 and high > 5
    assert range_of(go.Figure(go.Heatmap(z=[[1]], x=[1], y=[1])), "yaxis") is None
    assert range_of(go.Figure(), "yaxis") is None
    assert range_of(bars.update_xaxes(range=[0, 3]), "xaxis") == (0, 3)


def test_one_choice_is_a_plain_figure() -> None:
    figure = page.explore(lambda at: lines(["a", "b"]), at=["only"])
    assert not figure.layout.sliders and not figure.frames


def test_bands_are_explained_once_where_there_are_any() -> None:
    frame = pd.DataFrame({"x": [1, 2] * 3, "y": np.arange(6.0), "seed": [1, 1, 2, 2, 3, 3]})
    figure = make_subplots(1, 2)
    for column in (1, 2):
        for name in ("a", "b"):
            band(figure, frame, "x", "y", name, 0, row=1, col=column)
    (entry,) = [trace for trace in figure.data if trace.name == BAND]
    assert "95 % interval of the mean" in BAND and entry.showlegend is not False
    single = go.Figure()
    band(single, frame[frame["seed"] < 3], "x", "y", "a", 0)
    assert BAND not in [trace.name for trace in single.data]


def test_rows_without_a_run_say_so() -> None:
    ran = {"variant": "ran", "seed": 1, "best_composite": 0.5, "final_composite": 0.5,
           "best_symmetric": 0.1, "final_symmetric": 0.1}  # fmt: skip
    notes = ablations.variants(pd.DataFrame([ran]), ["ran", "idle"], "t").layout.annotations
    assert [(n.y, n.xref) for n in notes if n.text == "not run"] == [("idle", "x"), ("idle", "x2")]


def test_a_legend_of_choices_has_rows_below_the_title_of_the_axis() -> None:
    table = pd.DataFrame(
        {"model": f"Mamba-2, gamma {n}", "seed": 1, "choice": "c", "value": 0.1} for n in range(6)
    )
    few = ablations.choice_marks(table[:2], "value", "t", "x").layout
    many = ablations.choice_marks(table, "value", "t", "x").layout
    for layout in (few, many):
        assert (layout.legend.yref, layout.legend.yanchor) == ("container", "bottom")
    assert many.margin.b - few.margin.b == 2 * ROW == many.height - few.height


def test_the_name_of_an_axis_fits_beside_its_map() -> None:
    import torch

    figure = page.explore(
        lambda dt: foundations.state_map(torch.rand(4, 5), f"{dt}"), dt=[0.1, 0.2]
    )
    # a slider and the margins take 260 px, a letter 8
    assert 8 * len(figure.layout.yaxis.title.text) < figure.layout.height - 250


def test_omission_by_place_is_a_panel_a_length_with_the_control_in_grey() -> None:
    def rows(omission: float, seeds: tuple[int, ...]) -> pd.DataFrame:
        return pd.DataFrame(
            {"x": x, "omission": omission + seed / 100, "low": 0.1, "high": 0.9,
             "writer": writer, "seed": seed}
            for x in (0.0, 0.5) for seed in seeds for writer in ("", "alone_")
        )  # fmt: skip

    tables = {"4 tokens": rows(0.1, (1,)), "8 tokens": rows(0.3, (1, 2)), "none": pd.DataFrame()}
    figure = forgetting.panels_over(tables, "t", "place")
    heads = [note.text for note in figure.layout.annotations]
    assert heads == ["4 tokens, 1 seed", "8 tokens, 2 seeds", "place"]
    assert [(t.name, t.xaxis) for t in figure.data] == [
        (name, axis) for axis in ("x", "x2") for name in ("decoder", "language model alone")
    ]
    assert len({t.line.color for t in figure.data}) == 2
    assert [t.showlegend for t in figure.data] == [True, True, False, False]
    assert figure.data[2].y == pytest.approx([0.315, 0.315])
    assert figure.data[2].error_y.visible and not figure.data[3].error_y.visible
    empty = forgetting.panels_over({"none": pd.DataFrame()}, "t", "place")
    assert empty.layout.annotations[0].text == "no finished run yet"


def test_sliders_over_lengths_open_where_something_is_lost() -> None:
    assert memory.opening([4, 8, 64, 256]) == 64
    assert memory.opening([16, 4, 8]) == 16
    assert memory.opening([128, 256]) == 128


def test_small_runs_are_counted_in_smaller_units() -> None:
    table = pd.DataFrame({"model": "m", "seed": 1, "step": [1, 2], "tokens": [1, 2], "seconds": 1.0,
                          "petaflops": [1e-5, 4e-5], "train_loss": [2.0, 1.0]})  # fmt: skip
    figure = stories.against_cost(table, "t", "train_loss")
    assert figure.layout.xaxis2.title.text == "compute, 10⁹ operations"
    assert list(figure.data[1].x) == pytest.approx([10, 40])
    assert figure.layout.yaxis.title.text == "training loss, nats per token"
    large = stories.against_cost(table.assign(petaflops=[1.0, 4.0]), "t", "train_loss")
    assert large.layout.xaxis2.title.text == "compute, 10¹⁵ operations"


# pages without a figure of their own run: tables, or records alone
NO_FIGURE_OF_ITS_OWN = {
    "mamba_in_a_page", "pretrained", "patterns", "against_transformers", "mamba_130m", "mamba_1_4b",
    "bf16",
}  # fmt: skip


def code_of(path: Path) -> list[dict[str, Any]]:
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*/*.ipynb")), ids=lambda path: path.stem)
def test_figures_of_a_page_s_own_run_say_that_they_are_no_result(path: Path) -> None:
    said = [line for cell in code_of(path) for line in cell["source"] if "{profile}" in line]
    assert all("{profile} run: no result" in line for line in said)
    assert bool(said) == (path.stem not in NO_FIGURE_OF_ITS_OWN)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*/*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_thin(path: Path) -> None:
    assert len(code_of(path)) <= 14


def test_pages_on_memory_open_their_sliders_over_lengths_there() -> None:
    sources = [
        line for path in (NOTEBOOKS / "memory").glob("*.ipynb")
        for cell in json.loads(path.read_text())["cells"] for line in cell["source"]
    ]  # fmt: skip
    over_lengths = [s for s in sources if "page.explore(" in s and "length=" in s]
    assert len(over_lengths) == 5
    assert all("start=" in line and "opening(" in line for line in over_lengths)


def test_what_would_be_cut_off_on_a_narrow_screen_asks_for_width() -> None:
    def least(figure: go.Figure) -> float:
        return least_width(figure.to_plotly_json())

    assert least(go.Figure(go.Bar(y=[1]))) == 330
    title = go.Figure().update_layout(title="word " * 12)
    assert 420 < least(title) < 520
    # of lines the longest counts, small ones less, and marks are no letters
    broken = go.Figure().update_layout(title="<b>word</b> " * 6 + "<br><sup>" + "word " * 8)
    assert least(broken) == 330
    axis = go.Figure().update_layout(xaxis_title="word " * 12)
    assert 420 < least(axis) < 520
    assert least(go.Figure().update_layout(margin_l=230)) == 500
    assert least(go.Figure().update_layout(meta={"minWidth": 600})) == 600
    # a legend in a room of so many rows as it has in a page's column needs that column's width
    names = [f"a name of some length {n}" for n in range(6)]
    below, above = lines(names), lines(names, legend_yref="container")
    assert least(below) == 330 and least(above) > 470
    figure = lines(["a", "b"])
    figure.frames = [go.Frame(layout={"title": {"text": "word " * 12}})]
    assert 420 < least(figure) < 520


def test_a_strip_of_tokens_has_room_for_its_roles() -> None:
    few = token_strip([1, 2], ["key", "anchor"], {"key": "#000", "anchor": "#111"})
    many = token_strip([100] * 29, ["a"] * 29, {"a": "#000"}, names=["x" * 9] * 29, size=8)
    assert few.layout.meta["minWidth"] == round(80 + 2 * 43.2)
    assert 600 < many.layout.meta["minWidth"] < 700
