"""A plan of runs: checked before any work, worked off by several processes within a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from lib import plan
from lib.__main__ import main
from lib.experiments import Context
from lib.experiments._noise_shared import shared_folder
from lib.fresh import Anew
from tests.conftest import ROOT

# in place of a run: says its arguments, waits, ends with a status
SCRIPT = """
import sys, time
name, wait, status = sys.argv[1:4]
print("begins", name, *sys.argv[4:], flush=True)
time.sleep(float(wait))
sys.exit(int(status))
"""
COMMAND = (sys.executable, "-c", SCRIPT)


def written(folder: Path, text: str) -> Path:
    path = folder / "plan.txt"
    path.write_text(text)
    return path


def test_the_books_own_plan_can_be_run() -> None:
    jobs = plan.read(ROOT / "workflow" / "plan.txt")
    assert len(jobs) > 10 and len(set(jobs)) == len(jobs)


def test_comments_and_quotes(tmp_path: Path) -> None:
    path = written(tmp_path, "# all\n\nachilles.beyond --profile 'paper' # a comment\n")
    assert plan.read(path) == [("achilles.beyond", "--profile", "paper")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("achilles.nothing", "achilles.nothing"),
        ("achilles.beyond --profile paper --select n_layers=99", "n_layers=99"),
        (
            "achilles.beyond --profile matched",
            "profile is 'matched', allowed for achilles.beyond: ",
        ),
        ("achilles.beyond --profile quick --shard 9/9", "since there are 8 cells"),
        ("achilles.beyond --quickly", "--quickly"),
        ("achilles.beyond --budget 8m", "no --budget"),
        ("achilles.beyond --whole", "no --whole"),
        ("achilles.beyond --ensemble 0", "ensemble is 0, allowed: at least 1"),
        ("achilles.beyond --abreast -3", "abreast is -3, allowed: 0 or more"),
        ("achilles.beyond --checkpoint-every nan", "checkpoint_every is nan"),
        ("achilles.beyond --device tpu", "device is 'tpu', allowed: auto, cpu, cuda"),
        ("achilles.beyond --backend foo", "backend is 'foo', allowed: auto"),
        ("achilles.beyond --prefer linear", "backend of linear is '', allowed: "),
        ("achilles.beyond --prefer abacus=fast", "op is 'abacus', allowed: "),
        ("achilles.beyond --prefer selective_scan=mamba_ssm --device cpu", "runs on a GPU only"),
        ("achilles.beyond --shard 3/2", "3/2"),
        ("achilles.beyond --profile 'paper", "quotation"),
        ("--profile paper", "experiment"),
    ],
)
def test_a_wrong_line_is_named_before_any_work(tmp_path: Path, line: str, said: str) -> None:
    path = written(tmp_path, f"achilles.beyond --profile paper\n{line}\n")
    with pytest.raises(ValueError, match="line 2") as raised:
        plan.read(path)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)


def test_an_empty_plan_and_no_processes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no line"):
        plan.read(written(tmp_path, "# nothing\n"))
    with pytest.raises(ValueError, match="processes is 0, allowed: at least 1"):
        plan.work([("a",)], 0)
    with pytest.raises(ValueError, match="budget is 30 s, allowed: more than 30 s"):
        plan.work([("a",)], 1, 30.0)
    with pytest.raises(ValueError, match="whole is asked for without a budget, allowed: with one"):
        plan.work([("a",)], 1, whole=True)


def test_a_plan_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "plan.txt"
    path.write_bytes(b"achilles.beyond \xff")
    with pytest.raises(ValueError, match=r"plan is .*plan[.]txt, allowed: a file of text in UTF-8"):
        plan.read(path)
    path.write_bytes("achilles.beyond --profile quick".encode("utf-8-sig"))
    assert plan.read(path) == [("achilles.beyond", "--profile", "quick")]


def test_lines_run_beside_each_other_and_say_how_they_ended(tmp_path: Path) -> None:
    jobs = [("a", "1", "0"), ("b", "1", "3"), ("c", "1", "1"), ("d", "0", "0")]
    said: list[str] = []
    found = plan.work(jobs, 3, root=tmp_path, command=COMMAND, say=said.append)
    assert sorted(found.done) == [jobs[0], jobs[3]]
    assert (found.stopped, found.failed, found.left) == ([jobs[1]], [jobs[2]], [])
    assert {"begins a", "begins b", "begins c", "begins d"} <= set(said)  # and no budget
    assert any(line.startswith("c 1 1: failed with status 1 after") for line in said)


def test_as_many_lines_as_processes_are_under_way_at_once(tmp_path: Path) -> None:
    # each waits for the other two: one after the other, none would end well
    script = """
import sys, time
from pathlib import Path
folder, name = Path(sys.argv[1]), sys.argv[2]
(folder / name).touch()
until = time.monotonic() + 60
while len(list(folder.iterdir())) < 3:
    if time.monotonic() > until:
        sys.exit(1)
    time.sleep(0.02)
"""
    here = tmp_path / "here"
    here.mkdir()
    jobs = [(str(here), name) for name in "abc"]
    command = (sys.executable, "-c", script)
    found = plan.work(jobs, 3, root=tmp_path, command=command, say=lambda line: None)
    assert sorted(found.done) == jobs and not found.failed


def test_lines_of_several_runs_are_said_one_at_a_time(tmp_path: Path) -> None:
    """``print`` writes a text and its end apart: said at once, two lines run into each other."""
    within, most = 0, 0

    def say(line: str) -> None:
        nonlocal within, most
        within += 1
        most = max(most, within)
        time.sleep(0.005)
        within -= 1

    command = (sys.executable, "-c", "for n in range(20): print(n, flush=True)")
    plan.work([("a",), ("b",), ("c",)], 3, root=tmp_path, command=command, say=say)
    assert most == 1


def test_a_queue_whose_reader_is_gone_goes_on_and_packs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "achilles.beyond --profile quick\n")
    reads, writes = os.pipe()
    os.close(reads)
    gone, packed = os.fdopen(writes, "w", buffering=1), []

    def work(jobs: list[plan.Job], *_: Any, say: Any, **__: Any) -> plan.Worked:
        for _ in range(3):
            say("a line of a run")
        return plan.Worked(done=list(jobs))

    monkeypatch.setattr(plan, "work", work)
    monkeypatch.setattr(plan, "pack", lambda *given: packed.append(given) or 1)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", gone)
        status = main(["--root", str(tmp_path), "queue", str(path), "--pack", str(tmp_path / "z")])
    gone.close()
    assert status == 0 and len(packed) == 1


def test_lines_have_the_environment_that_is_given(tmp_path: Path) -> None:
    said: list[str] = []
    command = (sys.executable, "-c", "import os; print(os.environ['GIVEN'], os.environ['HOME'])")
    plan.work(
        [("a",)], 1, root=tmp_path, command=command, environment={"GIVEN": "x"}, say=said.append
    )
    assert said[0] == f"x {os.environ['HOME']}"


def test_each_gets_the_time_that_is_left_and_none_begins_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "LEAST", 58.5)  # the second finds 58 at most
    said: list[str] = []
    jobs = [("a", "2", "0"), ("b", "0", "0")]
    found = plan.work(jobs, 1, 60.0, root=tmp_path, command=COMMAND, say=said.append)
    assert (found.done, found.left) == ([jobs[0]], [jobs[1]])
    assert any(line in said for line in ("begins a --budget 54s", "begins a --budget 55s"))
    plan.work([jobs[1]], 1, 60.0, whole=True, root=tmp_path, command=COMMAND, say=said.append)
    whole = ("begins b --budget 54s --whole", "begins b --budget 55s --whole")
    assert any(line in said for line in whole)


def test_a_run_that_does_not_stop_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "LEAST", 0.0)
    monkeypatch.setattr(plan, "GRACE", 0.5)
    found = plan.work(
        [("a", "60", "0")], 1, 0.5, root=tmp_path, command=COMMAND, say=lambda line: None
    )
    assert found.failed == [("a", "60", "0")]


def test_after_an_interrupt_no_other_line_begins(tmp_path: Path) -> None:
    # what a shell starts in the background is told to overlook interrupts: not here
    code = f"""
import signal
from pathlib import Path
from typing import Any
from lib import plan
signal.signal(signal.SIGINT, signal.default_int_handler)
jobs = [("a", "60", "0"), ("b", "60", "0"), ("c", "0", "0"), ("d", "0", "0")]
say = lambda line: print(line, flush=True)
plan.work(jobs, 2, root=Path({str(tmp_path)!r}), command={COMMAND!r}, say=say)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert {process.stdout.readline() for _ in range(2)} == {"begins a\n", "begins b\n"}
    os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C: to the whole group
    said, error = process.communicate(timeout=30)
    assert process.returncode != 0 and "KeyboardInterrupt" in error
    assert "begins" not in said


def test_an_interrupt_of_this_process_alone_ends_the_runs_under_way(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    child = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = f"""
import signal, sys
from pathlib import Path
from typing import Any
from lib import plan
signal.signal(signal.SIGINT, signal.default_int_handler)
plan.work([("a",)], 1, root=Path({str(tmp_path)!r}), command=(sys.executable, "-c", {child!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 30
    while not (mark.exists() and mark.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    pid = int(mark.read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("status", ["-2", "130"])
def test_whoever_sees_an_interrupted_run_begins_no_other(tmp_path: Path, status: str) -> None:
    """Runs of a terminal's group end by an interrupt at once, this process perhaps later."""
    code = (
        "import os, sys; s = int(sys.argv[1]); os.kill(os.getpid(), -s) if s < 0 else sys.exit(s)"
    )
    command = (sys.executable, "-c", f"import signal\nsignal.signal(2, signal.SIG_DFL)\n{code}")
    said: list[str] = []
    jobs = [(status,), ("0", "next")]
    found = plan.work(jobs, 1, root=tmp_path, command=command, say=said.append)
    assert (found.done, found.failed, found.left) == ([], [jobs[0]], [jobs[1]])


def test_a_pack_has_records_and_no_caches(tmp_path: Path) -> None:
    runs = tmp_path / ".runs"
    names = [
        "achilles.beyond/one.json", "achilles.beyond/one.safetensors",
        "achilles.beyond/checkpoints/two.safetensors", "language_models/m.safetensors",
        "noise-shared/base.safetensors", "text/tokens.bin", "pretrained/x/model.safetensors",
        "achilles.beyond/.three.json.1.tmp", "locks/two.lock",
        "achilles.beyond/checkpoints/two.safetensors.damaged", "noise-shared/a.safetensors.aside",
        "achilles.beyond/..fresh-1a.json.1.tmp",
    ]  # fmt: skip
    for name in names:
        (runs / name).parent.mkdir(parents=True, exist_ok=True)
        (runs / name).write_text(name)
    target = tmp_path / "runs.tar.gz"

    def packed(checkpoints: bool) -> set[str]:
        count = plan.pack(runs, target, checkpoints)
        with tarfile.open(target) as archive:
            assert len(archive.getnames()) == count
            return set(archive.getnames())

    assert packed(False) == {f".runs/{name}" for name in names[:2]}
    assert packed(True) == {f".runs/{name}" for name in names[:5]}
    # a run that began anew goes on elsewhere too, from the checkpoints packed with its list
    fresh = Anew(runs / "achilles.beyond", ["one", "two"])
    fresh.note("one")
    assert packed(False) == {f".runs/{name}" for name in names[:2]}
    assert len(packed(True)) == 6
    with tarfile.open(target) as archive:
        if hasattr(tarfile, "data_filter"):  # since 3.11.4
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(tmp_path / "there")
    there = Anew(tmp_path / "there/.runs/achilles.beyond", ["one", "two"])
    assert (there.done, there.begins) == (["one"], False)
    # what unfinished runs of the chapter on noise began with
    shared = shared_folder(Context(checkpoints=runs / "noise.matched" / "checkpoints"))
    assert shared == runs / "noise-shared"
    target.unlink()
    assert plan.pack(tmp_path / "none", target) == 0
    assert not list(tmp_path.glob("*runs.tar*"))  # neither an archive nor the draft of one


@pytest.mark.parametrize("place", ["none/runs.tar.gz", "."])
def test_a_pack_that_cannot_be_written_is_named_before_any_run(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "foundations.bench_scan --profile quick\n")
    assert main(["queue", str(path), "--pack", str(tmp_path / place)]) == 2
    said = capsys.readouterr()
    assert "allowed: a file in a folder that can be written to" in said.err and not said.out


def test_a_line_that_cannot_begin_has_failed_and_the_others_go_on(tmp_path: Path) -> None:
    said: list[str] = []
    found = plan.work([("a",)], 1, root=tmp_path, command=("/nonexistent",), say=said.append)
    assert found.failed == [("a",)] and not found.left
    assert "a: failed: " in said[0] and "/nonexistent" in said[0]
    # bytes that are no text neither
    binary = "import sys; sys.stdout.buffer.write(bytes([0xff, 10]))"
    found = plan.work([("a",)], 1, root=tmp_path, command=(sys.executable, "-c", binary))
    assert found.done == [("a",)]


def test_from_the_command_line_a_real_run_and_its_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAMBA_BOOK_RUNS", str(tmp_path / "runs"))
    path = written(tmp_path, "foundations.bench_scan --profile quick\n")
    target = tmp_path / "runs.tar.gz"
    assert main(["queue", str(path), "--processes", "1", "--pack", str(target)]) == 0
    said = capsys.readouterr().out
    assert "1 lines done, 0 failed, 0 stopped, 0 not begun" in said
    with tarfile.open(target) as archive:
        (record,) = (name for name in archive.getnames() if name.endswith(".json"))
    assert record.startswith("runs/foundations.bench_scan/")
    assert main(["queue", str(tmp_path / "no-plan.txt")]) == 2
    monkeypatch.delenv("MAMBA_BOOK_RUNS")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert main(["--root", str(elsewhere), "queue", str(path), "--processes", "1"]) == 0
    assert len(list(elsewhere.glob(".runs/foundations.bench_scan/*.json"))) == 1


def test_a_queue_asks_its_lines_for_whole_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def work(*given: Any, **options: Any) -> plan.Worked:
        asked.append(options["whole"])
        return plan.Worked()

    monkeypatch.setattr(plan, "work", work)
    path = written(tmp_path, "achilles.beyond --profile paper\n")
    for more in (["--whole"], []):
        assert main(["queue", str(path), "--budget", "90s", *more]) == 0
    assert asked == [True, False]
