"""Runs a notebook with papermill, guarded.

papermill alone only warns about a misspelt parameter, can hang while a kernel starts, and leaves
a plausible file behind when it is killed. Here parameters are checked against the notebook's
`parameters` cell by name and type, every run has a wall-clock limit, and the executed notebook
takes its place only if every cell of it completed.
"""

from __future__ import annotations

import ast
import json
import math
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lib import provenance

EXECUTED = Path("_build") / "executed"
LOGS = Path("_build") / "logs"
# a kernel that could not bind its ports ends within seconds and with these words (papermill#511)
KERNEL_START_FAILED = ("Kernel died before replying", "Address already in use")
TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,), "float": (float, int), "str": (str,), "bool": (bool,), "list": (list,),
    "dict": (dict,),
}  # fmt: skip


class NotebookError(RuntimeError):
    """A notebook that cannot be run as asked; of one that failed, see :class:`NotebookFailed`."""


class NotebookFailed(NotebookError):
    """A notebook that ran and did not come to its end."""


def parameters_of(path: Path) -> dict[str, dict[str, Any]]:
    """Parameters of a notebook: name to ``{"type", "default", "help"}``.

    Raises:
        NotebookError: no such file, not a notebook, or no cell tagged ``parameters``.
    """
    from papermill import inspect_notebook

    if not path.is_file():
        raise NotebookError(f"no notebook {path}")
    try:
        cells = json.loads(path.read_text())["cells"]
        if not any("parameters" in c["metadata"].get("tags", []) for c in cells):
            raise NotebookError(f"{path} has no cell tagged 'parameters'")
        found = inspect_notebook(str(path))
    except (ValueError, KeyError, TypeError) as error:
        raise NotebookError(f"{path} is not a readable notebook: {error}") from error
    return {
        name: {
            "type": fact["inferred_type_name"],
            "default": fact["default"],
            "help": fact["help"],
        }
        for name, fact in found.items()
    }


def check_parameters(path: Path, given: Mapping[str, str]) -> dict[str, Any]:
    """Texts from the command line as typed values.

    Raises:
        NotebookError: an unknown name (with the known ones), or a value of another type.
    """
    known = parameters_of(path)
    values = {}
    for name, text in given.items():
        if name not in known:
            listed = ", ".join(f"{n}: {f['type']} = {f['default']}" for n, f in known.items())
            raise NotebookError(f"{path.name} has no parameter {name!r}; it has: {listed}")
        values[name] = _typed(name, text, str(known[name]["type"]), path)
    return values


def _typed(name: str, text: str, hint: str, path: Path) -> Any:
    options = [part.strip() for part in hint.split("|")]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if text in ("true", "false"):
        value = text == "true"
    if value is None and "None" in options:
        return None
    for option in options:
        base = option.split("[", 1)[0]
        if base == "str":
            return text
        # True is an int to Python, not to a person
        truth_as_number = isinstance(value, bool) and base in ("int", "float")
        if base in TYPES and isinstance(value, TYPES[base]) and not truth_as_number:
            return float(text) if base == "float" else value
    raise NotebookError(f"{path.name}: parameter {name} is {text!r}, allowed type: {hint}")


def execute(
    path: Path,
    given: Mapping[str, str] | None = None,
    output: Path | None = None,
    *,
    root: Path = provenance.ROOT,
    timeout: float = 900.0,
    say: Callable[[str], None] = print,
) -> Path:
    """Run notebook `path` with papermill and put the executed copy at `output`.

    Args:
        given: parameters as texts, checked before anything runs.
        output: by default ``_build/executed/`` plus the path of the notebook in the checkout.
        timeout: wall-clock limit in seconds for the whole notebook.

    Raises:
        NotebookError: bad parameters, a timeout out of range, or an `output` that is a folder or
            the notebook itself.
        NotebookFailed: a failing cell (its error is shown), or the limit. An earlier executed copy
            is left as it was; the failed one is kept in ``_build/logs``.
    """
    values = check_parameters(path, given or {})
    if not 0 < timeout < math.inf:
        raise NotebookError(f"timeout is {timeout}, allowed: more than 0 seconds, finite")
    if output is not None and (output.is_dir() or output.resolve() == path.resolve()):
        raise NotebookError(f"output is {output}, allowed: a file other than the notebook itself")
    inside = path.resolve()
    name = inside.relative_to(root) if inside.is_relative_to(root) else Path(inside.name)
    output = (output or root / EXECUTED / name).resolve()
    logs = root / LOGS
    for folder in (output.parent, logs):
        folder.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.stem}.{uuid.uuid4().hex[:8]}.ipynb")
    failed = logs / f"{'-'.join(name.with_suffix('').parts)}.failed.ipynb"
    try:
        for attempt in (1, 2):
            said = _papermill(inside, temporary, values, root, timeout)
            if said is None or attempt == 2 or not any(k in said for k in KERNEL_START_FAILED):
                break
            say("note: the kernel did not start; trying once more")
        problem = said or incomplete(temporary)
        if problem:
            if temporary.exists():
                os.replace(temporary, failed)
                problem += f"\nThe notebook as far as it came: {failed.relative_to(root)}"
            raise NotebookFailed(f"{name}: {problem}")
        failed.unlink(missing_ok=True)
        tidy(temporary, name.as_posix())
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
    return output


def _papermill(
    path: Path, output: Path, values: dict[str, Any], root: Path, timeout: float
) -> str | None:
    """One papermill run in a process group of its own; None if it went well, else what it said."""
    code = (
        "import sys, json, papermill; a = json.loads(sys.argv[1]); "
        "papermill.execute_notebook(**a, progress_bar=False, log_output=False)"
    )
    arguments = {
        "input_path": str(path), "output_path": str(output), "parameters": values,
        "cwd": str(path.parent), "kernel_name": "python3",
    }  # fmt: skip
    environment = {
        **os.environ,
        "MAMBA_BOOK_HEADLESS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),
        # many small ops on two busy cores: one thread each is up to 25 times faster than two
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(arguments)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _kill(process)
        return f"took longer than its limit of {timeout:g} s and was stopped"
    except BaseException:
        _kill(process)
        raise
    if process.returncode == 0:
        return None
    return "papermill failed:\n" + "\n".join(said.strip().splitlines()[-40:])


def _kill(process: subprocess.Popen[str]) -> None:
    """End papermill; its kernel watches its parent and ends with it."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tidy(path: Path, name: str) -> None:
    """Name the source by its path in the checkout: readers download executed notebooks, and a path
    of the machine that ran them tells nobody anything."""
    notebook = json.loads(path.read_text())
    facts = notebook["metadata"]["papermill"]
    facts["input_path"] = name
    facts["output_path"] = Path(name).name
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def incomplete(path: Path) -> str | None:
    """Why an executed notebook must not be shown, or None if it is whole."""
    try:
        notebook = json.loads(path.read_text())
        facts = notebook["metadata"]["papermill"]
    except (OSError, ValueError, KeyError):
        return "it was not executed by papermill"
    if not facts.get("end_time") or facts.get("exception"):
        return "its run did not come to its end"
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code":
            continue
        if cell["metadata"].get("papermill", {}).get("status") != "completed":
            return f"its cell {number} did not complete"
        if any(out.get("output_type") == "error" for out in cell.get("outputs", [])):
            return f"its cell {number} shows an error"
    return None
