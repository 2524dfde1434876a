"""Four mistakes and their right twins: what differs, what is measured, what is shown."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from lib.config import to_dict
from lib.experiments import Context, cells_of, find
from lib.experiments.mistakes import (
    MISTAKES,
    NAME,
    SEEDS,
    MistakeCell,
    curves,
    described,
    false_beside_true,
    readable,
    run,
    shown,
    starts,
    twins,
)
from lib.figures import stories as figures
from lib.models.config import InitialisationConfig
from lib.models.language_model import build_language_model
from lib.models.presets import preset
from lib.store import Record, Store


@pytest.fixture(autouse=True)
def _own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAMBA_BOOK_RUNS", str(tmp_path_factory.getbasetemp() / "mistakes"))


def plain(cell: MistakeCell) -> MistakeCell:
    """A cell with its mistake undone."""
    pattern = tuple(
        dataclasses.replace(block, causal=True) if hasattr(block, "causal") else block
        for block in cell.model.pattern
    )
    model = dataclasses.replace(
        cell.model, pattern=pattern, initialisation=InitialisationConfig()
    )  # fmt: skip
    padding = "packed" if cell.padding == "packed" else "left out"
    return dataclasses.replace(cell, model=model, padding=padding)


def test_each_mistake_has_a_twin_whose_config_differs_in_nothing_else() -> None:
    cells = cells_of(find(NAME), "matched")
    assert len(cells) == 7 * len(SEEDS)
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    for seed in SEEDS:
        own = [cell for cell in cells if cell.seed == seed]
        for mistake in MISTAKES:
            right = [cell for cell in own if (mistake, False) in shown(cell)]
            wrong = [cell for cell in own if (mistake, True) in shown(cell)]
            assert len(right) == len(wrong) == 1
            assert right[0] != wrong[0] and plain(wrong[0]) == right[0] == plain(right[0])
    assert readable(cells[0]) == "moe-right-mask-experts-s1"
    assert readable(cells[-1]) == "transformer-wrong-padding-s3"


# tensors that start otherwise than in the right twin: of dt two, as the page says
STARTS: dict[str, set[str]] = {
    "padding": set(), "mask": set(), "experts": {"in_weight", "out_weight"},
    "dt": {"dt_proj.bias", "conv.bias"},
}  # fmt: skip
ROWS = {"in_weight": 112, "out_weight": 96}  # of one expert's matrix


@pytest.mark.parametrize("mistake", MISTAKES)
def test_twins_start_with_the_same_weights_but_for_those_that_the_page_names(mistake: str) -> None:
    cells = [cell for cell in cells_of(find(NAME), "matched") if cell.seed == 1]
    right, wrong = (
        dict(build_language_model(cell.model, seed=cell.seed).named_parameters())
        for made in (False, True)
        for cell in cells
        if (mistake, made) in shown(cell)
    )
    assert list(right) == list(wrong)
    differ = [name for name in right if not torch.equal(right[name], wrong[name])]
    assert {name.split(".mixer.")[-1] for name in differ} == STARTS[mistake]
    for name in differ:  # in every layer that has such a tensor
        if mistake == "dt":
            assert not wrong[name].any() and right[name].all()
        else:  # too small by the root of the rows, whatever the number of experts
            rows = ROWS[name.split(".mixer.")[-1]]
            assert right[name].shape[:2] == (8, rows)
            assert torch.allclose(wrong[name] * math.sqrt(rows), right[name], rtol=1e-4)
    named = [name for name in right if name.split(".mixer.")[-1] in STARTS[mistake]]
    assert differ == named


def test_a_mistake_of_another_model_is_named() -> None:
    with pytest.raises(ValueError, match="mistake is 'padding', allowed: mask, experts, dt"):
        twins("padding", preset("moe", "1M", 300))
    with pytest.raises(ValueError, match=r"padding is 'some', allowed: packed, left out, counted"):
        dataclasses.replace(cells_of(find(NAME), "quick")[0], padding="some")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder = tmp_path_factory.mktemp("records")
    store = Store(folder, folder / "published")
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMBA_BOOK_RUNS", str(tmp_path_factory.getbasetemp() / "mistakes"))
        for outcome in run(cells_of(find(NAME), "quick"), Context()):
            assert outcome.status == "done", outcome.reason
            metrics = {k: v for k, v in outcome.metrics.items() if v is not None}
            made = Record(
                NAME, 1, to_dict(outcome.cell), readable(outcome.cell), "done", metrics,
                outcome.facts,
            )  # fmt: skip
            kept.append(store.save(made, outcome.curves))
    return kept


def test_every_mistake_shows_already_in_some_steps(records: list[Record]) -> None:
    table = find(NAME).frame(records)
    assert len(table) == 8  # the right mixture of experts is the twin of two
    right, wrong = (table[table["made"] == made].set_index("mistake") for made in (False, True))
    for mistake in MISTAKES:  # right twins have nothing to hide
        one = right.loc[mistake]
        assert one["reported_loss"] == pytest.approx(one["true_loss"], rel=1e-5)
    for mistake in ("padding", "mask"):
        assert wrong.loc[mistake, "reported_loss"] < wrong.loc[mistake, "true_loss"] - 0.02
    low, high = right.loc["dt", "start_dt"], wrong.loc["dt", "start_dt"]
    assert 1e-3 < low < 0.1 and high == pytest.approx(math.log(2))
    # an expert's first map is (2 x 56, 96): too small by the root of 112
    ratio = right.loc["experts", "start_expert"] / wrong.loc["experts", "start_expert"]
    assert ratio == pytest.approx(math.sqrt(112), rel=1e-5)
    share = wrong.loc["padding", "text_share"]
    assert share == right.loc["padding", "text_share"] and 0.5 < share < 0.95


def test_variants_are_described_in_words(records: list[Record]) -> None:
    words = [described(cell) for cell in cells_of(find(NAME), "quick")]
    assert "experts, causal mask; experts, right start" in words and "experts, no mask" in words
    table = starts(find(NAME).frame(records))
    assert table["variant"].nunique() == len(table) == 8
    assert table["largest weight of experts"].notna().sum() == 4


def test_false_numbers_stand_beside_true_ones(records: list[Record]) -> None:
    table = find(NAME).frame(records)
    beside = false_beside_true(table)
    assert beside["mistake"].tolist() == [wrong for _, wrong in MISTAKES.values()]
    wrong = table[table["made"]].set_index("variant")
    for row in beside.to_dict("records"):
        assert row["false number"] == wrong.loc[row["mistake"], "reported_loss"]
        assert row["the same model, true"] == wrong.loc[row["mistake"], "true_loss"]
    assert false_beside_true(table.iloc[:0]).empty
    assert false_beside_true(find(NAME).frame([])).empty
    figure = figures.false_and_true(table, "title")
    assert len(figure.layout.yaxis.categoryarray) == 8
    assert figure.layout.title.text == "title (1 seed)"
    reported = next(trace for trace in figure.data if trace.name == "reported")
    at = list(reported.y).index("padding counted")
    assert reported.x[at] == wrong.loc["padding counted", "reported_loss"]
    lines = curves(records)
    for mistake, names in MISTAKES.items():
        some = lines[lines["mistake"] == mistake]
        assert set(some["variant"]) == set(names)
        drawn = figures.learning(some, mistake)
        assert [trace.name for trace in drawn.data] == [f"{n} (1 seed)" for n in sorted(names)]
