"""The pages of the phase diagram and of the composite task say what their records say."""

from __future__ import annotations

import pandas as pd

from lib import page
from lib.analysis import phase
from lib.analysis.reference import load_reference
from lib.experiments import ablations, interventions, phase_diagram
from tests.findings.records import frame_of, of_variant


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
