"""What the asymmetry hangs on: the composite task with parts of the model changed.

Experiments of the chapter "Achilles' Heel of Mamba" (arXiv 2509.17514): the convolution with a
kernel of ones (Fig. 7b), positional encoding (Fig. 7c), what nobody published (a kernel that reads
the same both ways, no convolution at all, Mamba-3), and the choices that the paper leaves open, one
at a time, where paper, third party and we disagree.

All are composite cells (:mod:`lib.experiments.achilles`); a variant is one change of a base model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd

from lib import provenance
from lib.config import from_dict
from lib.experiments import Experiment, find
from lib.experiments._variants import (
    Variant,
    all_one_variants,
    base,
    beyond_variants,
    choices,
    position_variants,
    scaled,
    third_party_base,
)
from lib.experiments.achilles import (
    CompositeCell,
    composite_frame,
    composite_readable,
    curves_with,
    reevaluate_composite,
    run_composite,
)
from lib.experiments.transformer import CONVOLVED, transformer
from lib.store import Record, Store
from lib.tasks.composite import CompositeTask

SEEDS = (1, 2, 3)
ALL_ONE = "achilles.all_one_convolution"
POSITIONS = "achilles.positional_encoding"
BEYOND = "achilles.beyond"
SENSITIVITY = "achilles.sensitivity"


def questions() -> dict[str, Variant]:
    """The claims whose answer may hang on such a choice, each as the model that it is about."""
    return {
        "standard kernel": base(5, 1.0),
        "all-one kernel": all_one_variants(base(5, 1.0))["all-one"],
        "positional encoding": position_variants(base(2, 0.5))["learned"],
        # where the paper's map and ours are furthest apart: 0.95 of its answers are symmetric
        "symmetric exception": base(2, 1.5),
        # two of the cells of three and four layers in which all of our seeds end symmetric, of one
        # depth; the paper prints no more than 0.14 there
        "Transformer, small gamma": Variant(CompositeTask(), transformer(3, 0.2, convolution=True)),
        "Transformer, larger gamma": Variant(
            CompositeTask(), transformer(3, 0.8, convolution=True)
        ),
    }


def all_one_table() -> dict[str, Variant]:
    """``achilles.all_one_convolution``: the paper's model, and the third party's, which found the
    opposite; its program freezes ones with a bias of zero, which is none."""
    theirs = third_party_base(5, 1.0)
    ones = all_one_variants(theirs)
    return {
        **all_one_variants(base(5, 1.0)),
        "third party, standard": theirs,
        "third party, all-one": ones["all-one, no bias"],
        "third party, all-one, bias trained": ones["all-one"],
    }


def positions_table() -> dict[str, Variant]:
    """``achilles.positional_encoding``: the paper's model, and the third party's."""
    theirs = position_variants(third_party_base(2, 0.5))
    return {
        **position_variants(base(2, 0.5)),
        "third party, none": theirs["none"],
        "third party, sinusoidal": theirs["sinusoidal"],
    }


def beyond_table() -> dict[str, Variant]:
    """``achilles.beyond``: two depths, since a kernel matters more where there are few layers."""
    return {
        f"{name}, {n_layers} layers": variant
        for n_layers in (2, 5)
        for name, variant in beyond_variants(base(n_layers, 1.0)).items()
    }


def sensitivity_table() -> dict[str, Variant]:
    """``achilles.sensitivity``: every choice for every question, named "question: choice"."""
    return {
        f"{question}: {name}": variant
        for question, start in questions().items()
        for name, variant in choices(start).items()
    }


TABLES: dict[str, Callable[[], dict[str, Variant]]] = {
    ALL_ONE: all_one_table,
    POSITIONS: positions_table,
    BEYOND: beyond_table,
    SENSITIVITY: sensitivity_table,
}


def variant_cells(name: str, profile: str) -> list[CompositeCell]:
    """Cells of one of this module's experiments, by variant, then seed; quick: every variant, small
    and with one seed. matched: none."""
    return [cell for cell, _ in _labelled(name, profile)]


def _labelled(name: str, profile: str) -> list[tuple[CompositeCell, str]]:
    variants: dict[str, Variant] = TABLES[name]()
    seeds: tuple[int, ...] = SEEDS
    if profile == "quick":
        variants, seeds = scaled(variants), SEEDS[:1]
    elif profile != "paper":
        return []
    return [(v.cell(seed), label) for label, v in variants.items() for seed in seeds]


def variant_frame(name: str, records: Sequence[Record]) -> pd.DataFrame:
    """:func:`composite_frame` with the column ``variant``."""
    names = {
        _without_seed(cell): label
        for profile in ("paper", "quick")
        for cell, label in _labelled(name, profile)
    }
    frame = composite_frame(records)
    cells = [from_dict(CompositeCell, record.config) for record in records]
    frame["variant"] = [names.get(_without_seed(cell), "unknown") for cell in cells]
    return frame


def variant_curves(name: str, records: Sequence[Record]) -> pd.DataFrame:
    """Learning curves with the columns ``variant`` and ``seed``."""
    variants = variant_frame(name, records)
    return curves_with(records, variants[["variant", "seed"]])


BASE = "as in the book"
# the bases of the questions are cells of other experiments
_BASES = {
    "standard kernel": ALL_ONE,
    "all-one kernel": ALL_ONE,
    "positional encoding": POSITIONS,
    "symmetric exception": "achilles.phase_diagram",
    "Transformer, small gamma": CONVOLVED,
    "Transformer, larger gamma": CONVOLVED,
}


def _base_cells(profile: str) -> dict[CompositeCell, str]:
    """The bases' cells to their questions."""
    variants, seeds = questions(), list(SEEDS)
    if profile == "quick":
        variants, seeds = scaled(variants), seeds[:1]
    return {variant.cell(seed): name for name, variant in variants.items() for seed in seeds}


def base_records(profile: str, store: Store | None = None) -> list[Record]:
    """Finished records of the models that the choices change, from the experiments that they
    belong to."""
    store = store or Store.at(provenance.ROOT)
    found: list[Record] = []
    for question, name in _BASES.items():
        cells = [cell for cell, asked in _base_cells(profile).items() if asked == question]
        records = store.records(name, find(name).protocol, cells)
        found += [r for r in records if r is not None and r.status == "done"]
    return found


def sensitivity_frame(records: Sequence[Record]) -> pd.DataFrame:
    """:func:`composite_frame` of ``achilles.sensitivity`` and of :func:`base_records`, with columns
    ``question`` and ``choice``."""
    parts = []
    asked = _base_cells("paper") | _base_cells("quick")
    for name in dict.fromkeys(record.experiment for record in records):
        of_name = [r for r in records if r.experiment == name]
        if name == SENSITIVITY:
            frame = variant_frame(name, of_name)
            frame[["question", "choice"]] = frame["variant"].str.split(": ", n=1, expand=True)
        else:
            frame = composite_frame(of_name)
            cells = [from_dict(CompositeCell, record.config) for record in of_name]
            frame["question"] = [asked[cell] for cell in cells]
            frame["choice"] = BASE
        parts.append(frame)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def sides(frame: pd.DataFrame, questions: Mapping[str, str]) -> pd.DataFrame:
    """In how many runs the composite answer leads over the symmetric one after the last epoch: a
    column for each of `questions` (question to what it is called), a row for each choice of
    :func:`sensitivity_frame` that was made for one, the base first; empty where nothing has run."""
    counts = _composing(frame)
    made = {choice for choice, question in counts.index if question in questions}
    found = []
    for choice in sorted(made, key=lambda choice: (choice != BASE, choice)):
        row: dict[str, str | None] = {"choice": choice}
        for question, title in questions.items():
            known = (choice, question) in counts.index
            row[title] = "{} of {}".format(*counts.loc[(choice, question)]) if known else None
        found.append(row)
    return pd.DataFrame(found, columns=["choice", *questions.values()])


def turned(frame: pd.DataFrame, questions: Mapping[str, str]) -> list[str]:
    """A sentence for each of `questions` that has been asked: by which choices most runs end on the
    other side than most of the base's."""
    counts = _composing(frame)
    most = counts["sum"] > counts["size"] / 2
    said = []
    for question, title in questions.items():
        own = {choice: side for (choice, asked), side in most.items() if asked == question}
        if BASE not in own or len(own) == 1:
            continue
        base = own.pop(BASE)
        others = sorted(choice for choice, side in own.items() if side != base)
        side = "compose" if base else "do not compose"
        said.append(
            f"{title}: most runs {side}; {len(others)} of {len(own)} other choices turn this"
            f"{': ' + ', '.join(others) if others else ''}"
        )
    return said


def _composing(frame: pd.DataFrame) -> pd.DataFrame:
    """By choice and question: runs (``size``), and those that compose at the end (``sum``)."""
    if not len(frame):
        index = pd.MultiIndex.from_arrays([[], []], names=["choice", "question"])
        return pd.DataFrame({"sum": [], "size": []}, index=index)
    rows = frame.dropna(subset=["final_composite", "final_symmetric"])
    rows = rows.assign(composes=rows["final_composite"] > rows["final_symmetric"])
    return rows.groupby(["choice", "question"])["composes"].agg(["sum", "size"])


def _without_seed(cell: CompositeCell) -> CompositeCell:
    return dataclasses.replace(cell, seed=0)


def _experiment(name: str, title: str, page: str) -> Experiment:
    return Experiment(
        name=name,
        title=title,
        protocol=1,
        notebook=f"notebooks/achilles/{page}.ipynb",
        cells=partial(variant_cells, name),
        readable=composite_readable,
        run=run_composite,
        frame=partial(variant_frame, name),
        reevaluate=reevaluate_composite,
        judged=name in (ALL_ONE, POSITIONS),  # nobody has published the others
    )


EXPERIMENTS = (
    _experiment(ALL_ONE, "A convolution whose kernel is all ones", "all_one_convolution"),
    _experiment(POSITIONS, "Positional encoding", "positional_encoding"),
    _experiment(SENSITIVITY, "Which unstated choice decides which claim", "sensitivity"),
    _experiment(BEYOND, "Other kernels, none, and Mamba-3", "beyond"),
)
