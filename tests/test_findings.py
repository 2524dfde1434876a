"""What pages say in words without numbers is what the published records say.

A page's tables and many of its sentences are made from records when it is built. Where a paragraph
interprets them, what it takes for granted stands here, so that new records cannot contradict it
unnoticed.
"""

from __future__ import annotations

import pandas as pd
import pytest

from lib import page
from lib.analysis import routes
from lib.experiments import ablations, find, interventions


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


def test_all_one_convolution_without_norms_before_blocks() -> None:
    frame = frame_of(ablations.SENSITIVITY)
    bare = of_variant(frame, "all-one kernel: no norm before blocks")
    assert (bare["final_composite"] > 0.85).all() and (bare["best_symmetric"] < 0.2).all()


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


def test_blocking_two_ways_to_the_answer() -> None:
    table = routes.routes(frame_of(interventions.NAME))
    ours = table[table["block"] == "mamba2"]
    at_one = ours[ours["gamma"] == 1.0]["route"].tolist()
    assert routes.CONVOLUTION in at_one and routes.STATE in at_one  # seeds of one model
    assert ours["untrained"].min() > 0.8
    best = ours.groupby("route")["best_composite"]
    assert best.min()[routes.CONVOLUTION] > best.max()[routes.STATE]


@pytest.mark.parametrize("end, share", [("inner", 1.0), ("end", 5 / 6)])
def test_substitution_a_sixth_has_nothing_behind_the_pair(end: str, share: float) -> None:
    frame = frame_of(interventions.NAME)
    table = routes.routes(frame)
    taken = table[table["route"] == routes.CONVOLUTION].set_index(["gamma", "seed"]).index
    found = frame.set_index(["gamma", "seed"]).loc[taken, f"substitution_{end}_mean"]
    assert ((found - share).abs() < 0.03).all()
