"""SIGKILL in the middle of training, resume, and the same result to the bit."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib import sessions
from lib.__main__ import main
from lib.store import Store
from lib.training.checkpoints import load_checkpoint

COMMAND = [sys.executable, "-m", "lib", "run", "--device", "cpu", "--fresh"]
ONE = ("achilles.composite", "--profile", "pinned")
# two seeds of one model, which train together
TWO = ("achilles.phase_diagram", "--profile", "quick", "--select", "n_layers=2",
       "--select", "gamma=1.0")  # fmt: skip


def start(
    root: Path, runs: Path, *options: str, what: tuple[str, ...] = ONE
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *what, *options], cwd=root, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "MAMBA_BOOK_RUNS": str(runs), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(runs: Path, what: tuple[str, ...] = ONE) -> int:
    """The same command in this process, which has imported torch already: its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMBA_BOOK_RUNS", str(runs))
        return main([*COMMAND[3:], *what])


def records(runs: Path) -> Store:
    return Store(runs, runs / "none")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("whole")
    assert finish(runs) == 0
    return runs


@pytest.fixture(scope="module")
def stopped(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves whose budget was spent: tests work on copies."""
    runs = tmp_path_factory.mktemp("stopped")
    process = start(root, runs, "--budget", "0.001")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 3 and re.search(r"budget spent at step \d+ of 30;", said)
    assert len(list((runs / ONE[0] / "checkpoints").iterdir())) == 1
    return runs


def test_killed_and_resumed_equals_uninterrupted(
    root: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    process = start(root, tmp_path, "--checkpoint-every", "0")
    checkpoints = tmp_path / "achilles.composite" / "checkpoints"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        found = list(checkpoints.glob("*.safetensors"))
        if found and load_checkpoint(found[0])[1]["step"] >= 4:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "the run was over before it could be killed"
    (checkpoint,) = checkpoints.glob("*.safetensors")
    step = load_checkpoint(checkpoint)[1]["step"]
    assert 4 <= step < 30 and records(tmp_path).all() == []

    again = start(root, tmp_path)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    (resumed,), (whole,) = records(tmp_path).all(), records(uninterrupted).all()
    assert resumed.metrics == whole.metrics
    assert resumed.read_curves().equals(whole.read_curves())
    # weights are named by their hash: equal names are equal bytes
    assert resumed.weights == whole.weights
    assert [session["steps"] for session in resumed.provenance["sessions"]] == [step, 30 - step]
    facts = resumed.provenance
    first, last = (session["seconds"] for session in facts["sessions"])
    assert first > 0 and last == facts["training_seconds"]
    assert sessions.training_seconds(facts) == pytest.approx(first + last)
    assert sessions.wall_seconds(facts) == pytest.approx(facts["wall_seconds"] + first)
    assert not list(checkpoints.iterdir())


def test_a_killed_ensemble_goes_on_as_it_was(root: Path, tmp_path: Path) -> None:
    """Each run of the ensemble has a checkpoint of its own; weights are equal to the bit."""
    assert finish(tmp_path / "whole", TWO) == 0
    runs = tmp_path / "killed"
    process = start(root, runs, "--checkpoint-every", "0", what=TWO)
    checkpoints = runs / TWO[0] / "checkpoints"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        steps = [load_checkpoint(path)[1]["step"] for path in checkpoints.glob("[!.]*.safetensors")]
        if len(steps) == 2 and min(steps) >= 4:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "the run was over before it could be killed"
    steps = [load_checkpoint(path)[1]["step"] for path in checkpoints.glob("[!.]*.safetensors")]
    assert len(steps) == 2 and max(steps) < 24 and records(runs).all() == []

    again = start(root, runs, what=TWO)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    pairs = zip(records(runs).all(), records(tmp_path / "whole").all(), strict=True)
    for resumed, whole in pairs:
        assert resumed.config == whole.config
        steps_of = [session["steps"] for session in resumed.provenance["sessions"]]
        assert sum(steps_of) == 24 and len(steps_of) == 2
        if steps[0] == steps[1]:  # killed between two files, they go on one by one
            assert resumed.provenance["ensemble"]["runs"] == 2
            assert resumed.metrics == whole.metrics and resumed.weights == whole.weights
        for name, column in whole.read_curves().items():
            found = resumed.read_curves()[name].tolist()
            assert found == pytest.approx(column.tolist(), rel=1e-4, abs=1e-6)


def test_a_budget_ends_with_a_checkpoint_and_the_same_command_goes_on(
    root: Path, tmp_path: Path, uninterrupted: Path, stopped: Path
) -> None:
    runs = Path(shutil.copytree(stopped, tmp_path / "runs"))
    again = start(root, runs)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    (resumed,), (whole,) = records(runs).all(), records(uninterrupted).all()
    assert resumed.weights == whole.weights


def test_a_checkpoint_of_another_cell_stops_the_run_and_is_kept(
    tmp_path: Path, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Path(shutil.copytree(stopped, tmp_path / "runs"))
    (checkpoint,) = (runs / ONE[0] / "checkpoints").iterdir()
    payload = checkpoint.read_bytes()
    identity = load_checkpoint(checkpoint)[1]["identity"].encode()
    checkpoint.write_bytes(payload.replace(identity, b"0" * len(identity)))
    assert finish(runs) == 2
    said = "".join(capsys.readouterr())
    assert "belongs to cell 0000" in said and "Traceback" not in said
    assert checkpoint.exists()
