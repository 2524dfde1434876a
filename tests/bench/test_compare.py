from __future__ import annotations

import pytest
import torch

from lib.bench.compare import compare
from lib.bench.config import ScanBench
from lib.bench.floor import Work
from lib.bench.measure import Contestant
from lib.bench.peers import Missing, gather, need
from lib.experiments import Outcome
from lib.ops.backends import BackendError
from tests.bench.fakes import RATES, FakeClock, Log

BENCH = ScanBench(1, 1, 1, 1, device="cpu", repeats=3)
# 2 ms of bytes and 1 ms of multiply-adds at the test's rates
WORK = Work(read=2e6, fmas=1e6)


def run(clock: FakeClock, builders: dict, ours: str = "ours") -> Outcome:
    return compare(
        BENCH, builders, ours=ours, work=WORK, tolerance=1e-3, op="selective_scan", clock=clock,
        rates=RATES,
    )  # fmt: skip


def missing() -> Contestant:
    raise Missing("no such package; pip install it")


def broken() -> Contestant:
    raise RuntimeError("out of memory\nlong story")


def no_backend() -> Contestant:
    raise BackendError("backend 'fused' of selective_scan is missing: no GPU")


def test_gather_keeps_the_order_and_every_reason() -> None:
    log = Log(FakeClock())
    builders = {
        "a": missing, "b": lambda: log.contestant("b", 1.0), "c": no_backend, "d": broken,
        "e": lambda: log.contestant("e", 1.0),
    }  # fmt: skip
    present, absent = gather(builders)
    assert [contestant.name for contestant in present] == ["b", "e"]
    assert absent == {
        "a": "no such package; pip install it",
        "c": "backend 'fused' of selective_scan is missing: no GPU",
        "d": "failed: RuntimeError: out of memory",
    }
    with pytest.raises(Missing, match="the package no_such_package is not installed; get it"):
        need("no_such_package", "get it")
    need("torch", "")  # is there


def test_an_outcome_has_times_ratios_floor_and_what_was_absent() -> None:
    clock = FakeClock()
    log = Log(clock)
    outcome = run(clock, {
        "ours": lambda: log.contestant("ours", 0.02),
        "peer": lambda: log.contestant("peer", 0.05, note="theirs"),
        "gone": missing,
    })  # fmt: skip
    assert outcome.status == "done" and outcome.reason is None
    metrics = outcome.metrics
    assert metrics["ours.ms"] == pytest.approx(20) and metrics["peer.ms"] == pytest.approx(50)
    assert metrics["ratio.peer"] == pytest.approx(2.5) and "ratio.ours" not in metrics
    assert metrics["floor_ms"] == pytest.approx(2.0)
    assert metrics["floor_ms.multiply-adds"] == pytest.approx(1.0)
    assert metrics["ours.floor_share"] == pytest.approx(0.1)
    assert metrics["work.flops"] == 2e6 and metrics["work.bytes"] == 2e6
    facts = outcome.facts
    assert facts["absent"] == {"gone": "no such package; pip install it"}
    assert facts["backends"] == {"selective_scan": ["ours", "peer"]}
    assert facts["ours"] == "ours" and facts["notes"]["peer"] == "theirs"
    assert facts["rates"]["source"] == "a test"
    assert outcome.curves is not None and len(outcome.curves) == 6
    assert outcome.curves.groupby("contestant")["ms"].median()["peer"] == pytest.approx(50)


def test_without_ours_it_failed_but_the_others_were_timed() -> None:
    clock = FakeClock()
    log = Log(clock)
    outcome = run(clock, {"ours": broken, "peer": lambda: log.contestant("peer", 0.05)})
    assert outcome.status == "failed"
    assert outcome.reason == "ours is absent: failed: RuntimeError: out of memory"
    assert outcome.metrics["peer.ms"] == pytest.approx(50)


def test_where_results_differ_it_failed_and_names_both() -> None:
    clock = FakeClock()
    log = Log(clock)
    outcome = run(clock, {
        "ours": lambda: log.contestant("ours", 0.02),
        "wrong": lambda: log.contestant("wrong", 0.01, [torch.zeros(3)]),
    })  # fmt: skip
    assert outcome.status == "failed"
    assert outcome.reason == "wrong: refused: it differs from ours by 1.0e+00, allowed: 1e-03"
    assert "wrong.ms" not in outcome.metrics and "ours.ms" in outcome.metrics
    assert outcome.facts["absent"]["wrong"].startswith("refused")


def test_a_lone_result_that_is_not_finite_leaves_nothing_to_time() -> None:
    clock = FakeClock()
    log = Log(clock)
    outcome = run(
        clock, {"ours": lambda: log.contestant("ours", 0.02, [torch.tensor([torch.nan])])}
    )
    assert outcome.status == "failed" and log.calls == []
    assert outcome.reason == "ours: refused: output 0 is not finite"
    assert outcome.curves is not None and not len(outcome.curves)
