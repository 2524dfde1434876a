"""Assembles the book's source from prose and executed notebooks, and builds its HTML.

Notebooks in git hold no outputs, and Jupyter Book must run none. So the source it reads is put
together in ``_build/source``: configuration and prose as they are, each notebook of the table of
contents in its executed copy *at the path it has in git*. Launch and download links then name
files that exist in the repository. Nothing half-made gets in: a notebook that is missing,
incomplete or older than its source stops the build by name.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lib import provenance
from lib.notebook import EXECUTED, incomplete

SOURCE = Path("_build") / "source"
HTML = Path("_build") / "html"
CONFIGURATION = ("_config.yml", "_toc.yml")
# prose and assets; claims are read by the extensions, records and notebooks that were executed
# elsewhere are offered for download
BOOK_PARTS = (
    "*.md", "*.bib", "_ext/*.py", "_static/**/*", "results/*/*.json", "results/executed/*.ipynb",
)  # fmt: skip
ROOT_VARIABLE = "MAMBA_BOOK_ROOT"


class BookError(RuntimeError):
    """A book that cannot be built as it stands."""


def pages(root: Path) -> list[str]:
    """Pages in ``_toc.yml``, in order, without ending: ``"notebooks/achilles/composite"``.

    Raises:
        BookError: the file is missing, is no table of contents, or names a page twice.
    """
    path = root / "_toc.yml"
    try:
        toc = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise BookError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(toc, dict) or "root" not in toc:
        raise BookError(f"{path.name} is no table of contents: it names no root page")
    found = [name.removesuffix(".md").removesuffix(".ipynb") for name in _files(toc)]
    doubled = sorted({name for name in found if found.count(name) > 1})
    if doubled:
        raise BookError(f"{path.name} names a page twice: {', '.join(doubled)}")
    return found


def _files(entry: Any) -> Iterator[str]:
    if isinstance(entry, dict):
        for key, value in entry.items():
            if key in ("root", "file"):
                yield str(value)
            else:
                yield from _files(value)
    elif isinstance(entry, list):
        for item in entry:
            yield from _files(item)


def notebooks(root: Path) -> list[Path]:
    """Notebooks in ``_toc.yml``, relative to `root`: those pages that are not prose.

    Raises:
        BookError: a page is neither a ``.md`` nor an ``.ipynb`` file; all of them are named.
    """
    found, absent = [], []
    for page in pages(root):
        if (root / f"{page}.ipynb").is_file():
            found.append(Path(f"{page}.ipynb"))
        elif not (root / f"{page}.md").is_file():
            absent.append(page)
    if absent:
        raise BookError(f"_toc.yml names pages that do not exist: {', '.join(absent)}")
    return found


def not_ready(source: Path, executed: Path) -> str | None:
    """Why the executed copy of a notebook must not be shown, or None if it can."""
    if not executed.is_file():
        return "it has not been executed"
    problem = incomplete(executed)
    if problem is None and _written(source) != _written(executed):
        problem = "its executed copy is of another version of the notebook"
    return problem


def _written(path: Path) -> list[tuple[str, str]]:
    """What people wrote in a notebook: kind and text of each cell, but for injected parameters."""
    return [
        (cell["cell_type"], "".join(cell["source"]))
        for cell in json.loads(path.read_text())["cells"]
        if "injected-parameters" not in cell["metadata"].get("tags", [])
    ]


def stage(root: Path, executed: Path, target: Path) -> list[Path]:
    """Assemble the source that Jupyter Book reads, from nothing, at `target`.

    Args:
        root: the checkout.
        executed: folder of executed notebooks, laid out like the checkout.
        target: folder to fill; whatever it held is removed.

    Returns:
        The files written, relative to `target`, sorted.

    Raises:
        BookError: naming every page that is missing and every notebook that is not ready, before
            anything is written.
    """
    wanted = notebooks(root)
    problems = [
        f"{name}: {problem}; run: python -m lib notebook {name}"
        for name in wanted
        if (problem := not_ready(root / name, executed / name))
    ]
    if problems:
        raise BookError("notebooks are not ready:\n  " + "\n  ".join(problems))
    sources = {Path(name): root / name for name in CONFIGURATION}
    for pattern in BOOK_PARTS:
        for path in (root / "book").glob(pattern):
            if path.is_file():
                sources[path.relative_to(root)] = path
    sources |= {name: executed / name for name in wanted}
    shutil.rmtree(target, ignore_errors=True)
    for name, path in sources.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)
    return sorted(sources)


def build(root: Path, warnings_fail: bool = True) -> Path:
    """Stage and build; returns the folder of the HTML, ``_build/html``.

    The pages are built aside and take their place when all is well, so a failing build leaves the
    last good book as it was, and no page of a former table of contents stays behind.

    Raises:
        BookError: as :func:`stage`, or Jupyter Book failed or warned.
    """
    stage(root, root / EXECUTED, root / SOURCE)
    aside = root / "_build" / f".book-{uuid.uuid4().hex[:8]}"
    command = [
        sys.executable, "-c", "from jupyter_book.cli.main import main; main()",
        "build", str(root / SOURCE), "--path-output", str(aside), "--all", "--keep-going",
    ]  # fmt: skip
    environment = {
        **os.environ,
        ROOT_VARIABLE: str(root),
        # the extensions import this very lib, whatever else is installed
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(provenance.ROOT), os.environ.get("PYTHONPATH")])
        ),
    }
    try:
        done = subprocess.run(
            [*command, *(["-W"] if warnings_fail else [])], cwd=root, env=environment, check=False
        )
        made = aside / "_build" / "html"
        if done.returncode != 0 or not (made / "index.html").is_file():
            raise BookError(
                f"jupyter-book ended with status {done.returncode}; its warnings stand above"
            )
        shutil.rmtree(root / HTML, ignore_errors=True)
        os.replace(made, root / HTML)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return root / HTML


def main(root: Path = provenance.ROOT) -> int:
    """``python -m lib book``: build and say where the book is; 1 with a message if it cannot."""
    try:
        html = build(root.resolve())
    except BookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(html / "index.html")
    return 0
