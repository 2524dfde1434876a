from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lib import __main__ as cli
from lib import locks, provenance, publishing, runner
from lib.config import to_dict
from lib.experiments import Context, Outcome, ablations
from lib.ops import backends
from lib.store import Store, StoreError, identity
from tests import fakes
from tests.fakes import EXPERIMENT, FakeCell, put, use_fake


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fake(monkeypatch)
    monkeypatch.delenv("MAMBA_BOOK_RUNS", raising=False)


def run(root: Path, profile: str = "paper", **options: Any) -> runner.Summary:
    return runner.run(
        "demo.one", profile, root=root, device="cpu", say=lambda line: None, **options
    )


def test_runs_what_is_missing_once(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert first.done == ["L2-s1", "L2-s2", "L7-s1", "L7-s2", "L7-s3"]
    assert first.failed == ["L2-s3"] and first.left == 0
    again = run(tmp_path)
    assert again.done == again.failed == [] and again.skipped == 6
    assert run(tmp_path, retry_failed=True).failed == ["L2-s3"]
    assert len(run(tmp_path, fresh=True).done) == 5


@pytest.mark.parametrize("page", [True, False])
def test_a_page_gets_one_line_for_all_that_ended_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: bool
) -> None:
    monkeypatch.setattr("lib.progress.for_a_page", lambda: page)
    said: list[str] = []
    runner.run("demo.one", "paper", root=tmp_path, device="cpu", say=said.append)
    assert said[0] == "demo.one paper: 6 cells, 0 with records, 6 to run on cpu"
    ended = [line.partition(" (")[0].strip() for line in said[1:]]
    bad = "L2-s3: the loss was not finite at step 5 of 10"
    if page:
        assert ended == [bad, "5 done"]
    else:
        good = [f"L{n}-s{seed}: done" for n, seed in ((2, 1), (2, 2), (7, 1), (7, 2), (7, 3))]
        assert ended == [*good[:2], bad, *good[2:]]
    runner.run("demo.one", "paper", root=tmp_path, device="cpu", say=said.append)
    assert said[-1].endswith("0 to run on cpu")  # and no line of none


def test_a_fresh_run_goes_on_where_its_budget_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path)
    real = EXPERIMENT.run

    def few(cells: Sequence[Any], context: Context) -> Iterator[Outcome]:
        """Two cells a call, as within a budget."""
        for number, outcome in enumerate(real(cells, context)):
            yield outcome if number < 2 else Outcome(outcome.cell, "stopped")

    monkeypatch.setattr(runner, "find", lambda name: dataclasses.replace(EXPERIMENT, run=few))
    ran = []
    for left in (4, 2, 0):
        summary = run(tmp_path, fresh=True)
        ran += summary.done + summary.failed
        assert summary.left == left
    assert sorted(ran) == [f"L{n}-s{seed}" for n in (2, 7) for seed in (1, 2, 3)]
    # it is over: the next begins again, and so does one with other code
    assert run(tmp_path, fresh=True).left == 4
    code = provenance.code()
    monkeypatch.setattr(provenance, "code", lambda: {**code, "lib_hash": "other"})
    assert run(tmp_path, fresh=True).left == 4
    (kept,) = (tmp_path / ".runs" / "demo.one").glob(".fresh-*.json")
    kept.write_text("{")
    assert run(tmp_path, fresh=True).left == 4  # damaged: from the beginning
    # another choice of cells has a list of its own, and leaves this one alone
    assert run(tmp_path, fresh=True, select=["n_layers=7", "seed=1"]).left == 0
    assert run(tmp_path, fresh=True).left == 2


def test_a_fresh_run_goes_on_from_no_earlier_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / ".runs" / "demo.one" / "checkpoints"
    folder.mkdir(parents=True)
    cells = EXPERIMENT.cells("paper")
    names = [f"x-{identity('demo.one', EXPERIMENT.protocol, to_dict(c))}" for c in cells]
    phases = [f"{name}-noisy-ended" for name in names]
    for name in (*names, *phases, "y-other"):
        (folder / f"{name}.safetensors").write_bytes(b"")
    runner.run("demo.one", "paper", root=tmp_path, device="cpu", fresh=True,
               select=["seed=1"], say=lambda line: None)  # fmt: skip
    left = {path.stem for path in folder.iterdir()}
    own = {
        each for n, p, c in zip(names, phases, cells, strict=True) if c.seed == 1 for each in (n, p)
    }
    assert left == {*names, *phases, "y-other"} - own and own


@pytest.mark.parametrize(
    "options, said",
    [
        ({"ensemble": 0}, "ensemble is 0, allowed: at least 1"),
        ({"abreast": -1}, "abreast is -1, allowed: 0 or more"),
        ({"checkpoint_every": float("nan")}, "checkpoint_every is nan, allowed: 0 or more"),
        ({"checkpoint_every": float("inf")}, "checkpoint_every is inf, allowed: 0 or more"),
    ],
)
def test_options_out_of_range(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        run(tmp_path, **options)


def test_a_reader_that_is_gone_loses_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `python -m lib run … | head -1`: all cells run, and all are kept."""
    reads, writes = os.pipe()
    os.close(reads)
    gone = os.fdopen(writes, "w", buffering=1)
    monkeypatch.setattr(sys, "stdout", gone)
    status = cli.main(["--root", str(tmp_path), "run", "demo.one", "--profile", "paper"])
    monkeypatch.undo()
    gone.close()
    assert status == cli.FAILED  # of the one cell that fails
    assert len(list((tmp_path / ".runs" / "demo.one").glob("*.json"))) == 6


def test_an_interrupt_is_a_line_and_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupted)
    assert cli.main(["--root", str(tmp_path), "run", "demo.one"]) == 130
    assert capsys.readouterr().err.startswith("interrupted; the same command goes on")


def test_a_full_disk_has_failed_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    status = cli.main(["--root", str(tmp_path), "run", "demo.one", "--profile", "paper"])
    said = capsys.readouterr().err
    assert status == cli.FAILED and "No space left" in said and "demo.one" in said


def test_a_relative_folder_of_runs_is_one_folder_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAMBA_BOOK_RUNS", "my runs")
    assert cli.main(["--root", str(tmp_path), "list"]) == 0
    assert os.environ["MAMBA_BOOK_RUNS"] == str(tmp_path / "my runs")


def test_a_number_that_is_none_fails_its_cell_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = EXPERIMENT.run

    def broken(cells: Sequence[Any], context: Context) -> Iterator[Outcome]:
        for outcome in real(cells, context):
            if outcome.cell.seed == 1:
                outcome.metrics["best"] = float("nan")
            yield outcome

    monkeypatch.setattr(runner, "find", lambda name: dataclasses.replace(EXPERIMENT, run=broken))
    summary = run(tmp_path, select=["n_layers=7"])
    assert (summary.done, summary.failed) == (["L7-s2", "L7-s3"], ["L7-s1"])
    (record,) = (r for r in Store.at(tmp_path).all() if r.status == "failed")
    assert record.reason == "at the end best were not finite numbers"
    assert record.metrics == {"other": 0.5}


def test_records_say_where_they_came_from(tmp_path: Path) -> None:
    run(tmp_path, select=["n_layers=7", "seed=2"])
    (record,) = Store.at(tmp_path).all()
    facts = record.provenance
    assert facts["profile"] == "paper" and facts["seed"] == 2 and facts["device"] == "cpu"
    assert len(facts["lib_hash"]) == 16 and facts["versions"]["torch"]
    assert facts["started"].endswith("+00:00") and facts["wall_seconds"] >= 0
    assert record.metrics == {"best": pytest.approx(0.7), "other": 0.5}


def test_of_several_values_any_will_do(tmp_path: Path) -> None:
    assert run(tmp_path, select=["n_layers=7", "seed=1 | 3"]).done == ["L7-s1", "L7-s3"]
    assert run(tmp_path, select=["n_layers=9|2", "seed=1"]).done == ["L2-s1"]


def test_a_failed_cell_keeps_its_reason(tmp_path: Path) -> None:
    run(tmp_path, select=["n_layers=2", "seed=3"])
    (record,) = Store.at(tmp_path).all()
    assert record.status == "failed" and record.reason == "the loss was not finite at step 5 of 10"
    assert record.metrics == {}


def test_shards_are_a_partition(tmp_path: Path) -> None:
    names = [name for n in (1, 2, 3, 4) for name in run(tmp_path, shard=f"{n}/4").done]
    assert sorted(names) == ["L2-s1", "L2-s2", "L7-s1", "L7-s2", "L7-s3"]


def test_a_spent_budget_stops_cleanly(tmp_path: Path) -> None:
    summary = run(tmp_path, budget="0.000001s")
    assert summary.stopped == ["L2-s1"] and summary.left == 6
    assert Store.at(tmp_path).all() == []


def test_cells_that_train_together_stop_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group with a failed run is stopped: the failure is kept, all others are left."""

    def group(todo: Sequence[FakeCell], context: Context) -> Iterator[Outcome]:
        for cell in todo:
            if cell.seed == 1:
                yield Outcome(cell, "failed", "the loss was not finite at step 5 of 10")
            else:
                yield Outcome(cell, "stopped")

    monkeypatch.setitem(vars(EXPERIMENT), "run", group)
    said: list[str] = []
    summary = runner.run("demo.one", "paper", root=tmp_path, device="cpu", say=said.append)
    assert summary.failed == ["L2-s1", "L7-s1"] and summary.left == 4
    assert summary.stopped == ["L2-s2", "L2-s3", "L7-s2", "L7-s3"]
    assert sum("budget spent" in line for line in said) == 4
    assert len(Store.at(tmp_path).all()) == 2


def test_a_checkpoint_goes_when_its_cell_is_over_and_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a cell that had another name while it trained."""

    def trained(todo: Sequence[FakeCell], context: Context) -> Iterator[Outcome]:
        assert context.checkpoints is not None
        context.checkpoints.mkdir(parents=True)
        paths: list[Path] = []
        for cell in todo:
            path = context.checkpoint("other-name", cell)
            assert path is not None
            path.write_bytes(b"state")
            paths.append(path)
        for cell, path in zip(todo, list(paths), strict=True):
            yield Outcome(cell, "failed" if cell.seed == 3 else "done", "no")
            assert not path.exists()
            rest = paths[paths.index(path) + 1 :]
            assert all(later.exists() for later in rest)

    monkeypatch.setitem(vars(EXPERIMENT), "run", trained)
    summary = run(tmp_path, select=["n_layers=7"])
    assert len(summary.done) == 2 and len(summary.failed) == 1
    assert not list(Store.at(tmp_path).local.rglob("*.safetensors"))


def taking(todo: Sequence[FakeCell], context: Context) -> Iterator[Outcome]:
    """Cell by cell, those that nobody else runs."""
    for cell in todo:
        for mine in context.take([cell]):
            yield Outcome(mine, "done", metrics={"best": 1.0})
            # its record is there: nobody has to wait for the rest
            assert context.holding is not None and not context.holding.locks


@pytest.mark.parametrize("page", [False, True])
@pytest.mark.parametrize("ends", ["well", "early", "late"])
def test_cells_of_another_process_are_left_to_it_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    ends: str, page: bool,
) -> None:  # fmt: skip
    monkeypatch.setitem(vars(EXPERIMENT), "run", taking)
    monkeypatch.setattr("lib.progress.for_a_page", lambda: page)
    store, first = Store.at(tmp_path), EXPERIMENT.cells("paper")[0]
    lock = locks.lock_of(store.local, identity("demo.one", 1, to_dict(first)))
    lock.acquire()
    passed = [0.0]
    monkeypatch.setattr(runner.time, "monotonic", lambda: passed[0])

    def meanwhile(seconds: float) -> None:
        """Once all others have run: it does too, or ends without a record, or goes on."""
        assert len(list((store.local / "demo.one").glob("*.json"))) == 5
        if ends == "well":
            put(store, first, best=0.4)
        if ends == "late":
            passed[0] += 60.0
        else:
            lock.release()

    monkeypatch.setattr(locks, "time", SimpleNamespace(sleep=meanwhile))
    root = ["--root", str(tmp_path), "run", "demo.one", "--profile", "paper", "--device", "cpu"]
    budget = ["--budget", "60s"] if ends == "late" else []
    assert cli.main([*root, *budget]) == (cli.STOPPED if ends == "late" else 0)
    said = lines(capsys)
    assert ("L2-s1: passed over, under way in another process" in said) is not page
    assert ("waiting for L2-s1 of another process" in said) is not page
    ran = {"well": "5 done, 0 failed, 0 left", "early": "6 done, 0 failed, 0 left",
           "late": "5 done, 0 failed, 1 left"}  # fmt: skip
    assert ran[ends] in said
    lock.release()
    assert cli.main(root) == 0
    # nothing is held any more
    assert all(map(locks.taken, (locks.lock_of(tmp_path / ".runs", identity(
        "demo.one", 1, to_dict(cell))) for cell in EXPERIMENT.cells("paper"))))  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"fresh": True}, {"retry_failed": True}])
def test_cells_that_were_run_meanwhile_are_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    store = Store.at(tmp_path)
    before, meanwhile = (EXPERIMENT.cells("paper")[k] for k in (0, 1))
    if options:
        put(store, before, "failed" if "retry_failed" in options else "done", best=0.3)

    def beside(todo: Sequence[FakeCell], context: Context) -> Iterator[Outcome]:
        put(store, meanwhile, best=0.4)
        yield from taking(todo, context)

    monkeypatch.setitem(vars(EXPERIMENT), "run", beside)
    summary = run(tmp_path, **options)
    assert "L2-s1" in summary.done and "L2-s2" not in summary.done
    assert (len(summary.done), summary.skipped, summary.left) == (5, 1, 0)
    assert not list((tmp_path / ".runs" / "demo.one").glob(".fresh-*.json"))


def test_an_error_gives_back_what_was_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def broken(todo: Sequence[FakeCell], context: Context) -> Iterator[Outcome]:
        kept.append(context.take(todo))
        raise RuntimeError("out of memory")
        yield

    with monkeypatch.context() as patch:
        patch.setitem(vars(EXPERIMENT), "run", broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            run(tmp_path)
    assert len(kept[0]) == 6
    monkeypatch.setitem(vars(EXPERIMENT), "run", taking)
    assert len(run(tmp_path).done) == 6


def test_the_wish_for_whole_trainings_reaches_the_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def group(todo: Sequence[FakeCell], context: Context) -> Iterator[Outcome]:
        asked.append(context.whole)
        why = "given up at step 3 of 10: 90 s more would be needed, 50 s are left"
        yield from (Outcome(cell, "stopped", why) for cell in todo)

    monkeypatch.setitem(vars(EXPERIMENT), "run", group)
    root = ["--root", str(tmp_path), "run", "demo.one", "--profile", "paper", "--device", "cpu"]
    assert cli.main([*root, "--budget", "60s", "--whole"]) == cli.STOPPED
    said = capsys.readouterr().out
    assert said.count("given up at step 3 of 10: 90 s more") == 6 and "budget spent" not in said
    assert cli.main([*root, "--budget", "60s"]) == cli.STOPPED and asked == [True, False]
    assert cli.main([*root, "--whole"]) == cli.USAGE_ERROR and len(asked) == 2
    assert "whole is asked for without a budget, allowed: with one" in capsys.readouterr().err


def test_the_ensemble_size_reaches_the_experiment_and_shares_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def group(todo: Sequence[FakeCell], context: Context) -> Iterator[Outcome]:
        asked.append(context.ensemble)
        for cell in todo:
            yield Outcome(cell, "done", started="2026-01-02T03:04:05+00:00", wall_seconds=7.5)

    monkeypatch.setitem(vars(EXPERIMENT), "run", group)
    root = ["--root", str(tmp_path), "run", "demo.one", "--profile", "paper", "--device", "cpu"]
    assert cli.main([*root, "--select", "n_layers=2", "--ensemble", "36"]) == 0
    assert cli.main(root) == 0 and asked == [36, None]
    for record in Store.at(tmp_path).all():
        assert record.provenance["wall_seconds"] == 7.5
        assert record.provenance["started"] == "2026-01-02T03:04:05+00:00"


def test_truncated_record_is_named_and_run_again(tmp_path: Path) -> None:
    run(tmp_path, select=["n_layers=7"])
    (path,) = (tmp_path / ".runs/demo.one").glob("L7-s1-*.json")
    path.write_bytes(path.read_bytes()[:50])
    said: list[str] = []
    summary = runner.run(
        "demo.one", "paper", root=tmp_path, device="cpu", select=["n_layers=7"], say=said.append
    )
    assert summary.done == ["L7-s1"]
    assert any(path.name in line and "treated as missing" in line for line in said)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"profile": "full"}, ValueError, "profile is 'full', allowed: quick, matched, paper"),
        ({"profile": "matched"}, ValueError, "'matched', allowed for demo.one: quick, paper$"),
        ({"profile": "pinned"}, ValueError, "'pinned', allowed for demo.one: quick, paper$"),
        ({"select": ["n_layer=7"]}, ValueError, "no field 'n_layer'; fields like it: n_layers;"),
        ({"select": ["n_layers"]}, ValueError, "select is 'n_layers', allowed: NAME=VALUE"),
        ({"select": ["n_layers=9"]}, ValueError, "fits no cell; values: 2, 7"),
        ({"select": ["n_layers=9|"]}, ValueError, "fits no cell; values: 2, 7"),
        ({"select": ["n_layers=7", "seed=9"]}, ValueError,
         "'seed=9' fits no cell that meets n_layers=7; values: 1, 2, 3$"),
        ({"select": ["seed=1", "seed=2"]}, ValueError,
         "'seed=2' fits no cell that meets seed=1; values: 1. All conditions must hold; for either "
         r"write 'seed=1\|2'$"),
        ({"shard": "5/4"}, ValueError, "shard is '5/4'"),
        ({"shard": "7/7"}, ValueError, "'7/7', allowed: I up to 6, since there are 6 cells"),
        ({"shard": "a"}, ValueError, "shard is 'a'"),
        ({"budget": "soon"}, ValueError, "budget is 'soon', allowed: a time like"),
        ({"budget": "0m"}, ValueError, "budget is '0m'"),
        ({"ensemble": 0}, ValueError, "ensemble is 0, allowed: at least 1"),
        ({"abreast": -1}, ValueError, "abreast is -1, allowed: 0 or more"),
        ({"checkpoint_every": -1.0}, ValueError,
         "checkpoint_every is -1.0, allowed: 0 or more seconds"),
        ({"checkpoint_every": float("nan")}, ValueError, "checkpoint_every is nan, allowed: 0 or"),
        ({"backend": "warp"}, ValueError, "backend is 'warp', allowed: auto"),
    ],
)  # fmt: skip
def test_wrong_requests_are_named_before_work(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(tmp_path, **options)
    assert not list(tmp_path.rglob("*.json"))


def test_cells_without_a_field_do_not_fit_a_condition_on_it() -> None:
    (beyond,) = (e for e in ablations.EXPERIMENTS if e.name == ablations.BEYOND)
    cells = beyond.cells("paper")
    kinds = [[cell.model.pattern[0] for cell in runner.select_cells(cells, [condition])]
             for condition in ("conv_kind=none", "rope_fraction=0.5")]  # fmt: skip
    assert [(len(each), {block.kind for block in each}) for each in kinds] == [
        (6, {"mamba2"}), (6, {"mamba3"}),
    ]  # fmt: skip
    assert {block.conv_kind for block in kinds[0]} == {"none"}
    with pytest.raises(ValueError, match=r"no field 'rope_fraction'; fields: n_layers, seed, "):
        runner.select_cells(cells, ["conv_kind=none", "rope_fraction=0.5"])
    with pytest.raises(ValueError, match=r"fits no cell; values: none, palindromic, standard$"):
        runner.select_cells(cells, ["conv_kind=short"])


def test_wrong_experiment_device_and_absent_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"no experiment 'demo.two'; there are: demo.one"):
        runner.run("demo.two", "paper", root=tmp_path)
    with pytest.raises(ValueError, match="device is 'tpu', allowed: auto, cpu, cuda"):
        runner.run("demo.one", "paper", root=tmp_path, device="tpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(runner.RunError, match=r"'cuda' was asked for, but torch .* sees no GPU"):
        runner.run("demo.one", "paper", root=tmp_path, device="cuda")
    assert runner.choose_device("auto") == "cpu"
    with pytest.raises(RuntimeError, match="mamba_ssm"):
        runner.run("demo.one", "paper", root=tmp_path, device="cpu", backend="mamba_ssm")


@pytest.mark.parametrize("own", [None, "1"])
def test_a_gpu_has_as_many_queues_as_it_can_unless_someone_chose(
    own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(runner.QUEUES[0], own or "")
    if own is None:
        monkeypatch.delenv(runner.QUEUES[0])
    assert runner.choose_device("cpu") == "cpu"
    assert os.environ[runner.QUEUES[0]] == (own or "32")


def test_unwritable_results_stop_the_run_before_work(tmp_path: Path) -> None:
    (tmp_path / ".runs").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="cannot write records to"):
        run(tmp_path)


def test_runs_folder_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAMBA_BOOK_RUNS", str(tmp_path / "elsewhere"))
    run(tmp_path, select=["n_layers=7"])
    assert len(list((tmp_path / "elsewhere/demo.one").glob("*.json"))) == 3
    assert not (tmp_path / ".runs").exists()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("8m", 480), ("1.5h", 5400), (2.5, 2.5)]
)
def test_times(text: str | float, seconds: float) -> None:
    assert runner.parse_seconds(text) == seconds


def test_status_counts_done_total_and_failed(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    put(store, FakeCell(7, 1), best=0.9)
    put(store, FakeCell(7, 2), status="failed")
    rows = {row["profile"]: row for row in runner.status(tmp_path)}
    assert set(rows) == {"quick", "paper"}  # no matched cells, so no row for them
    paper = rows["paper"]
    assert (paper["done"], paper["total"], paper["failed"]) == (1, 6, 1)
    assert paper["devices"] == ["test"] and paper["last"] == "2026-01-01"
    assert (paper["wall_seconds"], paper["certainty"]) == (2.0, "")


def test_the_status_counts_a_time_that_runs_shared_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.at(tmp_path)
    facts = {**fakes.PROVENANCE, "wall_seconds": 60.0, "abreast": 2}
    for seed, minute in ((1, 0), (2, 0), (3, 5)):
        monkeypatch.setattr(fakes, "PROVENANCE", {**facts, "started": f"2026-01-01T10:0{minute}"})
        put(store, FakeCell(7, seed), best=0.9)
    rows = {row["profile"]: row for row in runner.status(tmp_path)}
    assert (rows["paper"]["wall_seconds"], rows["paper"]["certainty"]) == (120.0, "at most ")


def lines(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_command_line_list_and_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--root", str(tmp_path)]
    assert cli.main([*root, "run", "demo.one", "--profile", "paper", "--select", "n_layers=7"]) == 0
    assert "3 done, 0 failed, 0 left" in lines(capsys)
    assert cli.main([*root, "list", "--json"]) == 0
    rows = json.loads(lines(capsys))
    assert {"experiment": "demo.one", "profile": "paper", "cells done": 3, "total": 6,
            "failed": 0} in rows  # fmt: skip
    assert cli.main([*root, "run", "demo.one", "--profile", "paper"]) == cli.FAILED
    assert cli.main([*root, "list"]) == 0
    assert "5/6" in lines(capsys)
    next((tmp_path / ".runs" / "demo.one").glob("*.json")).write_text("{")
    assert cli.main([*root, "list", "--json"]) == 0
    captured = capsys.readouterr()
    counts = {r["profile"]: r["cells done"] + r["failed"] for r in json.loads(captured.out)}
    assert counts["paper"] == 5  # of six
    assert captured.err.startswith("note: ") and "treated as missing" in captured.err
    assert cli.main([*root, "run", "demo.one", "--budget", "0.000001"]) == cli.STOPPED


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "demo.two"], ["run", "demo.one", "--profile", "full"],
        ["run", "demo.one", "--profile", "matched"], ["run", "demo.one", "--shard", "100/100"],
        ["run", "demo.one", "--checkpoint-every", "-1"],
        ["run", "demo.one", "--backend", "warp"], ["run", "demo.one", "--backend", "mamba_ssm"],
        ["run", "demo.one", "--prefer", "linear"], ["run", "demo.one", "--prefer", "a=b"],
        ["run", "demo.one", "--prefer", "selective_scan=mamba_ssm", "--device", "cpu"],
        ["publish", "demo.one"], ["verify"], ["notebook", "absent.ipynb"],
    ],
)  # fmt: skip
def test_command_line_errors_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert cli.main(["--root", str(tmp_path), *arguments]) == cli.USAGE_ERROR
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error


def test_preferred_backends_are_preferred_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        runner, "run", lambda *_, **__: seen.append(dict(backends._preferred)) or runner.Summary()
    )
    prefer = ["--prefer", "linear=reference", "--prefer", "attention=reference"]
    assert cli.main(["--root", str(tmp_path), "run", "demo.one", *prefer]) == 0
    assert seen == [{"linear": "reference", "attention": "reference"}]
    assert backends._preferred == {}


def test_the_help_names_the_profiles_that_an_error_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    cli.main(["run", "demo.one", "--profile", "x"])
    names = lines(capsys).rpartition("allowed: ")[2].strip()
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    assert f"{names} (default: quick)" in lines(capsys)


def test_errors_show_where_they_came_from_on_request(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no experiment 'demo\.two'"):
        cli.main(["--root", str(tmp_path), "--traceback", "run", "demo.two"])


def test_publish_by_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--root", str(tmp_path)]
    cli.main([*root, "run", "demo.one", "--profile", "paper", "--select", "n_layers=7"])
    assert cli.main([*root, "publish", "demo.one", "--profile", "paper"]) == 0
    assert "3 of 6 cells of demo.one paper are published" in lines(capsys)
    published = Store.at(tmp_path).all(published_only=True)
    assert [record.readable for record in published] == ["L7-s1", "L7-s2", "L7-s3"]
    assert all(len(record.read_curves()) == 2 for record in published)


def test_a_cell_run_again_is_published_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, store = ["--root", str(tmp_path)], Store.at(tmp_path)
    publish = [*root, "publish", "demo.one", "--profile", "paper"]
    cli.main([*root, "run", "demo.one", "--profile", "paper", "--select", "n_layers=7"])
    cli.main(publish)
    first, *others = store.all(published_only=True)
    again = dataclasses.replace(
        first,
        metrics={**first.metrics, "loss": 2.5},
        provenance={**first.provenance, "started": "2999-01-01T00:00:00+00:00"},
    )
    store.save(again, first.read_curves().head(1))
    lines(capsys)
    assert cli.main(publish) == 0
    assert f"{first.name}, for the run of {first.started}" in (said := lines(capsys))
    assert f"already published: {others[0].name}" in said
    found = store.all(published_only=True)
    assert found[0].metrics["loss"] == 2.5 and len(found[0].read_curves()) == 1
    assert found[1:] == others and len(list(found[0].folder.glob("*.parquet"))) == 3
    cli.main(publish)
    assert f"already published: {first.name}" in lines(capsys)
    older = dataclasses.replace(again, provenance={**first.provenance, "started": "1999"})
    store.save(older)
    cli.main(publish)
    assert store.all(published_only=True)[0].metrics["loss"] == 2.5


def test_published_weights_are_not_lost_to_a_run_without(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    cli.main(["--root", str(tmp_path), "run", "demo.one", "--profile", "paper"])
    record = store.all()[0]
    store.publish(store.save(record, weights=b"tensors"), keep_weights=True)
    store.save(dataclasses.replace(record, provenance={**record.provenance, "started": "2999"}))
    with pytest.raises(StoreError, match="the run of 2999 has no weights"):
        list(publishing.publish(tmp_path, "demo.one", "paper"))


def test_a_reader_that_has_enough_gets_no_traceback() -> None:
    """As with `python -m lib list | head -1`, here with a reader that has left already."""
    end, start = os.pipe()
    os.close(end)
    listing = subprocess.run(
        [sys.executable, "-m", "lib", "list"], cwd=provenance.ROOT, stdout=start,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(start)
    assert (listing.stderr, listing.returncode) == ("", 1)
