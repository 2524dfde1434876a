"""The graph: a killed run goes on with the same command, two at once are refused, no work twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_staging import write_notebook

PRODUCT = "_build/executed/notebooks/demo/slow.ipynb"
COMMAND = [sys.executable, "-m", "snakemake", "--profile", "workflow/local", PRODUCT]
WAIT = "import pathlib, time\nwhile not pathlib.Path('{go}').exists():\n    time.sleep(0.1)"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A checkout with one notebook, which waits until a file `go` is there."""
    shutil.copy(ROOT / "Snakefile", tmp_path)
    for name in ("lib", "workflow"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "book" / "claims").mkdir(parents=True)
    write_notebook(
        tmp_path / "notebooks/demo/slow.ipynb", "n: int = 1  # a number",
        f"open({str(tmp_path / 'started')!r}, 'a').write('x')", WAIT.format(go=tmp_path / "go"),
        papermill=False,
    )  # fmt: skip
    yield tmp_path
    (tmp_path / "go").touch()  # whatever still waits ends


def run(root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *more], cwd=root, capture_output=True, text=True, check=False, timeout=120,
        env=environment(root),
    )  # fmt: skip


def environment(root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}


def wait_for(path: Path, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} did not come"
        time.sleep(0.1)


def test_a_killed_run_goes_on_with_the_same_command(root: Path) -> None:
    first = subprocess.Popen(
        COMMAND, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, env=environment(root),
    )  # fmt: skip
    try:
        wait_for(root / "started")
        second = run(root)
        assert second.returncode != 0
        assert "another run is building this book" in second.stdout + second.stderr
        assert run(root, "-n").returncode == 0  # looking on is allowed
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert not (root / PRODUCT).exists()
    (root / "go").touch()
    again = run(root)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (root / PRODUCT).is_file()
    started = (root / "started").read_text()
    idle = run(root)
    assert idle.returncode == 0 and "Nothing to be done" in idle.stdout + idle.stderr
    assert (root / "started").read_text() == started


def test_a_failing_notebook_shows_why_and_leaves_no_product(root: Path) -> None:
    path = root / "notebooks/demo/slow.ipynb"
    path.write_text(path.read_text().replace("import pathlib, time", "raise ValueError('told so')"))
    done = run(root)
    assert done.returncode != 0
    assert "told so" in done.stdout + done.stderr
    assert not (root / PRODUCT).exists()
