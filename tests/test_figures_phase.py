from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from lib import page
from lib.analysis.phase import Diagram
from lib.analysis.reference import load_reference
from lib.config import to_dict
from lib.experiments import cells_of, find
from lib.experiments.achilles import summarise
from lib.experiments.phase_diagram import GAMMAS, LAYERS, MAMBA1, SEEDS, TIED
from lib.figures import phase as figures
from lib.store import Record, Store

PAPER = load_reference("achilles_phase")
METRICS = ["best_composite", "best_symmetric", "final_composite", "final_symmetric"]
FAILED = {(7, 2.0, seed) for seed in SEEDS} | {(6, 2.0, 1)}
MISSING = (5, 0.3)


def curves_for(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    accuracies = {name: rng.random(210) for name in ("composite", "symmetric", "seen")}
    return pd.DataFrame(
        {"epoch": range(1, 211), "train_loss": 0.1, "train_accuracy": 0.9, **accuracies}
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Records of the whole diagram, but for one cell that has not run and four runs that failed."""
    folder = tmp_path_factory.mktemp("runs")
    store, experiment = Store(folder / "local", folder / "published"), find(TIED)
    for number, cell in enumerate(cells_of(experiment, "paper")):
        layers, gamma = cell.model.n_layers, cell.model.initialisation.gamma
        if (layers, gamma) == MISSING:
            continue
        curves = curves_for(number)
        metrics = {k: v for k, v in summarise(curves).items() if v is not None}
        store.save(
            Record(
                TIED, 1, to_dict(cell), experiment.readable(cell),
                "failed" if (layers, gamma, cell.seed) in FAILED else "done", metrics,
                {"commit": "a" * 40, "dirty": False, "lib_hash": "b" * 16, "device_name": "test",
                 "versions": {"torch": "2"}, "backends": {"ssd": ["fused"]}, "wall_seconds": 2.0,
                 "started": f"2026-01-0{1 + cell.seed}T10:00:00+00:00"},
            ),
            curves if gamma in (0.5, 1.0) else curves[:1],
        )  # fmt: skip
    return store


@pytest.fixture(scope="module")
def records(store: Store) -> list[Record]:
    return page.records_of(TIED, "paper", store, done_only=False)


@pytest.fixture(scope="module")
def diagram(records: list[Record]) -> Diagram:
    return Diagram(find(TIED).frame(records), LAYERS, GAMMAS, len(SEEDS))


@pytest.fixture(scope="module")
def empty() -> Diagram:
    return Diagram(find(TIED).frame([]), LAYERS, GAMMAS, len(SEEDS))


@pytest.fixture(scope="module")
def curves(records: list[Record]) -> pd.DataFrame:
    done = [record for record in records if record.status == "done"]
    return page.curves_of(done, ["n_layers", "gamma"])


def panel_traces(figure: go.Figure, number: int) -> list[go.Heatmap]:
    """The three layers of a map: numbers in white, numbers in black, grey."""
    return list(figure.data[3 * number : 3 * number + 3])


def printed(figure: go.Figure, number: int) -> dict[tuple[str, str], str]:
    """What each cell of a map says, whichever layer says it."""
    found: dict[tuple[str, str], str] = {}
    for trace in panel_traces(figure, number):
        for (row, layers), (column, gamma) in itertools.product(
            enumerate(trace.y), enumerate(trace.x)
        ):
            if trace.z[row][column] is not None:
                assert (layers, gamma) not in found, "two layers draw the same cell"
                found[layers, gamma] = trace.text[row][column]
    return found


def test_nothing_is_silent(store: Store) -> None:
    said = "209 of 216 runs at the paper's scale are in; 4 failed"
    assert page.progress_line(TIED, "paper", store) == said
    path = store.local / TIED / page.records_of(TIED, "paper", store)[0].name
    content = path.read_bytes()
    path.write_text("{")
    try:
        first, problem = page.progress_line(TIED, "paper", store).splitlines()
        other = page.progress_line(MAMBA1, "paper", store)
    finally:
        path.write_bytes(content)
    assert first == said.replace("209", "208")
    assert problem.startswith("left out: ") and path.name in problem and path.name not in other


def test_where_nothing_ran_stands_how_to_run_it(tmp_path: Path) -> None:
    lines = page.progress_line(TIED, "paper", Store.at(tmp_path)).splitlines()
    assert lines[0] == "0 of 216 runs at the paper's scale are in. To run them:"
    assert lines[1:] == [f"python -m lib run {TIED} \\", "  --profile paper"]


def test_maps_print_every_cell_and_mark_what_is_missing(diagram: Diagram) -> None:
    figure = figures.against(diagram, PAPER, "paper", METRICS, "t")
    titles = [note.text for note in figure.layout.annotations]
    assert titles[:4] == [
        "paper: composite, best epoch", "ours: composite, best epoch",
        "paper: symmetric, best epoch", "ours: symmetric, best epoch",
    ]  # fmt: skip
    assert titles[4:] == ["ours: composite, last epoch", "ours: symmetric, last epoch"]
    paper, ours = printed(figure, 0), printed(figure, 1)
    assert len(paper) == len(ours) == 72
    assert paper["7", "1"] == ".98" and paper["2", "1.5"] == ".34"
    assert ours["5", "0.3"] == "–" and ours["7", "2"] == "×"
    assert ours["6", "2"].endswith("*") and not ours["6", "1.5"].endswith("*")
    value = diagram.map("best_composite").mean.loc[3, 0.9]
    assert ours["3", "0.9"] == f"{value:.2f}".replace("0.", ".").replace("1.00", "1.0")
    # the grey is no colour of the scale, and a cell without a number has no number under it
    *numbers, grey = panel_traces(figure, 1)
    assert all(trace.coloraxis == "coloraxis" for trace in numbers) and grey.coloraxis is None
    assert sum(v is not None for trace in numbers for row in trace.z for v in row) == 70
    hover = " ".join(text for trace in numbers for row in trace.customdata for text in row)
    assert "2 of 3 seeds, 1 failed" in hover and "0 of 3 seeds, 3 failed" in hover


def test_one_scale_for_all_maps_and_a_centred_one_for_differences(diagram: Diagram) -> None:
    axis = figures.against(diagram, PAPER, "paper", METRICS, "t").layout.coloraxis
    assert (axis.cmin, axis.cmax) == (0, 1)
    figure = figures.differences(diagram, PAPER, "t")
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-1, 1)
    value = diagram.map("best_composite").mean.loc[2, 0.1] - 0.06
    assert printed(figure, 0)["2", "0.1"] == figures.short(value)
    assert printed(figure, 0)["5", "0.3"] == "–"


def test_numbers_contrast_with_their_ground(diagram: Diagram) -> None:
    figure = figures.against(diagram, PAPER, "paper", METRICS[:1], "t")
    white, black, _ = panel_traces(figure, 0)
    assert white.textfont.color == "white" and black.textfont.color == "#111111"
    assert max(v for row in white.z for v in row if v is not None) < 0.5
    assert min(v for row in black.z for v in row if v is not None) >= 0.5


def test_without_a_run_the_published_maps_stand_alone(empty: Diagram) -> None:
    figure = figures.against(empty, PAPER, "paper", METRICS, "t")
    titles = [note.text for note in figure.layout.annotations]
    assert titles == ["paper: composite, best epoch", "paper: symmetric, best epoch"]
    assert len(printed(figure, 0)) == 72
    assert figure.layout.title.text == "t: paper only; ours has not run"


def test_a_first_row_shows_as_a_row(diagram: Diagram) -> None:
    frame = diagram.frame[diagram.frame["n_layers"] == 2]
    first = Diagram(frame, LAYERS, GAMMAS, len(SEEDS))
    said = printed(figures.against(first, PAPER, "paper", METRICS[:1], "t"), 1)
    assert {text for (layers, _), text in said.items() if layers != "2"} == {"–"}
    assert "–" not in {text for (layers, _), text in said.items() if layers == "2"}
    pairs = {"best_composite": (first.map("best_composite"), PAPER.maps["best_composite"])}
    figure = figures.scatter(pairs, "t", "paper")
    assert [trace.name for trace in figure.data] == ["equal", "2 layers"]
    assert len(figure.data[1].x) == 12


def test_a_third_partys_failed_cells_are_marked(empty: Diagram) -> None:
    theirs = load_reference("achilles_mamba1")
    figure = figures.against(empty, theirs, "third party", list(theirs.maps), "t")
    said = printed(figure, 0)
    assert said["4", "0.8"] == said["4", "0.9"] == "×" and said["6", "1"] == "–"
    assert list(said.values()).count("×") == 2 and list(said.values()).count("–") == 37
    assert figure.layout.annotations[0].text == "third party: composite, best of every tenth epoch"


def test_scatter_shows_each_cell_with_its_range(diagram: Diagram) -> None:
    pairs = {
        metric: (diagram.map(metric), PAPER.maps[metric])
        for metric in ("best_composite", "best_symmetric")
    }
    figure = figures.scatter(pairs, "t", "paper")
    marks = [trace for trace in figure.data if trace.mode == "markers"]
    assert sum(len(trace.x) for trace in marks) == 2 * 70
    assert len({trace.marker.symbol for trace in marks}) == 6
    for trace in marks:
        assert (np.array(trace.error_y.array) >= 0).all()
        assert (np.array(trace.error_y.arrayminus) >= 0).all()


def test_kinds_beside_each_other_where_both_have_run(diagram: Diagram, empty: Diagram) -> None:
    frame = diagram.frame
    done = frame[frame["status"] == "done"]
    depths = sorted(done["n_layers"].unique())
    part = replace(diagram, frame=frame[frame["n_layers"] == depths[0]])
    metrics = ["best_composite", "final_symmetric"]
    figure = figures.along_gamma({"one": diagram, "other": part}, metrics, "both")
    titles = [note.text for note in figure.layout.annotations]
    assert titles == [
        f"{depths[0]} layers: composite, best epoch", f"{depths[0]} layers: symmetric, last epoch"
    ]  # fmt: skip
    means = done[done["n_layers"] == depths[0]].groupby("gamma")["final_symmetric"].mean()
    drawn = [
        trace for trace in figure.data
        if trace.legendgroup == "other" and trace.xaxis == "x2" and trace.line.width == 2.5
    ]  # fmt: skip
    assert len(drawn) == 1 and list(drawn[0].x) == means.index.tolist()
    assert list(drawn[0].y) == pytest.approx(means.tolist())
    named = [trace.legendgroup for trace in figure.data if trace.showlegend is not False]
    assert len(named) == len(set(named))
    for nothing in ({"one": diagram, "other": empty}, {"one": empty, "other": empty}):
        figure = figures.along_gamma(nothing, metrics, "none")
        assert not figure.data and not figure.layout.annotations
        assert figure.layout.title.text == "none: no depth has run of all"


def test_spread_and_best_less_last(diagram: Diagram) -> None:
    spread = printed(figures.spreads(diagram, METRICS[:2], "t"), 0)
    found = diagram.map("best_composite")
    assert spread["3", "0.1"] == figures.short(found.spread.loc[3, 0.1])
    lost = printed(figures.best_less_last(diagram, "t"), 1)
    runs = diagram.frame.query("n_layers == 4 and gamma == 0.9")
    mean = (runs["best_symmetric"] - runs["final_symmetric"]).mean()
    assert lost["4", "0.9"] == figures.short(mean)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.98, ".98"), (1.0, "1.0"), (0.0, ".00"), (0.996, "1.0"), (-0.05, "-.05"), (-0.001, ".00"),
     (-1.0, "-1.0"), (float("nan"), "")],
)  # fmt: skip
def test_numbers_are_short(value: float, text: str) -> None:
    assert figures.short(value) == text


def test_every_figure_has_a_title_and_named_axes(diagram: Diagram, records: list[Record]) -> None:
    pairs = {"best_composite": (diagram.map("best_composite"), PAPER.maps["best_composite"])}
    curves = page.curves_of(records[:3], ["n_layers", "gamma"])
    for figure in (
        figures.against(diagram, PAPER, "paper", METRICS, "t"),
        figures.differences(diagram, PAPER, "t"),
        figures.scatter(pairs, "t", "paper"),
        figures.best_less_last(diagram, "t"),
        figures.curves_at(curves, 0.1, [2, 3]),
    ):
        assert figure.layout.title.text and len(figure.data) > 0
        assert any(axis.title.text for axis in figure.select_xaxes())
        assert any(axis.title.text for axis in figure.select_yaxes())
        assert "NaN" not in figure.to_json()


class TestCurves:
    """The page's explorer: a panel a depth, a slider over gamma."""

    def test_settings_stand_beside_the_epochs(self, curves: pd.DataFrame) -> None:
        rows = curves.query("n_layers == 3 and gamma == 0.5")
        assert rows["seed"].unique().tolist() == [1, 2, 3] and len(rows) == 3 * 210

    def test_mean_and_range_over_seeds_of_thinned_epochs(self, curves: pd.DataFrame) -> None:
        figure = figures.curves_at(curves, 0.5, LAYERS)
        assert len(figure.data) == 6 * 3 * 2
        area, mean = figure.data[:2]
        assert 60 <= len(mean.x) <= 70 and mean.x[0] == 1 and mean.x[-1] == 210
        rows = curves.query("n_layers == 2 and gamma == 0.5 and epoch == 210")
        assert mean.y[-1] == pytest.approx(rows["composite"].mean(), abs=1e-3)
        assert max(area.y) <= 1 and len(area.x) == 2 * len(mean.x)

    def test_the_slider_moves_all_panels_and_opens_in_the_middle(
        self, curves: pd.DataFrame
    ) -> None:
        def plot(gamma: float) -> go.Figure:
            return figures.curves_at(curves, gamma, LAYERS)

        figure = page.explore(plot, start=1.0, gamma=[0.5, 1.0])  # headless in tests
        assert [frame.name for frame in figure.frames] == ["0.5", "1.0"]
        assert figure.layout.sliders[0].active == 1
        assert figure.layout.title.text.startswith("gamma 1:")
        assert figure.layout.title.text.endswith("band: range of 3 seeds")
        np.testing.assert_array_equal(figure.data[1].y, figure.frames[1].data[1].y)
        assert figure.data[1].y[0] != figure.frames[0].data[1].y[0]
        with pytest.raises(ValueError, match=r"start is 0\.7, allowed: 0\.5, 1\.0"):
            page.explore(plot, start=0.7, gamma=[0.5, 1.0])

    def test_a_depth_without_runs_says_so(self, curves: pd.DataFrame) -> None:
        some = curves[curves["n_layers"] != 4]
        figure = figures.curves_at(some, 0.5, LAYERS)
        assert figure.layout.annotations[2].text == "4 layers: not run"
        assert len(figure.data) == len(figures.curves_at(curves, 0.5, LAYERS).data)

    def test_a_whole_diagram_stays_light(self) -> None:
        cells = itertools.product(LAYERS, GAMMAS, SEEDS)
        parts = [
            curves_for(n).assign(n_layers=layers, gamma=gamma, seed=seed)
            for n, (layers, gamma, seed) in enumerate(cells)
        ]
        curves = pd.concat(parts)
        figure = page.explore(lambda gamma: figures.curves_at(curves, gamma, LAYERS), gamma=GAMMAS)
        assert len(figure.to_json()) < 1.5e6


def test_records_that_ran_alike_are_one_row(records: list[Record]) -> None:
    html = page.provenance_groups(records).data
    assert html.count("<tr>") == 1 and html.count("<details>") == 1
    assert f"<summary>{len(records)}</summary>" in html and f"{2 * len(records)}" in html
    assert "2026-01-02</span> to <span class='number'>2026-01-04<" in html
    assert all(record.name in html for record in records)
    assert "No record yet" in page.provenance_groups([]).data


def test_verdicts_name_the_cells_of_a_region(root: Path) -> None:
    html = page.verdict_table("achilles", "achilles.phase_diagram", root).data
    assert "of 3 seeds, " in html and "of 216 cells" in html
    assert "of 3 seeds, 0 of 3 cells" not in html  # a single cell is told by its seeds alone


def test_answers_are_counted_by_their_distance_from_the_key() -> None:
    table = pd.DataFrame(
        [(2, 0.5, 1, -10, 0.5), (2, 0.5, 1, -7, 0.3), (2, 0.5, 1, 90, 0.15), (2, 0.5, 1, 30, 0.05),
         (2, 0.5, 2, -10, 1.0), (3, 1.0, 1, -6, 1.0)],
        columns=["n_layers", "gamma", "seed", "offset", "share"],
    )  # fmt: skip
    figure = figures.answers_at(table, 0.5, (2, 3), {"composite": -10, "symmetric": -6})
    assert [t.name for t in figure.data] == ["composite", "symmetric", "another answer"] * 2
    first = {t.name: dict(zip(t.x, t.y, strict=True)) for t in figure.data[:3]}
    assert first["composite"] == {-10: 0.75} and first["symmetric"] == {-6: 0.0}  # mean over seeds
    others = {x: y for x, y in first["another answer"].items() if y}
    assert others == {-7: 0.15, 20: 0.1}  # what lies beyond is at the end
    assert sum(sum(values.values()) for values in first.values()) == pytest.approx(1)
    assert all(y == 0 for t in figure.data[3:] for y in t.y)
    titles = [note.text for note in figure.layout.annotations]
    assert titles == ["2 layers, 2 seeds", "3 layers: not looked at"]
    assert figure.layout.yaxis.title.text == "share of sequences"
    assert figure.layout.xaxis.ticktext[-1] == "≥20"
    assert figure.layout.xaxis.range[1] >= 25  # so that it does not meet the next panel's "≤-20"
