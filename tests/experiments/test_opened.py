"""Published models are opened: nothing is trained, and the numbers are of their weights."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

import pytest

from lib.analysis.routes import routes
from lib.config import from_dict, to_dict
from lib.experiments import Context, Outcome, cells_of, find, interventions, opened
from lib.experiments._inspection import PLACES
from lib.experiments.achilles import CompositeCell, depth
from lib.experiments.opened import (
    NAME,
    QUICK_EVERY,
    TRANSFORMERS,
    OpenedCell,
    readable,
    run,
    source,
)
from lib.experiments.transformer import CONVOLVED, PLAIN
from lib.figures import achilles_cuts
from lib.publishing import verify
from lib.store import Record, StoreError, read_record


def paper() -> list[OpenedCell]:
    return cells_of(find(NAME), "paper")


def as_record(outcome: Outcome) -> Record:
    metrics = {k: v for k, v in outcome.metrics.items() if v is not None}
    name = readable(outcome.cell)
    return Record(NAME, 1, to_dict(outcome.cell), name, outcome.status, metrics, outcome.facts)


def test_every_published_model_of_the_diagram_is_opened() -> None:
    found = [(c.trained.model.n_layers, c.trained.model.initialisation.gamma) for c in paper()]
    diagram = [(n, gamma) for n in range(2, 8) for gamma in (0.5, 1.0)]
    assert found == [*diagram, *((2, gamma) for gamma in interventions.GAMMAS)]
    assert readable(paper()[11]) == "opened-mamba2-L7-g1.0-tied-s1"
    assert readable(paper()[-1]) == "opened-interventions-mamba2-L2-g2.0-tied-s1"
    assert len({readable(cell) for cell in paper()}) == 16
    assert all(c.every == 1 and from_dict(OpenedCell, to_dict(c)) == c for c in paper())
    for cell in paper():
        assert source(cell).weights and source(cell).experiment == cell.experiment
    (small,) = cells_of(find(NAME), "quick")
    assert readable(small) == "opened-every37-mamba2-L2-g1.0-tied-s1"
    assert cells_of(find(NAME), "matched") == []


def test_the_numbers_are_those_of_the_weights() -> None:
    (small,) = cells_of(find(NAME), "quick")
    (outcome,) = run([small], Context())
    assert outcome.status == "done" and outcome.weights is None and outcome.curves is None
    trained = source(small)
    assert outcome.facts["opened"] == {"record": trained.name, "weights": trained.weights}
    for name in ("final_composite", "best_composite", "final_seen"):
        assert outcome.metrics[name] == trained.metrics[name]
    asked = [v for k, v in outcome.metrics.items() if k.startswith("answer_offset_") and v]
    assert sum(asked) == pytest.approx(1)
    assert outcome.metrics["blocking_end_43"] in [n / 13 for n in range(14)]  # of 480, each 37th
    assert (outcome.metrics["blocking_inner_mean_noise"] or 0) > 0.95
    assert outcome.metrics["substitution_end_43"] == 1.0
    frame = find(NAME).frame([as_record(outcome)])
    (row,) = routes(frame).to_dict("records")
    assert (row["model"], row["seed"]) == ("Mamba-2, γ 1", 1)
    assert row["kept"] == outcome.metrics["blocking_inner_mean_after_pair"]
    assert not any("answer_offset" in name for name in frame)
    kept, composed = opened.kept(frame), opened.composed(frame)
    assert kept.loc["2 layers, γ 1", "S from key and anchors"] == row["kept"]
    assert kept.shape == (1, 6) and kept.notna().all(axis=None)
    assert composed.index.equals(kept.index) and next(iter(composed)) == "nothing"
    again = opened.kept(frame.assign(experiment="achilles.interventions"))
    assert list(again.index) == ["2 layers, γ 1, of this page"]
    assert opened.kept(find(NAME).frame([])).empty and opened.composed(find(NAME).frame([])).empty
    figure = achilles_cuts.cut_maps({"kept": kept, "composed": composed}, "title")
    drawn = [list(trace.z[0]) for trace in figure.data]
    assert drawn == [list(table.iloc[0].round(4)) for table in (kept, composed)]


def test_transformers_are_opened_with_the_convolution_and_without() -> None:
    cells = cells_of(find(TRANSFORMERS), "paper")
    found = [(c.experiment, depth(c.trained.model)) for c in cells]
    deep = [(CONVOLVED, n) for n in (3, 4, 5, 7) for _ in range(2)]
    assert found == [*deep, (PLAIN, 2), (PLAIN, 2)]
    assert len({readable(cell) for cell in [*cells, *paper()]}) == 26
    for cell in cells:
        assert source(cell).weights and source(cell).experiment == cell.experiment
    assert cells_of(find(TRANSFORMERS), "matched") == []
    (small,) = cells_of(find(TRANSFORMERS), "quick")
    assert readable(small) == (
        "opened-transformer_with_convolution-every37-attention-L3-g1.0-conv-learned-s1"
    )
    few = [small, dataclasses.replace(cells[-1], every=QUICK_EVERY)]
    outcomes = list(run(few, Context()))
    with_it, without = (set(outcome.metrics) for outcome in outcomes)
    kind = "blocking_inner_mean_"
    ways = [{n.removeprefix(kind) for n in names if kind in n} for names in (with_it, without)]
    # of two layers each is cut by itself, of more the last one and the others
    assert ways[0] - ways[1] == {"combined", "conv_too", "everything", "last", "others"}
    assert ways[1] - ways[0] == {"layer0", "layer1"}
    for name in ("substitution", "cosine", "composite_inner_combined"):
        assert any(name in n for n in with_it) and not any(name in n for n in without)
    places = [{n for n in names if n.startswith("kept_inner_")} for names in (with_it, without)]
    assert places[0] == {f"kept_inner_{name}" for name in (*PLACES, "next_alone")}
    assert places[1] == {f"kept_inner_{name}" for name in ("key", "first", "anchors")}
    frame = find(TRANSFORMERS).frame([as_record(outcome) for outcome in outcomes])
    kept = opened.kept(frame)
    assert list(kept.index) == ["3 layers, γ 1", "2 layers, γ 1, plain"]
    assert kept.isna().sum(axis=1).tolist() == [0, 1]
    heard = opened.heard(frame)
    assert heard.isna().sum(axis=1).tolist() == [0, 4]
    assert heard["attention to the key"].tolist() == frame["kept_inner_key"].tolist()


def test_a_budget_that_is_spent_opens_no_more() -> None:
    outcomes = list(run(paper()[:2], Context(deadline=time.monotonic())))
    assert [outcome.status for outcome in outcomes] == ["stopped", "stopped"]


@pytest.mark.parametrize(
    ("field", "value", "allowed"), [("every", 0, "1..80"), ("seed", 2, "1, the")]
)
def test_wrong_cells_are_named(field: str, value: int, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is {value}, allowed: {allowed}"):
        dataclasses.replace(paper()[0], **{field: value})


def test_a_model_that_is_not_here_is_named_before_any_is_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(opened, "load_model", lambda *_: pytest.fail("opened"))
    unkept: CompositeCell = dataclasses.replace(paper()[0].trained, seed=2)
    other = dataclasses.replace(paper()[0], trained=unkept, seed=2)
    with pytest.raises(
        ValueError, match=r"mamba2-L2-g0.5-tied-s2 of .* has no weights here; to have"
    ):
        list(run([paper()[1], other], Context()))
    monkeypatch.setattr(opened.provenance, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"mamba2-L2-g1.0-tied-s1 of .* has no record here"):
        list(run([paper()[1]], Context()))


def test_measured_again_is_the_model_that_was_opened(root: Path, tmp_path: Path) -> None:
    path, *_ = sorted((root / "book/results" / NAME).glob("*.json"))
    record = read_record(path)
    weights = opened.weights_of(record)
    assert weights is not None and weights.name == record.provenance["opened"]["weights"]
    with pytest.raises(StoreError, match="the model that was opened is not there: mamba2-L2"):
        opened.weights_of(dataclasses.replace(record, folder=tmp_path / NAME))
    # a model that has been trained again since has other weights
    old = {**record.provenance["opened"], "weights": "others.safetensors"}
    again = dataclasses.replace(record, provenance={**record.provenance, "opened": old})
    with pytest.raises(StoreError, match="those that were opened are others"):
        opened.weights_of(again)


def test_verify_says_which_models_are_lost(root: Path, tmp_path: Path) -> None:
    """The rest is verified all the same."""
    book = tmp_path / "book" / "results"
    shutil.copytree(root / "book/results" / NAME, book / NAME)
    checks = verify(tmp_path, NAME, 1)
    lost = [check for check in checks if not check.ok]
    assert len(lost) == len(paper()) == 16
    assert all("the model that was opened is not there" in check.detail for check in lost)
    assert sum("seal and files fit" in check.detail for check in checks) == 16
