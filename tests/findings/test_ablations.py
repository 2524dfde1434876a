"""The pages on kernels, positions and unstated choices say what their records say."""

from __future__ import annotations

import pandas as pd

from lib import page
from lib.experiments import ablations
from tests.findings.records import frame_of, of_variant


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
