"""Figures of the noise chapter, and the text box."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
import pytest

from lib import page
from lib.analysis.noise_metrics import CharacterModel, FormReader
from lib.experiments import Context
from lib.experiments.noise_audit import PUBLISHED, cells, frame, run
from lib.figures import noise as figures
from lib.figures import noise_phases as phases
from lib.store import Record
from lib.tasks.noise import NOISES

TEXT = "Paris is (so) old."
READER = FormReader(CharacterModel([TEXT, "Rome is old.", "Paris is big."]))


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    outcomes = run(cells("quick")[:5], Context())
    metrics = [(o.cell, {k: v for k, v in o.metrics.items() if v is not None}) for o in outcomes]
    return frame(
        [Record("noise.audit", 1, vars(c).copy(), c.answers, "done", m, {}) for c, m in metrics]
    )


@pytest.mark.parametrize("name", ["char_flip", "word_flip"])
def test_origins_lead_back_to_the_same_characters(name: str) -> None:
    noisy = NOISES[name].text(TEXT)  # type: ignore[misc]
    places = figures.origins(TEXT, name)
    assert len(places) == len(noisy)
    for character, place in zip(noisy, places, strict=True):
        assert character == (" " if place is None else TEXT[place])
    used = [place for place in places if place is not None]
    assert len(used) == len(set(used)) >= len(TEXT.replace(" ", ""))


def test_characters_are_coloured_by_origin() -> None:
    figure = figures.characters(TEXT, "char_flip")
    noisy, clean = figure.data
    assert list(noisy.marker.color) == list(clean.marker.color)[::-1]
    assert "".join(t[3] for t in clean.text) == TEXT
    other = figures.characters(TEXT, "transliteration").data[0]
    assert set(other.marker.color) == {figures.ELSEWHERE}
    assert figure.layout.title.text == f"character flip: {TEXT[::-1]}"
    with pytest.raises(ValueError, match="noise is 'irrelevant', allowed: one that changes"):
        figures.characters(TEXT, "irrelevant")


def test_readings_end_at_their_scores() -> None:
    figure = figures.readings(TEXT[::-1], READER)
    (bars,) = figure.data
    ends = [base + length for base, length in zip(bars.base, bars.x, strict=True)]
    assert ends[1] == pytest.approx(READER.english.score(TEXT)) == max(ends)
    assert bars.text[1].strip() == TEXT and figure.layout.title.text.startswith(
        "Read as character flip: "
    )
    assert min(bars.x) > 0
    assert figure.layout.xaxis.zeroline is False  # it would cross the texts
    assert figures.readings(TEXT, READER).layout.title.text == f"Read as it stands: {TEXT}"


def test_equal_values_of_architectures_do_not_hide_each_other() -> None:
    columns = {f"content_{phase}": 1.0 for phase in phases.PHASES}
    rows = [(model, seed) for model in ("a", "b", "c") for seed in (1, 2, 3)]
    table = pd.DataFrame(rows, columns=["model", "seed"])
    table = table.assign(noise="char_flip", share=1.0, began="a", **columns)
    for figure in (
        phases.phases(table, "content", "t", ["char_flip"]),
        phases.mixed(table, ["content_again"], "t", ["char_flip"]),
    ):
        first, middle, last = figure.data
        assert all(a < b < c for a, b, c in zip(first.x, middle.x, last.x, strict=True))
    assert list(middle.x) == [100] and list(middle.customdata) == ["100"]
    assert figure.layout.title.y < 1 and figure.layout.margin.t > 80  # above the panels' titles


def test_missing_bars_are_no_bars_of_nothing() -> None:
    rows = [{"model": model, "noise": "char_flip", "seed": seed, "kept": 0.5, "back": back,
             "lost": 0.0, "gained": 1.0} for model, back in (("a", None), ("b", 0.0))
            for seed in (1, 2, 3)]  # fmt: skip
    figure = phases.flows(pd.DataFrame(rows), "t", ["char_flip"])
    (none,) = (note for note in figure.layout.annotations if note.text == "none")
    assert none.x == pytest.approx(-0.2)  # where the first of two bars would stand
    assert {bar.error_y.color for bar in figure.data} == {phases.GREY}
    assert figure.layout.yaxis.title.text == "share of facts"


def test_scores_stand_with_their_intervals_beside_published_ones(table: pd.DataFrame) -> None:
    figure = figures.scores(table, ["their_accuracy", "content"], "t", PUBLISHED)
    accuracy, published, content, none = figure.data
    assert list(accuracy.y) == table["text"].tolist() == list(content.y)
    assert list(accuracy.x) == pytest.approx((100 * table["their_accuracy"]).tolist())
    assert list(content.x + content.error_x.array) == pytest.approx(
        (100 * table["content_high"]).tolist()
    )
    assert list(published.x) == pytest.approx([63.25, 0, 46.99])
    assert none.x == () and len(figures.scores(table, ["content"], "t").data) == 1
    assert figure.layout.xaxis.title.text


def test_the_text_box(monkeypatch: pytest.MonkeyPatch) -> None:
    def plot(answer: str) -> go.Figure:
        return figures.characters(answer, "word_flip")

    still = page.type_in(plot, answer=["one two", "three four five"])  # headless in tests
    assert [f.name for f in still.frames] == ["1: one two…", "2: three four f…"]
    assert still.frames[1].layout.title.text == "word flip: five four three"
    for bad in ({}, {"a": []}, {"a": ["x"], "b": ["y"]}):
        with pytest.raises(ValueError, match="allowed: one name with at least one text"):
            page.type_in(plot, **bad)
    monkeypatch.setenv("MAMBA_BOOK_HEADLESS", "0")
    monkeypatch.setattr("lib.progress.in_notebook", lambda: True)
    box, _ = page.type_in(plot, answer=["one two"]).children
    assert box.description == "answer" and box.value == "one two"
