from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from lib.analysis.memory_reference import published
from lib.claims import load_claims
from lib.config import from_dict, to_dict
from lib.experiments import Context, memory
from lib.figures import memory as figures
from lib.tasks import built_in_text
from lib.tasks.reconstruction import CATEGORIES, LENGTHS
from tests.conftest import ROOT


def test_paper_cells_are_the_published_models() -> None:
    cells = memory.cells("paper")
    assert len(cells) == 28 and {cell.task.length for cell in cells} == set(LENGTHS)
    first = cells[0]
    assert memory.readable(first) == "mamba-130m-hf-L4-s1" and first.training.batch_size == 200
    assert first.training.lr_start == first.training.lr_peak == first.training.lr_end == 1e-5
    assert (first.model.n_layers, first.model.d_model) == (24, 768)
    for cell in cells:
        assert from_dict(memory.MemoryCell, to_dict(cell)) == cell


def test_cells_from_the_hub_are_refused_before_any_work() -> None:
    cells = [memory.cells("quick")[0], memory.cells("paper")[0]]
    with pytest.raises(ValueError, match="mamba-130m-hf-L4-s1 wants state-spaces/mamba-130m-hf"):
        next(memory.run(cells, Context()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corpus": "web"}, "corpus is 'web', allowed: built-in, pile-10k"),
        ({"pretraining": None}, "pretraining is None"),
        ({"pretrained": "some", "pretraining": None}, "allowed: pile-10k, or vocab_size"),
    ],
)
def test_bad_cells_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(memory.cells("quick")[0], **change)


def test_a_quick_cell_from_end_to_end() -> None:
    (cell, _) = memory.cells("quick")
    (outcome,) = memory.run([cell], Context())
    (again,) = memory.run([cell], Context())
    found = outcome.metrics
    assert outcome.status == "done" and again.metrics == found
    assert set(outcome.facts["backends"]) >= {"selective_scan", "causal_conv1d"}
    assert outcome.curves is not None and len(outcome.curves) == cell.training.epochs
    assert outcome.curves["test_loss"].iloc[-1] < outcome.curves["test_loss"].iloc[0]
    values = {name: value for name, value in found.items() if value is not None}
    # on texts never seen, four bytes are remembered, and by nobody else
    for control in ("untrained", "zero", "shuffled", "alone"):
        assert values["token_accuracy"] > values[f"{control}_token_accuracy"] + 0.05, control
    assert values["state_floats"] == 2 * (64 * 8 + 64 * 3)
    assert {f"rouge1_{category}" for category in CATEGORIES} <= set(values)
    by_category = [values[f"rouge1_{category}"] for category in CATEGORIES]
    assert values["rouge1"] == pytest.approx(sum(by_category) / 5)  # 40 chunks of each


def test_built_in_text_is_of_five_kinds_and_fixed() -> None:
    first = built_in_text.documents(3, 200)
    assert [d.category for d in first] == [c for c in CATEGORIES for _ in range(3)]
    assert all(200 <= len(d.text) < 320 and d.text.isascii() for d in first)
    assert len({d.text for d in first}) == 15
    assert built_in_text.documents(3, 200) == first != built_in_text.documents(3, 200, seed=1)
    sums = next(d.text for d in first if d.category == "mathematics").splitlines()
    for question, answer in zip(sums[::2], sums[1::2], strict=True):
        assert eval(question.removeprefix("What is ").removesuffix("?")) == int(answer)
    for document in first:
        if document.category == "code":
            compile(document.text, document.name, "exec")
    with pytest.raises(ValueError, match="each is 0"):
        built_in_text.documents(0)


# -- published numbers ----------------------------------------------------------------------


def test_published_tables() -> None:
    sizes = published("rouge_by_size")
    assert len(sizes) == 28 and sizes["value"].between(0.6, 1).all()
    worst = published("rouge1_by_source").sort_values("value").iloc[0]
    assert (worst["model"], worst["group"], worst["length"]) == ("1.4b", "DM Math", 256)
    assert worst["value"] == pytest.approx(0.367)
    words = published("omission_by_pos")
    top = words.loc[words.groupby("model")["value"].idxmax()]
    assert set(top["group"]) == {"NUM"} and len(words) == 28
    assert len(published("omission_by_entity")) == 10
    with pytest.raises(ValueError, match="table is 'none', allowed: rouge_by_size"):
        published("none")


def test_claims_repeat_the_published_tables() -> None:
    """Typed numbers, held against the table that they were taken from."""
    claims = {c.id: c for c in load_claims(ROOT) if c.experiment == memory.NAME}
    rows = published("rouge_by_size")
    assert len(claims) == 28 + 18
    for row in rows.itertuples():
        claim = claims[f"{memory.NAME}.{row.model.replace('.', '')}-l{row.length}"]
        assert claim.value == pytest.approx(row.value) and claim.metric == "rouge1"
        assert claim.select == {
            "pretrained": f"state-spaces/mamba-{row.model}-hf", "task.length": row.length
        }  # fmt: skip
    ends = published("rouge1_by_source").query("length == 256")
    sources = [c for c in claims.values() if c.metric != "rouge1"]
    assert sorted(c.value for c in sources) == pytest.approx(sorted(ends["value"]))


def test_figures_have_a_line_for_each_curve() -> None:
    table = published("rouge1_by_dialect")
    figure = figures.published_curves(table, "dialects")
    assert [trace.name for trace in figure.data] == [
        "130m, SAE", "130m, AAVE", "1.4b, SAE", "1.4b, AAVE",
    ]  # fmt: skip
    assert list(figure.data[1].y) == table["value"].iloc[7:14].tolist()
    ours = table.iloc[:7].assign(seed=1, rouge1=0.5, zero_rouge1=0.1)
    names = [trace.name for trace in figures.by_writer(ours, "rouge1", "ours").data]
    assert names == ["trained decoder (1 seed)", "trained, state of zeros (1 seed)"]
