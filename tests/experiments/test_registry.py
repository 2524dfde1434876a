"""The recipe for an experiment, kept true for every one there is."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from lib.claims import Claim, load_claims
from lib.config import from_dict, to_dict
from lib.experiments import PROFILES, Context, Experiment, cells_of, find, registry
from lib.notebook import parameters_of

ALL = list(registry().values())


@pytest.fixture(scope="module")
def known(root: Path) -> list[Claim]:
    """Every claim of the book, read and checked once."""
    return load_claims(root)


@pytest.mark.parametrize("experiment", ALL, ids=lambda e: e.name)
class TestEveryExperiment:
    def test_has_a_name_of_its_chapter_s_module(self, experiment: Experiment, root: Path) -> None:
        assert re.fullmatch(r"[a-z0-9_]+\.[a-z0-9_]+", experiment.name)
        assert (root / "lib" / "experiments" / f"{experiment.chapter}.py").is_file()

    def test_has_a_notebook_in_the_book(self, experiment: Experiment, root: Path) -> None:
        assert (root / experiment.notebook).is_file()
        toc = (root / "_toc.yml").read_text()
        assert experiment.notebook.removesuffix(".ipynb") in toc
        assert "profile" in parameters_of(root / experiment.notebook)

    def test_has_claims(self, experiment: Experiment, root: Path, known: list[Claim]) -> None:
        if not experiment.judged:  # a benchmark: its page has targets instead
            assert not any(claim.experiment == experiment.name for claim in known)
            return
        assert (root / "book" / "claims" / f"{experiment.chapter}.yml").is_file()
        assert any(claim.experiment == experiment.name for claim in known)

    def test_has_quick_cells_and_sound_cells(self, experiment: Experiment) -> None:
        assert cells_of(experiment, "quick")
        for profile in (*PROFILES, "pinned"):
            cells = cells_of(experiment, profile)
            assert len(set(cells)) == len(cells)
            for cell in cells:
                assert from_dict(type(cell), to_dict(cell)) == cell
                assert isinstance(cell.seed, int)
                assert re.fullmatch(r"[\w.-]+", experiment.readable(cell))
            names = [experiment.readable(cell) for cell in cells]
            assert len(set(names)) == len(names)

    def test_runs_no_cell_that_another_process_runs(self, experiment: Experiment) -> None:
        cells = [c for c in experiment.cells("quick") if getattr(c, "device", "cpu") == "cpu"][:3]
        asked: list[Any] = []
        holding: Any = SimpleNamespace(take=lambda some: asked.extend(some) or [])
        assert not list(experiment.run(cells, Context(holding=holding)))
        assert sorted(map(repr, asked)) == sorted(map(repr, cells))

    def test_quick_cells_are_no_evidence(self, experiment: Experiment) -> None:
        evidence = {c for p in ("matched", "paper") for c in cells_of(experiment, p)}
        assert not evidence & {*cells_of(experiment, "quick"), *cells_of(experiment, "pinned")}


def test_claims_cite_sources_of_the_bibliography(root: Path, known: list[Claim]) -> None:
    keys = re.findall(r"^@\w+\{(\w+),", (root / "book" / "references.bib").read_text(), re.M)
    for claim in known:
        assert claim.source in keys


def test_every_claims_file_belongs_to_a_chapter(root: Path) -> None:
    chapters = {experiment.chapter for experiment in ALL}
    for path in (root / "book" / "claims").glob("*.yml"):
        assert path.stem in chapters
        assert yaml.safe_load(path.read_text())


def test_unknown_names_list_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"no experiment 'x'; there are: .*achilles\.composite"):
        find("x")
    with pytest.raises(ValueError, match="profile is 'x', allowed: quick, matched, paper, pinned"):
        cells_of(ALL[0], "x")
