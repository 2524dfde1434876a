"""Rules of the repository: clean notebooks, small modules, no pickles, true instructions."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from lib import book
from lib.__main__ import parser
from lib.experiments import PROFILES, registry
from lib.store import read_record
from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
MODULES = sorted((ROOT / "lib").rglob("*.py"))
SIZE_LIMIT = 4 * 2**20
NOT_OURS = {".git", ".venv", "_build", ".runs", ".snakemake", "__pycache__", ".hypothesis"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tracked() -> list[Path]:
    """Files that git holds or would take; without git, all files but products."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode == 0 and done.stdout:
        found = [ROOT / name for name in done.stdout.split("\0") if name]
    else:
        found = [p for p in ROOT.rglob("*") if not NOT_OURS & set(p.relative_to(ROOT).parts)]
    return [path for path in found if path.is_file()]


def code_cells(notebook: Path) -> list[dict]:
    cells = json.loads(notebook.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def parsed(cell: dict) -> ast.Module:
    """A cell's code without IPython's magics."""
    lines = "".join(cell["source"]).splitlines()
    return ast.parse("\n".join("" if li.lstrip().startswith(("%", "!")) else li for li in lines))


# -- notebooks ------------------------------------------------------------------------------


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_notebooks_hold_no_outputs(notebook: Path) -> None:
    for number, cell in enumerate(code_cells(notebook)):
        assert cell["outputs"] == [] and cell["execution_count"] is None, f"code cell {number}"


class Kept(io.BytesIO):
    """What a program wrote, still there after it closed its output."""

    def close(self) -> None:
        pass


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_the_git_filter_leaves_notebooks_as_they_are(
    notebook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # else the first `make env` of a newcomer would show every notebook as changed
    filtered = Kept()
    monkeypatch.setattr(sys, "argv", ["nbstripout", "--keep-id"])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(notebook.read_bytes())))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=filtered, flush=filtered.flush))
    # `python -m nbstripout --keep-id` without the start of a process, which takes longer than it
    runpy.run_module("nbstripout", run_name="__main__")
    assert filtered.getvalue() == notebook.read_bytes()
    assert "nbstripout --keep-id" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_notebooks_stay_thin(notebook: Path) -> None:
    cells = code_cells(notebook)
    assert 1 <= len(cells) <= 14
    for cell in cells:
        for node in ast.walk(parsed(cell)):
            assert not isinstance(node, ast.ClassDef), f"class {getattr(node, 'name', '')}"
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert (node.end_lineno or 0) - node.lineno < 10, f"{node.name} is too long"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_explorers_are_shown_with_a_live_kernel_too(notebook: Path) -> None:
    """There they are widgets, which have no method ``show`` as a figure has."""
    for cell in code_cells(notebook):
        called = [node.func for node in ast.walk(parsed(cell)) if isinstance(node, ast.Call)]
        for made in [f.value for f in called if isinstance(f, ast.Attribute) and f.attr == "show"]:
            name = made.func if isinstance(made, ast.Call) else None
            assert getattr(name, "attr", "") not in ("explore", "type_in")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_parameters_are_one_cell_typed_and_commented(notebook: Path) -> None:
    tagged = [c for c in code_cells(notebook) if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1
    lines = [line for line in "".join(tagged[0]["source"]).splitlines() if line.strip()]
    statements = [line for line in lines if not line.startswith(("#", " ", ")", "]", "}"))]
    assert statements
    for line in statements:
        assert re.match(r"[a-z]\w*: [\w\[\], |.]+ = .+  # \S", line), line


def test_notebooks_and_table_of_contents_name_each_other() -> None:
    listed = {path.as_posix() for path in book.notebooks(ROOT)}
    assert {name_of(path) for path in NOTEBOOKS} == listed
    assert NOTEBOOKS


def test_prose_and_table_of_contents_name_each_other() -> None:
    prose = {f"book/{path.stem}" for path in (ROOT / "book").glob("*.md")}
    assert prose == {page for page in book.pages(ROOT) if page.startswith("book/")}


# -- experiments: the recipe of book/add.md -------------------------------------------------


@pytest.mark.parametrize("name", sorted(registry()))
def test_an_experiment_has_its_notebook_claims_and_line(name: str) -> None:
    experiment = registry()[name]
    chapter = experiment.chapter
    assert (ROOT / "lib" / "experiments" / f"{chapter}.py").is_file()
    assert experiment.notebook.startswith(f"notebooks/{chapter}/")
    assert Path(experiment.notebook) in book.notebooks(ROOT)
    if experiment.judged:
        entries = yaml.safe_load((ROOT / "book" / "claims" / f"{chapter}.yml").read_text())
        assert any(entry["experiment"] == name for entry in entries)
        assert f"book/{chapter}" in book.pages(ROOT)
    assert experiment.cells("quick") and all(experiment.cells(p) is not None for p in PROFILES)


def test_the_recipe_names_what_it_asks_for() -> None:
    text = (ROOT / "book" / "add.md").read_text()
    for part in ("lib/experiments/", "notebooks/", "book/claims/", "_toc.yml", "EXPERIMENTS"):
        assert part in text
    fields = re.findall(r"^[- ] (\w+):", text.split("```yaml")[1], re.M)
    assert {"id", "statement", "source", "metric", "value", "tolerance_reason"} <= set(fields)


def test_sources_of_claims_are_in_the_bibliography() -> None:
    keys = set(re.findall(r"^@\w+\{(\w+),", (ROOT / "book/references.bib").read_text(), re.M))
    for path in (ROOT / "book" / "claims").glob("*.yml"):
        assert {entry["source"] for entry in yaml.safe_load(path.read_text())} <= keys


# -- code -----------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_modules_stay_small(module: Path) -> None:
    assert len(module.read_text().splitlines()) <= 400


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_nothing_is_pickled(module: Path) -> None:
    tree = ast.parse(module.read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names]
            names.append(getattr(node, "module", None) or "")
            assert not {"pickle", "cPickle", "dill", "cloudpickle", "joblib"} & set(names)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("torch.load", "torch.save", "pd.read_pickle", "np.load"), called


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_public_names_have_docstrings(module: Path) -> None:
    tree = ast.parse(module.read_text())
    assert ast.get_docstring(tree), "the module has none"
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    bare = [
        node.name
        for node in tree.body
        if isinstance(node, kinds) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert bare == []


def test_what_pages_are_made_with_does_not_import_torch() -> None:
    code = (
        "import sys; import lib.book, lib.claims, lib.runner, lib.page, lib.notebook; "
        "import lib.experiments as e; e.registry(); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0


# -- files ----------------------------------------------------------------------------------


def test_no_large_files() -> None:
    assert [name_of(path) for path in tracked() if path.stat().st_size > SIZE_LIMIT] == []


def test_products_stay_out_of_git() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"_build/", ".runs/", ".venv/"} <= set(ignored)
    assert not {p.relative_to(ROOT).parts[0] for p in tracked()} & {"_build", ".runs", ".venv"}


def test_citation_file() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["authors"] and citation["message"]
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert citation["title"] == config["title"]
    assert citation["repository-code"] == config["repository"]["url"]
    import lib

    assert citation["version"] == lib.__version__


def test_requirements_are_pinned_and_agree_with_the_constraints() -> None:
    def pins(name: str) -> dict[str, str]:
        lines = (ROOT / name).read_text().splitlines()
        kept = [line for line in lines if line.strip() and not line.startswith("#")]
        pairs = [line.split("==") for line in kept]
        assert all(len(pair) == 2 for pair in pairs), [p for p in pairs if len(p) != 2]
        return {re.sub(r"[-_.]+", "-", key.strip().lower()): value for key, value in pairs}

    direct, every = pins("requirements.txt"), pins("constraints-py311.txt")
    assert {name: every.get(name) for name in direct} == direct
    assert direct["torch"] == "2.13.0"
    assert not {"mamba-ssm", "causal-conv1d", "triton"} & set(direct)


def test_the_versions_said_to_be_measured_with_are_those_of_the_records() -> None:
    lines = (ROOT / "requirements-measured.txt").read_text().splitlines()
    said = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert {"torch", "triton", "transformers"} < set(said)
    seen = 0
    for path in (ROOT / "book" / "results").glob("*/*.json"):
        facts = read_record(path).provenance
        if facts["device"] != "cuda":
            continue
        seen += 1
        assert {name: facts["versions"].get(name) for name in said} == said, path.name
    assert seen > 800


# -- instructions ---------------------------------------------------------------------------


def commands(path: Path) -> str:
    """Text of a page's shell blocks and inline code."""
    text = path.read_text()
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.S)
    return "\n".join(blocks + re.findall(r"`([^`\n]+)`", text))


def help_of(*command: str) -> str:
    """What ``python -m lib COMMAND --help`` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        parser().parse_args([*command, "--help"])
    return printed.getvalue()


INSTRUCTIONS = [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))]


@pytest.mark.parametrize("page", INSTRUCTIONS, ids=name_of)
def test_instructions_name_commands_that_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake ([a-z]+)\b", commands(page))) <= targets
    usage = help_of()
    for command, rest in re.findall(r"python -m lib ([a-z]+)([^\n#]*)", commands(page)):
        assert re.search(rf"^    {command}\b", usage, re.M), command
        for flag in re.findall(r"--[a-z-]+", rest):
            assert flag in help_of(command), f"{command} {flag}"
    for file in re.findall(r"\b(?:notebooks|workflow)/[\w/.-]+", commands(page)):
        if "chapter" not in file:
            assert (ROOT / file.rstrip("/.")).exists(), file


def test_the_readme_covers_what_it_must() -> None:
    text = (ROOT / "README.md").read_text()
    for part in ("make book", "make test", "papermill", "requirements-gpu.txt", "--profile paper",
                 "CITATION.cff", "book/_static/page.png"):  # fmt: skip
        assert part in text, part
    for address in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / address).is_file(), address


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.M)
    assert phony is not None
    assert all(f"make {target}" in shown.stdout for target in phony[1].split())


def test_make_refuses_an_old_python_by_name(tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    old.write_text('#!/bin/sh\ncase "$1" in --version) echo "Python 3.8.10";; *) exit 1;; esac\n')
    old.chmod(0o755)
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    needed = ("requirements.txt", "requirements-interpreter.txt", "constraints-py311.txt")
    for name in (*needed, "pyproject.toml"):
        (tmp_path / name).write_text("")
    done = subprocess.run(
        ["make", "env", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "3.11" in done.stderr and "3.8.10" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_ci_runs_what_the_readme_says() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [li for li in script.read_text().splitlines() if li.strip() and not li.startswith("#")]
    assert "set -euo pipefail" in lines and lines[-1] == "make test"


# -- skipped tests --------------------------------------------------------------------------


def skips_in(path: Path) -> bool:
    """Whether a test file can skip a test or expects one to fail."""
    names = {"skip", "skipif", "importorskip", "xfail"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in names:
            owner = ast.unparse(node.value)
            if owner in ("pytest", "pytest.mark", "unittest"):
                return True
        if isinstance(node, ast.ImportFrom) and {a.name for a in node.names} & {"on_gpu", "on_cpu"}:
            return True  # marks of another test file
    return False


def test_every_skip_is_on_the_quarantine_list() -> None:
    text = (ROOT / "tests" / "QUARANTINE.md").read_text()
    listed = set(re.findall(r"^## `(tests/[\w/.]+\.py)`", text, re.M))
    skipping = {name_of(p) for p in (ROOT / "tests").rglob("test_*.py") if skips_in(p)}
    assert skipping - listed == set(), "without a reason"
    assert listed - skipping == set(), "listed, but nothing in it skips any more"
