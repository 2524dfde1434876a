"""The noise chapter says what its records say."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import pandas as pd
import pytest

from lib import claims, page
from lib.experiments import find, noise_phases
from lib.figures import noise_phases as noise_figures
from tests.findings.records import (
    FORMS,
    MEANINGS,
    by_seed,
    noise_cells,
    noise_distances,
    on_all_facts,
)


def test_noise_every_form_is_learnt_and_none_is_kept() -> None:
    frame = noise_cells()
    assert len(frame) == 189 == 3 * 3 * 21
    assert by_seed(frame, "own_noisy")[FORMS].min(axis=None) > 0.98
    met = frame[frame["noise"] != "none"]
    assert len(met) == 180 and (met["noise_again"] * met["questions"] < 1.5).all()
    assert (frame["questions"] == 1440).all()
    flips = frame[frame["noise"].isin(FORMS)]
    assert (flips["own_again"] == 0).all() and (flips["own_clean"] == 0).all()


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


def test_noise_form_on_the_authors_questions() -> None:
    frame = find("noise.form").frame(page.records_of("noise.form", "matched"))
    formed = frame[frame["noise"].isin(FORMS)]
    assert len(formed) == 3 * 3 * 3 and set(formed["noise"]) == set(FORMS)
    assert (formed["own_noisy"] > 0.98).all() and (formed["own_clean"] == 0).all()
    assert (formed["own_again"] * formed["questions"]).max() < 1.5
    known = frame[[f"content_{phase}" for phase in ("clean", "noisy", "again")]]
    assert known.mean(axis=None) < 0.029 and (known < 0.05).all(axis=None)
