"""``lib.book``: what gets into the book's source, what does not, and tables from records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

from lib import book, claims, page
from lib.config import to_dict
from lib.experiments import find, registry
from lib.store import Record, Store
from tests.conftest import ROOT

NOTEBOOK = "notebooks/achilles/composite.ipynb"
TOC = {
    "format": "jb-book",
    "root": "book/index",
    "parts": [
        {"caption": "One", "chapters": [
            {"file": "book/achilles", "sections": [{"file": "notebooks/achilles/composite"}]}
        ]},
        {"caption": "Two", "chapters": [{"file": "book/status"}]},
    ],
}  # fmt: skip


def write_notebook(path: Path, *sources: str, papermill: bool = True) -> None:
    """A notebook: a title, parameters, code; as papermill leaves one if `papermill`."""
    cells = [nbformat.v4.new_markdown_cell("# A page\n\nText.")]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # random ids would make two writes differ
    notebook = nbformat.v4.new_notebook(cells=cells)
    cells[1].metadata["tags"] = ["parameters"]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    if papermill:
        notebook.metadata["papermill"] = {
            "start_time": "2026-01-02T03:04:05", "end_time": "2026-01-02T03:05:05",
            "duration": 60.0, "exception": None,
        }  # fmt: skip
        for cell in cells[1:]:
            cell.metadata["papermill"] = {"status": "completed"}
            cell.execution_count = 1
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="4\n")]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small checkout with one notebook, executed."""
    (tmp_path / "book").mkdir()
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(TOC, sort_keys=False))
    shutil.copy(ROOT / "_config.yml", tmp_path)
    for name in ("_ext", "_static"):
        shutil.copytree(ROOT / "book" / name, tmp_path / "book" / name)
    shutil.copy(ROOT / "book" / "references.bib", tmp_path / "book")
    (tmp_path / "book/index.md").write_text("# Index\n\n```{verdicts}\n```\n")
    (tmp_path / "book/achilles.md").write_text(
        "# Chapter\n\n```{verdicts}\n:chapter: achilles\n```\n\n```{verdicts}\n:summary:\n```\n"
    )
    (tmp_path / "book/status.md").write_text(
        "# Status\n\n```{records}\n```\n\n```{environment}\n```\n\n```{bibliography}\n```\n"
    )
    (tmp_path / "book/claims").mkdir()
    write_notebook(tmp_path / NOTEBOOK, "a: int = 2  # a number", "print(a + 2)", papermill=False)
    write_notebook(tmp_path / book.EXECUTED / NOTEBOOK, "a: int = 2  # a number", "print(a + 2)")
    return tmp_path


def stage(root: Path) -> list[str]:
    found = book.stage(root, root / book.EXECUTED, root / book.SOURCE)
    return [path.as_posix() for path in found]


def test_pages_are_read_in_order(root: Path) -> None:
    assert book.pages(root) == [
        "book/index", "book/achilles", "notebooks/achilles/composite", "book/status",
    ]  # fmt: skip
    assert book.notebooks(root) == [Path(NOTEBOOK)]


def test_the_executed_notebook_takes_the_place_of_its_source(root: Path) -> None:
    files = stage(root)
    assert {"_config.yml", "_toc.yml", NOTEBOOK, "book/index.md", "book/_ext/tables.py",
            "book/_static/book.css", "book/references.bib"} <= set(files)  # fmt: skip
    executed = (root / book.EXECUTED / NOTEBOOK).read_text()
    assert (root / book.SOURCE / NOTEBOOK).read_text() == executed
    found = [p for p in (root / book.SOURCE).rglob("*") if p.is_file()]
    assert sorted(p.relative_to(root / book.SOURCE).as_posix() for p in found) == sorted(files)


def test_records_and_notebooks_from_elsewhere_can_be_downloaded(root: Path) -> None:
    for name in ("achilles.composite/one-0123.json", "executed/gpu.ipynb", "one/w.safetensors"):
        (root / "book/results" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "book/results" / name).write_text("{}")
    files = stage(root)
    assert {"book/results/achilles.composite/one-0123.json",
            "book/results/executed/gpu.ipynb"} <= set(files)  # fmt: skip
    assert not [name for name in files if name.endswith("safetensors")]


def test_nothing_stale_stays(root: Path) -> None:
    stage(root)
    (root / "book" / "gone.md").write_text("# Gone")
    assert "book/gone.md" in stage(root)
    (root / "book" / "gone.md").unlink()
    assert "book/gone.md" not in stage(root)
    assert not (root / book.SOURCE / "book/gone.md").exists()


def refused(root: Path) -> str:
    """The message of a refused stage, which must have written nothing."""
    with pytest.raises(book.BookError) as caught:
        stage(root)
    assert not (root / book.SOURCE).exists()
    return str(caught.value)


def test_a_notebook_that_was_not_executed_is_named(root: Path) -> None:
    (root / book.EXECUTED / NOTEBOOK).unlink()
    message = refused(root)
    assert NOTEBOOK in message and "not been executed" in message
    assert f"python -m lib notebook {NOTEBOOK}" in message


def change(path: Path, edit: object) -> None:
    notebook = json.loads(path.read_text())
    edit(notebook)  # type: ignore[operator]
    path.write_text(json.dumps(notebook))


@pytest.mark.parametrize(
    "edit",
    [
        lambda n: n["metadata"].pop("papermill"),
        lambda n: n["metadata"]["papermill"].update(end_time=None),
        lambda n: n["metadata"]["papermill"].update(exception=True),
        lambda n: n["cells"][2]["metadata"]["papermill"].update(status="running"),
        lambda n: n["cells"][2].update(
            outputs=[{"output_type": "error", "ename": "E", "evalue": "", "traceback": []}]
        ),
    ],
    ids=["not by papermill", "killed", "failed", "a cell still running", "an error shown"],
)
def test_an_incomplete_notebook_is_named(root: Path, edit: object) -> None:
    change(root / book.EXECUTED / NOTEBOOK, edit)
    assert NOTEBOOK in refused(root)


def test_an_executed_copy_of_another_version_is_named(root: Path) -> None:
    write_notebook(root / NOTEBOOK, "a: int = 2  # a number", "print(a + 3)", papermill=False)
    assert "another version" in refused(root)


def test_injected_parameters_are_no_other_version(root: Path) -> None:
    injected = {
        "cell_type": "code", "id": "injected", "source": "a = 5", "execution_count": 1,
        "outputs": [],
        "metadata": {"tags": ["injected-parameters"], "papermill": {"status": "completed"}},
    }  # fmt: skip
    change(root / book.EXECUTED / NOTEBOOK, lambda n: n["cells"].insert(2, injected))
    assert NOTEBOOK in stage(root)


def test_a_truncated_executed_copy_is_named(root: Path) -> None:
    path = root / book.EXECUTED / NOTEBOOK
    path.write_text(path.read_text()[:200])
    assert NOTEBOOK in refused(root)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("root: book/index\nchapters:\n  - file: book/nowhere\n", "book/nowhere"),
        ("root: book/index\nchapters:\n  - file: book/index\n", "book/index"),
        ("just: text\n", "_toc.yml"),
        ("- [", "_toc.yml"),
    ],
    ids=["absent page", "page twice", "no root", "no YAML"],
)
def test_a_bad_table_of_contents_is_named(root: Path, text: str, named: str) -> None:
    (root / "_toc.yml").write_text(text)
    assert named in refused(root)


def test_the_command_says_what_is_wrong_and_returns_1(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / book.EXECUTED / NOTEBOOK).unlink()
    assert book.main(root) == 1
    assert NOTEBOOK in capsys.readouterr().err


# -- the whole way, with Jupyter Book -------------------------------------------------------


def claim(number: int, value: float, **more: object) -> dict:
    return {
        "id": f"achilles.test.{number}", "statement": f"Sentence {number}, with <b> & _signs_.",
        "source": "achilles2025", "where": f"Fig. {number}", "experiment": "achilles.composite",
        "profile": "paper", "metric": "accuracy", "value": value, "tolerance": 0.1,
        "tolerance_reason": "a reason", **more,
    }  # fmt: skip


def put_records(root: Path, *accuracies: float) -> list[Record]:
    """Published records of the first paper cells, one an accuracy; the last stays local."""
    experiment = find("achilles.composite")
    store = Store.at(root)
    made = []
    for cell, accuracy in zip(experiment.cells("paper"), accuracies, strict=False):
        provenance = {"device_name": "Test device", "wall_seconds": 7200.0,
                      "started": "2026-01-02T03:04:05"}  # fmt: skip
        made.append(store.save(Record(
            experiment.name, experiment.protocol, to_dict(cell), experiment.readable(cell), "done",
            {"accuracy": accuracy}, provenance,
        )))  # fmt: skip
    for record in made[:-1]:
        store.publish(record)
    return made


def add_every_notebook(root: Path) -> None:
    """The status page links to the notebook of each experiment there is."""
    others = sorted({e.notebook for e in registry().values()} - {NOTEBOOK})
    toc = yaml.safe_load((root / "_toc.yml").read_text())
    for name in others:
        source = ("a: int = 2  # a number", "print(a + 2)")
        write_notebook(root / name, *source, papermill=False)
        write_notebook(root / book.EXECUTED / name, *source)
        toc["parts"][1]["chapters"].append({"file": name.removesuffix(".ipynb")})
    (root / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False))


def test_a_book_from_claims_and_records(
    root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAMBA_BOOK_RUNS", raising=False)
    add_every_notebook(root)
    records = put_records(root, 0.90, 0.94, 0.92)
    own = {"select": {"pattern.0.kind": "mamba2", "tie_embeddings": False}}
    entries = [
        claim(1, 0.95, **own),
        claim(2, 0.10, scaled=True, **own),
        claim(3, 0.95, seeds=1000, note="a note"),
    ]
    (root / "book/claims/achilles.yml").write_text(yaml.safe_dump(entries))
    # a notebook shows the same table as an output of its own
    output = nbformat.v4.new_output(
        "display_data", {"text/html": page.verdict_table("achilles", root=root).data}
    )
    change(root / book.EXECUTED / NOTEBOOK, lambda n: n["cells"][1].update(outputs=[output]))
    html = book.build(root)
    assert html == root / "_build" / "html"
    soup = BeautifulSoup((html / "book/achilles.html").read_text(), "html.parser")
    rows = soup.select(".verdict-table tbody tr")
    texts = [" ".join(row.get_text(" ").split()) for row in rows]
    assert len(rows) == 3
    assert "Sentence 1, with <b> & _signs_." in texts[0]
    assert "0.920" in texts[0] and "0.95 ± 0.1" in texts[0] and "a reason" in texts[0]
    badges = [[b.get_text() for b in row.select(".verdict")] for row in rows]
    assert badges == [["reproduced"], ["not reproduced", "scaled"], ["not run"]]
    assert rows[1].select(".verdict.not-reproduced")
    low, high = claims.judge(claims.load_claims(root)[0], Store.at(root)).interval or (0, 0)
    assert f"[{low:.3f}, {high:.3f}]" in texts[0]
    assert "a note" in texts[2]
    assert not any("<span" in text for text in texts)

    # published records can be downloaded, a local one is named as such
    links = {a.get_text(strip=True): a["href"] for a in rows[0].select("a.download")}
    assert set(links) == {record.name for record in records[:2]}
    for name, address in links.items():
        copy = json.loads(((html / "book") / str(address)).read_text())
        assert copy["metrics"]["accuracy"] in (0.90, 0.94) and copy["readable"] in name
    assert f"{records[2].name} (not published)" in texts[0]
    # where it was published and where it is shown
    targets = {str(a["href"]) for a in rows[0].select("a")}
    assert any("status.html#" in target for target in targets)
    assert "../notebooks/achilles/composite.html" in targets

    shown = BeautifulSoup((html / NOTEBOOK).with_suffix(".html").read_text(), "html.parser")
    own = shown.select(".cell_output .verdict-table tbody tr")
    assert len(own) == 3
    assert [a.get_text(strip=True) for a in own[0].select("a.download")] == list(links)
    seen = {urlsplit(str(a["href"])) for row in own for a in row.select("a")}
    assert len(seen) == 3  # a source and two records
    for address in seen:
        target = (html / NOTEBOOK).parent / address.path
        assert target.is_file(), address
        if address.fragment:
            entry = BeautifulSoup(target.read_text(), "html.parser").find(id=address.fragment)
            assert entry is not None and "Tianyi Chen" in entry.get_text()

    summary = soup.select_one(".book-table.summary")
    assert summary is not None
    assert [c.get_text() for c in summary.select("tbody td")] == ["Chapter", "3", "1", "1", "1"]

    status = BeautifulSoup((html / "book/status.html").read_text(), "html.parser")
    text = status.get_text(" ")
    table = status.select_one(".records-table")
    assert table is not None and len(table.select("thead th")) == 5
    heads = [row.get_text(strip=True) for row in table.select("tr.over")]
    chapters = {experiment.chapter for experiment in registry().values()}
    assert heads[0] == "Chapter" and len(heads) == len(chapters)  # each once, as in _toc.yml
    assert all(row.select_one("td")["colspan"] == "5" for row in table.select("tr.over"))  # type: ignore[index]
    total = len(find("achilles.composite").cells("paper"))
    assert f"3 of {total}" in text and "Test device" in text and "6.0 h" in text
    assert "60.0 s" in status.select_one(".times-table").get_text()  # type: ignore[union-attr]

    # a build that fails leaves the last good book, and nothing half-made beside it
    before = (html / "book/index.html").read_text()
    (root / "book/index.md").write_text("# Index\n\n[](nowhere.md)\n")
    assert book.main(root) == 1
    said = capfd.readouterr()
    assert "nowhere" in said.out + said.err and "jupyter-book ended" in said.err
    assert (html / "book/index.html").read_text() == before
    assert not list((root / "_build").glob(".book-*"))


def test_a_link_of_a_notebook_s_table_that_leads_nowhere_stops_the_build(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (root / "book/index.md").write_text("# Index\n")
    (root / "book/achilles.md").write_text("# Chapter\n")
    (root / "book/status.md").write_text("# Status\n")
    text = "<div class='book-table verdict-table'><a href='../../book/results/a/b.json'>b</a></div>"
    output = nbformat.v4.new_output("display_data", {"text/html": text})
    change(root / book.EXECUTED / NOTEBOOK, lambda n: n["cells"][1].update(outputs=[output]))
    assert book.main(root) == 1
    said = capfd.readouterr()
    assert "links to book/results/a/b.json, which the book lacks" in said.out + said.err


def test_a_bad_claim_or_chapter_stops_the_build(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (root / "book/claims/achilles.yml").write_text(yaml.safe_dump([claim(1, 0.5)]))
    (root / "book/index.md").write_text("# Index\n\n```{verdicts}\n:chapter: nothing\n```\n")
    (root / "book/achilles.md").write_text("# Chapter\n\nText.\n")
    assert book.main(root) == 1
    said = capfd.readouterr()
    assert "nothing" in said.out + said.err and "achilles" in said.out + said.err
