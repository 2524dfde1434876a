from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from lib import claims
from lib import store as store_module
from lib.claims import Claim, ClaimError, judge, load_claims, report
from lib.config import added_later, from_dict, to_dict
from lib.store import Store
from tests.fakes import EXPERIMENT, FakeCell, put, use_fake

BASE: dict[str, Any] = {
    "id": "demo.best", "statement": "It is good.", "source": "key2025", "where": "Fig. 1",
    "experiment": "demo.one", "profile": "paper", "select": {"n_layers": 7}, "metric": "best",
    "value": 0.9, "tolerance": 0.05, "tolerance_reason": "printed to two digits",
}  # fmt: skip


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fake(monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.at(tmp_path)


def judged(store: Store, values: list[float], **change: Any) -> claims.Verdict:
    for seed, value in enumerate(values, 1):
        put(store, FakeCell(7, seed), best=value, other=0.1)
    return judge(Claim(**{**BASE, **change}), store)


@pytest.mark.parametrize(
    ("values", "change", "verdict"),
    [
        ([0.90, 0.91, 0.92], {}, "reproduced"),
        ([0.95, 0.95, 0.95], {}, "reproduced"),
        ([0.80, 0.81, 0.82], {}, "not reproduced"),
        ([0.99, 0.99, 0.99], {}, "not reproduced"),
        ([0.60, 0.75, 0.95], {}, "partly"),
        ([0.99, 0.99, 0.99], {"rule": "at least"}, "reproduced"),
        ([0.80, 0.81, 0.82], {"rule": "at least"}, "not reproduced"),
        ([0.10, 0.11, 0.12], {"rule": "at most"}, "reproduced"),
        ([0.99, 0.98, 0.99], {"rule": "at most"}, "not reproduced"),
        ([0.90, 0.91, 0.92], {"minus": "other"}, "not reproduced"),
        ([0.90, 0.91, 0.92], {"minus": "other", "value": 0.81}, "reproduced"),
        ([0.90, 0.91], {}, "not run"),
        ([], {}, "not run"),
        ([0.90, 0.91], {"seeds": 2}, "reproduced"),
        ([0.90, 0.91, 0.92], {"unknown": "no checkpoint is named"}, "protocol unknown"),
        # a reader need not wait for runs that would decide nothing
        ([0.90], {"unknown": "no checkpoint is named"}, "protocol unknown"),
        ([], {"unknown": "no checkpoint is named"}, "protocol unknown"),
    ],
)
def test_verdicts(store: Store, values: list[float], change: dict[str, Any], verdict: str) -> None:
    found = judged(store, values, **change)
    assert found.verdict == verdict
    assert found.verdict in claims.VERDICTS
    assert found.expected == 3 and len(found.records) == found.done


@pytest.mark.parametrize("name", ["metric", "minus"])
def test_a_metric_that_no_record_has_is_named(store: Store, name: str) -> None:
    assert judged(store, [], **{name: "bset"}).verdict == "not run"  # nobody can tell yet
    put(store, FakeCell(7, 1), status="failed")
    assert judged(store, [], **{name: "bset"}).verdict == "not run"
    with pytest.raises(ClaimError, match=r"metric is 'bset', allowed: .* as best"):
        judged(store, [0.9], **{name: "bset"})
    undecided = judged(store, [0.9], **{name: "bset"}, unknown="no run has such texts")
    assert undecided.verdict == "protocol unknown" and undecided.values == ()
    # also of the cells that a claim is held against
    put(store, FakeCell(2, 1), other=0.1)
    with pytest.raises(ClaimError, match=r"metric is 'best', allowed: .* as other"):
        judged(store, [0.9], against={"n_layers": 2})
    put(store, FakeCell(7, 2), other=0.9)
    found = judged(store, [0.9], **{name: "other"})
    assert (found.done, found.verdict) == (2 if name == "metric" else 1, "not run")


def test_mean_interval_and_records_are_reported(store: Store) -> None:
    found = judged(store, [0.88, 0.90, 0.92])
    assert found.mean == pytest.approx(0.90)
    assert found.interval == pytest.approx((0.90 - 0.0497, 0.90 + 0.0497), abs=1e-3)
    assert all((store.local / "demo.one" / name).is_file() for name in found.records)


def test_interval_is_cut_where_the_metric_ends(store: Store) -> None:
    found = judged(store, [0.88, 0.95, 0.99], limits=(0.0, 1.0))
    assert found.interval is not None and found.interval[1] == 1.0 and found.interval[0] < 0.9


def test_failed_cells_count_as_failed_not_as_zero(store: Store) -> None:
    put(store, FakeCell(7, 1), best=0.9)
    put(store, FakeCell(7, 2), best=0.9)
    put(store, FakeCell(7, 3), status="failed")
    found = judge(Claim(**BASE), store)
    assert (found.verdict, found.done, found.failed, found.expected) == ("not run", 2, 1, 3)


def test_quick_records_never_give_a_verdict(store: Store) -> None:
    for seed in (1, 2, 3):
        put(store, FakeCell(1, seed), best=0.9)
    assert judge(Claim(**BASE), store).verdict == "not run"
    with pytest.raises(ValueError, match=r"profile is 'quick'.*quick runs never give a verdict"):
        Claim(**{**BASE, "profile": "quick"})


WIDE = {"select": {"n_layers": [2, 7]}, "value": 0.5, "tolerance": 0.05}


def fill(store: Store, values: dict[tuple[int, int], float], **others: float) -> None:
    for (layers, seed), value in values.items():
        put(store, FakeCell(layers, seed), best=value, **others)


def test_a_region_is_averaged_in_each_seed_and_then_over_seeds(store: Store) -> None:
    fill(store, {(2, 1): 0.1, (7, 1): 0.9, (2, 2): 0.2, (7, 2): 0.9, (2, 3): 0.0, (7, 3): 0.9})
    found = judge(Claim(**{**BASE, **WIDE}), store)
    assert found.values == pytest.approx((0.5, 0.55, 0.45))
    assert found.verdict == "reproduced" and found.mean == pytest.approx(0.5)
    assert (found.done, found.expected, found.cells_done, found.cells_expected) == (3, 3, 6, 6)
    assert len(found.records) == 6
    # the spread is that of three means, not of six cells
    assert found.interval == pytest.approx((0.5 - 0.124, 0.5 + 0.124), abs=1e-3)


def test_a_seed_counts_only_with_all_its_cells(store: Store) -> None:
    fill(store, {(2, 1): 0.1, (7, 1): 0.9, (2, 2): 0.2, (7, 2): 0.9, (7, 3): 0.9})
    found = judge(Claim(**{**BASE, **WIDE}), store)
    assert (found.verdict, found.done, found.expected) == ("not run", 2, 3)
    assert (found.cells_done, found.cells_expected, len(found.records)) == (5, 6, 4)
    assert found.values == pytest.approx((0.5, 0.55))
    assert judge(Claim(**{**BASE, **WIDE, "seeds": 2}), store).verdict == "reproduced"
    put(store, FakeCell(2, 3), status="failed", best=0.1)
    found = judge(Claim(**{**BASE, **WIDE}), store)
    assert (found.verdict, found.failed, found.cells_done) == ("not run", 1, 5)


def test_the_share_of_cells_in_which_one_metric_wins(store: Store) -> None:
    fill(store, {(2, 1): 0.3, (7, 1): 0.9, (2, 2): 0.6, (7, 2): 0.9, (2, 3): 0.5, (7, 3): 0.9},
         other=0.5)  # fmt: skip
    share = {"minus": "other", "combine": "share above zero", "value": 0.6, "tolerance": 0.1}
    found = judge(Claim(**{**BASE, **WIDE, **share}), store)
    assert found.values == (0.5, 1.0, 0.5) and found.verdict == "reproduced"


def test_two_regions_are_compared_seed_by_seed(store: Store) -> None:
    fill(store, {(2, 1): 0.3, (7, 1): 0.9, (2, 2): 0.6, (7, 2): 0.9, (2, 3): 0.5})
    larger = {**BASE, "against": {"n_layers": 2}, "value": 0.4, "rule": "at least"}
    found = judge(Claim(**larger), store)
    assert found.values == pytest.approx((0.6, 0.3))
    assert (found.verdict, found.done, found.expected) == ("not run", 2, 3)
    assert (found.cells_done, found.cells_expected, len(found.records)) == (5, 6, 4)
    put(store, FakeCell(7, 3), best=0.9)
    found = judge(Claim(**larger), store)
    assert found.values == pytest.approx((0.6, 0.3, 0.4)) and found.verdict == "reproduced"
    assert len(found.records) == found.cells_done == found.cells_expected == 6
    # with a metric to subtract on both sides
    fill(store, {(2, 1): 0.3, (7, 1): 0.9, (2, 2): 0.6, (7, 2): 0.9, (2, 3): 0.5, (7, 3): 0.9},
         other=0.5)  # fmt: skip
    assert judge(Claim(**larger, minus="other"), store).values == found.values


def test_cells_to_be_held_against_must_exist(tmp_path: Path) -> None:
    folder = tmp_path / "book" / "claims"
    folder.mkdir(parents=True)
    entry = {**BASE, "against": {"n_layers": 5}}
    (folder / "demo.yml").write_text(yaml.safe_dump([entry]))
    with pytest.raises(ClaimError, match=r"demo.best: select .*'n_layers': 5.* fits no cell"):
        load_claims(tmp_path)


def test_a_listed_value_that_no_cell_has_is_named(tmp_path: Path) -> None:
    write(tmp_path, {**BASE, "select": {"n_layers": [2, 8]}})
    with pytest.raises(ClaimError, match=r"select n_layers: 8 fits no cell"):
        load_claims(tmp_path)


def test_the_report_says_how_many_cells(tmp_path: Path, store: Store) -> None:
    write(tmp_path, {**BASE, **WIDE})
    fill(store, {(2, 1): 0.1, (7, 1): 0.9, (7, 3): 0.9})
    (row,) = report(tmp_path)
    assert (row["seeds"], row["expected_seeds"]) == (1, 3)
    assert (row["cells"], row["expected_cells"]) == (3, 6)


def test_many_claims_read_each_record_once(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, *({**BASE, **WIDE, "id": f"demo.n{n}"} for n in range(20)))
    fill(store, {(layers, seed): 0.5 for layers in (2, 7) for seed in (1, 2, 3)})
    reads: list[Path] = []
    lists: list[Path] = []
    read, listed = store_module.read_record, os.listdir
    monkeypatch.setattr(store_module, "read_record", lambda p: reads.append(p) or read(p))
    monkeypatch.setattr(os, "listdir", lambda p: lists.append(p) or listed(p))
    rows = report(tmp_path, store)
    assert [row["verdict"] for row in rows] == ["reproduced"] * 20
    assert len(reads) == 6 and len(set(reads)) == 6
    assert len([folder for folder in lists if "demo.one" in str(folder)]) == 2


def write(root: Path, *entries: Any, name: str = "demo") -> None:
    folder = root / "book" / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yml").write_text(yaml.safe_dump(list(entries)))


def test_report_has_a_row_a_claim(tmp_path: Path, store: Store) -> None:
    write(tmp_path, BASE, {**BASE, "id": "demo.two", "rule": "at least", "scaled": True})
    for seed in (1, 2, 3):
        put(store, FakeCell(7, seed), best=0.99)
    rows = report(tmp_path)
    assert [row["id"] for row in rows] == ["demo.best", "demo.two"]
    assert [row["verdict"] for row in rows] == ["not reproduced", "reproduced"]
    assert rows[0]["value_text"] == "0.9 ± 0.05" and rows[1]["value_text"] == "≥ 0.85"
    assert rows[1]["scaled"] and len(rows[1]["records"]) == 3
    assert rows[0]["notebook"] == "notebooks/demo/one.ipynb"
    assert [row["paper_value"] for row in rows] == [0.9, 0.9]


def test_a_direction_has_no_published_number(tmp_path: Path) -> None:
    write(tmp_path, {**BASE, "rule": "at least", "tolerance": 0, "value": 0.02})
    (row,) = report(tmp_path)
    assert row["paper_value"] is None and row["value_text"] == "≥ 0.02"


def test_what_the_numbers_are_is_told_by_the_claim_or_by_how_they_are_made() -> None:
    shown = {
        "none": Claim(**BASE), "own": Claim(**{**BASE, "quantity": "MB", "minus": "other"}),
        "minus": Claim(**{**BASE, "minus": "other"}),
        "against": Claim(**{**BASE, "against": {"n_layers": 2}}),
        "share": Claim(**{**BASE, "minus": "other", "combine": "share above zero"}),
    }  # fmt: skip
    assert {name: claim.shown_quantity for name, claim in shown.items()} == {
        "none": None, "own": "MB", "minus": "difference", "against": "difference",
        "share": "share of cells",
    }  # fmt: skip


def test_a_claim_is_shown_on_the_page_of_its_name(tmp_path: Path) -> None:
    write(tmp_path, {**BASE, "id": "demo.own_page.best"}, {**BASE, "id": "demo"})
    page = tmp_path / "notebooks/demo/own_page.ipynb"
    page.parent.mkdir(parents=True)
    page.write_text("{}")
    shown = [row["notebook"] for row in report(tmp_path)]
    assert shown == ["notebooks/demo/own_page.ipynb", "notebooks/demo/one.ipynb"]


def test_a_part_of_the_report_is_those_rows_of_the_whole(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, BASE, {**BASE, "id": "demo.two"})
    write(tmp_path, {**BASE, "id": "other.one"}, name="other")
    for seed in (1, 2, 3):
        put(store, FakeCell(7, seed), best=0.9)
    whole = report(tmp_path, store)
    assert [row["id"] for row in whole] == ["demo.best", "demo.two", "other.one"]
    assert report(tmp_path, store, chapter="demo") == whole[:2]
    assert report(tmp_path, store, chapter="demo", prefix="demo.t") == whole[1:2]
    assert report(tmp_path, store, prefix="other.") == whole[2:]
    assert report(tmp_path, store, chapter="none") == []
    judged = []
    monkeypatch.setattr(
        claims, "judge", lambda claim, *more: judged.append(claim.id) or judge(claim, *more)
    )
    report(tmp_path, store, prefix="demo.t")
    assert judged == ["demo.two"]  # records behind other claims are not even read


def test_the_edge_of_a_tolerance_is_inside() -> None:
    """Whatever the last digit of a sum of decimal fractions says."""
    for value in range(0, 100, 7):
        for tolerance in range(0, 30):
            claim = Claim(**{**BASE, "value": value / 100, "tolerance": tolerance / 100})
            for edge in (value - tolerance, value + tolerance):
                assert claim.distance(edge / 100) == 0
            assert claim.distance((value + tolerance) / 100 + 1e-6) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tolerence": 0.1}, "has no field 'tolerence'"),
        ({"value": "high"}, "claim.value must be float"),
        ({"rule": "about"}, "claim.rule is 'about'"),
        ({"tolerance": -1.0}, "tolerance is -1.0"),
        ({"tolerance": math.nan}, "tolerance is nan, allowed: 0 or more and finite"),
        ({"value": math.nan}, "value is nan, allowed: a finite number"),
        ({"seeds": 0}, "seeds is 0, allowed: 1 or more"),
        ({"limits": [1, 0]}, "limits are .*allowed: a lower and a higher one"),
        ({"tolerance_reason": " "}, "tolerance_reason is empty"),
        ({"experiment": "demo.none"}, "no experiment 'demo.none'"),
        ({"select": {"n_layer": 7}}, "no field 'n_layer'; fields"),
        ({"select": {"n_layers": 8}}, "fits no cell"),
        ({"profile": "full"}, "profile is 'full'"),
        ({"id": "other.best"}, "id is 'other.best'"),
    ],
)
def test_bad_claims_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write(tmp_path, {**BASE, **change})
    with pytest.raises(ClaimError, match=message) as error:
        load_claims(tmp_path)
    assert "demo.yml" in str(error.value)


def test_other_bad_files(tmp_path: Path) -> None:
    write(tmp_path, BASE, BASE)
    with pytest.raises(ClaimError, match="used twice"):
        load_claims(tmp_path)
    (tmp_path / "book/claims/demo.yml").write_text("a: [1")
    with pytest.raises(ClaimError, match="not YAML"):
        load_claims(tmp_path)
    (tmp_path / "book/claims/demo.yml").write_text("a: 1")
    with pytest.raises(ClaimError, match="must hold a list"):
        load_claims(tmp_path)


@dataclasses.dataclass(frozen=True)
class Block:
    width: int
    bypass: str | None = added_later(None)  # records were published before it was there


@dataclasses.dataclass(frozen=True)
class GrownCell:
    n_layers: int
    seed: int
    block: Block
    warm: bool = added_later(False)


def grown(profile: str) -> list[GrownCell]:
    kinds = [(None, False), ("gated", False), (None, True)] if profile == "paper" else []
    return [GrownCell(7, seed, Block(4, by), warm) for by, warm in kinds for seed in (1, 2, 3)]


OLD = {"n_layers": 7, "block": {"width": 4}}


class TestFieldsAddedLater:
    """Records from before a field existed stand for cells in which it holds its default."""

    @pytest.fixture(autouse=True)
    def grow(self, monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
        experiment = dataclasses.replace(EXPERIMENT, cells=grown, readable=lambda cell: "cell")
        monkeypatch.setattr("lib.experiments.registry", lambda: {"demo.one": experiment})
        record = put(store, FakeCell(7, 9), best=0.0)  # gives the records below their other fields
        for seed in (1, 2, 3):
            store.save(
                dataclasses.replace(record, config={**OLD, "seed": seed}, metrics={"best": 0.9})
            )
            gated = GrownCell(7, seed, Block(4, "gated"))
            store.save(dataclasses.replace(record, config=to_dict(gated), metrics={"best": 0.2}))

    @pytest.mark.parametrize(
        ("select", "value", "verdict"),
        [
            ({"bypass": None, "warm": False}, 0.9, "reproduced"),
            ({"block.bypass": None, "warm": False}, 0.9, "reproduced"),
            ({"bypass": "gated"}, 0.2, "not reproduced"),
            ({"bypass": ["gated"]}, 0.2, "not reproduced"),
            ({"bypass": [None, "gated"], "warm": False}, 0.55, "not reproduced"),
            ({"warm": True}, None, "not run"),
        ],
    )
    def test_old_records_are_found_by_them(
        self, store: Store, select: dict[str, Any], value: float | None, verdict: str
    ) -> None:
        found = judge(Claim(**{**BASE, "select": select}), store)
        assert found.values == (() if value is None else pytest.approx((value,) * 3))
        assert found.verdict == verdict and found.expected == 3

    def test_old_configs_lack_them_and_mean_their_default(self) -> None:
        old = {**OLD, "seed": 1}
        assert to_dict(grown("paper")[0]) == old
        assert from_dict(GrownCell, old) == grown("paper")[0]
        whole = to_dict(grown("paper")[0], complete=True)
        assert whole == {**old, "block": {"width": 4, "bypass": None}, "warm": False}
        assert from_dict(GrownCell, whole) == grown("paper")[0]

    def test_wrong_values_of_them_are_named(self, tmp_path: Path) -> None:
        write(tmp_path, {**BASE, "select": {"bypass": "residual"}})
        with pytest.raises(ClaimError, match=r"demo.best: select .*residual.* fits no cell"):
            load_claims(tmp_path)
        write(tmp_path, {**BASE, "select": {"bypass": [None, "residual"]}})
        with pytest.raises(ClaimError, match=r"select bypass: 'residual' fits no cell"):
            load_claims(tmp_path)
