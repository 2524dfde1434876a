"""NVIDIA's multi-process service, here a script in its place that writes down what it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib import mps
from lib.__main__ import main

SCRIPT = """#!/bin/sh
# as the service does, one that stays behind holds on to the output
if [ "$1" = -d ]; then sleep 30 & echo "began in $CUDA_MPS_PIPE_DIRECTORY" >> {log}; fi
if [ "$1" != -d ]; then read word; echo "told $word" >> {log}; fi
test -d "$CUDA_MPS_PIPE_DIRECTORY" && test -d "$CUDA_MPS_LOG_DIRECTORY" {then}
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return install(tmp_path)


def install(folder: Path, then: str = "") -> Path:
    control, log = folder / mps.CONTROL, folder / "log.txt"
    control.write_text(SCRIPT.format(log=log, then=then))
    control.chmod(0o755)
    return log


def test_the_service_begins_and_ends_with_the_block(log: Path) -> None:
    with mps.shared() as environment:
        pipe = environment["CUDA_MPS_PIPE_DIRECTORY"]
        assert log.read_text() == f"began in {pipe}\n"
        assert Path(pipe).is_dir() and len(pipe) < 80  # a socket's path has at most 107 letters
    assert log.read_text() == f"began in {pipe}\ntold quit\n"
    assert not Path(pipe).exists()


def test_it_ends_after_an_error_too(log: Path) -> None:
    with pytest.raises(KeyError), mps.shared():
        raise KeyError
    assert log.read_text().endswith("told quit\n")


def test_one_that_does_not_end_is_said_and_takes_no_result_away(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(log.parent, then='&& if [ "$1" != -d ]; then echo gone; exit 1; fi')
    with mps.shared():
        result = 1
    assert result == 1 and "note: nvidia-cuda-mps-control failed: gone" in capsys.readouterr().err


def test_one_that_does_not_start_is_named(log: Path) -> None:
    install(log.parent, then="&& echo no device && exit 3")
    with pytest.raises(ValueError, match="nvidia-cuda-mps-control failed: no device"), mps.shared():
        raise AssertionError("it runs")


def test_one_that_does_not_answer_is_named(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mps, "PATIENCE", 0.2)
    install(log.parent, then="&& exec sleep 5")
    with pytest.raises(ValueError, match=r"did not answer within 0\.2 s"), mps.shared():
        raise AssertionError("it runs")


def test_a_queue_gives_it_to_its_runs(
    log: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[object] = []

    def work(jobs: object, *rest: object, environment: dict[str, str], **more: object) -> object:
        from lib.plan import Worked

        given.append(environment["CUDA_MPS_PIPE_DIRECTORY"])
        return Worked()

    monkeypatch.setattr("lib.plan.work", work)
    path = tmp_path / "plan.txt"
    path.write_text("achilles.beyond --profile paper")
    assert main(["queue", str(path), "--mps"]) == 0
    assert log.read_text() == f"began in {given[0]}\ntold quit\n"


def test_without_it_a_queue_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("lib.plan.work", lambda *_, **__: pytest.fail("a queue began"))
    path = tmp_path / "plan.txt"
    path.write_text("achilles.beyond --profile paper")
    assert main(["queue", str(path), "--mps"]) == 2
    assert "--mps needs nvidia-cuda-mps-control" in capsys.readouterr().err
