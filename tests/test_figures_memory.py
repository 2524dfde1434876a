"""Figures of the chapter on memory that readers could misread."""

from __future__ import annotations

import pandas as pd
import pytest

from lib.figures import forgetting
from lib.figures import memory as figures


def test_many_published_lines_differ_in_colour_or_symbol() -> None:
    names = [f"kind {n}" for n in range(10)]
    table = pd.DataFrame({"model": "130m", "group": names, "length": 4, "value": 0.5})
    lines = figures.published_curves(table, "t").data
    looks = [(line.line.color, line.marker.symbol) for line in lines]
    assert len(set(looks)) == len(names)
    assert looks[0][0] == looks[7][0] and looks[0][1] != looks[7][1]


@pytest.mark.parametrize(("count", "fit"), [(3, True), (9, False)])
def test_cells_of_few_pairs_have_their_numbers(count: int, fit: bool) -> None:
    names = [f"kind {n}" for n in range(count)]
    rows = [(a, b, 0.1) for at, a in enumerate(names) for b in names[at + 1 :]]
    table = pd.DataFrame(rows, columns=["group", "other", "difference"])
    (cells,) = forgetting.pair_map(table, "t").data
    assert (cells.texttemplate is not None) == fit
    unit = cells.colorbar.title.text.replace("<br>", " ")
    assert unit == "omission, row less column"


def test_a_published_0_is_no_missing_number() -> None:
    printed = pd.DataFrame({"model": "1.4b", "group": ["INTJ", "NUM"], "value": [0.0, 0.2]})
    (bars,) = forgetting.published_groups(printed, "t").data
    assert list(bars.text) == ["0", ""]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_legend_of_one_column_stands_between_title_and_plot(swapped: bool) -> None:
    columns = {f"{prefix}rouge1": 0.5 for prefix in figures.WRITERS}
    seeds = pd.DataFrame({"length": [4, 8] * 3, "seed": [1, 1, 2, 2, 3, 3], **columns})
    frame = seeds.assign(swapped_rouge1=0.2) if swapped else seeds
    chance = pd.DataFrame({"length": [4, 8], "rouge1": 0.1, "seed": 1})
    figure = figures.by_writer(frame, "rouge1", "t", chance)
    entries = sum(trace.showlegend is not False for trace in figure.data)
    assert entries == len(figures.WRITERS) + 2 + swapped  # the band, and unrelated text
    legend, height = figure.layout.legend, figure.layout.height
    assert legend.yref == "container" and legend.yanchor == "top"
    assert height * (1 - legend.y) + 20 * (entries + 1) <= figure.layout.margin.t


def test_swapped_answers_have_a_line_where_records_have_them() -> None:
    """One in each frame of a slider, for records know some measures longer than others."""
    frame = pd.DataFrame(
        {"length": [4, 8, 8], "seed": [1, 1, 2], "omission": 0.5, "similarity": 0.9,
         "swapped_omission": [None, 0.5, 0.75]}
    )  # fmt: skip
    lines = {m: figures.by_writer(frame, m, "t").data for m in ("omission", "similarity")}
    omission, similarity = (lines[m][-1] for m in lines)
    assert (omission.name, omission.x, omission.y) == (figures.SWAPPED, (8,), (0.625,))
    assert similarity.name == figures.SWAPPED and not similarity.x
    assert len(lines["omission"]) == len(lines["similarity"])
    older = figures.by_writer(frame.drop(columns="swapped_omission"), "omission", "t").data
    assert figures.SWAPPED not in {line.name for line in older}


def test_numbers_in_words() -> None:
    assert figures.millions(1_982_464) == "2.0M"
    assert figures.listed([8, 16, 32, 64]) == "8, 16, 32 and 64"
    assert figures.listed([8]) == "8" and figures.listed([]) == "none"
