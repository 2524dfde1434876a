"""Figures of the inverse matching and full symmetry tasks: what they say and what they draw."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lib import figures
from lib.analysis.inverse_matching import yardsticks
from lib.figures import inverse
from lib.tasks import full_symmetry, inverse_matching
from lib.tasks.full_symmetry import SymmetryTask
from lib.tasks.inverse_matching import InverseTask

TASK = InverseTask(train_samples=6, test_samples=6, ood_samples=6)


@pytest.mark.parametrize("row", range(6))
def test_matching_example_points_out_answer_and_query(row: int) -> None:
    train, _ = inverse_matching.build(TASK, 2)
    figure = inverse.example_matching(TASK, train, row)
    (trace,) = figure.data
    tokens, roles = zip(*(text.split(": ") for text in trace.hovertext), strict=True)
    assert [int(token) for token in tokens] == train.tokens[row].tolist()
    label = int(train.labels[row])
    assert figure.layout.title.text.startswith(f"answer {label}: ")
    asked = [token for token, role in zip(tokens, roles, strict=True) if role == "answer"]
    query = [token for token, role in zip(tokens, roles, strict=True) if role == "query"]
    assert asked == query[::-1] and roles.index("answer") == 4 * (label - 1)
    assert roles.count("listed") == 12 and roles.count("blank") == 6
    below = [note.text for note in figure.layout.annotations if note.y < 0.5 and note.text]
    expected = [f"<b>{n}</b>" if n == label else str(n) for n in range(1, 6)]
    assert below == [*expected, "blanks", "query"]


def test_a_matching_example_without_blanks() -> None:
    task = InverseTask(blanks_per_layer=0, train_samples=1, test_samples=1, ood_samples=1)
    figure = inverse.example_matching(task, inverse_matching.build(task, 0)[0], 0)
    assert "blanks" not in [note.text for note in figure.layout.annotations]


def test_symmetry_examples_name_the_set_and_both_answers_of_43() -> None:
    _, test = full_symmetry.build(SymmetryTask(train_per_pair=1, test_per_pair=1), 0)
    found = {}
    for row, pair in enumerate(test.pairs.tolist()):
        figure = inverse.example_symmetry(test, row)
        found[pair] = figure.layout.title.text
        roles = [text.split(": ")[1] for text in figure.data[0].hovertext]
        at = int(test.index[row])
        assert roles[at] == "key" and roles[at + 1] == roles[at + 2] in ("first", "second")
        assert roles.count("noise") == 5
    assert found[3].startswith("pair 03, second set: ") and found[3].endswith("shift -6)")
    assert found[14].startswith("pair 14, first set: ") and found[14].endswith("shift -3)")
    assert "never trained" in found[43] and "(-10)" in found[43] and "(+5)" in found[43]


def runs(models: tuple[str, ...] = ("Mamba", "residual")) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"model": m, "gamma": g, "seed": s,
         **{f"final_{part}": rng.random() for part in inverse.PARTS}}
        for m in models for g in (0.5, 0.6, 1.0) for s in (1, 2, 3)
    )  # fmt: skip


def test_yardsticks_draw_mean_and_range_of_each_model() -> None:
    frame, lines = runs(), yardsticks(TASK)
    figure = inverse.yardsticks(frame, lines, "t")
    assert len(figure.data) == 2 * 3
    assert [trace.showlegend for trace in figure.data] == [True] * 3 + [False] * 3
    trace = figure.data[4]  # second model, test
    rows = frame[frame["model"] == "residual"].groupby("gamma")["final_test"]
    assert trace.x == (0.5, 0.6, 1.0) and trace.y == pytest.approx(rows.mean().tolist())
    top = np.array(trace.y) + np.array(trace.error_y.array)
    low = np.array(trace.y) - np.array(trace.error_y.arrayminus)
    assert top.tolist() == pytest.approx(rows.max().tolist())
    assert low.tolist() == pytest.approx(rows.min().tolist())
    drawn = [(shape.y0, shape.xref) for shape in figure.layout.shapes]
    assert len(drawn) == 8 and {y for y, _ in drawn} == {0.2, 0.4, 0.6, 1.0}
    notes = [note.text for note in figure.layout.annotations]
    assert {"Mamba", "residual", "blind 0.2", "one position 0.6"} <= set(notes)
    figure.to_json()


def test_published_values_are_open_marks_where_they_belong() -> None:
    theirs = {"residual": {0.6: {"test": 1.0, "ood": 0.49}, 0.5: {"ood": 0.63}}}
    figure = inverse.yardsticks(runs(), {"blind": 0.2}, "t", theirs, source="Fig. 16")
    marks = {trace.name: trace for trace in figure.data if trace.name.startswith("Fig. 16")}
    assert set(marks) == {"Fig. 16, test", "Fig. 16, ood", "Fig. 16 (open marks)"}
    assert marks["Fig. 16, ood"].x == (0.5, 0.6) and marks["Fig. 16, ood"].y == (0.63, 0.49)
    assert marks["Fig. 16, ood"].xaxis == "x2"
    assert marks["Fig. 16, test"].marker.symbol.endswith("-open")


def test_long_names_have_a_line_for_each_part() -> None:
    name = "Mamba-2, gated bypass and positions, 2 layers"
    frame = runs(("gated",))
    frame["model"] = name
    figure = inverse.yardsticks(frame, {"blind": 0.2}, "t", order=[name, "Mamba"])
    notes = [note.text for note in figure.layout.annotations]
    assert "Mamba-2,<br>gated bypass<br>and positions,<br>2 layers" in notes
    short = inverse.yardsticks(frame.iloc[:0], {"blind": 0.2}, "t", order=["Mamba"])
    assert figure.layout.margin.t == short.layout.margin.t + 3 * 14  # room for them


def test_a_model_without_runs_keeps_its_panel() -> None:
    figure = inverse.yardsticks(
        runs(("residual",)), {"blind": 0.2}, "t", order=["Mamba", "residual"]
    )
    assert figure.data[0].y == () and len(figure.data[3].y) == 3
    assert "Mamba: not run" in [note.text for note in figure.layout.annotations]
    assert figure.layout.xaxis.range == figure.layout.xaxis2.range == (0.44, 1.06)
    empty = inverse.yardsticks(runs().iloc[:0], {"blind": 0.2}, "t", order=["Mamba"])
    assert len(empty.data) == 3


def learnt(epochs: int, models: tuple[str, ...] = ("Mamba", "residual")) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"model": m, "seed": s, "epoch": epoch, **{part: rng.random() for part in inverse.PARTS}}
        for m in models for s in (1, 2, 3) for epoch in range(epochs)
    )  # fmt: skip


def test_learning_draws_each_seed_and_the_mean_of_each_part_in_its_panel() -> None:
    curves = learnt(72)
    figure = inverse.learning(curves, {"blind": 0.2}, "t", ["Mamba", "gated", "residual"])
    assert "gated: not run" in [note.text for note in figure.layout.annotations]
    assert {trace.xaxis for trace in figure.data} == {"x", "x3"}
    assert figure.layout.xaxis2.range == (0, 71)  # the empty panel too
    drawn = [*range(60), *range(60, 72, 3), 71]
    for name, panel in (("Mamba", "x"), ("residual", "x3")):
        for part, text in inverse.PARTS.items():
            rows = curves[curves["model"] == name]
            traces = {t.name: t for t in figure.data if t.xaxis == panel and t.name}
            mean = rows.groupby("epoch")[part].mean()[drawn]
            found = traces[f"{text} (3 seeds)"]
            assert list(found.x) == drawn and list(found.y) == pytest.approx(mean.tolist())
            for seed, one in rows.groupby("seed"):
                line = traces[f"{text}, seed {seed}"]
                assert list(line.y) == pytest.approx(one.set_index("epoch")[part][drawn].tolist())
    entries = [t.legendgroup for t in figure.data if t.showlegend is not False]
    assert sorted(entries) == sorted({*inverse.PARTS.values(), figures.BAND})
    figure.to_json()


def test_learning_of_gammas_moves_by_a_slider() -> None:
    frames = {
        gamma: inverse.learning(learnt(4), {"blind": 0.2}, f"{gamma}", ["Mamba", "residual"])
        for gamma in (0.5, 0.6)
    }
    assert len(figures.with_slider(frames, "gamma").frames) == 2
    empty = inverse.learning(learnt(4).iloc[:0], {"blind": 0.2}, "t", ["Mamba"])
    assert "Mamba: not run" in [note.text for note in empty.layout.annotations]
