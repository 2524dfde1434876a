from __future__ import annotations

import dataclasses
import itertools
import re
import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from lib.analysis.composite import answers
from lib.analysis.interventions import blocked_answers, substituted_answers
from lib.analysis.reference import load_counts
from lib.config import from_dict, to_dict
from lib.experiments import Context, Outcome, cells_of, find
from lib.experiments import interventions as study
from lib.experiments.achilles import (
    THIRD_PARTY_TRAINING,
    CompositeCell,
    in_words,
    mamba2_model,
    third_party_model,
)
from lib.figures import ablations, achilles_flow
from lib.models.language_model import build_language_model
from lib.store import Record, Store, identity
from lib.tasks.composite import CompositeTask, third_party
from lib.tasks.interventions import intervention_split, twin
from lib.training.config import TrainingConfig
from tests.experiments import composite_runs as runs

EXPERIMENT = find(study.NAME)
PAIRS = [10 * a + b for a in range(1, 5) for b in range(1, 5)]
ALSO = {  # the choices beside the one as worded
    "blocking": (
        "after_pair", "first_two", "second", "combined", "conv_too", "everything", "noise",
        "behind", "layer0", "layer1", "untrained", "after_pair_untrained",
    ),
    "substitution": (
        "with_pair", "layer0", "layer1", "nothing", "untrained", "with_pair_untrained",
        "nothing_untrained",
    ),
}  # fmt: skip
AGREEMENTS = {
    f"{kind}_{end}_{rest}"
    for kind, choices in ALSO.items()
    for end in ("end", "inner")
    for rest in [*PAIRS, "mean", *(f"mean_{choice}" for choice in choices)]
} | {f"blocking_{end}_43_{choice}" for end in ("end", "inner") for choice in ALSO["blocking"]}
COSINES = {f"cosine_{when}_layer{k}" for when in ("start", "final") for k in (0, 1)}
# weights that stay where they start
STILL = TrainingConfig(
    epochs=1, warmup_epochs=0, batch_size=30, lr_start=1e-30, lr_peak=1e-30, lr_end=1e-30
)


def paper() -> list[CompositeCell]:
    return cells_of(EXPERIMENT, "paper")


# one of the paper's kind and one of the third party's
KINDS = {"mamba2": paper()[0], "mamba1": paper()[13]}
LIVELY = dataclasses.replace(runs.TRAINING, lr_peak=3e-2)


def tiny(kind: str, n_layers: int = 2, training: TrainingConfig = LIVELY) -> CompositeCell:
    return runs.shrunk(KINDS[kind], training, n_layers, length=6)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    found = runs.run(EXPERIMENT, [tiny(kind) for kind in KINDS])
    return dict(zip(KINDS, found, strict=True))


def test_the_grid_is_two_models_by_gamma_and_seed() -> None:
    cells = paper()
    ours = [
        CompositeCell(CompositeTask(), mamba2_model(2, gamma, tied=True), TrainingConfig(), seed)
        for gamma, seed in itertools.product((0.5, 1.0, 1.5, 2.0), (1, 2, 3))
    ]
    theirs = [
        CompositeCell(third_party(), third_party_model(n, gamma), THIRD_PARTY_TRAINING, seed)
        for (n, gamma), seed in itertools.product(((2, 0.5), (2, 1.0), (7, 1.0)), (42, 1, 2))
    ]
    assert cells == [*ours, *theirs]
    assert len({identity(study.NAME, 1, to_dict(cell)) for cell in cells}) == 21
    assert cells_of(EXPERIMENT, "matched") == []


def test_quick_is_one_of_each_in_small() -> None:
    cells = cells_of(EXPERIMENT, "quick")
    assert [cell.model.pattern[0].kind for cell in cells] == ["mamba2", "mamba1"]
    for cell in cells:
        assert cell.model.n_layers == 2 and cell.model.tie_embeddings
        rows = cell.task.train_total or 15 * cell.task.train_per_pair
        assert rows * cell.training.epochs <= 36_000
        # looked at: every key, at every place, with every pair
        asked = (cell.task.key_max - cell.task.key_min + 1) * cell.task.positions * 16
        assert asked <= 1_200
    assert cells[0].task.modulus is None and cells[1].task.modulus == 100


def test_cells_survive_their_records() -> None:
    for cell in [*paper(), *cells_of(EXPERIMENT, "quick")]:
        plain = to_dict(cell)
        assert from_dict(CompositeCell, plain) == cell
        assert not {"conv_frozen", "conv_bypass"} & set(plain["model"]["pattern"][0])
        plain_block: Any = cell.model.pattern[0]
        block = dataclasses.replace(plain_block, conv_bypass="gated")
        other = dataclasses.replace(cell, model=dataclasses.replace(cell.model, pattern=(block,)))
        assert from_dict(CompositeCell, to_dict(other)) == other != cell


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_measures_every_pair_every_way(outcomes: dict[str, Outcome], kind: str) -> None:
    metrics = outcomes[kind].metrics
    about = {m for m in metrics if re.match("blocking|substitution|cosine", m)}
    assert about == AGREEMENTS | COSINES
    for name in about:
        value = metrics[name]
        assert value is not None and 0 <= value <= 1, name
    # interventions do something to these models, and not all the same
    assert len({metrics[name] for name in AGREEMENTS}) > 5


@pytest.mark.parametrize("kind", KINDS)
def test_means_are_over_pairs_and_leave_out_who_is_its_own_twin(
    outcomes: dict[str, Outcome], kind: str
) -> None:
    metrics = outcomes[kind].metrics
    for end in ("end", "inner"):
        every = [metrics[f"blocking_{end}_{pair}"] or 0.0 for pair in PAIRS]
        assert metrics[f"blocking_{end}_mean"] == pytest.approx(statistics.fmean(every))
        others = [metrics[f"substitution_{end}_{pair}"] or 0.0 for pair in PAIRS if pair != 43]
        assert metrics[f"substitution_{end}_mean"] == pytest.approx(statistics.fmean(others))
        assert metrics[f"substitution_{end}_43"] == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_never_moved_is_its_own_control(kind: str) -> None:
    (outcome,) = runs.run(EXPERIMENT, [tiny(kind, training=STILL)])
    metrics = outcome.metrics
    for name in ("blocking_end", "blocking_inner", "substitution_end", "substitution_inner"):
        assert metrics[f"{name}_mean"] == metrics[f"{name}_mean_untrained"]
    for end in ("end", "inner"):
        for rest in ("mean_with_pair", "mean_nothing"):
            name = f"substitution_{end}_{rest}"
            assert metrics[name] == metrics[f"{name}_untrained"]
        for rest in ("mean_after_pair", "43_after_pair"):
            name = f"blocking_{end}_{rest}"
            assert metrics[name] == metrics[f"{name}_untrained"]
    for k in (0, 1):
        assert metrics[f"cosine_final_layer{k}"] == metrics[f"cosine_start_layer{k}"]


def test_training_moves_what_is_compared_with_the_start(outcomes: dict[str, Outcome]) -> None:
    for kind, outcome in outcomes.items():
        for k in (0, 1):
            assert outcome.metrics[f"cosine_final_layer{k}"] != pytest.approx(
                outcome.metrics[f"cosine_start_layer{k}"], abs=1e-6
            ), kind
        # the control is the model before training, so it does not depend on how it was trained
        (longer,) = runs.run(EXPERIMENT, [tiny(kind, training=STILL)])
        for name, value in outcome.metrics.items():
            if name.endswith("untrained") or "_start_" in name:
                assert longer.metrics[name] == value


@pytest.mark.parametrize("kind", KINDS)
def test_of_one_layer_that_layer_is_all(kind: str) -> None:
    (outcome,) = runs.run(EXPERIMENT, [tiny(kind, n_layers=1)])
    metrics = outcome.metrics
    for name in ("blocking_end", "blocking_inner", "substitution_end", "substitution_inner"):
        assert metrics[f"{name}_mean_layer0"] == metrics[f"{name}_mean"]
    assert "blocking_end_mean_layer1" not in metrics


def test_of_many_layers_none_is_cut_alone_and_the_depth_is_in_the_name() -> None:
    (outcome,) = runs.run(EXPERIMENT, [tiny("mamba1", n_layers=3)])
    metrics = outcome.metrics
    assert "blocking_end_mean_everything" in metrics and "cosine_final_layer2" in metrics
    assert not [name for name in metrics if re.search(r"mean_layer\d", name)]
    frame = frame_of({"mamba1": outcome})
    (name,) = study.by_model(frame, "blocking", "end")
    assert name.startswith("Mamba-1, 3 layers, γ = ")
    assert set(study.choices(frame, "blocking")["model"]) == {name.replace(" = ", " ")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_deaf_to_other_tokens_loses_nothing_by_cuts(kind: str) -> None:
    """Where a kernel has only its own tap and C is zero, nothing passes from token to token: no cut
    and no substitution changes an answer, and a twin's is another only if its last token is."""
    cell = tiny(kind)
    model = build_language_model(cell.model, seed=1).eval()
    layers: Any = model.layers
    for mixer in (layer.mixer for layer in layers):
        n, d = mixer.config.d_state, mixer.config.d_inner
        with torch.no_grad():
            mixer.conv.kernel()[:, :-1] = 0.0
            if kind == "mamba1":
                mixer.x_proj.weight[-n:] = 0.0
            else:
                mixer.conv.kernel()[d + n :] = 0.0
                mixer.conv.bias[d + n :] = 0.0
    found = study.inspect(model, cell)
    for end in ("end", "inner"):
        for choice in ("mean", "mean_after_pair", "mean_conv_too", "mean_everything"):
            assert found[f"blocking_{end}_{choice}"] == 1.0
    assert all(found[f"substitution_inner_{pair}"] == 1.0 for pair in PAIRS)
    assert all(found[f"substitution_end_{pair}"] == 1.0 for pair in (13, 23, 33, 43))
    assert any(found[f"substitution_end_{pair}"] < 1.0 for pair in PAIRS)


@pytest.mark.parametrize("kind", KINDS)
def test_each_choice_is_the_cut_that_it_names(kind: str) -> None:
    """In a model that hears much by every path, so that no two choices agree by chance."""
    cell = tiny(kind)
    model = build_language_model(cell.model, seed=1).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "dt" in name and "bias" in name:
            parameter.fill_(-0.5)
        elif "_proj" in name:
            parameter.mul_(4.0)
        elif "A_log" in name:
            parameter.fill_(-1.0)
    cuts: dict[str, dict[str, Any]] = {
        "": {},
        "_after_pair": {"within_pair": False},
        "_conv_too": {"paths": ("state", "conv")},
        "_everything": {"paths": ("state", "conv", "decay")},
        "_layer0": {"layers": [0]},
        "_layer1": {"layers": [1]},
    }
    puts: dict[str, dict[str, Any]] = {
        name: cuts[name] for name in ("", "_layer0", "_layer1")
    } | {"_with_pair": {"include_pair": True}}  # fmt: skip
    wanted: dict[str, float] = {}
    for end, may_end in (("end", True), ("inner", False)):
        split = intervention_split(cell.task, cell.seed, pair_may_end=may_end)
        twins, others = twin(cell.task, split), ~split.where(43)
        own, theirs = answers(model, split.tokens), answers(model, twins.tokens)
        for choice, options in cuts.items():
            same = blocked_answers(model, split, **options) == own
            wanted[f"blocking_{end}_mean{choice}"] = float(same.double().mean())
        for choice, options in puts.items():
            same = (substituted_answers(model, split, twins, **options) == theirs)[others]
            wanted[f"substitution_{end}_mean{choice}"] = float(same.double().mean())
    found = study.inspect(model, cell)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    for intervention in ("blocking_end", "blocking_inner", "substitution_end"):
        values = [value for name, value in wanted.items() if name.startswith(intervention)]
        assert len(set(values)) >= len(values) - 1, values


def test_taps_that_are_equal_have_cosine_one() -> None:
    cell = tiny("mamba2")
    block: Any = cell.model.pattern[0]
    ones = dataclasses.replace(
        cell.model, pattern=(dataclasses.replace(block, conv_kind="all_one"),)
    )
    (outcome,) = runs.run(EXPERIMENT, [dataclasses.replace(cell, model=ones)])
    assert [outcome.metrics[name] for name in COSINES] == pytest.approx([1.0] * 4)
    none = dataclasses.replace(cell.model, pattern=(dataclasses.replace(block, conv_kind="none"),))
    with pytest.raises(ValueError, match=r"layer 0 has no kernel, allowed: layers with a convolu"):
        list(EXPERIMENT.run([dataclasses.replace(cell, model=none)], Context()))


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_trained_together_are_the_seeds_alone(kind: str) -> None:
    found = runs.together_and_alone(EXPERIMENT, runs.seeds_of(tiny(kind), (1, 2)))
    assert found[0].metrics.keys() >= AGREEMENTS
    assert found[0].metrics["blocking_end_mean"] != found[1].metrics["blocking_end_mean"]


def test_killed_and_resumed_equals_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.killed_and_resumed(EXPERIMENT, [tiny("mamba2")], tmp_path, monkeypatch)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_alone_give_the_same_numbers_again(
    kind: str, outcomes: dict[str, Outcome], tmp_path: Path
) -> None:
    store = Store(tmp_path, tmp_path / "published")
    record = runs.record(EXPERIMENT, outcomes[kind], store)
    assert EXPERIMENT.reevaluate is not None
    again = EXPERIMENT.reevaluate(record)
    accuracies = {f"final_{name}" for name in ("composite", "symmetric", "seen")}
    assert AGREEMENTS | COSINES | accuracies <= again.keys()
    assert again == {name: outcomes[kind].metrics[name] for name in again}


# -- claims ----------------------------------------------------------------------------------


def test_claims_select_one_model_and_read_what_it_measures(root: Path) -> None:
    for name, cells in runs.claims_about(root, EXPERIMENT).items():
        kind = "mamba1" if name.endswith("third-party") else "mamba2"
        assert {(c.model.pattern[0].kind, c.model.initialisation.gamma) for c in cells} == {
            (kind, 1.0)
        }
        assert [c.seed for c in cells] == ([42, 1, 2] if kind == "mamba1" else [1, 2, 3])
    assert runs.metrics_of_claims(root, EXPERIMENT) <= AGREEMENTS | COSINES


def test_claims_quote_the_papers_counts(root: Path) -> None:
    counts = load_counts("achilles_interventions").shares
    assert list(counts["blocking"]) == PAIRS
    assert list(counts["substitution"]) == [pair for pair in PAIRS if pair != 43]
    given = {
        "blocking.unseen-pair": counts["blocking"][43],
        "blocking.all-pairs": statistics.fmean(counts["blocking"].values()),
        "substitution.mean": statistics.fmean(counts["substitution"].values()),
    }
    for name, value in given.items():
        quoted = runs.claim(root, f"achilles.{name}").value
        digits = len(f"{quoted:g}".partition(".")[2])
        assert quoted == pytest.approx(value, abs=0.51 * 10**-digits), name


# -- what pages are given --------------------------------------------------------------------


def frame_of(outcomes: dict[str, Outcome]) -> pd.DataFrame:
    return EXPERIMENT.frame([runs.record(EXPERIMENT, outcome) for outcome in outcomes.values()])


@pytest.mark.parametrize("kind", ["blocking", "substitution"])
@pytest.mark.parametrize("end", ["end", "inner"])
def test_pages_read_agreement_by_pair(outcomes: dict[str, Outcome], kind: str, end: str) -> None:
    found = study.by_pair(frame_of(outcomes), kind, end)
    # 43 is its own twin
    pairs = [pair for pair in PAIRS if kind == "blocking" or pair != 43]
    assert [list(one) for one in found] == [pairs, pairs]
    for one, outcome in zip(found, outcomes.values(), strict=True):
        assert one == {pair: outcome.metrics[f"{kind}_{end}_{pair}"] for pair in pairs}
    models = study.by_model(frame_of(outcomes), kind, end)
    assert list(models) == ["Mamba-2, 2 layers, γ = 0.5", "Mamba-1, 2 layers, γ = 0.5"]
    assert sorted(map(str, models.values())) == sorted(str([one]) for one in found)
    assert achilles_flow.agreement_bars(models, "title", "share", found[0]).data


@pytest.mark.parametrize("kind", ALSO)
def test_pages_read_every_choice(outcomes: dict[str, Outcome], kind: str) -> None:
    table = study.choices(frame_of(outcomes), kind)
    assert len(table) == 2 * 2 * (1 + len(ALSO[kind]))
    assert set(table["model"]) == {"Mamba-2, γ 0.5", "Mamba-1, γ 0.5"}
    # each in words of its own
    texts = {study.CHOICES_TEXT[c] for c in (None, *ALSO[kind])}
    assert set(table["choice"]) == {
        f"{end}; {text}" for end in ("pair may end", "pair never last") for text in texts
    }
    rows = table.set_index(["model", "choice"])["agreement"]
    wanted = outcomes["mamba2"].metrics[f"{kind}_inner_mean_untrained"]
    assert rows["Mamba-2, γ 0.5", "pair never last; control: untrained"] == wanted
    assert ablations.choice_marks(table, "agreement", "title", "share", {"paper": 0.9}).data


def test_pages_read_cosines(outcomes: dict[str, Outcome]) -> None:
    table = study.cosines(frame_of(outcomes))
    assert len(table) == 2 * 4
    rows = table.set_index(["model", "choice"])["cosine"]
    assert (
        rows["Mamba-1, γ 0.5", "layer 2, at the end"]
        == (outcomes["mamba1"].metrics["cosine_final_layer1"])
    )
    assert (
        rows["Mamba-2, γ 0.5", "layer 1, at the start"]
        == (outcomes["mamba2"].metrics["cosine_start_layer0"])
    )


def test_the_opened_model_is_the_first_of_its_name_or_untrained(
    outcomes: dict[str, Outcome], tmp_path: Path
) -> None:
    store = Store(tmp_path, tmp_path / "published")
    records: list[Record] = [
        runs.record(EXPERIMENT, dataclasses.replace(outcomes["mamba2"], weights=None), store),
        *(runs.record(EXPERIMENT, outcome, store) for outcome in outcomes.values()),
    ]
    for wanted, kind in (("", "mamba2"), ("mamba1", "mamba1"), ("L2-g0.5", "mamba2")):
        opened = study.open_model(records, 3, wanted)
        assert opened.model.config == outcomes[kind].cell.model and not opened.model.training
        assert opened.task == outcomes[kind].cell.task
        assert opened.title == f"trained {in_words(outcomes[kind].cell)}"
    for wanted, kept in (("", records[:1]), ("no such model", records), ("", [])):
        opened = study.open_model(kept, 3, wanted)
        assert opened.title == "untrained model" and not opened.model.training
        start = build_language_model(mamba2_model(2, 1.0, tied=True), seed=3).state_dict()
        assert all(torch.equal(v, start[k]) for k, v in opened.model.state_dict().items())
    other = study.open_model([], 4).one.tokens
    for opened in (study.open_model([], 3), study.open_model(records, 3)):
        ((*_, key, first, second),) = opened.one.tokens[:, :5].tolist()
        assert [first, second] == [4, 3] and int(opened.one.keys[0]) == key >= 20
        assert int(opened.one.index[0]) == 2 and len(opened.one) == 1
        moved = opened.with_pair(12).tokens
        assert moved[0, 3:5].tolist() == [1, 2]
        assert (moved != opened.one.tokens).sum() == 2
        assert not torch.equal(opened.one.tokens, other)
        with pytest.raises(ValueError, match=r"pair is 50, allowed: 11, 12"):
            opened.with_pair(50)
    for kept in ([], records):
        with pytest.raises(ValueError, match=r"seed is -1, allowed: 0 or more"):
            study.open_model(kept, -1)
