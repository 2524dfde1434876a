from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lib.analysis.noise_reference import PHASES, published, recoveries, wilson
from lib.figures import noise_published as figures


@given(st.floats(0, 1), st.integers(1, 5000))
def test_wilson_solves_its_equation(share: float, count: int) -> None:
    low, high = wilson(share, count)
    assert 0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1
    for bound in (low, high):  # |share - p| = z sqrt(p (1 - p) / n)
        if 1e-9 < bound < 1 - 1e-9:
            assert abs(share - bound) == pytest.approx(
                1.959964 * (bound * (1 - bound) / count) ** 0.5, rel=1e-4, abs=1e-9
            )


def test_wilson_of_the_papers_449_questions() -> None:
    low, high = wilson(0.294, 449)
    assert (high - low) / 2 == pytest.approx(0.042, abs=0.001)
    assert wilson(0.0, 449)[1] == pytest.approx(0.0085, abs=0.0003)
    for share, count in ((1.1, 3), (0.5, 0)):
        with pytest.raises(ValueError, match=r"allowed: 0\.\.1 of at least 1"):
            wilson(share, count)


def test_every_printed_number_is_there(root: Path) -> None:
    table = published(root)
    assert len(table) == 21 * len(PHASES)
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    olmo = table[(table["model"] == "Olmo 1B") & (table["noise"] == "char_flip")]
    assert olmo["value"].tolist() == pytest.approx([0.722, 0.027, 0.652])
    assert set(table[table["judge"] == "words"]["model"]) == {"Mamba 130M", "Mamba 1.4B"}


def test_the_chapter_page_has_the_same_table(root: Path) -> None:
    data = yaml.safe_load((root / "book/reference/noise.yml").read_text())["accuracy"]
    text = (root / "book/noise.md").read_text()
    order = ("char_flip", "word_flip", "transliteration", "counterfactual")
    for model, noises in data.items():
        (line,) = re.findall(rf"^\| {re.escape(model)} \| (.*) \|$", text, re.M)
        for noise, cell in zip(order, line.split(" | "), strict=True):
            wanted = noises.get(noise)
            shown = " → ".join(f"{v + 1e-9:.1f}" for v in wanted) if wanted else "–"
            assert cell == shown, (model, noise)


def test_which_changes_449_questions_tell_from_none(root: Path) -> None:
    table = recoveries(root)
    clear = table[(table["low"] > 0) | (table["high"] < 0)]
    losses = set(map(tuple, clear[clear["change"] < 0][["noise", "model"]].to_numpy()))
    gains = set(map(tuple, clear[clear["change"] > 0][["noise", "model"]].to_numpy()))
    # what the page of the comparison says in words
    assert len(table) == 21 and len(clear) == 7
    assert losses == {("char_flip", "Mamba 130M"), ("char_flip", "Olmo 1B"),
                      ("char_flip", "Phi2 2.7B"), ("word_flip", "Gemma 2B")}  # fmt: skip
    assert gains == {(n, "Mamba 1.4B") for n in ("char_flip", "word_flip", "counterfactual")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": {"X": {"char_flip": [1, 2, 3]}}}, "X has no judge or size"),
        ({"accuracy": {"Olmo 1B": {"char_flip": [1, 2]}}}, "Olmo 1B, char_flip has 2 numbers"),
    ],
)
def test_a_broken_table_is_named(root: Path, tmp_path: Path, change: dict, message: str) -> None:
    data = yaml.safe_load((root / "book/reference/noise.yml").read_text()) | change
    (tmp_path / "book/reference").mkdir(parents=True)
    (tmp_path / "book/reference/noise.yml").write_text(yaml.safe_dump(data))
    with pytest.raises(ValueError, match=message):
        published(tmp_path)


def test_figures_of_published_numbers(root: Path) -> None:
    table = published(root)
    figure = figures.accuracies(table, ["char_flip", "word_flip"], "t")
    assert len(figure.data) == 12
    assert len([t for t in figure.data if t.showlegend is not False]) == 6
    first = figure.data[0]
    assert first.name == "Mamba 130M" and list(first.y) == pytest.approx([63.25, 0, 46.99])
    change = figures.changes(recoveries(root), "char_flip").data[0]
    assert change.x[1] == pytest.approx(7.6) and len(change.y) == 6
