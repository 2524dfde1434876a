from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch

from lib import claims
from lib.analysis.reference import load_parts
from lib.config import from_dict, to_dict
from lib.experiments import Context, Outcome, cells_of, find
from lib.experiments.inverse_matching import (
    CONTROL_GAMMAS,
    CONTROLS,
    D_MODEL,
    GAMMAS,
    KINDS,
    MAMBA_LAYERS,
    NAME,
    OWN,
    SEEDS,
    MatchingCell,
    curves,
    depth,
    kind_of,
    model_of,
    run,
)
from lib.models.config import InitialisationConfig
from lib.models.language_model import build_language_model
from lib.store import Record, identity
from lib.tasks.inverse_matching import InverseTask


def place(cell: MatchingCell) -> tuple[str, int, bool, int, float | None]:
    model = cell.model
    return (
        kind_of(model), depth(model), model.tie_embeddings, cell.seed, model.initialisation.gamma
    )  # fmt: skip


def test_the_cells_are_those_of_the_figures() -> None:
    cells = cells_of(find(NAME), "paper")
    mambas = ["mamba", "residual", "gated"]
    grid = [(kind, 2, kind in mambas) for kind in KINDS]
    grid += [("mamba", n, True) for n in MAMBA_LAYERS[1:]]
    grid += [(kind, 2, False) for kind in mambas]
    controls = [(kind, 2, True) for kind in CONTROLS]
    assert [place(cell) for cell in cells] == [
        (*model, seed, gamma)
        for models, gammas in ((grid, GAMMAS), (controls, CONTROL_GAMMAS))
        for model, seed, gamma in itertools.product(models, SEEDS, gammas)
    ]
    assert len({identity(NAME, 1, to_dict(cell)) for cell in cells}) == len(cells) == 243
    for cell in cells:
        # the task grows with the depth, and the encoding reaches to its end
        assert cell.task == InverseTask(layers=depth(cell.model))
        assert cell.model.max_length in (None, cell.task.length)
        assert cell.training.batch_size == 1024
        assert cell.model.pattern[0].d_model == D_MODEL
    assert cells_of(find(NAME), "matched") == []


def test_the_kinds_are_what_they_are_called() -> None:
    length = InverseTask(layers=1).length
    models = {kind: model_of(kind, 1, 0.5, length, 32, 16) for kind in KINDS}
    assert {kind: kind_of(model) for kind, model in models.items()} == {k: k for k in KINDS}
    names = {
        kind: {name for name, _ in build_language_model(model, seed=0).named_parameters()}
        for kind, model in models.items()
    }
    # a bypass comes with positions, and has no weights of its own
    positions = {name for name in names["residual"] if name.startswith("positions")}
    assert positions and names["residual"] == names["mamba"] | positions
    assert names["gated"] == names["residual"]
    tokens = torch.arange(length)[None]
    outs = [build_language_model(models[k], seed=0)(tokens) for k in ("gated", "residual")]
    assert not torch.allclose(*outs)
    assert any("conv" in name for name in names["mamba"])
    others = {kind: model_of(kind, 1, 0.5, length, 32, 16) for kind in CONTROLS}
    assert {kind: kind_of(model) for kind, model in others.items()} == {k: k for k in CONTROLS}
    controls = {
        kind: {name for name, _ in build_language_model(model, seed=0).named_parameters()}
        for kind, model in others.items()
    }
    assert controls["positions"] == names["residual"] and controls["bypass"] == names["mamba"]
    assert controls["bare"] == {name for name in names["mamba"] if "conv" not in name}
    positions_too = {name for name in controls["bare positions"] if name not in controls["bare"]}
    assert positions_too == positions
    halves = {name.replace("conv.first_half", "conv.weight") for name in controls["palindromic"]}
    assert halves == names["mamba"]
    assert others["palindromic"].pattern[0].conv_kind == "palindromic"  # type: ignore[union-attr]
    assert not any("conv" in name for name in controls["mamba3"])
    assert controls["mamba3 positions"] - controls["mamba3"] == positions
    heads = [models["mamba"].pattern[0], others["mamba3"].pattern[0]]
    assert {(h.d_model, h.d_state, h.headdim) for h in heads} == {(32, 16, 64)}  # type: ignore[union-attr]
    # each has one half of what the bypass of the paper brings, and the other is off
    assert others["positions"].pattern == models["mamba"].pattern
    assert others["bypass"].pattern == models["residual"].pattern
    assert others["bypass"].positional_encoding == "none" == others["bare"].positional_encoding
    assert not any("conv" in name for name in names["transformer"])
    with pytest.raises(ValueError, match=r"conv_bypass is 'open', allowed: "):
        model_of("open", 1, 0.5, length)


@pytest.fixture(scope="module")
def outcomes() -> dict[MatchingCell, Outcome]:
    quick = cells_of(find(NAME), "quick")
    assert [kind_of(cell.model) for cell in quick] == list(KINDS)
    cells = [
        dataclasses.replace(
            cell,
            task=dataclasses.replace(cell.task, train_samples=100, test_samples=20, ood_samples=20),
            training=dataclasses.replace(cell.training, epochs=2, batch_size=50),
        )
        for cell in quick
    ]
    found = {outcome.cell: outcome for outcome in run(cells, Context())}
    assert set(found) == set(cells)
    return found


def test_all_kinds_are_measured_on_all_three_parts(
    outcomes: dict[MatchingCell, Outcome], root: Path
) -> None:
    records = []
    for cell, outcome in outcomes.items():
        assert outcome.status == "done" and outcome.curves is not None
        assert outcome.metrics["steps"] == 4 and outcome.weights is None
        for part in ("test", "ood"):
            assert outcome.curves[part].between(0, 1).all()
            assert outcome.metrics[f"final_{part}"] == outcome.curves[part].iloc[-1]
        metrics = {k: v for k, v in outcome.metrics.items() if v is not None}
        records.append(
            Record(NAME, 1, to_dict(cell), find(NAME).readable(cell), "done", metrics, {})
        )
    frame = find(NAME).frame(records)
    assert curves([]).empty and {"model", "gamma", "train"} < set(curves([]))
    assert frame["kind"].tolist() == list(KINDS)
    assert frame["model"].tolist() == [f"{text}, 1 layer" for text in KINDS.values()]
    untied = dataclasses.replace(records[0], config={**records[0].config})
    untied.config["model"] = {**untied.config["model"], "tie_embeddings": False}
    assert find(NAME).frame([untied])["model"].tolist() == [f"{KINDS['mamba']}, 1 layer{OWN}"]
    assert (frame["final_train"] == frame["final_train_accuracy"]).all()
    wanted = [c for c in claims.load_claims(root, chapter="achilles") if c.experiment == NAME]
    assert wanted
    for claim in wanted:
        assert claim.metric in records[0].metrics, claim.id


def test_seeds_and_gammas_train_together_as_alone(outcomes: dict[MatchingCell, Outcome]) -> None:
    first = next(iter(outcomes))
    other = dataclasses.replace(first, seed=2)
    together = {o.cell: o for o in run([first, other], Context(ensemble=2))}
    assert together[first].facts["ensemble"]["runs"] == 2
    for name in ("final_train_loss", "final_test", "final_ood"):
        assert together[first].metrics[name] == pytest.approx(
            outcomes[first].metrics[name], rel=1e-4
        )
    losses = [together[cell].metrics["final_train_loss"] for cell in (first, other)]
    assert losses[0] != losses[1]


def test_a_cell_that_cannot_be_says_so() -> None:
    cell = cells_of(find(NAME), "quick")[0]
    few = dataclasses.replace(cell.model, vocab_size=50)
    with pytest.raises(ValueError, match=r"model\.vocab_size is 50, allowed: more than \d+"):
        dataclasses.replace(cell, model=few)
    with pytest.raises(ValueError, match="seed is -1, allowed: 0 or more"):
        dataclasses.replace(cell, seed=-1)


@pytest.mark.parametrize("profile", ["quick", "paper"])
def test_cells_survive_their_records_under_names_of_their_own(profile: str) -> None:
    cells = cells_of(find(NAME), profile)
    for cell in cells:
        assert from_dict(MatchingCell, to_dict(cell)) == cell
    names = [find(NAME).readable(cell) for cell in cells]
    assert len(set(names)) == len(cells)
    assert profile == "quick" or "mamba2-L2-g0.6-tied-m128-residual-learned-s1" in names


def test_blanks_are_what_all_convolutions_together_look_back() -> None:
    """Or the query could be matched without the scan."""
    for cell in cells_of(find(NAME), "paper"):
        block = cell.model.pattern[0]
        if block.kind == "mamba2":
            assert cell.task.blanks == depth(cell.model) * (block.d_conv - 1)


def test_a_kind_of_one_depth_can_train_as_one_ensemble() -> None:
    plain = InitialisationConfig()
    groups = Counter(
        dataclasses.replace(c, seed=0, model=dataclasses.replace(c.model, initialisation=plain))
        for c in cells_of(find(NAME), "paper")
    )
    assert list(groups.values()) == [18] * 10 + [9] * 7


def test_positions_must_cover_the_sequence(outcomes: dict[MatchingCell, Outcome]) -> None:
    cell = next(c for c in outcomes if kind_of(c.model) == "gated")
    short = dataclasses.replace(cell.model, max_length=cell.task.length - 1)
    with pytest.raises(ValueError, match=r"length is 26, allowed: up to max_length 25"):
        list(run([dataclasses.replace(cell, model=short)], Context()))


def test_a_failed_run_has_its_row() -> None:
    cell = cells_of(find(NAME), "quick")[-1]
    record = Record(NAME, 1, to_dict(cell), "x", "failed", {}, {})
    (row,) = find(NAME).frame([record]).to_dict("records")
    assert row["status"] == "failed" and row["final_train"] is None
    assert row["model"] == "Transformer, 1 layer" and row["n_layers"] == 1


def published_name(cell: MatchingCell) -> tuple[str, float | None]:
    """Model and gamma as the published numbers are filed."""
    name = f"{KINDS[kind_of(cell.model)]}, {depth(cell.model)} layers"
    return name, cell.model.initialisation.gamma


def test_every_published_number_has_its_cells() -> None:
    cells = [cell for cell in cells_of(find(NAME), "paper") if kind_of(cell.model) in KINDS]
    ours = Counter(published_name(cell) for cell in cells)
    theirs = load_parts("achilles_inverse")
    assert set(ours) == {(model, gamma) for model, rows in theirs.items() for gamma in rows}
    # twice where a Mamba's output weights are tied and its own
    twice = {text for kind, text in KINDS.items() if kind != "transformer"}
    for (model, _), count in ours.items():
        name, _, layers = model.rpartition(", ")
        assert count == (6 if name in twice and layers == "2 layers" else 3), model


def test_claims_choose_the_cells_they_speak_of_and_quote_them(root: Path) -> None:
    theirs = load_parts("achilles_inverse")
    wanted = [c for c in claims.load_claims(root, chapter="achilles") if c.experiment == NAME]
    assert len(wanted) >= 7
    for claim in wanted:
        cells = claims.Evidence().cells(claim)
        kind, *more = claim.id.rsplit(".", 1)[1].split("-")
        depths = {"deeper": MAMBA_LAYERS[1:], "exception": (3,)}.get(
            more[0] if more else "", MAMBA_LAYERS[:1]
        )
        tied = kind != "transformer"
        assert {(kind_of(c.model), depth(c.model), c.model.tie_embeddings) for c in cells} == {
            (kind, n, tied) for n in depths
        }
        gammas = claim.select["gamma"]
        gammas = gammas if isinstance(gammas, list) else [gammas]
        counts = Counter(cell.model.initialisation.gamma for cell in cells)
        assert counts == dict.fromkeys(gammas, 3 * len(depths))
        part = claim.metric.split("_")[1]
        values = [theirs[model][gamma or 0.0][part] for model, gamma in map(published_name, cells)]
        assert sum(values) / len(values) == pytest.approx(claim.value, abs=0.005), claim.id
