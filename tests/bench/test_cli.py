from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib.bench import cli, show
from lib.bench.config import CpuBench, ScanBench
from lib.config import to_dict
from lib.experiments import Context, Outcome, cells_of, find
from lib.experiments.foundations import KINDS, PREFIX, run_benches
from lib.store import Store, identity


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store, which the command line writes to as well."""
    monkeypatch.setenv("MAMBA_BOOK_RUNS", str(tmp_path / "runs"))
    return Store.at(tmp_path)


def fake_run(monkeypatch: pytest.MonkeyPatch, status: str = "done") -> list:
    """Benchmarks that take no time; returns the list of those that were asked for."""
    asked = []

    def run(bench: CpuBench) -> Outcome:
        asked.append(bench)
        metrics: dict[str, float | None] = {
            "floor_ms": 1.0, "floor_ms.bytes": 1.0, "chunked.ms": 4.0, "chunked.ms_low": 3.5,
            "chunked.ms_high": 5.0, "chunked.ms_min": 3.0, "chunked.error": 0.0,
            "chunked.floor_share": 0.25, "work.bytes": 8.0, "work.flops": 16.0,
            "work.exponentials": 2.0,
        }  # fmt: skip
        facts = {
            "backends": {"selective_scan": ["chunked"]}, "ours": "chunked",
            "absent": {"mambapy": "the package mambapy is not installed"}, "notes": {},
        }  # fmt: skip
        reason = None if status == "done" else "it broke"
        return Outcome(bench, status, reason, metrics, facts=facts)

    for kind in KINDS:
        monkeypatch.setattr(f"lib.bench.{kind}.run", run)
    return asked


def test_a_table_is_printed_and_a_record_is_left(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    asked = fake_run(monkeypatch)
    assert cli.main(["--root", str(tmp_path), "cpu", "--select", "threads=2"]) == 0
    assert [(bench.threads, bench.direction) for bench in asked] == [(2, "forward"), (2, "both")]
    printed = capsys.readouterr().out
    assert "2 benchmarks (paper) on cpu" in printed
    assert "chunked (ours)" in printed and "3.50 to 5.00" in printed
    assert "mambapy" in printed and "not installed" in printed
    records = show.records_of("cpu", "paper", store)
    assert [record.config for record in records] == [to_dict(bench) for bench in asked]
    (first, _) = records
    assert first.status == "done" and first.metrics["chunked.ms"] == 4.0
    assert first.provenance["profile"] == "paper" and first.provenance["ours"] == "chunked"
    assert first.name in printed
    points = show.points(records)
    assert points["intensity"].tolist() == [2.0, 2.0] and points["rate"].tolist() == [4e3, 4e3]


def test_fewer_repeats_are_another_record(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = fake_run(monkeypatch)
    assert cli.main(["--root", str(tmp_path), "cpu", "--quick"]) == 0
    full = cells_of(find(PREFIX + "cpu"), "paper")
    assert [bench.repeats for bench in asked] == [bench.repeats // 2 for bench in full]
    assert show.records_of("cpu", "paper", store) == []
    assert len(list((tmp_path / "runs").glob("*/*.json"))) == len(full)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_the_processor_is_measured_whatever_there_is(
    device: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    asked = fake_run(monkeypatch)
    arguments = ["--root", str(tmp_path), "cpu", "--profile", "quick", "--device", device]
    assert cli.main(arguments) == 0
    assert [bench.device for bench in asked] == ["cpu"]


def test_a_failed_benchmark_is_an_exit_status(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    fake_run(monkeypatch, "failed")
    assert cli.main(["--root", str(tmp_path), "scan", "--device", "cpu"]) == 1
    assert "failed: it broke" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cpu", "--select", "threads=9"], "fits no cell; values: 1, 2"),
        (
            ["cpu", "--profile", "x"],
            "is 'x', allowed for foundations.bench_cpu on cpu: quick, paper",
        ),
        (
            ["cpu", "--profile", "matched"],
            "profile is 'matched', allowed for foundations.bench_cpu",
        ),
        (["scan", "--device", "cpu", "--profile", "paper"], "bench_scan on cpu: quick\n"),
        (["cpu", "--device", "cuda"], "device is 'cuda', allowed for the benchmark cpu: auto, cpu"),
        (["scan", "--device", "tpu"], "device is 'tpu', allowed: auto, cpu, cuda"),
    ],
)
def test_mistakes_are_named(
    store: Store, tmp_path: Path, arguments: list[str], message: str,
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    asked = fake_run(monkeypatch)
    assert cli.main(["--root", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err and asked == []


def test_a_benchmark_for_another_device_is_refused_before_work() -> None:
    wrong = ScanBench(2048, 64, 8, 128)
    with pytest.raises(ValueError, match=r"device is 'cpu', allowed for cuda-b2048-.*: 'cuda'"):
        next(run_benches([*cells_of(find(PREFIX + "scan"), "quick"), wrong], Context()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_benchmark_has_full_cells_and_a_quick_one(kind: str) -> None:
    experiment = find(PREFIX + kind)
    full, quick = cells_of(experiment, "paper"), cells_of(experiment, "quick")
    assert full and quick and not set(full) & set(quick)
    assert {cell.device for cell in quick} == {"cpu"}
    assert {cell.device for cell in full} == ({"cpu"} if kind == "cpu" else {"cuda"})
    names = [experiment.readable(cell) for cell in full + quick]
    assert len(set(names)) == len(names)
    keys = {identity(experiment.name, experiment.protocol, to_dict(cell)) for cell in full + quick}
    assert len(keys) == len(names)


def test_a_gpu_machine_needs_nothing_that_only_pages_need(tmp_path: Path) -> None:
    # such machines have torch and pandas, but no notebook
    code = (
        "import sys\n"
        "for name in ('IPython', 'plotly', 'ipywidgets', 'nbformat', 'papermill'):\n"
        "    sys.modules[name] = None\n"
        "from lib.bench.cli import main\n"
        f"sys.exit(main(['--root', {str(tmp_path)!r}, 'sweep', '--profile', 'quick']))\n"
    )
    environment = {**os.environ, "MAMBA_BOOK_RUNS": str(tmp_path / "runs")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "minutes of training" in done.stdout
