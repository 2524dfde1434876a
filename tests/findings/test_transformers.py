"""The page on Transformers with Mamba's convolution says what its records say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from lib import claims, page
from lib.analysis.reference import load_reference
from lib.experiments import cells_of, find, opened, phase_diagram, transformer
from lib.models.language_model import build_language_model
from tests.findings.records import frame_of


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


def ends_of(rows: pd.DataFrame) -> list[int]:
    """How many runs end with the symmetric answer to most sequences, with the composite one, and
    how many there are."""
    return [*(rows[["final_symmetric", "final_composite"]] > 0.5).sum(), len(rows)]


def test_what_one_tap_brings_to_a_transformer_of_two_layers() -> None:
    kinds = {
        name: frame_of(name).query("n_layers == 2").set_index(["gamma", "seed"]).sort_index()
        for name in (transformer.CONVOLVED, transformer.POINTWISE, transformer.PLAIN)
    }
    assert [len(rows) for rows in kinds.values()] == [36, 36, 36]
    learnt = {name: rows[rows["pair_34"] > 0.75] for name, rows in kinds.items()}
    well = {name: rows[rows["pair_34"] > 0.9] for name, rows in kinds.items()}
    assert [[*ends_of(rows.loc[:0.3]), *ends_of(rows.loc[0.4:])] for rows in learnt.values()] == [
        [7, 0, 9, 2, 15, 24], [2, 1, 7, 6, 1, 13], [2, 0, 5, 11, 0, 14],
    ]  # fmt: skip
    assert [ends_of(rows.loc[0.4:]) for rows in well.values()] == [
        [2, 13, 22], [6, 0, 8], [11, 0, 12],
    ]  # fmt: skip
    # all from 0.4 to 0.7 have learnt it, of the others few
    middle = [rows.loc[0.4:0.7] for rows in learnt.values()]
    assert [ends_of(rows) for rows in middle] == [[0, 8, 12], [6, 1, 12], [10, 0, 12]]
    assert [len(rows.loc[0.8:]) for rows in learnt.values()] == [12, 1, 2]
    at = [rows.loc[0.6, "best_composite"].mean().round(2) for rows in middle]
    assert at[:2] == [0.48, 0.47]
    one_tap = learnt[transformer.POINTWISE]
    assert ends_of(well[transformer.POINTWISE])[::2] == [8, 11]
    assert ends_of(one_tap[one_tap["pair_34"] <= 0.9])[::2] == [0, 9]
    assert ends_of(well[transformer.PLAIN])[::2] == [13, 16]
    trained = [rows.loc[0.8:, "final_train_accuracy"] for rows in kinds.values()]
    assert [(accuracy > 0.94).sum() for accuracy in trained] == [12, 0, 2]
    three = pd.concat(kinds, axis=1).loc[0.4:]
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
