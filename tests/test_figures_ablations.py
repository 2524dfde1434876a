"""Figures of the ablations: each mark is a run, at its number, in its row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from lib import page
from lib.experiments import ablations as experiments
from lib.experiments import find, full_symmetry, interventions
from lib.figures import BAND, ablations

LABELS = ("composite", "symmetric")


def runs(names: tuple[str, ...] = ("standard", "all-one")) -> pd.DataFrame:
    """Three seeds of each; every number says which run it is of."""
    return pd.DataFrame(
        {"variant": name, "seed": seed, "place": f"{2 + k} layers, shift +2",
         **{f"{when}_{label}": 0.1 * seed + 0.01 * k + (0.5 if when == "best" else 0.0)
            + (0.003 if label == "symmetric" else 0.0)
            for when in ("best", "final") for label in (*LABELS, "mirror")}}
        for k, name in enumerate(names) for seed in (1, 2, 3)
    )  # fmt: skip


def axis(figure: Any, name: str) -> Any:
    return figure.layout[name]


def test_variants_draw_every_run_where_it_belongs() -> None:
    frame, order = runs(), ["standard", "all-one", "not run yet"]
    figure = ablations.variants(
        frame,
        order,
        "title",
        {"all-one": {"best_composite": 0.02, "final_composite": 0.01, "final_symmetric": 0.9}},
    )
    panels = {"x": "best", "x2": "final"}
    ours = [t for t in figure.data if t.name in ablations.LABELS.values()]
    assert [(t.xaxis, t.name) for t in ours] == [
        (panel, ablations.LABELS[label]) for panel in panels for label in LABELS
    ]
    for trace in ours:
        label = next(k for k, text in ablations.LABELS.items() if text == trace.name)
        assert list(trace.x) == frame[f"{panels[trace.xaxis]}_{label}"].tolist()
        assert list(trace.y) == frame["variant"].tolist()
        assert list(trace.text) == [f"seed {s}" for s in frame["seed"]]
    published, *others = [t for t in figure.data if "published" in t.name]
    assert published.name == "published, composite label"
    assert (published.x, published.y, published.xaxis) == ((0.02,), ("all-one",), "x")
    assert [(t.name, t.x, t.y, t.xaxis, t.showlegend) for t in others] == [
        ("published, composite label", (0.01,), ("all-one",), "x2", False),  # one entry a label
        ("published, symmetric label", (0.9,), ("all-one",), "x2", None),
    ]
    # open, and of the colour and shape of the label that it is of
    (same,) = [t for t in ours if t.name == "composite label" and t.xaxis == "x"]
    assert published.marker.color == same.marker.color
    assert published.marker.symbol == f"{same.marker.symbol}-open"
    assert axis(figure, "yaxis").categoryarray == tuple(reversed(order))  # not run: an empty row
    assert "accuracy on pair 43" in axis(figure, "xaxis").title.text
    assert [t.showlegend for t in ours] == [True, True, False, False]
    assert not [t for t in ablations.variants(frame, order, "t").data if "published" in t.name]


def curves() -> pd.DataFrame:
    return pd.DataFrame(
        {"epoch": epoch, "variant": name, "seed": seed,
         "composite": 0.1 * epoch + 0.05 * seed, "symmetric": 0.02 * epoch}
        for name in ("standard", "all-one") for seed in (1, 2, 3) for epoch in (1, 2, 3)
    )  # fmt: skip


def test_learning_has_a_panel_a_label_and_one_entry_a_variant() -> None:
    figure = ablations.learning(curves(), ["standard", "all-one", "not run yet"], "title")
    entries = [t.name for t in figure.data if t.showlegend is not False and t.name]
    assert sorted(entries) == ["all-one (3 seeds)", BAND, "standard (3 seeds)"]
    lines = [t for t in figure.data if t.name == "standard (3 seeds)"]
    means = {t.xaxis: list(t.y) for t in lines}
    assert means["x"] == pytest.approx([0.2, 0.3, 0.4])  # mean over seeds
    assert means["x2"] == pytest.approx([0.02, 0.04, 0.06])
    assert axis(figure, "xaxis").title.text == axis(figure, "xaxis2").title.text == "epoch"
    assert axis(figure, "yaxis").title.text == "accuracy on pair 43"


def test_sensitivity_draws_the_lead_of_composite_over_symmetric() -> None:
    frame = runs(("as in the book", "no final norm")).rename(columns={"variant": "choice"})
    frame = pd.concat([frame.assign(question=q) for q in ("one", "two")], ignore_index=True)
    figure = ablations.sensitivity(frame, {"one": "Does it?", "two": "And this?"})
    assert len(figure.data) == 4  # two questions, best and final
    for trace in figure.data:
        assert list(trace.x) == pytest.approx([-0.003] * 6)
        assert list(trace.y) == ["as in the book"] * 3 + ["no final norm"] * 3
    assert axis(figure, "yaxis").categoryarray[-1] == "as in the book"  # on top
    notes = [note.text for note in figure.layout.annotations]
    assert notes[:2] == ["Does it?", "And this?"]
    assert sum(shape.x0 == 0 == shape.x1 for shape in figure.layout.shapes) == 2
    # what was chosen for another question alone has no row
    other = frame.iloc[:1].assign(question="three", choice="Mamba-1")
    again = ablations.sensitivity(
        pd.concat([frame, other]), {"one": "Does it?", "two": "And this?"}
    )
    assert axis(again, "yaxis").categoryarray == axis(figure, "yaxis").categoryarray


def test_choices_have_a_row_each_and_a_symbol_a_model() -> None:
    table = pd.DataFrame(
        {"model": m, "seed": s, "choice": c, "agreement": 0.1 * s}
        for m in ("mamba2", "mamba1") for s in (1, 2) for c in ("as worded", "layer 1 alone")
    )  # fmt: skip
    figure = ablations.choice_marks(table, "agreement", "title", "agreement", {"paper": 0.99})
    assert [t.name for t in figure.data] == ["mamba2", "mamba1"]
    assert len({t.marker.symbol for t in figure.data}) == 2
    assert list(figure.data[0].x) == [0.1, 0.1, 0.2, 0.2]
    assert axis(figure, "yaxis").categoryarray == ("layer 1 alone", "as worded")
    assert axis(figure, "xaxis").title.text == "agreement"
    assert [(s.x0, s.x1) for s in figure.layout.shapes] == [(0.99, 0.99)]


def test_mirror_marks_name_depth_and_shift() -> None:
    figure = ablations.mirror_marks(runs(), "title", {"34": 1.0, "43": 0.05})
    first, second = [t for t in figure.data if t.mode == "markers"]
    assert (first.name, second.name) == tuple(ablations.MIRROR.values())
    assert list(first.y) == runs()["final_mirror"].tolist()
    assert list(second.y) == runs()["final_symmetric"].tolist()
    assert set(first.x) == {"2 layers<br>shift +2", "3 layers<br>shift +2"}
    assert {shape.y0 for shape in figure.layout.shapes} == {1.0, 0.05}
    assert axis(figure, "xaxis").title.text == "depth, and the second set's shift of anchor 4"
    # with more rows under the axis its title and the legend move down with them
    longer = ablations.mirror_marks(runs().assign(place="Mamba-2, no convolution, 2 layers"), "t")
    assert longer.layout.margin.b - figure.layout.margin.b == 16
    assert figure.layout.legend.yref == longer.layout.legend.yref == "container"
    models = ablations.mirror_marks(runs().assign(place="Mamba-2, no convolution"), "t", across="m")
    assert set(models.data[0].x) == {"Mamba-2<br>no convolution"}
    assert axis(models, "xaxis").title.text == "m"


def mirrored(*groups: tuple[int, int], epochs: int = 2) -> pd.DataFrame:
    return pd.DataFrame(
        {"epoch": e, "seed": s, "place": f"{n} layers, shift {shift:+}",
         "mirror": 0.01 * n * e, "symmetric": 0.001 * n * e, "composite": 0.0001 * n * e}
        for n, shift in groups for s in (1, 2, 3) for e in range(1, epochs + 1)
    )  # fmt: skip


def test_mirror_curves_have_a_panel_for_each_depth_and_shift() -> None:
    groups = [(2, 2), (3, 2), (4, 2), (2, -4)]
    figure = ablations.mirror_curves(mirrored(*groups), "title")
    assert notes(figure) == [f"{n} layers, shift {shift:+}" for n, shift in groups]
    for name, scale in (("mirror", 0.01), ("symmetric", 0.001), ("composite", 0.0001)):
        means = [t for t in figure.data if t.name == f"{ablations.WATCHED[name]} (3 seeds)"]
        assert [list(t.y) for t in means] == [
            pytest.approx([n * scale, 2 * n * scale]) for n, _ in groups
        ]
        assert [t.xaxis for t in means] == ["x", "x2", "x3", "x4"]
        assert sum(t.showlegend is not False for t in means) == 1
    # the fourth stands in a second row, of the same height and below the others' axis
    rows = axis(figure, "yaxis").domain, axis(figure, "yaxis4").domain
    assert rows[0][0] > rows[1][1] + 0.1
    assert figure.layout.height > ablations.mirror_curves(mirrored((2, 2)), "t").layout.height
    assert {found.type for found in figure.select_xaxes()} == {"log"}
    assert axis(figure, "xaxis").title.text == "epoch"
    assert axis(figure, "yaxis").title.text == axis(figure, "yaxis4").title.text == "accuracy"


def test_names_of_models_have_a_part_a_line() -> None:
    """In one line they would run into each other."""
    long = mirrored((2, 2)).assign(place="Mamba-2, palindromic kernel, 2 layers")
    figure = ablations.mirror_curves(pd.concat([mirrored((2, 2)), long], ignore_index=True), "t")
    assert notes(figure) == ["2 layers, shift +2", "Mamba-2,<br>palindromic kernel,<br>2 layers"]
    assert figure.layout.margin.t > ablations.mirror_curves(mirrored((2, 2)), "t").layout.margin.t


def test_mirror_curves_leave_out_late_epochs_but_not_the_last() -> None:
    figure = ablations.mirror_curves(mirrored((2, 2), epochs=42), "title")
    line = next(t for t in figure.data if t.name == f"{ablations.MIRROR['mirror']} (3 seeds)")
    assert list(line.x) == [*range(1, 31), 35, 40, 42]


def nothing() -> pd.DataFrame:
    """What a page has where no run is kept, or where learning curves are missing."""
    return page.curves_of([])


EMPTY: dict[str, Callable[[], Any]] = {
    "variants": lambda: ablations.variants(
        find(experiments.ALL_ONE).frame([]), ["standard", "all-one"], "t"
    ),
    "learning": lambda: ablations.learning(nothing(), ["standard"], "t"),
    "sensitivity": lambda: ablations.sensitivity(experiments.sensitivity_frame([]), {"q": "Q?"}),
    "choice_marks": lambda: ablations.choice_marks(
        interventions.cosines(nothing()), "cosine", "t", "largest absolute cosine"
    ),
    "mirror_marks": lambda: ablations.mirror_marks(find(full_symmetry.NAME).frame([]), "t"),
    "mirror_curves": lambda: ablations.mirror_curves(nothing(), "t"),
}


def notes(figure: Any) -> list[str]:
    return [note.text for note in figure.layout.annotations]


@pytest.mark.parametrize("name", EMPTY)
def test_without_a_run_a_figure_says_so(name: str) -> None:
    figure = EMPTY[name]()
    assert notes(figure).count("no run yet") == 1
    assert not [t for t in figure.data if t.x is not None and len(t.x)]
    assert figure.layout.title.text
    assert any(found.title.text for found in figure.select_xaxes())
    assert "NaN" not in figure.to_json()


def test_published_values_stand_without_a_run() -> None:
    frame = find(experiments.ALL_ONE).frame([])
    figure = ablations.variants(frame, ["standard"], "t", {"standard": {"best_composite": 0.95}})
    found = [(t.x, t.y) for t in figure.data if "published" in t.name]
    assert found == [((0.95,), ("standard",))]
    assert axis(figure, "yaxis").categoryarray == ("standard",)
    figure = ablations.mirror_marks(find(full_symmetry.NAME).frame([]), "t", {"34": 1.0})
    assert "paper, 34: 1" in notes(figure) and "no run yet" in notes(figure)


def test_runs_that_all_failed_are_no_runs() -> None:
    """A cell that diverged in its first epoch has a row without accuracies."""
    kept = runs()[["variant", "seed", "place"]]
    assert "no run yet" in notes(ablations.variants(kept, ["standard"], "t"))
    assert "no run yet" in notes(ablations.mirror_marks(kept, "t"))
    both = pd.concat([kept, runs()], ignore_index=True)  # one that did not is enough
    assert "no run yet" not in notes(ablations.variants(both, ["standard"], "t"))
    assert "no run yet" not in notes(ablations.mirror_marks(both, "t"))


def test_curves_of_other_variants_are_none_of_these() -> None:
    assert "no run yet" in notes(ablations.learning(curves(), ["palindromic"], "t"))
    assert "no run yet" not in notes(ablations.learning(curves(), ["palindromic", "standard"], "t"))


def test_each_seed_and_the_spread_are_drawn() -> None:
    data = ablations.learning(curves(), ["standard", "all-one"], "t").data
    for name in ("standard", "all-one"):
        first = [t for t in data if t.legendgroup == name and t.xaxis == "x"]
        assert [t.name for t in first if t.line.width == 0.7] == [
            f"{name}, seed {seed}" for seed in (1, 2, 3)
        ]
        (area,) = [t for t in first if t.fill == "toself"]
        assert len(area.x) == 2 * 3 and 0 <= min(area.y) < max(area.y) <= 1
