"""The guarded papermill runner, on notebooks of a few cells."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest

from lib import notebook
from lib.notebook import (
    NotebookError,
    NotebookFailed,
    check_parameters,
    execute,
    incomplete,
    parameters_of,
)

PARAMETERS = """
count: int = 2  # how many
rate: float = 0.5  # how fast
name: str = "a"  # what it is called
on: bool = True  # whether
"""


def write(path: Path, *cells: str, tagged: bool = True) -> Path:
    book = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "P"}}
    )
    book.cells = [nbformat.v4.new_code_cell(PARAMETERS.strip())]
    if tagged:
        book.cells[0].metadata["tags"] = ["parameters"]
    book.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, path)
    return path


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small notebook, executed once: tests work on copies."""
    root = tmp_path_factory.mktemp("executed")
    return execute(write(root / "a.ipynb", "1 + 1"), root=root)


def test_parameters_are_listed_with_types_and_help(tmp_path: Path) -> None:
    found = parameters_of(write(tmp_path / "a.ipynb"))
    assert list(found) == ["count", "rate", "name", "on"]
    assert found["count"]["type"] == "int" and found["count"]["help"] == "how many"


def test_values_get_the_notebook_s_types(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb")
    given = {"count": "3", "rate": "2", "name": "7", "on": "false"}
    values = check_parameters(path, given)
    assert values == {"count": 3, "rate": 2.0, "name": "7", "on": False}
    assert isinstance(values["rate"], float)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cuont": "3"}, r"no parameter 'cuont'; it has: count: int = 2"),
        ({"count": "many"}, r"parameter count is 'many', allowed type: int"),
        ({"count": "1.5"}, r"parameter count is '1.5', allowed type: int"),
        ({"count": "True"}, r"parameter count is 'True'"),
        ({"rate": "fast"}, r"parameter rate is 'fast', allowed type: float"),
        ({"on": "2"}, r"parameter on is '2', allowed type: bool"),
    ],
)
def test_wrong_parameters_are_named_before_anything_runs(
    tmp_path: Path, given: dict[str, str], message: str
) -> None:
    path = write(tmp_path / "a.ipynb", f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    with pytest.raises(NotebookError, match=message):
        execute(path, given, root=tmp_path)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "_build").exists()


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotebookError, match=r"no notebook .*gone"):
        execute(tmp_path / "gone.ipynb", root=tmp_path)
    with pytest.raises(NotebookError, match="no cell tagged 'parameters'"):
        execute(write(tmp_path / "a.ipynb", tagged=False), root=tmp_path)
    (tmp_path / "b.ipynb").write_text("{")
    with pytest.raises(NotebookError, match="not a readable notebook"):
        execute(tmp_path / "b.ipynb", root=tmp_path)
    with pytest.raises(NotebookError, match="timeout is 0"):
        execute(write(tmp_path / "c.ipynb"), root=tmp_path, timeout=0)
    for timeout in (math.inf, math.nan):
        with pytest.raises(NotebookError, match=f"timeout is {timeout}, allowed: more than 0"):
            execute(write(tmp_path / "c.ipynb"), root=tmp_path, timeout=timeout)
    source = (tmp_path / "c.ipynb").read_bytes()
    for output in (tmp_path, tmp_path / "c.ipynb", tmp_path / "." / "c.ipynb"):
        with pytest.raises(NotebookError, match=r"output is .*, allowed: a file other than"):
            execute(tmp_path / "c.ipynb", output=output, root=tmp_path)
    assert (tmp_path / "c.ipynb").read_bytes() == source


def test_runs_with_its_parameters_and_lands_beside_its_path(tmp_path: Path) -> None:
    path = write(
        tmp_path / "notebooks/x/a.ipynb", "print(count * 2)", "import lib; lib.__version__"
    )
    output = execute(path, {"count": "21"}, root=tmp_path)
    assert output == tmp_path / "_build/executed/notebooks/x/a.ipynb"
    cells = [c for c in nbformat.read(output, 4).cells if c.cell_type == "code"]
    assert cells[-2].outputs[0].text == "42\n"
    assert incomplete(output) is None
    assert not nbformat.read(path, 4).cells[1].outputs  # the source stays clean
    assert str(tmp_path) not in output.read_text()  # readers download it
    # nothing but the executed copy is left
    assert [p.name for p in output.parent.iterdir()] == ["a.ipynb"]


def test_a_failing_cell_keeps_the_old_copy_and_shows_its_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", "x = 1 / count")
    output = execute(path, root=tmp_path)
    before = output.read_bytes()
    with pytest.raises(NotebookFailed, match="ZeroDivisionError"):
        execute(path, {"count": "0"}, root=tmp_path)
    assert output.read_bytes() == before
    assert (tmp_path / "_build/logs/a.failed.ipynb").exists()
    assert [p.name for p in output.parent.iterdir()] == ["a.ipynb"]


def test_the_time_limit_ends_notebook_and_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
    path = write(tmp_path / "a.ipynb", code + "time.sleep(120)")

    class Started(subprocess.Popen):
        """Its limit counts from when the kernel runs: no machine is too slow to get there."""

        def communicate(self, *arguments: Any, **options: Any) -> Any:
            end = time.monotonic() + 60
            while time.monotonic() < end and not (tmp_path / "pid").exists():
                time.sleep(0.1)
            return super().communicate(*arguments, **options)

    monkeypatch.setattr(notebook.subprocess, "Popen", Started)
    start = time.monotonic()
    with pytest.raises(NotebookFailed, match="limit of 1 s"):
        execute(path, root=tmp_path, timeout=1)
    assert time.monotonic() - start < 90
    assert not (tmp_path / "_build/executed/a.ipynb").exists()
    kernel = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not Path(f"/proc/{kernel}").exists():
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"kernel {kernel} outlived its notebook")


def test_a_kernel_that_does_not_start_is_tried_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executed: Path
) -> None:
    path, calls = write(tmp_path / "a.ipynb", "1 + 1"), []

    def flaky(source: Path, output: Path, *more: object) -> str | None:
        calls.append(source)
        if len(calls) == 1:
            return "papermill failed:\nzmq.error.ZMQError: Address already in use"
        shutil.copy(executed, output)  # what the second run came to
        return None

    monkeypatch.setattr(notebook, "_papermill", flaky)
    output = execute(path, root=tmp_path, say=lambda line: None)
    assert calls == [path.resolve()] * 2
    assert incomplete(output) is None


@pytest.mark.parametrize("damage", ["end_time", "exception", "status", "error", "metadata"])
def test_incomplete_notebooks_are_recognised(tmp_path: Path, damage: str, executed: Path) -> None:
    output = Path(shutil.copy(executed, tmp_path))
    assert incomplete(output) is None
    book = json.loads(output.read_text())
    if damage == "end_time":
        book["metadata"]["papermill"]["end_time"] = None
    elif damage == "exception":
        book["metadata"]["papermill"]["exception"] = True
    elif damage == "status":
        book["cells"][-1]["metadata"]["papermill"]["status"] = "running"
    elif damage == "error":
        book["cells"][-1]["outputs"] = [{"output_type": "error"}]
    else:
        del book["metadata"]["papermill"]
    output.write_text(json.dumps(book))
    assert incomplete(output) is not None


def test_plain_papermill_runs_the_books_notebooks(tmp_path: Path, root: Path) -> None:
    """Readers may use papermill itself, with no guard and no command of ours."""
    source = root / "notebooks/noise/patterns.ipynb"  # the one that takes least time
    done = subprocess.run(
        [sys.executable, "-m", "papermill", str(source), str(tmp_path / "out.ipynb"),
         "-p", "seed", "2", "--cwd", str(source.parent), "--no-progress-bar"],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert incomplete(tmp_path / "out.ipynb") is None
