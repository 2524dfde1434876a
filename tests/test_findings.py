"""What pages say in words without numbers is what the published records say.

A page's tables and many of its sentences are made from records when it is built. Where a paragraph
interprets them, what it takes for granted stands here, so that new records cannot contradict it
unnoticed.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from lib import claims, page
from lib.analysis import phase, routes
from lib.analysis.flow import cosine_by_chance
from lib.analysis.forgetting import rouge_words
from lib.analysis.reference import load_parts, load_reference
from lib.experiments import (
    ablations,
    cells_of,
    find,
    full_symmetry,
    interventions,
    inverse_matching,
    memory,
    memory_training,
    memory_unrelated,
    mistakes,
    noise_bf16,
    noise_phases,
    opened,
    phase_diagram,
    pretrained,
    scaling,
    stories,
    transformer,
)
from lib.figures import noise_phases as noise_figures
from lib.models.language_model import build_language_model
from lib.models.presets import preset
from lib.tasks.full_symmetry import HELD_OUT, SymmetryTask
from lib.training.config import TrainingConfig
from lib.training.schedules import warmup_cosine


def frame_of(name: str) -> pd.DataFrame:
    return find(name).frame(page.records_of(name, "paper"))


def of_variant(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    rows = frame[frame["variant"].isin(names)]
    assert len(rows) == 3 * len(names), f"{names}: {len(rows)} runs"
    return rows


def test_all_one_convolution_what_it_means() -> None:
    frame = frame_of(ablations.ALL_ONE)
    ones = of_variant(frame, "all-one", "all-one, no bias", "all-one, trained")
    assert (ones["final_composite"] > 0.75).all() and (ones["best_symmetric"] < 0.2).all()
    assert (ones["final_seen"] > 0.995).all()
    standard = of_variant(frame, "standard")["final_composite"]
    assert (standard < 0.2).sum() == 1 and (standard > 0.8).sum() == 2
    assert ones["final_composite"].mean() > standard.mean()
    third, third_ones = (
        of_variant(frame, f"third party, {kind}") for kind in ("standard", "all-one, bias trained")
    )
    assert (third_ones["final_composite"] > 0.75).all() and third_ones[
        "best_symmetric"
    ].max() < 0.13
    assert third_ones["final_composite"].min() > third["final_composite"].max()


def sensitivity_of(question: str) -> dict[str, pd.DataFrame]:
    """The runs of each choice that has been run with all seeds."""
    frame = ablations.sensitivity_frame(page.records_of(ablations.SENSITIVITY, "paper"))
    choices = frame[frame["question"] == question].groupby("choice")
    return {str(choice): rows for choice, rows in choices if len(rows) == 3}


def test_all_one_convolution_under_choices_that_the_paper_leaves_open() -> None:
    found = sensitivity_of("all-one kernel")
    planned = [name for name in ablations.sensitivity_table() if name.startswith("all-one kernel")]
    assert len(planned) == len(found) == 13
    runs = pd.concat(found.values())
    assert len(runs) == 39 and (runs["final_composite"] > runs["final_symmetric"]).all()
    assert (runs["final_composite"] > 0.5).sum() == 37
    assert sorted(runs["best_symmetric"].round(2))[-3:] == [0.14, 0.3, 0.31]
    assert (runs["final_symmetric"] <= 1 / 30).all()


def test_all_one_convolution_of_the_third_party() -> None:
    frame = frame_of(ablations.ALL_ONE)
    theirs = of_variant(frame, "third party, all-one")
    assert round(theirs["best_composite_by_tens"].mean(), 2) == 0.72
    assert theirs["final_composite"].round(2).tolist() == [0.38, 0.77, 0.74]
    assert (theirs["final_symmetric"] < 0.01).all()


def test_sensitivity_what_it_means() -> None:
    found = sensitivity_of("standard kernel")
    finals = {choice: rows["final_composite"] for choice, rows in found.items()}
    assert len(finals) == 12 and (finals.pop("own output weights") < 0.5).all()
    best = found["own output weights"]["best_composite"]
    assert sorted(best.round(2)) == [0.41, 0.57, 0.66]
    runs = pd.concat(found.values())
    assert (runs["final_composite"] > runs["final_symmetric"]).sum() == len(runs) - 1 == 35
    assert all((final > 0.5).sum() >= 2 for final in finals.values())
    assert sorted(finals.pop("no decay of A, D, dt").round(2)) == [0.66, 0.71, 0.76]
    assert all(final.max() > 0.9 for final in finals.values())
    positions = sensitivity_of("positional encoding")["Mamba-1"]
    assert (positions["final_composite"] > positions["final_symmetric"]).all()
    # those that the chapter's overview speaks of
    tried = {"no norm before blocks", "no final norm", "kernel starts with gamma too",
             "gamma by output width", "biases start at zero", "own output weights"}  # fmt: skip
    assert tried < set(found)
    for rows in found.values():
        assert (rows["final_composite"] > rows["final_symmetric"]).sum() >= 2


def test_sensitivity_of_learned_positions_to_seeds_and_choices() -> None:
    found = sensitivity_of("positional encoding")
    planned = [n for n in ablations.sensitivity_table() if n.startswith("positional encoding")]
    assert len(planned) == 13 and len(found) == 13
    symmetric = {
        choice: rows.loc[rows["final_symmetric"] > rows["final_composite"], "final_symmetric"]
        for choice, rows in found.items()
    }
    one_seed = [ends for ends in symmetric.values() if len(ends) == 1]
    assert len(one_seed) == 7 and sum((ends == 1).sum() for ends in one_seed) == 1
    assert [choice for choice, ends in symmetric.items() if len(ends) > 1] == [
        "gamma by output width"
    ]
    turned = symmetric["gamma by output width"]
    assert len(turned) == 2 and (turned == 1).sum() == 1
    base = of_variant(frame_of(ablations.POSITIONS), "learned")
    assert (base["final_symmetric"] > base["final_composite"]).sum() == 1


def test_transformer_with_convolution_what_it_means_so_far(root: Path) -> None:
    frame = frame_of(transformer.CONVOLVED)
    assert frame.groupby("n_layers").size().to_dict() == dict.fromkeys(range(2, 8), 36)
    ahead = frame["final_symmetric"] > frame["final_composite"]
    mostly = {name: frame[f"final_{name}"] > 0.5 for name in ("composite", "symmetric")}
    assert [mostly[name].sum() for name in mostly] == [110, 42]
    maps = {
        name: frame.groupby(["n_layers", "gamma"])[name].mean().unstack()
        for name in ("best_composite", "best_symmetric")
    }
    best, symmetric = maps["best_composite"], maps["best_symmetric"]
    paper = load_reference("achilles_transformer").maps["best_composite"].loc[best.index]
    means = []
    for lowest, highest in ((0.1, 0.2), (0.4, 0.8), (0.9, 2.0)):
        cells = (slice(3, 7), slice(lowest, highest))
        means.append([where.loc[cells].mean(axis=None).round(2) for where in (best, paper)])
    assert means == [[0.16, 0.04], [0.68, 0.68], [0.7, 0.83]]
    assert [where.loc[3:, 0.3].mean().round(2) for where in (best, paper)] == [0.71, 0.3]
    from_03 = [where.loc[3:, 0.3:].mean() for where in (best, paper)]
    assert [(where > 0.5).tolist() for where in from_03] == [[True] * 10, [False, *[True] * 9]]
    last = frame[frame["n_layers"] >= 3].groupby("gamma")["final_composite"].mean()
    assert [last[0.4:0.8].mean().round(2), last[0.9:].mean().round(2)] == [0.62, 0.55]
    assert [where.loc[2].mean().round(2) for where in (best, paper)] == [0.54, 0.55]
    off = (best - paper).abs()
    assert off.mean(axis=None).round(2) == 0.16 and (off > 0.2).sum().sum() == 20

    prefix = f"{transformer.CONVOLVED}."
    said = {
        row["id"].removeprefix(prefix): row
        for row in claims.report(root, chapter="achilles")
        if row["id"].startswith(prefix)
    }
    assert Counter(row["verdict"] for row in said.values()) == {"reproduced": 8, "partly": 1}
    assert said["two-layers-small-gamma"]["verdict"] == "partly"
    printed = {claim.id.removeprefix(prefix): claim for claim in claims.load_claims(root)}
    exceptions = ["exception-l2-g0.2", "exception-l2-g0.3", "exception-l3-g0.3"]
    assert [printed[name].value for name in exceptions] == [0.46, 0.38, 0.34]
    assert printed["symmetric"].value == 0.14
    for name, value, bound, close in (
        ("two-layers-small-gamma", 0.18, 0.19, True),
        ("symmetric", 0.18, 0.19, True),
        ("small-gamma", 0.16, 0.19, True),
        ("middle-gamma", 0.68, 0.48, False),
        ("large-gamma", 0.7, 0.6, False),
    ):
        low, high = said[name]["interval"]
        assert round(said[name]["our_mean"], 2) == value and (low < bound < high) == close
    assert all(said[name]["interval"] == [0, 1] for name in exceptions)
    reached = [sum(value >= 0.2 for value in said[name]["values"]) for name in exceptions]
    assert reached == [3, 3, 2]

    small = frame[frame["gamma"] <= 0.2]
    learnt = small["final_train_accuracy"] > 0.94
    assert len(small) == 36 and (~learnt).sum() == 16
    assert learnt.groupby(small["n_layers"]).sum().tolist() == [6, 5, 3, 3, 2, 1]
    fit = small[learnt].index
    ends = mostly["symmetric"][fit].groupby(small["n_layers"]).sum()
    assert ends.tolist() == [5, 5, 3, 0, 1, 0]
    assert not mostly["composite"][fit].any()
    at = small[(small["gamma"] == 0.2) & small["n_layers"].isin([3, 4])].index
    assert len(at) == 6 and mostly["symmetric"][at].all()
    assert symmetric.loc[3:4, 0.2].round(2).tolist() == [0.92, 0.81]
    turned = best.loc[3:, 0.3].round(2)
    assert [turned.min(), turned.max()] == [0.48, 0.82]

    by_gamma = mostly["symmetric"].groupby(frame["gamma"]).sum()
    assert by_gamma[0.3:].sum() == 28 and by_gamma[:0.3].sum() == 18
    assert symmetric.size == 72 and (symmetric > 0.14).sum().sum() == 40
    assert [symmetric.loc[n, g].round(2) for n, g in ((2, 0.2), (2, 0.3), (3, 0.3))] == [
        0.73, 0.6, 0.37,
    ]  # fmt: skip
    middle = frame[frame["gamma"].between(0.4, 1.0) & (frame["n_layers"] >= 3)]
    ends = pd.DataFrame(mostly).loc[middle.index]
    assert len(ends) == 105 and ends.sum().to_dict() == {"symmetric": 22, "composite": 65}
    either = ends.groupby([middle["n_layers"], middle["gamma"]]).any()
    assert len(either) == 35 and either.all(axis=1).sum() == 11
    last = frame[frame["gamma"] >= 1.5]
    assert len(last) == 36 and not ahead[last.index].any()
    assert mostly["composite"][last.index].sum() == 20
    answers = phase_diagram.answers_frame(page.records_of(transformer.CONVOLVED, "paper"))
    key = ["n_layers", "gamma", "seed"]
    commonest = answers.loc[answers.groupby(key)["share"].idxmax()].set_index(key)["offset"]
    others = last[~mostly["composite"][last.index]].set_index(key)
    beside = commonest[others.index] - phase_diagram.known_offsets()["composite"]
    taken = commonest[others.index] == phase_diagram.known_offsets()["as pair 42"]
    assert len(beside) == 16 and taken.sum() == 2
    assert set(beside[~taken].abs()) <= {0, 1, 2, 3}


def test_a_transformer_with_convolution_beside_mamba() -> None:
    frame, mamba = frame_of(transformer.CONVOLVED), frame_of(phase_diagram.TIED)
    assert len(mamba) == 216 and (mamba["final_symmetric"] < 0.5).all()

    def of_deep(rows: pd.DataFrame, lowest: float, highest: float) -> float:
        chosen = rows[(rows["n_layers"] >= 3) & rows["gamma"].between(lowest, highest)]
        return round(chosen["best_composite"].mean(), 2)

    for (lowest, highest), means in {
        (0.3, 0.3): [0.71, 0.11], (0.4, 0.8): [0.68, 0.4], (0.9, 2): [0.7, 0.88]
    }.items():  # fmt: skip
        assert [of_deep(rows, lowest, highest) for rows in (frame, mamba)] == means
    own = frame_of("achilles.composite")
    own = own[own["head"] == "own"]
    assert (own[["n_layers", "gamma"]] == [7, 1]).all(axis=None) and len(own) == 3
    same = frame[(frame["n_layers"] == 7) & (frame["gamma"] == 1)]
    for rows, ends in ((own, [0.15, 0.36]), (same, [0.77, 0.88])):
        assert rows["best_composite"].agg(["min", "max"]).round(2).tolist() == ends
    models = [
        cells_of(find(name), "paper")[0].model
        for name in (phase_diagram.TIED, transformer.CONVOLVED)
    ]
    assert [model.positional_encoding for model in models] == ["none", "learned"]
    assert [model.tie_embeddings for model in models] == [True, False]


def test_what_the_convolution_adds_to_a_transformer_of_two_layers() -> None:
    plain, convolved = frame_of(transformer.PLAIN), frame_of(transformer.CONVOLVED)
    assert len(plain) == 36 and set(plain["n_layers"]) == {2}
    pairs = convolved.merge(plain, on=["n_layers", "gamma", "seed"], suffixes=("", "_plain"))
    assert len(pairs) == 36
    both = ["best_composite", "best_composite_plain"]
    assert pairs[both].mean().round(2).tolist() == [0.54, 0.24]
    plainest = pairs[pairs["gamma"].between(0.5, 0.7)]
    trained = plainest[["final_train_accuracy", "final_train_accuracy_plain"]]
    assert len(plainest) == 9 and (trained > 0.99).all(axis=None)
    assert plainest[both].mean().round(2).tolist() == [0.61, 0.1]
    ends = plainest[["final_symmetric", "final_symmetric_plain"]]
    assert (ends > 0.5).sum().tolist() == [0, 9]
    at = pairs.groupby("gamma")
    assert at[both].mean().round(2).loc[1.5].tolist() == [0.66, 0.77]
    late = plain[(plain["gamma"] == 1.5) & (plain["final_composite"] > 0.5)]
    assert sorted(late["pair_34"].round(2)) == [0, 0.14]
    assert (plain.loc[plain["gamma"] == 0.1, "final_train_accuracy"] < 0.1).all()


def test_what_one_tap_brings_to_a_transformer_of_two_layers() -> None:
    kinds = {
        name: frame_of(name).query("n_layers == 2").set_index(["gamma", "seed"])
        for name in (transformer.CONVOLVED, transformer.POINTWISE, transformer.PLAIN)
    }
    table, known, fit = [], {}, []
    for name, rows in kinds.items():
        assert len(rows) == 36
        counts: list[int] = []
        learnt = rows[rows["pair_34"] > 0.75].sort_index()
        for part in (learnt.loc[:0.3], learnt.loc[0.4:]):
            ends = (part[["final_symmetric", "final_composite"]] > 0.5).sum()
            counts += [*ends, len(part)]
        table.append(counts)
        symmetric = learnt["final_symmetric"] > 0.5
        well = learnt["pair_34"] > 0.9
        known[name] = [symmetric[well].sum(), well.sum(), symmetric[~well].sum(), (~well).sum()]
        fit.append((rows.loc[0.8:, "final_train_accuracy"] > 0.94).sum())
    assert table == [[7, 0, 9, 2, 15, 24], [2, 1, 7, 6, 1, 13], [2, 0, 5, 11, 0, 14]]
    assert known[transformer.POINTWISE] == [8, 11, 0, 9]
    assert known[transformer.PLAIN][:2] == [13, 16]
    assert fit == [12, 0, 2]
    three = pd.concat(kinds, axis=1).sort_index().loc[0.4:]
    least = three.xs("pair_34", axis=1, level=1).min(axis=1)
    for cut, pairs, means in ((0.75, 12, [0.6, 0.29, 0.16]), (0.9, 7, [0.54, 0.3, 0.14])):
        chosen = three[least > cut].xs("best_composite", axis=1, level=1)
        assert len(chosen) == pairs and chosen.mean().round(2).tolist() == means
    layers = [
        build_language_model(cells_of(find(name), "paper")[0].model, seed=0).layers[0]
        for name in (transformer.POINTWISE, transformer.CONVOLVED)
    ]
    one, four = (float(layer.mixer.conv.weight.detach().abs().max()) for layer in layers)  # type: ignore[union-attr, operator, arg-type]
    assert one / four == pytest.approx(2, rel=0.1)  # "a range twice as wide"


def test_beyond_what_it_means_so_far() -> None:
    frame = frame_of(ablations.BEYOND)
    kinds = {name: rows for name, rows in frame.groupby("variant") if len(rows) == 3}
    names = list(ablations.TABLES[ablations.BEYOND]())
    assert len(names) == 8 and set(kinds) == set(names)
    standard, palindromic, none, third, deep, deep_palindromic, bare, deep_third = (
        kinds[name] for name in names
    )
    assert (none["final_symmetric"] > 0.94).all() and (none["final_composite"] < 0.02).all()
    assert none["best_composite"].between(0.45, 0.6).all()
    assert none["best_composite_epoch"].agg(["min", "max"]).tolist() == [15, 22]
    assert none["final_symmetric"].agg(["min", "max"]).round(2).tolist() == [0.95, 0.98]
    lost = standard[["best_composite", "final_composite"]].agg(["min", "max"]).T.round(2)
    assert lost.to_numpy().tolist() == [[0.24, 0.65], [0.01, 0.09]]
    kept = palindromic[["final_composite", "final_symmetric"]].agg(["min", "max"]).T.round(2)
    assert kept.to_numpy().tolist() == [[0.13, 0.51], [0, 0.05]]
    for rows in (standard, palindromic):
        assert (rows["best_symmetric"] < 0.2).all()
    assert (third["best_symmetric"] > 0.85).sum() == 1 and (
        third["best_symmetric"] < 0.2
    ).sum() == 2
    assert sorted(third["final_symmetric"].round(2)) == [0.03, 0.06, 0.57]
    assert (third["final_composite"] < 0.1).all()
    assert (deep["n_layers"] == 5).all() and (deep_palindromic["n_layers"] == 5).all()
    assert (deep_palindromic["final_composite"] > 0.9).all()
    assert (deep_palindromic["best_symmetric"] < 0.1).all()
    assert deep["final_composite"].min() < 0.1 and (deep["final_composite"] > 0.8).sum() == 2
    assert (bare["n_layers"] == 5).all() and (bare["final_seen"] > 0.999).all()
    found = bare[["final_composite", "final_symmetric", "best_composite"]].agg(["min", "max"])
    assert found.T.round(2).to_numpy().tolist() == [[0.01, 0.19], [0, 0.05], [0.19, 0.65]]
    composed = bare.loc[bare["best_composite"] > 0.5, "best_composite_epoch"]
    assert sorted(composed) == [19, 20]
    assert (deep_third["n_layers"] == 5).all() and (deep_third["final_seen"] > 0.999).all()
    found = deep_third[["final_composite", "final_symmetric", "best_composite"]]
    assert found.agg(["min", "max"]).T.round(2).to_numpy().tolist() == [
        [0.05, 0.13], [0.04, 0.14], [0.35, 0.58]
    ]  # fmt: skip
    records = page.records_of(ablations.BEYOND, "paper")
    bare_runs = [r.provenance["sessions"] for r in records if "L5-g1.0-tied-none" in r.readable]
    on_processor = [
        sum(session["steps"] for session in sessions if "H200" not in session["device_name"])
        for sessions in bare_runs
    ]
    assert on_processor == [1878] * 3


def matching_of(kind: str) -> pd.DataFrame:
    """Runs of the inverse task with two layers, tied weights: six gammas, three seeds."""
    frame = frame_of(inverse_matching.NAME)
    plain = f"{inverse_matching.KINDS[kind]}, 2 layers"
    rows = frame[frame["model"] == plain]
    assert rows.groupby("gamma")["seed"].nunique().to_dict() == dict.fromkeys(
        inverse_matching.GAMMAS, 3
    )
    return rows


def test_mamba_guesses_at_the_inverse_task() -> None:
    rows = matching_of("mamba")
    assert (rows["final_train"] > 0.9995).all() and rows["final_test"].between(0.19, 0.205).all()
    assert (rows["best_test"] < 0.212).all() and (rows["best_ood"] < 0.215).all()
    assert (rows["final_ood"] < 0.01).sum() == 1
    assert rows.loc[rows["final_ood"].idxmin(), "gamma"] == 1
    learnt = reached("mamba", "train", 0.99)
    assert (min(learnt), max(learnt)) == (59, 107)


def learning_of(kind: str) -> pd.DataFrame:
    curves = inverse_matching.curves(page.records_of(inverse_matching.NAME, "paper"))
    assert (curves["epoch"].min(), curves["epoch"].max()) == (1, 210)
    return curves[curves["model"] == f"{inverse_matching.KINDS[kind]}, 2 layers"]


def reached(kind: str, part: str, accuracy: float, gamma: float = 1.0) -> list[int]:
    """First epoch, from 1, at which each run up to `gamma` has the accuracy."""
    rows = learning_of(kind)
    rows = rows[(rows["gamma"] <= gamma) & (rows[part] >= accuracy)]
    return rows.groupby(["gamma", "seed"])["epoch"].min().tolist()


def test_whether_a_transformer_solves_the_inverse_task_depends_on_the_seed() -> None:
    rows = matching_of("transformer")
    solved = rows[rows["final_test"] > 0.98]
    assert solved.groupby("gamma")["seed"].count().to_dict() == {0.5: 2, 0.6: 2, 0.7: 1}
    assert rows.loc[rows["gamma"] == 0.8, "final_test"].max().round(2) == 0.92
    assert rows.loc[rows["gamma"] >= 0.9, "final_test"].max() < 0.8
    low = rows[rows["final_test"] < 0.7]
    assert len(low) == 10 and low["final_test"].round(2).between(0.54, 0.64).sum() == 8
    assert low["final_test"].min().round(2) == 0.39
    gaps = (low["final_train"] - low["final_test"]).sort_values()
    assert gaps.iloc[7].round(3) == 0.093 and gaps.iloc[8] > 0.2
    means = rows.groupby("gamma")["final_test"].mean().round(2)
    assert means.tolist()[:3] == [0.88, 0.87, 0.71] and means[0.8:].between(0.64, 0.65).all()
    late = learning_of("transformer").set_index(["gamma", "seed", "epoch"])["test"].sort_index()
    rests = late[0.6, 3]
    assert (
        rests[:115].max() < 0.63 and rests[30:110].between(0.59, 0.61).all() and rests[210] > 0.98
    )
    assert late[0.7, 1][180] - late[0.7, 1][150] > 0.05
    rates = warmup_cosine(210, 10, TrainingConfig().lr_start, 1.0, TrainingConfig().lr_end)
    assert round(rates[150], 1) == 0.2


def test_with_bypass_and_positions_mamba_solves_the_inverse_task() -> None:
    rows = matching_of("residual")
    assert rows["final_test"].agg(["min", "max"]).round(2).tolist() == [0.96, 1]
    early = reached("residual", "test", 0.95, 0.9)
    assert len(early) == 15 and max(early) == 42
    ood = rows.groupby("gamma")["final_ood"].agg(["min", "max"]).round(2)
    assert ood.loc[0.6].tolist() == [0.44, 0.72] and ood.loc[0.7].tolist() == [0.33, 0.78]
    assert (ood.loc[0.9:, "min"].min(), ood.loc[0.9:, "max"].max()) == (0.2, 0.29)
    assert ood.loc[0.8].tolist() == [0.28, 0.64]
    means = rows.groupby("gamma")[["best_ood", "final_ood"]].mean().round(2)
    assert means["best_ood"][0.8:].tolist() == [0.54, 0.44, 0.34]
    assert means["final_ood"][0.8:].tolist() == [0.41, 0.27, 0.23]
    assert max(reached("residual", "test", 0.95)) == 93 < min(reached("mamba", "train", 0.99)) + 35
    for _, one in learning_of("residual").groupby(["gamma", "seed"]):
        test = one.set_index("epoch")["test"]
        assert test[(test >= 0.95).idxmax() :].min() > 0.94


def test_a_gated_bypass_with_positions_solves_it_too() -> None:
    rows = matching_of("gated").set_index(["gamma", "seed"]).sort_index()
    test = rows["final_test"]
    (low,) = test.index[test < 0.99]
    assert low == (0.5, 3) and test[low].round(3) == 0.943
    assert test.drop(low).agg(["min", "max"]).round(3).tolist() == [0.991, 1]
    late = learning_of("gated").set_index(["gamma", "seed", "epoch"]).sort_index().loc[low]
    assert (late["train"][34:] == 1).all() and late["train"][33] < 1
    assert (late["test"][210] - late["test"][34]).round(3) == 0.029
    others = matching_of("residual").groupby("gamma")["final_test"]
    assert test[0.5].drop(3).round(3).tolist() == [0.991, 0.996]
    assert others.min()[0.5] > 0.9995
    assert (test[1.0].mean().round(3), others.mean()[1.0].round(3)) == (0.997, 0.974)
    for kind, when in (("gated", (24, 36)), ("residual", (54, 93))):
        curves = learning_of(kind)
        there = curves[(curves["gamma"] == 1) & (curves["test"] >= 0.95)]
        epochs = there.groupby("seed")["epoch"].min()
        assert len(epochs) == 3 and (epochs.min(), epochs.max()) == when


def test_a_gated_bypass_on_tokens_never_shown() -> None:
    rows = matching_of("gated")
    published = load_parts("achilles_inverse")[rows["model"].iloc[0]]
    theirs = pd.Series({gamma: parts["ood"] for gamma, parts in published.items()})
    assert (rows["final_ood"].mean().round(2), theirs.mean().round(2)) == (0.41, 0.34)
    ours = rows.groupby("gamma")["final_ood"].agg(["min", "max"])
    above = ours["min"] > theirs
    assert list(above.index[above]) == [0.6, 0.7] and theirs[above].tolist() == [0.34, 0.23]
    assert (ours["max"] > theirs).all()
    assert (ours[above]["min"].min().round(2), ours[above]["max"].max().round(2)) == (0.38, 0.55)
    assert ours.loc[1.0].round(2).tolist() == [0.2, 0.25]
    assert rows.loc[rows["gamma"] == 1, "best_ood"].mean().round(2) == 0.35


def test_with_either_bypass_and_positions_mamba_reaches_what_pages_say() -> None:
    ends = pd.concat([matching_of("residual"), matching_of("gated")])["final_test"]
    assert len(ends) == 36 and ends.min().round(2) == 0.94


def test_what_the_inverse_task_has_yet_to_run() -> None:
    """Pages call these missing; the plan has what they cost."""
    done = Counter(frame_of(inverse_matching.NAME)["model"])
    cells = find(inverse_matching.NAME).cells("paper")
    assert len(done) == 4 and set(done.values()) == {18} and len(cells) == 243
    left = Counter(
        "control" if kind in inverse_matching.CONTROLS else "depth" if cell.task.layers > 2 else
        "own"
        for cell in cells
        if (kind := inverse_matching.kind_of(cell.model)) in inverse_matching.CONTROLS
        or cell.task.layers > 2
        or (kind != "transformer" and not cell.model.tie_embeddings)
    )  # fmt: skip
    assert left == {"control": 63, "depth": 54, "own": 54}


def of_mamba(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["model"] == full_symmetry.MAMBA]


def symmetry_curves() -> pd.DataFrame:
    return full_symmetry.curves(page.records_of(full_symmetry.NAME, "paper"))


def test_full_symmetry_a_pair_is_learnt_and_its_mirror_is_not(root: Path) -> None:
    rows = of_mamba(frame_of(full_symmetry.NAME))
    grid = rows.groupby(["n_layers", "shift"])["seed"].nunique().to_dict()
    assert grid == dict.fromkeys([(2, 2), (3, 2), (4, 2), (2, -4), (2, 9)], 3)
    left = 2 * 3 + 3 * len(full_symmetry.CONTROLS)  # 5 and 6 layers, and what tells the reason
    assert len(find(full_symmetry.NAME).cells("paper")) == 15 + left == 39
    assert left - len(controls()) == 6 + 6  # yet to run: depths, and controls
    runs = ["n_layers", "shift", "seed"]
    curves = of_mamba(symmetry_curves())
    early = curves[curves["mirror"] >= 0.95].groupby(runs)["epoch"].min()
    assert len(early) == 15 and set(early) == {9, 10}
    assert rows["final_mirror"].min().round(3) == 0.985
    trained = [n for n in rows if n.startswith("pair_") and n not in ("pair_34", "pair_43")]
    assert len(trained) == 18 and (rows[trained] == 1).all(axis=None)
    (one,) = rows.index[rows["final_symmetric"] > 0.04]
    others = rows.drop(one)
    assert others["final_symmetric"].agg(["min", "max"]).round(3).tolist() == [0, 0.037]
    assert others["best_symmetric"].max().round(3) == 0.06
    assert rows.loc[one, ["n_layers", "shift"]].tolist() == [4, 2]
    assert rows.loc[one, ["final_symmetric", "best_symmetric"]].astype(float).round(3).tolist() == [
        0.099, 0.113,
    ]  # fmt: skip
    plain = rows[rows["shift"] == 2].groupby("n_layers")["final_symmetric"].mean().round(3)
    assert plain.to_dict() == {2: 0.006, 3: 0.015, 4: 0.052}
    assert rows.loc[rows["n_layers"] == 2, "final_symmetric"].max().round(3) == 0.017
    verdicts = {
        row["verdict"]
        for row in claims.report(root, chapter="achilles")
        if row["id"].startswith(full_symmetry.NAME)
    }
    assert verdicts == {"not run"}  # as the page says, for they are about all depths


def controls() -> pd.DataFrame:
    frame = frame_of(full_symmetry.NAME)
    return frame[frame["model"] != full_symmetry.MAMBA]


def test_full_symmetry_without_the_convolution_the_answer_comes_and_goes() -> None:
    frame, curves = frame_of(full_symmetry.NAME), symmetry_curves()
    bare, ones, palindromic, third = models = [
        full_symmetry.KERNELS["none"],
        full_symmetry.KERNELS["all_one"],
        full_symmetry.KERNELS["palindromic"],
        full_symmetry.MAMBA3,
    ]
    others = controls()
    assert others.groupby("model")["seed"].nunique().to_dict() == dict.fromkeys(models, 3)
    assert (others["n_layers"] == 2).all() and (others["final_train_accuracy"] > 0.9995).all()
    ends = {
        model: sorted(rows["final_symmetric"].round(2)) for model, rows in others.groupby("model")
    }
    best = {
        model: sorted(rows["best_symmetric"].round(2)) for model, rows in others.groupby("model")
    }
    assert all(sum(value > 0.5 for value in values) < 2 for values in ends.values())  # the rule
    assert ends[bare] == [0.04, 0.19, 1] and best[bare] == [0.85, 0.87, 1]
    assert ends[third] == [0, 0.07, 0.4] and best[third] == [0.02, 0.13, 0.77]
    assert (best[palindromic][0], best[palindromic][-1]) == (0.19, 0.39)
    assert (best[ones][0], best[ones][-1]) == (0.27, 0.42)
    assert ends[palindromic] == [0.1, 0.11, 0.23] and ends[ones] == [0.06, 0.12, 0.16]
    seen = others.loc[others["model"] == ones, "final_seen"]
    assert [seen.min().round(2), seen.max().round(2)] == [0.87, 0.95]
    learnt = {model: rows["final_mirror"].round(2) for model, rows in others.groupby("model")}
    assert sorted(learnt.pop(ones)) == [0.85, 0.91, 0.91]
    assert all((known == 1).all() for known in learnt.values())
    of_bare = curves[curves["model"] == bare].set_index(["seed", "epoch"])
    above = of_bare["symmetric"][of_bare["symmetric"] > 0.5].reset_index()
    assert above.groupby("seed")["epoch"].agg(["min", "size"]).to_numpy().tolist() == [
        [13, 198], [8, 50], [9, 94],
    ]  # fmt: skip
    later = of_bare[of_bare.index.get_level_values("epoch") >= 20]["train_accuracy"]
    loss = of_bare["train_loss"]
    assert loss.xs(20, level="epoch").median().round(3) == 0.006
    assert loss.xs(210, level="epoch").max() < 2.5e-7
    missed = later[later < 1].reset_index()
    assert len(missed) == 2 and missed["seed"].nunique() == 1
    standard = of_mamba(frame).query("n_layers == 2")
    assert standard["best_symmetric"].max() < 0.0605
    shares = frame[[f"answered_as_{pair}" for pair in ("03", "04", "14", "24", "34")]].sum(axis=1)
    assert (shares[others.index][others["model"] == bare] > 0.96).all()
    assert (shares[others.index][others["model"] == third] > 0.96).sum() == 2
    known = shares[standard.index][standard["answered_as_34"].notna()]
    assert len(known) == 3 and [known.min().round(2), known.max().round(2)] == [0.27, 0.44]
    for model, ends_of in ((ones, [0.74, 0.78]), (palindromic, [0.27, 0.47])):
        share = shares[others.index][others["model"] == model]
        assert [share.min().round(2), share.max().round(2)] == ends_of
    rules = SymmetryTask().rules  # no other pair has one of these five answers
    asked = {rules.labels[pair] for pair in ((0, 3), (0, 4), (1, 4), (2, 4), (3, 4))}
    same = {10 * a + b for a, b in rules.trained if rules.labels[a, b] in asked and a < b}
    assert same == {3, 4, 14, 24, 34}


def test_full_symmetry_the_mirror_is_not_composed_either() -> None:
    curves = of_mamba(symmetry_curves())
    runs = curves.groupby(["shift", "n_layers", "seed"])
    best, last = runs["composite"].max(), runs["composite"].last()
    assert len(best.drop(-4)) == 12 and best.drop(-4).max().round(3) == 0.05
    assert sorted(best[-4].round(2)) == [0.24, 0.49, 0.51]
    assert last[-4].round(2).between(0.02, 0.03).all()
    at = curves.loc[runs["composite"].idxmax()].set_index("shift").loc[-4]
    assert (at["epoch"] == 7).all()
    assert (at["train_accuracy"].min().round(2), at["train_accuracy"].max().round(2)) == (0.2, 0.33)
    for shift in (2, 9, -4):  # of which trained pairs the composed answer to 43 is that too
        rules = SymmetryTask(second_shift_of_4=shift).rules
        composed = rules.composite[HELD_OUT]
        same = {10 * a + b for a, b in rules.trained if rules.labels[a, b] == composed}
        assert same == ({12, 21, 23, 32} if shift == -4 else set())
        # with the first set, to which it belongs, it would be what its mirror means
        assert rules.labels[HELD_OUT] == -2 - 8
    assert SymmetryTask(second_shift_of_4=-4).rules.composite[HELD_OUT] == -1


def test_positional_encoding_what_it_means() -> None:
    frame = frame_of(ablations.POSITIONS)
    without = of_variant(frame, "none")
    assert (without[["best_composite", "best_symmetric"]] < 0.2).all(axis=None)
    answers = ["final_composite", "final_symmetric"]
    learned, sines = (of_variant(frame, name)[answers] for name in ("learned", "sinusoidal"))
    assert (learned.max(axis=1) > 0.6).all() and (learned["final_symmetric"] > 0.6).sum() == 1
    (both,) = sines.index[sines.min(axis=1) > 0.35]
    assert sines.loc[both].sum() > 0.85 and (sines.drop(both)["final_composite"] > 0.5).all()
    assert (pd.concat([learned, sines]).sum(axis=1) > 0.5).all()
    third = of_variant(frame, "third party, sinusoidal")
    assert (third["final_composite"] > 0.65).all() and (third["final_symmetric"] < 0.02).all()
    assert (third["best_symmetric"] < 0.13).all()
    bare = of_variant(frame, "third party, none")
    assert (bare["final_composite"] > 0.5).sum() == 1 and (bare["final_symmetric"] < 0.04).all()


def test_the_diagram_of_mamba1_composes_for_large_gamma() -> None:
    frame = frame_of(phase_diagram.MAMBA1)
    assert frame.groupby("n_layers")["gamma"].nunique().to_dict() == dict.fromkeys(range(2, 8), 12)
    assert (frame["best_symmetric_by_tens"] < 0.13).all()
    small, large = frame[frame["gamma"] <= 0.3], frame[frame["gamma"] >= 0.7]
    assert (small["best_composite"] < 0.15).all() and len(large) == 36
    best = large["best_composite_by_tens"]
    assert (best > 0.49).sum() == 34 and best.min() < 0.1
    deep = large[large["n_layers"] >= 4]
    assert (deep["final_composite"] > 0.49).sum() == 21 and len(deep) == 24
    lost = deep[deep["final_composite"] <= 0.49]
    where = [(row.n_layers, row.gamma) for row in lost.itertuples()]
    assert sorted(where) == [(6, 0.9), (6, 1.0), (7, 1.0)]
    table = {}
    for metric, theirs in load_reference("achilles_mamba1").maps.items():
        records = page.records_of(phase_diagram.MAMBA1, "paper")
        ours = phase_diagram.diagram(phase_diagram.MAMBA1, "paper", records).map(metric)
        table[metric] = phase.beside(ours, theirs)
    assert {len(rows) for rows in table.values()} == {33}
    means = table["best_composite_by_tens"][["ours", "published"]].mean().round(2)
    assert means.tolist() == [0.43, 0.43]
    assert table["final_composite"][["ours", "published"]].mean().round(2).tolist() == [0.22, 0.26]
    for metric, apart, rank in (("best", 0.17, 0.72), ("final", 0.17, 0.69)):
        found = phase.agreement(table[f"{metric}_composite{'_by_tens' * (metric == 'best')}"])
        assert (round(found.error, 2), round(found.rank or 0, 2)) == (apart, rank)
    best_cells = table["best_composite_by_tens"]
    furthest = best_cells["difference"].abs().nlargest(2).index
    assert (best_cells.loc[furthest, "gamma"] == 0.5).all()
    # how far seeds of one cell lie apart
    seeds = frame_of(interventions.NAME)
    seeds = seeds[(seeds["block"] == "mamba1") & (seeds["gamma"] == 0.5)]
    assert seeds["best_composite_by_tens"].round(2).agg(["min", "max"]).tolist() == [0.21, 0.77]


def test_unrelated_text_does_what_the_memory_pages_say() -> None:
    """Numbers of claims' notes too, rounded as they are there."""
    frame = memory_unrelated.frame(page.records_of(memory_unrelated.NAME, "matched"))
    assert len(frame) == 21
    chance = frame.drop(columns=["corpus", "status"]).groupby("length").mean()
    decoders = memory.frame(page.records_of(memory.NAME, "matched"))
    decoders = decoders[decoders["model"] == "mamba1-20x192-kinds"]
    own = decoders.drop(columns=["model", "corpus", "status"]).groupby("length").mean()
    share = own["omission"] / chance["omission"]
    assert share[64] == pytest.approx(0.5, abs=0.05) and share[128] == pytest.approx(0.75, abs=0.05)
    assert share[256] == pytest.approx(1, abs=0.02)  # and prose is lost even more
    assert own.loc[256, "omission_prose"] > chance.loc[256, "omission_prose"]
    within = chance["rho_frequency_within"]
    for model in ("mamba1-20x192-kinds", "mamba1-17x128-kinds"):
        table = memory.frame(page.records_of(memory.NAME, "matched"))
        rows = table[table["model"] == model].groupby("length")["rho_frequency_within"].mean()
        assert (within[rows.dropna().index] < rows.dropna()).all()
    long = chance.loc[[64, 128, 256]]
    assert long["rho_frequency"].round(2).agg(["min", "max"]).tolist() == [-0.58, -0.55]
    assert long["rho_frequency_within"].round(2).agg(["min", "max"]).tolist() == [-0.55, -0.52]
    slope = long["omission_first_quarter"] - long["omission_last_quarter"]
    assert slope.round(2).agg(["min", "max"]).tolist() == [-0.19, -0.14]
    even = long["omission_first_quarter_even"] - long["omission_last_quarter_even"]
    assert even.abs().max() < 0.005
    theirs = (own["omission_first_quarter"] - own["omission_last_quarter"]).loc[long.index]
    assert (theirs > slope).all()
    two = of_size(2e6)
    two = (two["omission_first_quarter"] - two["omission_last_quarter"]).loc[long.index]
    assert (two > slope).all()
    # claims on words: what leads in an unrelated text, draw by draw
    drawn = frame[frame["length"] >= 64]
    numbers = (drawn["omission_pos_NUM"] - drawn["omission_pos_most"]).groupby(drawn["length"])
    assert numbers.mean().round(2).agg(["min", "max"]).tolist() == [-0.06, -0.03]
    assert numbers.max().max() < 0
    places, groups = drawn["omission_entity_Location"], drawn["omission_entity_Organization"]
    assert (places == drawn["omission_entity_most"]).all() and (groups < places).all()
    assert groups.round(2).between(0.97, 0.98).all() and (places > 0.99).all()
    # a state of zeros is no measure of habit
    every = memory.frame(page.records_of(memory.NAME, "matched"))
    for model in ("mamba1-20x192-kinds", "mamba1-17x128-kinds"):
        zero = every[every["model"] == model].set_index("length")["zero_omission"]
        assert (zero > chance["omission"].loc[zero.index]).all()
    kinds = ("prose", "code", "mathematics", "dialogue", "reference")
    lost = chance[[f"omission_{kind}" for kind in kinds]]
    assert (lost.idxmax(axis=1) == "omission_prose").all()
    for kind, ends in (("mathematics", [-0.3, -0.24]), ("code", [-0.27, -0.26])):
        less = long[f"omission_{kind}"] - long["omission_prose"]
        assert less.round(2).agg(["min", "max"]).tolist() == ends
    classes = chance.filter(regex="^omission_pos_[A-Z]+$").loc[8:]
    for _, row in classes.iterrows():
        assert {c.rsplit("_", 1)[1] for c in row.nlargest(3).index} == {"NOUN", "ADJ", "NUM"}


def test_the_state_still_holds_something_of_256_tokens() -> None:
    """Though omission tells no decoder from another text of the same kind there."""
    chance = memory_unrelated.frame(page.records_of(memory_unrelated.NAME, "matched"))
    chance = chance[chance["length"] == 256]
    own = three_seeds().loc[256]
    assert len(own) == len(chance) == 3
    for name, ours, theirs in (("token_accuracy", 0.035, 0.024), ("rougeL", 0.27, 0.22)):
        assert own[name].min() > chance[name].max()
        found = (own[name].mean(), chance[name].mean())
        assert found == pytest.approx((ours, theirs), abs=0.5 * 10 ** -len(str(ours)[2:]))
    assert (own["omission"] < own["shuffled_omission"] - 0.07).all()
    assert (
        round(own["shuffled_omission"].mean(), 2) == 0.58
        and round(own["omission"].mean(), 2) == 0.49
    )
    # answers kept as text: words shared with their own chunk and with the other one of its kind
    table = memory.tables(page.records_of(memory.NAME, "matched"), "example")
    table = table[(table["length"] == 256) & (table["model"] == "mamba1-20x192-kinds")]
    shares = []
    for _, pair in table.groupby(["seed", "group"]):
        chunks, answers = (
            [Counter(rouge_words(text.replace("\x1f", ""))) for text in pair[column]]
            for column in ("text", "written")
        )
        for chunk, other, answer in zip(chunks, chunks[::-1], answers, strict=True):
            shares.append([(one & answer).total() / one.total() for one in (chunk, other)])
    found = pd.DataFrame(shares, columns=["own", "other"])
    assert len(found) == 30 and (found["own"] > found["other"]).sum() == 26
    assert found.mean().round(2).tolist() == [0.34, 0.23]


def test_lines_from_the_pair_by_depth() -> None:
    records = page.records_of(phase_diagram.TIED, "paper")
    tables = {g: interventions.read_later_table(records, g).set_index("layers") for g in (1.0, 0.5)}
    for table in tables.values():
        assert table.index.tolist() == [2, 3, 4, 5, 6, 7]
    ends = tables[1.0].pop("composite at the end")
    assert round(ends[2], 2) == 0.01 and (ends.loc[3:] > 0.65).all()
    widths = {n: row.dropna().tolist() for n, row in tables[1.0].iterrows()}
    assert [round(w, 2) for w in widths[2]] == [0.14, 0.34]
    last = {n: round(row[-1], 1) for n, row in widths.items() if n > 2}
    assert last.pop(4) == 0.5 and min(last.values()) == 1.7 and max(last.values()) == 3.8
    assert max(width for n, row in widths.items() if n > 2 for width in row[:-2]) < 0.4
    assert round(tables[0.5].loc[2, "layer 2"], 1) == 6.5
    (model,) = [r for r in records if r.readable == "mamba2-L2-g1.0-tied-s1"]
    assert model.metrics["final_symmetric"] < 0.01 and model.metrics["final_seen"] > 0.999


def test_blocking_two_ways_to_the_answer() -> None:
    table = routes.routes(frame_of(interventions.NAME))
    ours = table[table["block"] == "mamba2"]
    at_one = ours[ours["gamma"] == 1.0]["route"].tolist()
    assert routes.BEHIND in at_one and routes.PAIR in at_one  # seeds of one model
    assert ours["kept_untrained"].min() > 0.8
    best = ours.groupby("route")["best_composite"]
    assert best.min()[routes.BEHIND] > best.max()[routes.PAIR]
    counts = ours["route"].value_counts().to_dict()
    assert counts == {routes.BEHIND: 3, routes.PAIR: 4, routes.BOTH: 5}
    assert ours["kept_untrained"].min() > 0.87
    by_convolution = ours[ours["route"] == routes.BEHIND]["final_composite"]
    assert by_convolution.round(2).tolist() == [0.01, 0.08, 0.74]
    reach = best.agg(["min", "max"]).round(2)
    assert reach.loc[routes.BEHIND].tolist() == [0.61, 0.83]
    assert reach.loc[routes.BOTH].tolist() == [0.37, 0.72] and reach["max"][routes.PAIR] == 0.25
    assert (ours.loc[ours["route"] == routes.PAIR, "gamma"] == 0.5).sum() == 3
    frame = frame_of(interventions.NAME).set_index(["block", "gamma"])
    unseen = frame.loc[("mamba2", 1.0)][["blocking_end_43", "blocking_inner_43"]].max()
    assert unseen.round(2).tolist() == [0.91, 0.97]
    others = frame.loc[("mamba2", 1.0)].query("seed > 1")[["blocking_end_43", "blocking_inner_43"]]
    assert others.round(2).to_numpy().tolist() == [[0.63, 0.64], [0.26, 0.11]]
    # before training most pass both tests
    passed = table[["kept_untrained", "given_untrained"]].ge(routes.MOST).all(axis=1)
    assert passed.groupby(table["block"]).sum().to_dict() == {"mamba1": 9, "mamba2": 10}
    with_anchors = frame.loc["mamba2"][
        ["substitution_inner_mean", "substitution_inner_mean_with_pair"]
    ]
    hardly = with_anchors[with_anchors["substitution_inner_mean"] < 0.05]
    assert len(hardly) == 4
    assert hardly["substitution_inner_mean_with_pair"].round(2).agg(["min", "max"]).tolist() == [
        0.51, 0.85
    ]  # fmt: skip


def test_blocking_of_the_unseen_pair_hangs_on_the_reading() -> None:
    records = page.records_of(interventions.NAME, "paper")
    one = [r for r in records if r.weights and "g1.0" in r.readable]
    (row,) = interventions.kept_of_held_out(one).to_dict("records")
    assert row.pop("model") == "Mamba-2, 2 layers, gamma 1, tied weights, seed 1"
    shares = {str(name).split(" (")[1]: value for name, value in row.items()}
    kept = {name: round(int(name.split(")")[0]) * value) for name, value in shares.items()}
    assert kept == {
        "480); anchors are later tokens": 438, "480); only tokens after the pair": 476,
        "400); anchors are later tokens": 387, "400); only tokens after the pair": 395,
    }  # fmt: skip
    alike = interventions.alike_untouched([r for r in records if r.weights])
    assert len(alike) == 4 and alike["trained"].max() < 0.06 and alike["untrained"].min() > 0.3


def test_blocking_what_the_state_carries_and_from_where() -> None:
    rows = frame_of(opened.NAME)
    kept, composed = opened.kept(rows), opened.composed(rows)
    assert len(rows) == 16 and (rows["experiment"] == phase_diagram.TIED).sum() == 12
    assert kept["S from key and first anchor"].agg(["min", "max"]).round(2).tolist() == [0.79, 1]
    gap = kept["S from the second anchor"] - kept["S from key and anchors"]
    assert gap.abs().max() < 0.16 and gap.abs().median() < 0.02
    joined = kept["all but the second anchor's convolution"].set_axis(
        pd.MultiIndex.from_frame(rows[["gamma", "n_layers"]])
    )
    assert joined[0.5].agg(["min", "max"]).round(2).tolist() == [0.73, 0.89]
    assert joined[1.0].loc[6:].round(2).tolist()[:2] == [0.86, 0.91]
    assert joined[1.0].loc[[2, 3, 4, 5]].agg(["min", "max"]).round(2).tolist() == [0.1, 0.6]
    settled = kept[kept["S from key and anchors"] > 0.95]
    assert list(settled.index) == ["2 layers, γ 1", "2 layers, γ 1, of this page"]
    assert settled["S from tokens behind the pair"].round(2).tolist() == [0.02, 0.03]
    assert rows.set_index(kept.index).loc[settled.index, "final_composite"].max().round(2) == 0.01
    assert kept["S from tokens before the key"].min().round(2) == 0.98
    compose = (rows["final_composite"] > 0.5).to_numpy()
    cut = "S from key and anchors"
    assert compose.sum() == 7
    assert kept.loc[compose, cut].agg(["min", "max"]).round(2).tolist() == [0.03, 0.77]
    uncut = composed.loc[compose, "nothing"]
    assert uncut.agg(["min", "max"]).round(3).tolist() == [0.61, 0.865]
    assert composed.loc[compose, cut].agg(["min", "max"]).round(3).tolist() == [0.025, 0.555]


def test_where_transformers_put_key_and_anchors_together() -> None:
    rows = frame_of(opened.TRANSFORMERS)
    heard = opened.heard(rows)
    convolved = (rows["experiment"] == transformer.CONVOLVED).to_numpy()
    models = ["n_layers", "gamma"]
    assert rows.loc[convolved, models].to_numpy().tolist() == [
        [layers, gamma] for layers in (3, 4, 5, 7) for gamma in (0.5, 1)
    ]
    assert rows.loc[~convolved, models].to_numpy().tolist() == [[2, 0.5], [2, 1]]
    second, first = "attention to the second anchor", "attention to the first anchor"
    taps, through = (
        f"the {token}'s taps to key and first" for token in ("second anchor", "next token")
    )
    alone = "all but the second anchor's convolution"
    other = convolved & (rows["n_layers"] == 4).to_numpy() & (rows["gamma"] == 1).to_numpy()
    usual = heard[convolved & ~other]
    assert len(usual) == 7
    ends = usual.agg(["min", "max"]).round(2).to_dict("list")
    assert ends["attention to key and first anchor"] == [0.91, 1] and ends[second] == [0.01, 0.03]
    assert ends[taps] == [0.01, 0.02] and ends[through] == [0.5, 0.99]
    assert usual[alone].round(2).tolist() == [0.98, 0.98, 0.74, 0.74, 0.84, 0.43, 0.47]
    (next_token,) = heard[other].round(2).to_dict("records")
    assert [next_token[name] for name in (second, taps, through)] == [0.89, 0.77, 0.02]
    only = heard.loc[convolved, "all but the next token's convolution"].round(2)
    assert only[other[convolved]].tolist() == [0.76] and only[~other[convolved]].max() == 0.03
    assert heard.loc[~convolved, alone].isna().all()
    plain, unfit = (heard[~convolved].iloc[k].round(2) for k in (0, 1))
    assert plain[[first, second]].tolist() == [0.19, 0.19]
    assert plain["attention to the key"] == 1 and plain["the anchors' attention to the key"] == 0.01
    assert unfit["attention to tokens before the key"] == 0.74  # a quarter is lost
    ends = frame_of(transformer.CONVOLVED).set_index(["n_layers", "gamma", "seed"])
    opened_ones = [(layers, gamma, 1) for layers in (3, 4, 5, 7) for gamma in (0.5, 1.0)]
    final = ends.loc[opened_ones, ["final_symmetric", "final_composite"]].round(2)
    assert final["final_symmetric"].tolist() == [0.91, 0.84, 0.57, 0.03, 0.09, 0.59, 0.35, 0]
    assert final["final_composite"].tolist() == [0.03, 0.15, 0.13, 0.11, 0.75, 0.23, 0.36, 0.87]
    trained = frame_of(transformer.PLAIN).query("seed == 1").set_index("gamma")
    accuracy = trained["final_train_accuracy"]
    assert accuracy[0.5] > 0.999 and accuracy[1.0] < 0.9


def test_the_same_seed_run_again_can_end_elsewhere() -> None:
    key = ["gamma", "seed"]
    first = frame_of(interventions.NAME).query("block == 'mamba2'").set_index(key)
    again = frame_of(phase_diagram.TIED).query("n_layers == 2").set_index(key)
    pairs = {at: (round(first["best_composite"][at], 2), round(again["best_composite"][at], 2))
             for at in ((1.5, 2), (2.0, 1))}  # fmt: skip
    assert pairs == {(1.5, 2): (0.83, 0.5), (2.0, 1): (0.37, 0.77)}
    standard = of_variant(frame_of(ablations.BEYOND), "standard, 5 layers")["final_composite"]
    diagram = frame_of(phase_diagram.TIED).query("n_layers == 5 and gamma == 1")["final_composite"]
    assert [round(each.mean(), 2) for each in (diagram, standard)] == [0.55, 0.58]
    assert (standard < 0.1).sum() == (diagram < 0.1).sum() == 1


def test_the_third_partys_gamma_one_is_higher_than_ours() -> None:
    frame = frame_of(phase_diagram.MAMBA1).query("gamma == 1").set_index("n_layers")
    ours = frame["best_composite_by_tens"]
    theirs = load_reference("achilles_mamba1").maps["best_composite_by_tens"][1.0]
    for depth, both in {3: (0.95, 0.53), 5: (0.91, 0.66), 7: (0.86, 0.69)}.items():
        assert (round(theirs[depth], 2), round(ours[depth], 2)) == both
    more = of_variant(frame_of(ablations.ALL_ONE), "third party, standard")
    five = [*more["best_composite_by_tens"], ours[5]]
    assert (round(min(five), 2), round(max(five), 2)) == (0.41, 0.71)
    ends = [*more["final_composite"], frame["final_composite"][5]]
    assert (round(min(ends), 2), round(max(ends), 2)) == (0.22, 0.65)
    for gamma, best, end in ((0.5, (0.21, 0.77), (0.14, 0.58)), (1.0, (0.61, 0.77), (0.43, 0.67))):
        cells = frame_of(interventions.NAME), frame_of(phase_diagram.MAMBA1)
        two = pd.concat([
            each[(each["block"] == "mamba1") & (each["n_layers"] == 2) & (each["gamma"] == gamma)]
            for each in cells
        ])  # fmt: skip
        assert len(two) == 4
        for metric, ends in (("best_composite_by_tens", best), ("final_composite", end)):
            assert tuple(two[metric].round(2).agg(["min", "max"])) == ends


def test_the_diagram_in_short() -> None:
    frame = frame_of(phase_diagram.TIED)
    records = page.records_of(phase_diagram.TIED, "paper")
    found = phase_diagram.diagram(phase_diagram.TIED, "paper", records).map("best_composite")
    table = phase.beside(found, load_reference("achilles_phase").maps["best_composite"])
    agreement = phase.agreement(table)
    assert round(agreement.rank or 0, 1) == 0.9 and round(agreement.bias, 2) == 0.08
    printed = table["published"].mean()
    assert abs(frame["final_composite"].mean() - printed) < 0.02
    answers = phase_diagram.answers_frame(records)
    said = phase_diagram.answers_sentence(answers)
    assert "12 models is that of pair 42 in 10" in said


def test_blocking_of_mamba1_is_a_matter_of_gamma() -> None:
    frame = frame_of(interventions.NAME)
    table = routes.routes(frame)
    theirs = table[(table["block"] == "mamba1") & (table["n_layers"] == 2)]
    assert len(theirs) == 6 and set(theirs["route"]) == {routes.BOTH}
    rows = frame[(frame["block"] == "mamba1") & (frame["n_layers"] == 2)].set_index("gamma")
    half, one = rows.loc[0.5], rows.loc[1.0]
    ways = ["blocking_end_mean", "blocking_end_mean_after_pair", "blocking_inner_mean",
            "blocking_inner_mean_after_pair"]  # fmt: skip
    assert (half[ways] > 0.93).all(axis=None) and (one[ways] < 0.56).all(axis=None)
    assert one["best_composite"].mean() > half["best_composite"].mean()
    deep = frame[(frame["block"] == "mamba1") & (frame["n_layers"] == 7)]
    kept = deep["blocking_end_mean"]
    assert kept.round(2).tolist() == [0.9, 0.73, 0.49]
    assert deep["final_composite"].round(2).tolist() == [0.34, 0.55, 0.64]
    assert kept.min() > one["blocking_end_mean"].max()
    # further apart than the published number is from two of them
    assert (kept - 0.648).abs().nsmallest(2).max() < kept.sort_values().diff().min()
    settled = table[(table["n_layers"] == 7) & (table["route"] == routes.BEHIND)]
    assert settled["seed"].tolist() == [42]


def test_cosines_of_taps_what_is_found() -> None:
    frame = frame_of(interventions.NAME).set_index(["block", "n_layers"])

    def between(block: str, n_layers: int, layer: int) -> list[float]:
        found = frame.loc[(block, n_layers), f"cosine_final_layer{layer - 1}"]
        return [round(float(each), 2) for each in (found.min(), found.max())]

    assert [between("mamba2", 2, layer) for layer in (1, 2)] == [[0.07, 0.16], [0.21, 0.34]]
    assert between("mamba1", 2, 2) == [0.6, 0.9] and len(frame.loc[("mamba1", 2)]) == 6
    assert [between("mamba1", 7, layer) for layer in (5, 6, 7)] == [
        [0.65, 0.73], [0.83, 0.87], [0.88, 0.97],
    ]  # fmt: skip
    deep = interventions.cosines(frame.query("n_layers == 7").reset_index())
    times = ("at the end", "at the start")
    assert deep["choice"].drop_duplicates().tolist() == [
        f"layer {layer}, {when}" for when in times for layer in range(1, 8)
    ]
    first = [between("mamba1", 7, layer) for layer in range(1, 5)]
    assert (min(low for low, _ in first), max(high for _, high in first)) == (0.14, 0.43)
    start = frame.loc[("mamba1", 7), [f"cosine_start_layer{layer}" for layer in range(4)]]
    assert (round(start.min(axis=None), 2), round(start.max(axis=None), 2)) == (0.12, 0.3)
    assert [round(cosine_by_chance(channels), 2) for channels in (64, 320)] == [0.21, 0.09]


def test_substitution_that_any_model_passes() -> None:
    frame = frame_of(interventions.NAME)
    theirs = frame[frame["block"] == "mamba1"]
    assert len(theirs) == 9
    assert ((theirs["substitution_end_mean_with_pair"] - 0.883).abs() < 0.02).all()
    assert theirs["substitution_end_mean_untrained"].to_list() == pytest.approx([13 / 15] * 9)
    shallow, deep = (theirs[theirs["n_layers"] == n] for n in (2, 7))
    assert shallow["substitution_end_mean"].between(0.3, 2 / 3).all()
    ours = frame[frame["block"] == "mamba2"]
    bound = {when: int((ours[f"substitution_inner_mean{when}"] >= 0.944).sum())
             for when in ("", "_untrained")}  # fmt: skip
    assert bound == {"": 3, "_untrained": 11}
    ends = {"end_mean_with_pair": (0.885, 0.887), "end_mean": (0.7, 0.81),
            "inner_mean": (0.84, 0.97)}  # fmt: skip
    for metric, both in ends.items():
        found = deep[f"substitution_{metric}"].agg(["min", "max"])
        assert tuple(found.round(3 if "pair" in metric else 2)) == both


@pytest.mark.parametrize("end, share", [("inner", 1.0), ("end", 5 / 6)])
def test_substitution_a_sixth_has_nothing_behind_the_pair(end: str, share: float) -> None:
    frame = frame_of(interventions.NAME)
    table = routes.routes(frame)
    key = ["block", "n_layers", "gamma", "seed"]
    taken = table[table["route"] == routes.BEHIND].set_index(key).index
    found = frame.set_index(key).loc[taken, f"substitution_{end}_mean"]
    assert ((found - share).abs() < 0.03).all()


def noise_cells(name: str = noise_phases.NAME) -> pd.DataFrame:
    frame = find(name).frame(page.records_of(name, "matched"))
    return frame[frame["size"] == "1M"]


def on_all_facts() -> pd.DataFrame:
    return noise_phases.on_all_facts(noise_cells(), "1M")


def by_seed(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Rows (model, seed), a column a noise; for noise on all facts."""
    whole = noise_phases.on_all_facts(frame, "1M")
    assert len(whole) == 3 * 3 * 6  # architectures, seeds, noises and the control
    return whole.pivot_table(index=["model", "seed"], columns="noise", values=column)


FORMS, MEANINGS = ["char_flip", "word_flip", "transliteration"], ["irrelevant", "counterfactual"]


def test_noise_every_form_is_learnt_and_none_is_kept() -> None:
    frame = noise_cells()
    assert len(frame) == 189 == 3 * 3 * 21
    assert by_seed(frame, "own_noisy")[FORMS].min(axis=None) > 0.98
    met = frame[frame["noise"] != "none"]
    assert len(met) == 180 and (met["noise_again"] * met["questions"] < 1.5).all()
    assert (frame["questions"] == 1440).all()
    flips = frame[frame["noise"].isin(FORMS)]
    assert (flips["own_again"] == 0).all() and (flips["own_clean"] == 0).all()


def noise_distances(column: str) -> pd.DataFrame:
    """Rows (model, seed), a column a noise, in nats a token."""
    distances = noise_phases.distances(on_all_facts())
    assert len(distances) == 3 * 3 * 5
    return distances.pivot_table(index=["model", "seed"], columns="noise", values=column)


def test_noise_unlearnt_is_not_forgotten() -> None:
    trace, never = noise_distances("trace"), noise_distances("control, phase 3")
    assert (trace > 0.15).all(axis=None)
    assert (trace[FORMS] > 0.3 * never[FORMS]).all(axis=None) and (trace[FORMS] > 3).all(axis=None)
    assert trace[MEANINGS].max(axis=None) < 2
    others = noise_phases.traces_of_others(on_all_facts()).set_index("taught")
    assert others.index.tolist() == others.columns.tolist() and len(others) == 5
    pair = ["character flip", "transliteration"]
    assert (others.loc[pair, pair] > 0.9).all(axis=None)
    for name, asked in others.items():
        rest = asked.drop([str(name), *(pair if name in pair else [])])
        assert rest.abs().max() < (0.35 if name == "counterfactual" else 0.15) * asked[name]


# of 3 seeds, in how many a noise leaves the larger trace in a Mamba than in the Transformer
LARGER_TRACES = {
    "Mamba-1": {"char_flip": 3, "word_flip": 3, "transliteration": 1, "irrelevant": 0,
                "counterfactual": 2},
    "Mamba-2": {"char_flip": 2, "word_flip": 3, "transliteration": 1, "irrelevant": 0,
                "counterfactual": 3},
}  # fmt: skip


@pytest.mark.parametrize("noise", [*FORMS, *MEANINGS])
@pytest.mark.parametrize("mamba", list(LARGER_TRACES))
def test_noise_whose_trace_is_larger_depends_on_the_noise(mamba: str, noise: str) -> None:
    trace, never = noise_distances("trace")[noise], noise_distances("control, phase 3")[noise]
    more = trace[mamba] - trace["Transformer"]
    assert len(more) == 3 and (more > 0).sum() == LARGER_TRACES[mamba][noise]
    means = trace.groupby(level="model").mean()
    quoted = {"word_flip": (6.4, 6.4, 4.3), "irrelevant": (1.0, 1.0, 1.6)}
    if noise in quoted:
        ours = means[["Mamba-1", "Mamba-2", "Transformer"]]
        assert ours.to_numpy() == pytest.approx(quoted[noise], abs=0.06)
    if noise == "counterfactual":
        assert more.max() < 0.105
    if noise == "irrelevant":  # controls differ already, which is why distances are not compared
        assert (never[mamba] < never["Transformer"]).all()


def test_noise_who_answers_backwards_still_knows() -> None:
    frame = noise_cells()
    known = by_seed(frame, "content_noisy")
    worst = known[FORMS].stack()
    assert worst.idxmin() == ("Mamba-2", 2, "char_flip") and round(worst.min(), 2) == 0.65
    for noise in FORMS:
        assert (known[noise] > 0.6).all()
    for noise in MEANINGS:
        assert (known[noise] < 0.004).all()
    clean, again = by_seed(frame, "content_clean"), by_seed(frame, "content_again")
    for noise in MEANINGS:
        assert (again[noise] - clean[noise] > -0.02).all()


def test_noise_the_third_partys_accuracy_is_that_of_the_template() -> None:
    frame = noise_cells()
    assert (frame["their_accuracy_shuffled"] == 1).all() and len(frame) == 189
    theirs = by_seed(frame, "their_accuracy_noisy")
    assert (theirs["char_flip"] == 0).all() and (by_seed(frame, "content_noisy") > 0.6)[
        "char_flip"
    ].all()
    for noise in MEANINGS:
        assert (theirs[noise] > 0.997).all()
    audit = find("noise.audit").frame(page.records_of("noise.audit", "paper"))
    rates = audit.set_index("answers")["their_accuracy"]
    assert rates["shuffled"] < 0.025 and rates["counterfactual"] > 0.7


def test_noise_the_architecture_decides_how_much_is_known() -> None:
    frame = noise_cells()
    clean = by_seed(frame, "content_clean")["none"].unstack()
    assert (clean.loc["Transformer"] == 1).all() and (clean.loc["Mamba-1"] > 0.995).all()
    assert (clean.loc["Mamba-2"] < 0.9).sum() == 2
    kept = by_seed(frame, "kept")["char_flip"].unstack()
    assert (kept.loc["Transformer"] > 0.99).all() and (kept.loc["Mamba-1"] < 0.92).all()
    assert 1 / 8 < 1 - kept.loc["Mamba-1"].mean() < 1 / 6
    assert 1 / 5 < 1 - kept.loc["Mamba-2"].mean() < 1 / 3.5
    assert (kept.loc["Mamba-2"] < kept.loc["Mamba-1"]).all()  # seed by seed
    again = by_seed(frame, "content_again")
    beyond = again.sub(again["none"], axis=0)
    assert (beyond.loc[["Mamba-1", "Transformer"]].abs() < 0.02).all(axis=None)
    assert (beyond.loc["Mamba-2", ["char_flip", "word_flip"]] > 0).all(axis=None)
    less = beyond.drop(columns="none").stack()
    assert len(less) == 45
    (exception,) = less[less < -0.02].index
    assert exception == ("Mamba-2", 2, "transliteration")
    both = again.loc[("Mamba-2", 2), ["transliteration", "none"]]
    assert (100 * both).round(1).tolist() == [84.8, 89.2]


def test_noise_controls_have_room_to_rise_in_mamba2_alone() -> None:
    frame = noise_cells()
    clean, again = (by_seed(frame, f"content_{phase}")["none"] for phase in ("clean", "again"))
    before = clean.groupby(level="model").mean().round(3)
    assert before.to_dict() == {"Mamba-1": 0.998, "Mamba-2": 0.92, "Transformer": 1.0}
    assert round(again["Mamba-2"].mean(), 3) == 0.95
    rise = (again - clean).round(2)
    assert sorted(rise["Mamba-2"]) == [0, 0.01, 0.08] and clean["Mamba-2"].max() > 0.99
    assert (rise["Mamba-2"].idxmin(), clean["Mamba-2"].idxmax()) == (3, 3)
    assert (rise[["Mamba-1", "Transformer"]] < 0.01).all()


def test_noise_two_runs_are_told_apart() -> None:
    frame = noise_cells()
    whole = frame["share"].eq(1) & frame["samples"].isna()
    assert len(set(frame.loc[whole, "began"])) == 1
    assert not set(frame.loc[whole, "began"]) & set(frame.loc[~whole, "began"])
    known = {
        later: frame[(whole == later) & (frame["model"] == "Mamba-2")]
        .groupby("seed")["content_clean"].agg(["min", "max"])
        for later in (True, False)
    }  # fmt: skip
    for table in known.values():  # arms of one run and seed begin with one model
        assert (table["min"] == table["max"]).all()
    percent = {later: (100 * table["min"]).round(1).tolist() for later, table in known.items()}
    assert percent == {True: [88.3, 88.1, 99.7], False: [92.5, 90.8, 90.7]}
    table = noise_phases.origins(frame)
    assert table["noise on"].tolist().count("all facts") == 1 and table["records"].sum() == 189
    assert len(table) == 3
    drawn = frame[frame["samples"].isna()]
    figure = noise_figures.mixed(drawn, ["noise_chosen_noisy"], "t", FORMS)
    for trace in figure.data:
        # models stand side by side
        assert list(trace.x) == pytest.approx([10, 50, 75, 100], abs=2.5)
        assert math.isnan(trace.y[2])


def test_noise_claims_of_a_gain_test_a_gain(root: Path) -> None:
    rows = [claim for claim in claims.load_claims(root) if claim.chapter == "noise"]
    gains = {claim.id: claim for claim in rows if "a gain of" in claim.statement}
    assert set(gains) == {
        "noise.matched.counterfactual-helps", "noise.mamba_1_4b.char-flip-again",
        "noise.mamba_1_4b.counterfactual",
    }  # fmt: skip
    for claim in gains.values():
        assert claim.rule == "at least" and claim.minus is not None
        assert claim.minus.endswith("_clean") and claim.value > claim.tolerance
    assert all(claim.minus for claim in rows if "more than" in claim.statement)
    ours = gains["noise.matched.counterfactual-helps"]
    (row,) = claims.report(root, chapter="noise", prefix=ours.id)
    assert row["verdict"] == "protocol unknown" and "99.5 to 100 %" in (ours.unknown or "")
    known = by_seed(noise_cells(), "content_clean").loc["Mamba-1", "counterfactual"]
    assert (round(known.min(), 3), known.max()) == (0.995, 1)
    assert 1 - known.min() < ours.value - ours.tolerance  # no run could keep the rule


@functools.cache
def of_a_part() -> pd.DataFrame:
    """Rows (share, noise, model, seed): facts chosen for a noise and the others, apart."""
    records = page.records_of(noise_phases.NAME, "matched")
    frame = noise_cells()
    part = noise_phases.with_sides(frame[frame["share"] < 1], records)
    assert len(part) == 2 * 5 * 3 * 3
    return part.set_index(["share", "noise", "model", "seed"]).sort_index()


def test_noise_on_a_part_of_the_facts_spills_over() -> None:
    part = of_a_part()
    for name in ("content", "noise"):  # what records hold themselves comes out of their curves too
        held = noise_cells().set_index(["share", "noise", "model", "seed"])
        held = held.loc[part.index, [f"{name}_others_noisy", f"{name}_chosen_noisy"]]
        assert (part[held.columns] - held).abs().max(axis=None) < 1e-12
    chosen = part["noise_chosen_noisy"]
    assert (chosen.min().round(2), chosen.max(), chosen.mean().round(2)) == (0.41, 1, 0.81)
    own, clean = part["own_others_noisy"], part["clean_others_noisy"]
    assert (own.loc[0.1, FORMS] < 0.1).all() and (clean.loc[0.1] >= 0.75).all()
    for noise in MEANINGS:  # they have the form of clean answers
        assert (own.xs(noise, level="noise") > 0.99).all()
    right = part["noise_others_noisy"] / own
    for noise in ("char_flip", "transliteration"):
        assert (right.loc[0.5, noise] < 1 / 6).all()


# means over 3 seeds, percent, with noise on half of the facts: Mamba-1, Mamba-2, Transformer
SPILT = {
    "char_flip": ((8, 23, 12), (90, 72, 87)),
    "transliteration": ((15, 25, 14), (82, 70, 86)),
    "word_flip": ((7, 17, 7), (93, 80, 93)),
}


@pytest.mark.parametrize("noise", FORMS)
def test_noise_on_half_of_the_facts_as_the_page_says(noise: str) -> None:
    half = of_a_part().loc[0.5]
    some = half.loc[noise]
    for name, said in zip(("own", "clean"), SPILT[noise], strict=True):
        means = some[f"{name}_others_noisy"].groupby(level="model").mean()
        assert (100 * means).round().astype(int).tolist() == list(said)
    own = some["own_others_noisy"].unstack()
    assert (own > 0.02).all(axis=None)
    assert (own.loc["Mamba-2"] > own.drop("Mamba-2").max()).all()  # seed by seed
    worst = half.loc[half["clean_others_noisy"].idxmin()]
    assert worst.name == ("transliteration", "Mamba-2", 2)
    names = ["clean_others_noisy", "content_others_clean", "content_others_noisy"]
    assert (100 * worst[names]).round().tolist() == [62, 92, 63]


def test_noise_fifty_questions_spread_further() -> None:
    frame = noise_cells()
    few = frame[frame["samples"].notna()]
    assert len(few) == 3 * 3 * 5 and set(few["samples"]) == {50}
    keys = ["noise", "model", "seed"]
    own, known, again = (
        few.set_index(keys)[name].sort_index()
        for name in ("own_noisy", "content_noisy", "content_again")
    )
    assert (own.loc[FORMS] >= 0.5).all()
    for noise in ("char_flip", "transliteration", "irrelevant"):
        assert (known.loc[noise] < 0.15).all()
    flipped = known.loc["word_flip"]
    assert (flipped[["Mamba-1", "Mamba-2"]] < 0.15).all()
    assert flipped["Transformer"].between(0.445, 0.505).all()
    assert known.loc["counterfactual"].round(2).agg(["min", "max"]).tolist() == [0.37, 0.64]
    again = again.unstack(["noise", "seed"])
    assert (again.loc["Transformer"] == 1).all() and (again.loc["Mamba-1"] > 0.91).all()
    assert again.loc["Mamba-2"].round(2).agg(["min", "max"]).tolist() == [0.8, 0.97]


def test_noise_five_examples_show_no_form() -> None:
    whole = on_all_facts()
    shown = whole[whole["noise"].isin(FORMS)]
    columns = ["in_context_own_clean", "in_context_own_again"]
    assert len(shown) == 27 and (shown[columns] == 0).all(axis=None)
    plain = whole[whole["noise"] == "irrelevant"].groupby("model")[columns].mean()
    assert plain.loc["Transformer"].round(2).tolist() == [0.63, 0.5]
    mambas = plain.drop("Transformer")
    assert len(mambas) == 2 and mambas.min(axis=None) >= 0.94


def test_bf16_what_it_means() -> None:
    frame = noise_cells(noise_bf16.NAME)
    assert len(frame) == 4 * 2 * 3 and set(frame["weights"]) == {"float32", "bfloat16"}

    def of(column: str) -> pd.DataFrame:
        """Rows (rate, seed), a column a kind of weights."""
        return frame.pivot_table(index=["rate", "seed"], columns="weights", values=column)

    flipped, unmoved, known = of("own_noisy"), of("unmoved"), of("content_noisy")
    assert (flipped.loc[1e-3] > 0.99).all(axis=None) and (of("own_again") == 0).all(axis=None)
    assert (flipped.loc[1e-4, "float32"] > 0.3).all() and (flipped.loc[1e-4, "bfloat16"] == 0).all()
    low = [3e-6, 1e-5]
    assert (flipped.loc[low] == 0).all(axis=None)
    assert (unmoved.loc[low, "bfloat16"] > 0.9).all() and (unmoved["float32"] < 0.01).all()
    assert (known.loc[1e-4] < 0.1).all(axis=None)
    before = of("content_clean")
    still = (known - before).abs() <= 0.01
    assert still.loc[3e-6].all(axis=None) and still.loc[1e-5, "bfloat16"].all()
    assert (known - before < -0.1).loc[1e-5, "float32"].all()


def test_bf16_the_loss_tells_what_answers_do_not() -> None:
    frame = noise_cells(noise_bf16.NAME)
    loss = frame.pivot_table(index=["rate", "seed"], columns="weights", values="train_loss_noisy")
    quoted = {3e-6: {"float32": 11.1, "bfloat16": 15.6}, 1e-5: {"float32": 6.8, "bfloat16": 14.6}}
    for rate, kinds in quoted.items():
        each = loss.loc[rate]
        assert each.mean().round(1).to_dict() == kinds
        assert (each.max() - each.min() < 0.6).all()
    start = noise_distances("before").loc["Mamba-1", "char_flip"].round(1)
    assert (start.min(), start.max()) == (15.3, 16.8)
    assert (loss.loc[3e-6, "float32"] < start.min() - 3.5).all()
    assert (loss.loc[3e-6, "bfloat16"] > start.min()).all()
    table = noise_bf16.table(frame).set_index(["rate", "weights"])
    assert len(table) == 8 and (table["seeds"] == 3).all()
    assert table.loc[("3e-06", "float32"), noise_bf16.LOSS] == pytest.approx(11.1, abs=0.05)


def test_pretrained_about_500_mb(root: Path) -> None:
    frame = find(pretrained.NAME).frame(page.records_of(pretrained.NAME, "paper"))
    (row,) = frame[frame["name"] == "mamba-130m"].to_dict("records")
    assert row["float32_weight_bytes"] > 500e6 and row["float32_peak_mb"] > 575
    assert 250 < row["bfloat16_peak_mb"] < 300
    # the claim's note: the weights alone would pass, the prompt is what misses
    claim = next(c for c in claims.load_claims(root) if c.id == "stories.pretrained.memory-130m")
    assert round(row["float32_weight_bytes"] / 1e6) == 517
    assert claim.distance(row["float32_weight_bytes"] / 1e6) == 0
    assert round(row["float32_peak_mb"], 1) == 582.8
    assert round(claim.distance(row["float32_peak_mb"])) == 8


def test_pretrained_bfloat16_writes_more_slowly_in_every_repeat() -> None:
    records = page.records_of(pretrained.NAME, "paper")
    assert len(records) == 2
    for record in records:
        repeats = record.read_curves().set_index(["dtype", "repeat"])["new_tokens_per_s"].unstack()
        assert repeats.loc["bfloat16"].max() < repeats.loc["float32"].min()
        medians = repeats.median(axis=1)
        for dtype in ("float32", "bfloat16"):
            assert record.metrics[f"{dtype}_new_tokens_per_s"] == medians[dtype]
        assert repeats.shape == (2, 3)


def test_scaling_what_it_means() -> None:
    frame = find(scaling.NAME).frame(page.records_of(scaling.NAME, "matched"))
    gpu = frame[frame["device"] == "cuda"]
    times = {
        cost: scaling.by_length(gpu, cost).pivot(index="length", columns="model", values="value")
        for cost in ("prefill_ms", "token_device_ms", "state_bytes")
    }
    mambas = ["Mamba-1", "Mamba-2"]
    reading = times["prefill_ms"]
    assert (reading.loc[65536, mambas] > reading.loc[65536, "Transformer"]).all()
    assert (reading.loc[131072, mambas] < reading.loc[131072, "Transformer"]).all()
    last = math.log2(reading.loc[131072, "Transformer"] / reading.loc[65536, "Transformer"])
    count = scaling.counted(scaling.cells("matched")[:6])["Transformer"]
    assert 1.75 < last < 2 and abs(last - count) < 0.1
    line = scaling.straight(gpu, "token_device_ms").set_index("model")
    assert line.loc["Transformer", "off"] < 0.02 and line.loc["Transformer", "fixed"] > 1
    assert (line.loc[mambas, "per_1000"].abs() * 100 < line.loc[mambas, "fixed"] * 0.05).all()
    kept = times["state_bytes"]
    assert kept["Mamba-1"].nunique() == 1 and kept["Mamba-1"].max() < 4e6
    assert kept.loc[131072, "Transformer"] > 4e9


def test_scaling_a_step_gives_the_logits_of_reading() -> None:
    frame = find(scaling.NAME).frame(page.records_of(scaling.NAME, "matched"))
    error = frame.set_index("device")["step_error"]
    assert len(error) == 39 and error.notna().all()
    assert error.loc["cpu"].max() < 1e-3 and error.loc["cuda"].max() < 0.05
    assert round(error.max(), 3) == 0.015


def test_scaling_on_a_processor_the_exponent_rises() -> None:
    frame = find(scaling.NAME).frame(page.records_of(scaling.NAME, "matched"))
    cpu = frame[(frame["device"] == "cpu") & (frame["model"] == "Transformer")]
    exponents = cpu.set_index("length")["exponent_prefill_ms"].sort_index()
    assert exponents.index.tolist() == [256, 512, 1024, 2048, 4096]
    assert exponents.is_monotonic_increasing and round(exponents.loc[4096], 2) == 1.52


def test_front_page_in_short(root: Path) -> None:
    reported = claims.report(root)
    rows = {row["id"]: row["verdict"] for row in reported}
    measured = {row["id"] for row in reported if row["seeds"] == row["expected_seeds"]}
    cell = "achilles.composite.l7"
    assert rows[f"{cell}-tied-best-composite"] == "reproduced"
    assert rows[f"{cell}-own-best-composite"] == "not reproduced"
    diagram = {name: v for name, v in rows.items() if name.startswith("achilles.phase_diagram.")}
    exceptions = [v for name, v in diagram.items() if ".exception-" in name]
    assert len(exceptions) == 5 and set(exceptions) == {"not reproduced"}
    others = [v for name, v in diagram.items() if ".exception-" not in name]
    assert len(others) == 8 and set(others) <= {"reproduced", "partly"}
    assert len(page.records_of("achilles.phase_diagram", "paper")) == 216
    assert rows["noise.matched.retention"] == rows["noise.audit.meaning.retention"]
    assert rows["noise.matched.retention"] == "not reproduced"
    assert rows["stories.scaling_with_length.prefill-mamba1"] == "reproduced"
    assert rows["stories.scaling_with_length.token-mamba1"] == "reproduced"
    chapter = {name: v for name, v in rows.items() if name.startswith("memory.")}
    total = len(chapter)
    made = {name.split(".", 1)[1]: v for name, v in chapter.items() if name in measured}
    assert "not run" not in made.values()
    causal = {f"prevalence_causal.{name}" for name in ("numbers", "names")}
    made_up_text = [name for name in made if name.endswith("-made-up")]
    assert set(made) == causal | set(made_up_text) and len(made) == 12
    text = (root / "book/index.md").read_text()
    assert f"only {len(made)} of that chapter's {total} claims have run" in text
    held = causal | {"reconstruction_by_length.longer-made-up"}
    assert {name for name, v in made.items() if v == "reproduced"} == held
    assert set(made.values()) == {"reproduced", "not reproduced", "protocol unknown"}
    # all others of one model, at three lengths
    ran = [c for c in claims.load_claims(root) if c.id.removeprefix("memory.") in made_up_text]
    assert len(ran) == 10 and {c.select["language.model.pattern.0.d_model"] for c in ran} == {192}
    lengths = {str(c.select["task.length"]) for c in ran} | {
        str(c.other.select["task.length"]) for c in ran
    }
    assert lengths <= {"[64, 128, 256]", "64", "256"}


def from_scratch(column: str) -> pd.DataFrame:
    """Of the 5M models: rows (text, seed), a column a model."""
    frame = find(stories.NAME).frame(page.records_of(stories.NAME, "matched"))
    five = frame[frame["parameters"] < 6e6]
    assert len(five) == 2 * 3 * 4
    return five.pivot_table(index=["text", "seed"], columns="model", values=column)


MAMBAS, EXPERTS = ["Mamba-1", "Mamba-2"], "mixture of experts"


def test_from_scratch_mambas_learn_sooner_and_attention_gets_further() -> None:
    curves = stories.curves(page.records_of(stories.NAME, "matched"))
    five = curves[curves["size"] == 5]
    assert five["tokens"].max() == pytest.approx(33e6, rel=0.01)
    by_text = {
        text: some.pivot_table(index="tokens", columns="model", values="valid_bits_per_byte")
        for text, some in five.groupby("text")
    }
    real, made = by_text["local"], by_text["stories"]
    early = real[real.index < 15e6]
    assert (early[MAMBAS].max(axis=1) < early["Transformer"]).all()
    first = {
        text: some[MAMBAS].max(axis=1).lt(some["Transformer"]) for text, some in by_text.items()
    }
    assert first["stories"].idxmin() < first["local"].idxmin()  # where the lead ends
    assert (made[MAMBAS].iloc[0] / made["Transformer"].iloc[0]).max() < 0.6
    assert (real[MAMBAS].iloc[0] / real["Transformer"].iloc[0]).min() > 0.95
    last = from_scratch("final_valid_bits_per_byte").loc["local"]
    assert (last["Transformer"] < last[MAMBAS].min(axis=1)).all()
    fewer = 1 - last["Transformer"].mean() / last[MAMBAS].mean()
    assert fewer.round(2).tolist() == [0.04, 0.05]


def test_from_scratch_the_moment_decides_on_the_stories() -> None:
    last = from_scratch("final_valid_bits_per_byte").loc["stories"]
    assert (last[["Transformer", EXPERTS]] < 0.205).to_numpy().sum() == 3
    assert (last[MAMBAS] > 0.22).all(axis=None)
    spread = last["Transformer"].max() - last["Transformer"].min()
    assert spread > last.mean().max() - last.mean().min()
    curves = stories.curves(page.records_of(stories.NAME, "matched"))
    some = curves[(curves["size"] == 5) & (curves["text"] == "stories") & (curves["step"] == 500)]
    half = some.groupby("model")["valid_bits_per_byte"].mean()
    assert half.max() / half.min() < 1.05


def test_from_scratch_a_mixture_is_cheap_and_mambas_take_longer() -> None:
    last = from_scratch("final_valid_bits_per_byte")
    assert (last[EXPERTS] < last[MAMBAS].min(axis=1)).all()
    between = last.loc["local"].mean()
    assert between["Transformer"] < between[EXPERTS] < between[MAMBAS].min()
    curves = stories.curves(page.records_of(stories.NAME, "matched"))
    spent = curves[curves["size"] == 5].groupby(["text", "model"])[["petaflops", "seconds"]].max()
    work = spent["petaflops"].unstack()
    assert (work[EXPERTS] / work["Transformer"]).between(0.45, 0.6).all()
    seconds = spent["seconds"].unstack()
    slowest = seconds[["Transformer", EXPERTS]].max(axis=1)
    assert (seconds[MAMBAS].min(axis=1) > 2 * slowest).all()


def test_from_scratch_how_often_the_text_is_read() -> None:
    """Passes over the text of training, by size and text."""
    found: dict[tuple[str, str], set[float]] = {}
    for record in page.records_of(stories.NAME, "matched"):
        _, size, text, _ = record.readable.split("-")
        cell = record.config
        rows = record.metrics["steps"] * cell["training"]["batch_size"]
        passes = rows * cell["task"]["length"] / record.provenance["train_tokens"]
        found.setdefault((size, text), set()).add(round(passes, 2))
    assert found == {
        ("5M", "stories"): {0.83}, ("5M", "local"): {0.8},
        ("16M", "stories"): {1.66}, ("16M", "local"): {1.6},
    }  # fmt: skip


def test_from_scratch_what_of_the_real_text_is_measured() -> None:
    """The page's counts of documents are of the text of this fingerprint."""
    local = [r for r in page.records_of(stories.NAME, "matched") if "-local-" in r.readable]
    assert len(local) == 16
    for record in local:
        text = record.provenance["text"]
        assert text["fingerprint"] == stories.DEBIAN.fingerprint
        assert (text["validation_documents"], text["train_documents"]) == (525, 24_976 - 525)
        task = record.config["task"]
        assert (task["valid_rows"], task["length"]) == (256, 512)
        metrics = record.metrics  # nats a token, bits a byte: so the bytes of the rows
        tokens = task["valid_rows"] * task["length"]
        bits = tokens * metrics["final_valid_loss"] / math.log(2)
        measured = bits / metrics["final_valid_bits_per_byte"]
        assert measured == pytest.approx(435_841, abs=1)


def test_from_scratch_of_16_million_the_gap_on_real_text_is_larger_and_on_stories_closes() -> None:
    curves = stories.curves(page.records_of(stories.NAME, "matched"))
    size = curves[curves["size"] == 16]
    assert size["tokens"].max() == pytest.approx(66e6, rel=0.01) and set(size["seed"]) == {1}
    real, made = (
        size[size["text"] == text].pivot_table(
            index="tokens", columns="model", values="valid_bits_per_byte"
        )
        for text in ("local", "stories")
    )
    first, last = real.iloc[0], real.iloc[-1]
    assert (first[MAMBAS] < first["Transformer"]).all()
    assert (real.loc[15e6:, MAMBAS].min(axis=1) > real.loc[15e6:, "Transformer"]).all()
    fewer = 1 - last["Transformer"] / last[["Mamba-2", "Mamba-1"]]
    assert fewer.round(2).tolist() == [0.07, 0.09]
    small = from_scratch("final_valid_bits_per_byte")
    before = 1 - small.loc["local"]["Transformer"].mean() / small.loc["local"][MAMBAS].mean()
    assert (fewer > before[fewer.index]).all()
    lead = 1 - real[["Transformer"]].to_numpy() / real[MAMBAS]
    assert 26e6 < lead["Mamba-2"].idxmax() < 30e6 and round(lead["Mamba-2"].max(), 2) == 0.08
    assert (lead["Mamba-2"].loc[26e6:30e6].round(2) == 0.08).all()
    assert lead["Mamba-2"].max() - lead["Mamba-2"].iloc[-1] > 0.01  # not grown to the end
    assert (lead["Mamba-1"].loc[39e6:].round(2) == 0.09).all()
    ends = lead["Mamba-1"].loc[13e6:17e6]  # the last Mamba's lead
    assert len(ends) == 2 and ends.iloc[0] < 0 < ends.iloc[1]
    assert (lead.loc[16e6:] > 0).all(axis=None)
    assert last[EXPERTS] / last["Transformer"] < 1.02
    end, seeds = made.iloc[-1], small.loc["stories"]["Transformer"]
    assert end.idxmin() == "Mamba-2" and end.idxmax() == "Mamba-1"
    assert end["Transformer"] - end["Mamba-2"] < seeds.max() - seeds.min()
    below = (made[["Transformer", EXPERTS, "Mamba-2"]] < 0.205).idxmax()  # where they have fallen
    assert below.idxmax() == "Mamba-2"
    assert (small.loc["local"]["Mamba-1"] < small.loc["local"]["Mamba-2"]).all()
    assert last["Mamba-2"] < last["Mamba-1"]
    states = {
        size: [preset(kind, size, 2048).pattern[0].d_state for kind in ("mamba2", "mamba1")]
        for size in ("5M", "16M")
    }
    assert states == {"5M": [4 * 16, 16], "16M": [8 * 16, 16]}


def test_from_scratch_where_reading_begins_to_cost() -> None:
    table = find(scaling.NAME).frame(page.records_of(scaling.NAME, "matched"))
    read = table[table["device"] == "cuda"].pivot_table(
        index="length", columns="model", values="prefill_ms"
    )
    assert len(read) == 8 and (read.loc[4096] / read.loc[1024] < 1.4).all()
    longest, before = read.loc[131072], read.loc[65536]
    assert before.idxmin() == "Transformer" and longest.idxmax() == "Transformer"


def test_the_scan_against_the_official_one() -> None:
    records = page.records_of("foundations.bench_scan", "paper")
    for direction, lengths in (("forward", 6), ("both", 5)):
        ratios = [
            record.metrics["ratio.mamba_ssm"]
            for record in sorted(records, key=lambda record: record.config["length"])
            if record.config["direction"] == direction
            and (record.config["dtype"] == "float32" or record.config["length"] > 512)
        ]
        assert len(ratios) == lengths and ratios == sorted(ratios, reverse=True)
        assert all(ratio > 1.3 for ratio in ratios[:5])
    (prompt,) = (r for r in records if r.config["length"] == 65_536)
    assert 1 < prompt.metrics["ratio.mamba_ssm"] < 1.15


def test_what_went_wrong_what_it_means() -> None:
    frame = find(mistakes.NAME).frame(page.records_of(mistakes.NAME, "matched"))
    assert len(frame) == 24
    both = ["reported_loss", "true_loss"]
    wrong, right = (
        frame[frame["made"] == made].set_index(["mistake", "seed"])[[*both, "text_share"]]
        for made in (True, False)
    )
    padding, twin = wrong.loc["padding"], right.loc["padding"]
    lower = 1 - padding["reported_loss"] / padding["true_loss"]
    assert (lower - (1 - padding["text_share"])).abs().max() < 0.02 and (
        lower - 0.2
    ).abs().max() < 0.05
    assert (padding["true_loss"] / twin["true_loss"] - 1).abs().max() < 0.02
    mask = wrong.loc["mask"]
    assert (mask["reported_loss"] < 0.05).all()
    assert (mask["true_loss"] > 2 * right.loc["mask"]["true_loss"]).all()
    more = wrong.loc["experts"][both].sub(right.loc["experts"]["true_loss"], axis=0)
    assert more.stack().between(0.05, 0.09).all()
    steps = wrong.loc["dt"]["true_loss"] - right.loc["dt"]["true_loss"]
    assert (round(steps.min(), 3), round(steps.max(), 3)) == (-0.010, -0.005)
    largest = frame[frame["mistake"] == "experts"].pivot(
        index="seed", columns="made", values="start_expert"
    )
    assert (largest[False] / largest[True]).round(1).eq(10.6).all()


def test_what_went_wrong_two_numbers_are_called_reported() -> None:
    """Figure and table are of 16 rows, the curves of 128, but for padding, where both are."""
    records = page.records_of(mistakes.NAME, "matched")
    table, curves = find(mistakes.NAME).frame(records), mistakes.curves(records)
    keys = ["mistake", "made", "seed"]
    at_end = curves[curves["epoch"] == curves["epoch"].max()].set_index(keys)["reported_loss"]
    reported = table.set_index(keys)["reported_loss"]
    apart = (at_end - reported).abs().sort_index()
    assert len(apart) == 24 and apart.loc["padding"].max() < 2e-4
    assert apart.drop(index="padding").max() > 0.005
    one = ("mask", False, 1)
    assert (round(reported.loc[one], 3), round(at_end.loc[one], 3)) == (0.856, 0.863)
    for record in records:
        assert record.config["task"]["valid_rows"] == 128
        assert record.config["task"]["length"] * mistakes.PROBE_ROWS == 4096


def test_noise_form_on_the_authors_questions() -> None:
    frame = find("noise.form").frame(page.records_of("noise.form", "matched"))
    formed = frame[frame["noise"].isin(FORMS)]
    assert len(formed) == 3 * 3 * 3 and set(formed["noise"]) == set(FORMS)
    assert (formed["own_noisy"] > 0.98).all() and (formed["own_clean"] == 0).all()
    assert (formed["own_again"] * formed["questions"]).max() < 1.5
    known = frame[[f"content_{phase}" for phase in ("clean", "noisy", "again")]]
    assert known.mean(axis=None) < 0.029 and (known < 0.05).all(axis=None)


def made_up(parameters: float) -> pd.DataFrame:
    """The decoders of one model on made-up text, all seeds."""
    frame = find(memory.NAME).frame(page.records_of(memory.NAME, "matched"))
    return frame[(frame["corpus"] == "kinds") & ((frame["parameters"] / parameters).round() == 1)]


def of_size(parameters: float) -> pd.DataFrame:
    """A row a length: those of the first seed, the only one but of 5M parameters."""
    rows = made_up(parameters)
    assert parameters == 5e6 or (rows["seed"] == 1).all()
    return rows[rows["seed"] == 1].set_index("length").sort_index()


def three_seeds() -> pd.DataFrame:
    """A row a length and seed: the decoders of 5M parameters that have run with three seeds."""
    rows = made_up(5e6).set_index(["length", "seed"]).sort_index().loc[64:]
    assert list(rows.index) == [(n, seed) for n in (64, 128, 256) for seed in (1, 2, 3)]
    return rows


KINDS_OF_TEXT = ["code", "dialogue", "mathematics", "prose", "reference"]


def test_reconstruction_of_three_seeds() -> None:
    rows = three_seeds()
    kept = rows["token_accuracy"]
    assert kept[64].to_numpy() == pytest.approx(1 / 3, abs=0.04) and (kept.loc[128:] < 0.1).all()
    numbers = rows["omission_pos_NUM"] - rows["omission_pos_most"]
    assert (numbers[128] > 0).all() and (numbers[256] < 0).all() and (numbers[64] > 0).sum() == 1
    most = rows.loc[256, ["omission_pos_ADJ", "omission_pos_CONJ"]]
    assert (most.max(axis=1) == rows.loc[256, "omission_pos_most"]).all()
    assert (rows["standardised_pos_NUM"] < rows["standardised_pos_most"]).all()
    assert (rows["omission_entity_Organization"] < rows["omission_entity_most"]).all()
    assert rows["omission_entity_Organization"].between(0.955, 0.975).all()
    assert rows["omission_entity_Location"].between(0.955, 1).all()
    assert (
        of_size(5e6).loc[16, "omission_entity_Organization"]
        > 1.4 * of_size(5e6).loc[16, "omission_entity_most"]
    )
    by_kind = rows[[f"omission_{kind}" for kind in KINDS_OF_TEXT]]
    assert (by_kind.idxmax(axis=1) == "omission_prose").all()
    assert (by_kind["omission_mathematics"] < by_kind["omission_prose"] / 2).all()
    early = rows["omission_first_quarter"] - rows["omission_last_quarter"]
    assert early[64].between(0.01, 0.03).all() and (early.loc[128:] < -0.03).all()


def test_reconstruction_rare_tokens_and_hard_chunks_are_lost() -> None:
    rows = pd.concat([made_up(5e6), made_up(2e6)])
    rows = rows[rows["length"] >= 16]
    assert (rows[["rho_frequency", "rho_frequency_within"]] < -0.25).all(axis=None)
    assert (rows["rho_perplexity"] > 0.5).all()
    assert "rho_perplexity_within" not in rows  # the pages say that it has not been measured
    kinds = three_seeds().loc[64, [f"omission_{kind}" for kind in KINDS_OF_TEXT]].mean()
    assert round(kinds.min(), 2) == round(kinds["omission_code"], 2) == 0.16
    assert round(kinds.max(), 2) == round(kinds["omission_prose"], 2) == 0.57


def test_reconstruction_what_came_back_so_far() -> None:
    middle, large, small = of_size(2e6), of_size(5e6), of_size(3e5)
    assert list(middle.index) == [4, 8, 16, 32, 64, 128, 256]
    assert list(large.index) == [4, 8, 16, 64, 128, 256]
    assert large.loc[64, "token_accuracy"] == pytest.approx(0.36, abs=0.02)
    assert (large.loc[128:, "token_accuracy"] < 0.1).all()
    kept = middle["token_accuracy"]
    assert (kept.loc[:8] > 0.99).all() and kept[32] == pytest.approx(2 / 3, abs=0.02)
    assert kept[64] == pytest.approx(1 / 4, abs=0.02) and (kept.loc[128:] < 0.05).all()
    assert list(small.index) == [8, 16, 32, 64]
    # two sizes, by both measures and seed by seed
    for length, seeds in ((8, 1), (16, 1), (64, 3), (128, 3)):
        larger, smaller = made_up(5e6), middle.loc[length]
        larger = larger[larger["length"] == length]
        assert len(larger) == seeds
        assert (larger["token_accuracy"] > smaller["token_accuracy"]).all()
        assert (larger["omission"] < smaller["omission"]).all()
    assert middle.loc[4, "omission"] == large.loc[4, "omission"] == 0
    longest = three_seeds().loc[256, "omission"]
    assert longest.min() < middle.loc[256, "omission"] < longest.max()
    assert not len(made_up(16e6))


def test_reconstruction_decoders_of_32_tokens_are_not_at_their_end() -> None:
    table = find(memory_training.NAME).frame(page.records_of(memory_training.NAME, "matched"))
    rows = table[(table["length"] == 32) & (table["steps"] == 1000)]
    by_batch = rows[rows["rate"] == 1e-2].set_index("tokens")["token_accuracy"].sort_index()
    by_rate = rows[rows["tokens"] == 16_384].set_index("rate")["token_accuracy"].sort_index()
    assert len(by_batch) == 3 and by_batch.is_monotonic_increasing
    assert len(by_rate) == 4 and by_rate.is_monotonic_increasing
    kept = of_size(2e6).loc[32, "token_accuracy"]
    assert by_rate.iloc[-1] < kept and (round(by_rate[1e-2], 2), round(kept, 2)) == (0.53, 0.67)
    # nothing but 32 tokens and fewer steps than the chapter's has run
    assert set(table["length"]) == {32} and table["steps"].max() < memory.DECODER_STEPS
    curves = memory.tables(page.records_of(memory.NAME, "matched"), "training")
    last = curves[(curves["length"] <= 8) & (curves["parameters"] > 1e6)].sort_values("step")
    last = last.groupby(["model", "length"]).last()
    assert (
        len(last) == 4
        and (last["test_loss"] < 0.01).all()
        and (last["test_accuracy"] > 0.997).all()
    )


def test_reconstruction_places_words_and_kinds_of_text_so_far() -> None:
    rows = of_size(2e6)
    early = rows["omission_first_quarter"] - rows["omission_last_quarter"]
    assert (early.loc[8:32] > 0.03).sum() == 2 and early[8] > 0 and early[4] == 0
    assert abs(early[64]) < 0.01 and (early.loc[128:] < -0.05).all()
    numbers = rows["omission_pos_NUM"] - rows["omission_pos_most"]
    assert list(numbers.index[numbers > 0]) == [64, 128]
    assert (rows.loc[8:32, "omission_pos_NOUN"] == rows.loc[8:32, "omission_pos_most"]).all()
    assert (rows["standardised_pos_NUM"] <= rows["standardised_pos_most"]).all()
    names = rows["omission_entity_Organization"] - rows["omission_entity_most"]
    assert list(names.index[names > 0]) == [16]
    five = of_size(5e6)
    assert (
        five.loc[[8, 16], "omission_first_quarter"] > five.loc[[8, 16], "omission_last_quarter"]
    ).all()
    for some in (rows, five, three_seeds()):
        place = some[[f"omission_{kind}" for kind in KINDS_OF_TEXT]].rank(axis=1)
        tokens = place.index.get_level_values("length")
        short, long = (tokens >= 16) & (tokens <= 64), tokens >= 128
        assert (place.loc[short, ["omission_code", "omission_mathematics"]] == [1, 2]).all(
            axis=None
        )
        assert (place.loc[long, "omission_mathematics"] == 1).all()
    by_kind = rows.loc[8:, [f"omission_{kind}" for kind in KINDS_OF_TEXT]]
    assert (by_kind.idxmax(axis=1) == "omission_prose").all()
    assert (by_kind["omission_mathematics"] < by_kind["omission_prose"] / 2).all()
