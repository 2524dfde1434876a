from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lib.analysis.phase import (
    Agreement,
    Diagram,
    agreement,
    beside,
    furthest,
    impossible_sums,
    sums_sentence,
    thinned,
)

LAYERS, GAMMAS = (2, 3), (0.5, 1.0, 2.0)
# cell 2, 1.0 lacks a seed that failed; 3, 0.5 failed altogether; 3, 2.0 has not run
ROWS = [
    (2, 0.5, 1, "done", 0.1, 0.0, 0.2), (2, 0.5, 2, "done", 0.3, 0.1, 0.2),
    (2, 1.0, 1, "done", 0.5, 0.4, 0.6), (2, 1.0, 2, "failed", 0.9, 0.9, 0.9),
    (2, 2.0, 1, "done", 0.8, 0.7, 0.1), (2, 2.0, 2, "done", 0.6, 0.6, 0.1),
    (3, 0.5, 1, "failed", None, None, None), (3, 0.5, 2, "failed", None, None, None),
    (3, 1.0, 1, "done", 0.4, 0.4, 0.0), (3, 1.0, 2, "done", 0.4, 0.2, 0.0),
]  # fmt: skip
COLUMNS = ["n_layers", "gamma", "seed", "status", "best_composite", "final_composite",
           "best_symmetric"]  # fmt: skip
FRAME = pd.DataFrame(ROWS, columns=COLUMNS)
DIAGRAM = Diagram(FRAME, LAYERS, GAMMAS, 2)
PUBLISHED = pd.DataFrame(
    [[0.1, 0.4, 0.9], [0.3, 0.2, np.nan]], index=[3, 2], columns=list(GAMMAS)
).rename_axis(index="n_layers", columns="gamma")  # fmt: skip


def test_maps_are_means_over_finished_seeds_deepest_first() -> None:
    found = DIAGRAM.map("best_composite")
    assert found.mean.index.tolist() == [3, 2] and found.mean.columns.tolist() == list(GAMMAS)
    np.testing.assert_allclose(
        found.mean.to_numpy(), [[np.nan, 0.4, np.nan], [0.2, 0.5, 0.7]], atol=1e-12
    )
    assert found.done.to_numpy().tolist() == [[0, 2, 0], [2, 1, 2]]
    assert found.failed.to_numpy().tolist() == [[2, 0, 0], [0, 1, 0]]
    # one seed has no spread, and none is not a spread of zero
    np.testing.assert_allclose(
        found.spread.to_numpy(), [[np.nan, 0, np.nan], [0.2, np.nan, 0.2]], atol=1e-12
    )


def test_differences_of_metrics_are_taken_in_each_run() -> None:
    found = DIAGRAM.map("best_composite", "final_composite")
    assert found.mean.loc[2, 0.5] == pytest.approx(0.15)
    assert found.low.loc[3, 1.0] == 0 and found.high.loc[3, 1.0] == pytest.approx(0.2)


@pytest.mark.parametrize("frame", [pd.DataFrame(), FRAME[FRAME["status"] == "failed"]])
def test_nothing_done_is_an_empty_map(frame: pd.DataFrame) -> None:
    found = Diagram(frame, LAYERS, GAMMAS, 2).map("best_composite")
    assert found.mean.isna().all().all() and found.mean.shape == (2, 3)
    assert found.failed.to_numpy().sum() == len(frame)
    assert len(beside(found, PUBLISHED)) == 0


def test_a_table_has_the_cells_that_both_have() -> None:
    table = beside(DIAGRAM.map("best_composite"), PUBLISHED).set_index(["n_layers", "gamma"])
    assert set(table.index) == {(3, 1.0), (2, 0.5), (2, 1.0)}
    assert table.loc[(2, 0.5), "difference"] == pytest.approx(-0.1)
    # 0.3 is just within 0.1 to 0.3; 0.2 is not the one seed's 0.5
    assert table["inside"].to_dict() == {(3, 1.0): True, (2, 0.5): True, (2, 1.0): False}
    assert "2 layers, gamma 1 (ours 0.50, published 0.20)" in furthest(table.reset_index(), 1)


def test_inside_is_judged_at_the_precision_of_print() -> None:
    frame = pd.DataFrame(
        [(2, 0.5, 1, "done", 0.304), (2, 0.5, 2, "done", 0.41)], columns=COLUMNS[:5]
    )
    found = Diagram(frame, LAYERS, GAMMAS, 2).map("best_composite")
    (row,) = beside(found, PUBLISHED).itertuples()
    assert row.inside and row.low > row.published


def table_of(ours: list[float], published: list[float], seeds: int = 3) -> pd.DataFrame:
    table = pd.DataFrame({"ours": ours, "published": published, "seeds": seeds, "inside": True})
    return table.assign(difference=table["ours"] - table["published"])


def test_agreement_counts_what_it_says() -> None:
    found = agreement(table_of([0.1, 0.4, 0.5, 0.9], [0.2, 0.3, 0.5, 0.7]))
    assert found.cells == 4 and found.inside == 1.0
    assert found.error == pytest.approx(0.1) and found.bias == pytest.approx(0.05)
    assert found.rank == pytest.approx(1.0) and found.interval == pytest.approx((1, 1))
    text = found.sentence("Map", "the paper")
    assert "over 4 cells" in text and "by 0.10 on average (ours higher by 0.05" in text
    assert "100% of the cells" in text and "1.00 [1.00, 1.00]" in text


def test_what_rounds_to_nothing_has_no_sign() -> None:
    text = Agreement(33, None, 0.1, -0.004, -0.0004, (-0.3, 0.3)).sentence("Map", "the paper")
    assert "by 0.10 on average (equal in the mean)" in text
    assert "over cells 0.00 [-0.30, 0.30]" in text


def test_rank_correlation_is_spearmans_with_ties() -> None:
    # 1 - 6 * sum(d**2) / (n * (n**2 - 1)) without ties: d = (1, -1, 0, 0)
    found = agreement(table_of([0.2, 0.1, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]))
    assert found.rank == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert found.interval is not None and found.interval[0] < found.rank <= found.interval[1]
    tied = agreement(table_of([0.1, 0.1, 0.3], [0.1, 0.2, 0.3]))
    assert tied.rank == pytest.approx(0.8660254)


def test_an_interval_does_not_change_from_build_to_build() -> None:
    rng = np.random.default_rng(1)
    table = table_of(rng.random(20).tolist(), rng.random(20).tolist())
    assert agreement(table) == agreement(table)


def test_what_means_nothing_is_left_out() -> None:
    flat = agreement(table_of([0.1, 0.1, 0.1], [0.1, 0.2, 0.3], seeds=1))
    assert flat.rank is None and flat.interval is None and flat.inside is None
    text = flat.sentence("Map", "the paper")
    assert "rank" not in text and "seed" not in text
    with pytest.raises(ValueError, match="table has no cell"):
        agreement(table_of([], []))


def test_sums_above_one_are_counted_by_depth() -> None:
    found = impossible_sums(FRAME)
    assert found["layers"].tolist() == [3, 2] and found["runs"].tolist() == [2, 5]
    assert found["above 1"].tolist() == [0, 1]  # the failed run's 1.8 does not count
    assert found["largest sum"].tolist() == pytest.approx([0.4, 1.1])
    symmetric = PUBLISHED + 0.2
    text = sums_sentence(found, {"best_composite": PUBLISHED, "best_symmetric": symmetric})
    # 0.4 + 0.6 is not above 1; 0.9 + 1.1 is; the missing cell counts in neither number
    assert "in 1 of the 5 published cells" in text and "in 1 of our 7 runs" in text


def test_thinning_keeps_both_ends_and_the_same_epochs_for_all() -> None:
    curves = pd.DataFrame({"epoch": [*range(1, 211)] * 2, "seed": [1] * 210 + [2] * 210})
    found = thinned(curves, 70)
    assert found["epoch"].min() == 1 and found["epoch"].max() == 210
    assert found.groupby("seed")["epoch"].apply(tuple).nunique() == 1
    assert 60 <= found["epoch"].nunique() <= 70
    assert len(thinned(curves, 500)) == 420
