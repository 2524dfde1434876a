"""The book's graph: each notebook through papermill, then the pages.

`snakemake --profile workflow/local` (what `make book` calls) runs what is out of date. Every job is
one plain command that works without this file:

    python -m lib notebook notebooks/achilles/composite.ipynb
    python -m lib book

Later chapters join by adding a notebook and its line in _toc.yml; nothing changes here.
"""

import fcntl
import glob
import os
import sys
from pathlib import Path

PYTHON = sys.executable
EXECUTED = "_build/executed"
# a job's words go to its log, and to the screen too if it fails
TO_LOG = "> {log} 2>&1 || (cat {log} >&2; exit 1)"
CHAPTERS = {Path(path).stem for path in glob.glob("book/claims/*.yml")}


def files(*patterns):
    """Files that match, sorted: folders are no inputs, only what lies in them."""
    found = (path for pattern in patterns for path in glob.glob(pattern, recursive=True))
    return sorted(path for path in found if os.path.isfile(path) and "__pycache__" not in path)


# Imports are invisible to Snakemake, so what a job reads stands here, job by job. Notebooks do not
# see book.py, so a change to it builds pages again and runs no notebook.
NOTEBOOKS = files("notebooks/**/*.ipynb")
LIBRARY = [path for path in files("lib/**/*.py") if path != "lib/book.py"]
PAGES = ["lib/book.py", "_config.yml", "_toc.yml"] + files(
    "book/*.md", "book/*.bib", "book/_ext/*.py", "book/_static/**", "book/claims/*.yml",
    "book/results/**",
)  # fmt: skip


SOURCES = ["book/references.bib"]  # whose names stand in tables of verdicts


def evidence(wildcards):
    """Claims, with the names of sources, and published records that a notebook shows: those of its
    chapter."""
    chapter = wildcards.name.split("/", 1)[0]
    if chapter not in CHAPTERS:
        return files(*SOURCES, "book/claims/*.yml", "book/reference/*.yml", "book/results/**")
    return files(
        *SOURCES, f"book/claims/{chapter}.yml", f"book/reference/{chapter}.yml",
        f"book/reference/{chapter}_*.yml", f"book/results/{chapter}.*/**",
    )  # fmt: skip


# A lock that ends with its process: after a kill -9 the same command simply goes on, where
# Snakemake's own lock would ask for --unlock. A dry run does not start, so it may look on.
onstart:
    os.makedirs("_build", exist_ok=True)
    LOCK = open("_build/.lock", "w")
    workflow.globals["LOCK"] = LOCK  # held as long as the process lives
    try:
        fcntl.flock(LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise WorkflowError("another run is building this book (it holds _build/.lock)") from None


rule book:
    input:
        [f"{EXECUTED}/{notebook}" for notebook in NOTEBOOKS],
        LIBRARY,
        PAGES,
    output:
        "_build/html/index.html",
    log:
        "_build/logs/book.log",
    threads: 1
    shell:
        "echo 'building the pages'; {PYTHON:q} -m lib book " + TO_LOG


rule notebook:
    input:
        LIBRARY,
        evidence,
        source="notebooks/{name}.ipynb",
    output:
        EXECUTED + "/notebooks/{name}.ipynb",
    log:
        "_build/logs/notebooks/{name}.log",
    wildcard_constraints:
        name=r"[\w/-]+",
    threads: 1
    shell:
        "echo 'running {input.source}'; OMP_NUM_THREADS={threads} "
        "{PYTHON:q} -m lib notebook {input.source:q} -o {output:q} " + TO_LOG
