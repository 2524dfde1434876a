"""Every benchmark's quick cells for real: the code paths, never the times."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from lib import runner
from lib.bench import cpu, scan
from lib.bench.config import CpuBench, ScanBench
from lib.bench.peers import renamed
from lib.experiments import Context, cells_of, find
from lib.experiments.foundations import PREFIX
from lib.models.config import Mamba1Config
from lib.models.mamba1 import Mamba1Mixer
from lib.store import Store

OURS = {"scan": "chunked", "block": "eager", "step": "eager", "language": "chunked",
        "beside": "beside", "cpu": "chunked"}  # fmt: skip


@pytest.mark.parametrize("kind", ["scan", "block", "step", "language", "sweep", "beside", "cpu"])
def test_a_quick_benchmark_leaves_a_whole_record(kind: str, tmp_path: Path) -> None:
    store = Store(tmp_path, tmp_path / "published")
    summary = runner.run(PREFIX + kind, "quick", store=store, device="cpu", say=lambda line: None)
    assert summary.failed == []
    experiment = find(PREFIX + kind)
    (record,) = store.records(experiment.name, experiment.protocol, cells_of(experiment, "quick"))
    assert record is not None and record.status == "done"
    facts, metrics = record.provenance, record.metrics
    curves = record.read_curves()
    names = set(facts["notes"])
    if kind == "sweep":
        assert names == {"L1", "L2"} and metrics["minutes"] > 0
        # minutes are the steps of both depths, all runs at once
        total = metrics["L1.ms"] + metrics["L2.ms"]
        assert metrics["minutes"] == pytest.approx(total * 10 / 6e4)
        assert metrics["runs"] == 4
    else:
        assert facts["ours"] == OURS[kind] in names
        assert metrics["floor_ms"] > 0
    assert set(curves["contestant"]) == names
    assert (curves.groupby("contestant")["ms"].count() == record.config["repeats"]).all()
    for name in names:
        assert 0 < metrics[f"{name}.floor_share"] < 1 and metrics[f"{name}.error"] < 1e-3
    assert all(reason for reason in facts["absent"].values())
    assert not names & set(facts["absent"])


@pytest.mark.parametrize("d_state", [3, 4])  # sliced out of one projection; of their own
def test_the_scan_is_given_in_the_layout_of_each_ones_model(d_state: int) -> None:
    bench = ScanBench(3, 6, 7, d_state, device="cpu")
    mixer = Mamba1Mixer(Mamba1Config(d_model=3, d_state=d_state))
    _, B, C = mixer._split(torch.zeros(3, 7, 6))
    ours = scan.inputs(bench, 0)
    theirs = scan.official_layout(bench, ours)
    assert ours.keys() == theirs.keys() == {*scan.NAMES, "y_grad"}
    for name in ("u", "delta", "y_grad"):
        assert ours[name].stride() == (42, 1, 6)
        assert theirs[name].is_contiguous()
    for name, made in (("B", B), ("C", C)):
        assert ours[name].stride() == made.mT.stride()
        assert theirs[name].is_contiguous()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name])
        assert value.is_leaf and value.requires_grad == theirs[name].requires_grad


def test_the_models_on_the_processor_are_the_same_model() -> None:
    bench = CpuBench(2, 9, 16, 2, 4, 32, input_sets=1)
    ours = cpu.our_model(bench)
    theirs = cpu.their_model(bench, ours, mambapy=False)
    assert set(renamed(ours, "backbone.embeddings.weight")) == set(theirs.state_dict())
    tokens = torch.randint(32, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(ours(tokens), theirs(tokens).logits, atol=1e-5)


def test_threads_are_set_and_put_back() -> None:
    before = torch.get_num_threads()
    with cpu.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_the_language_model_s_record_has_tokens_a_second() -> None:
    experiment = find(PREFIX + "language")
    (cell,) = cells_of(experiment, "quick")
    (outcome,) = experiment.run([dataclasses.replace(cell, repeats=1)], Context())
    metrics = outcome.metrics
    assert metrics["chunked.tokens_per_s"] == pytest.approx(1e3 * 2 * 16 / metrics["chunked.ms"])
    assert "runs on a GPU only" in outcome.facts["absent"]["mamba_ssm"]
